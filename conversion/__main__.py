"""`python -m hf_vit_suite.conversion ...` is `hf-vit-suite convert ...`."""

import sys

from hf_vit_suite.cli import main

sys.exit(main(["convert", *sys.argv[1:]]))
