"""The errors that a user meets; those of bad input are ``ValueError`` for code that catches it."""

__all__ = ["CheckpointError", "ConfigError", "DatasetError", "LabelError", "NonFiniteLossError"]


class ConfigError(ValueError):
    """A configuration that contradicts itself or the data; the message names key and values."""


class DatasetError(ValueError):
    """Data that cannot be used as it is; the message names file, field and what was expected."""


class LabelError(DatasetError):
    """A semantic label that is not a class; the message names it and the classes that there are."""


class CheckpointError(ConfigError):
    """Weights that are damaged, unsafe, or not those of the network that the config describes."""


class NonFiniteLossError(FloatingPointError):
    """A loss became NaN or infinite; the message names iteration, loss and images."""
