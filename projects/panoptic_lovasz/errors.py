"""The errors that bad user input ends in; both are ``ValueError`` for code that catches broadly."""

__all__ = ["ConfigError", "DatasetError"]


class ConfigError(ValueError):
    """A configuration that contradicts itself or the data; the message names key and values."""


class DatasetError(ValueError):
    """Data that cannot be used as it is; the message names file, field and what was expected."""
