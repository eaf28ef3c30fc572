"""`python -m hf_vit_suite` is the command `hf-vit-suite`, for launchers that take a module."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
