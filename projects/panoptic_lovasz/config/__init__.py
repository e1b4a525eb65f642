"""Configuration: the keys that the project adds, and reading configs."""

from .. import needs_detectron2  # noqa: F401  # isort: skip  # first: one clear error
from .. import modeling  # noqa: F401  # registers what the config's names stand for
from ..flat import flatten
from .checking import check_config, check_device, check_training
from .defaults import add_panoptic_lovasz_config
from .loading import load_config, load_found_config, set_options, shareable
from .projects import default_config

__all__ = [
    "add_panoptic_lovasz_config",
    "check_config",
    "check_device",
    "check_training",
    "default_config",
    "flatten",
    "load_config",
    "load_found_config",
    "set_options",
    "shareable",
]
