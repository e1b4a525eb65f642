"""Checkpoints: what travels with the weights, and loading them safely."""

from .. import needs_detectron2  # noqa: F401  # first: one clear error without it
from .checkpointer import SafeCheckpointer
from .folder import Checkpoint, check_same_classes, find_checkpoint, save_classes
from .formats import read_weights
from .loading import load_weights
from .published import ModelInfo, read_model_info

__all__ = [
    "Checkpoint",
    "ModelInfo",
    "SafeCheckpointer",
    "check_same_classes",
    "find_checkpoint",
    "load_weights",
    "read_model_info",
    "read_weights",
    "save_classes",
]
