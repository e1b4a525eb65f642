"""The errors that bad user input ends in; all are ``ValueError`` for code that catches broadly."""

__all__ = ["CheckpointError", "ConfigError", "DatasetError"]


class ConfigError(ValueError):
    """A configuration that contradicts itself or the data; the message names key and values."""


class DatasetError(ValueError):
    """Data that cannot be used as it is; the message names file, field and what was expected."""


class CheckpointError(ConfigError):
    """Weights that are damaged, unsafe, or not those of the network that the config describes."""
