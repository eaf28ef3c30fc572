"""The version, apart from the package's exports so that setup reads it without importing torch."""

__version__ = "0.1.0"
