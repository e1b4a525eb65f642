"""Checkpoints: what travels with the weights, and loading them safely."""

from .checkpointer import SafeCheckpointer
from .folder import Checkpoint, find_checkpoint, save_classes
from .formats import read_weights
from .loading import load_weights
from .published import ModelInfo, read_model_info

__all__ = [
    "Checkpoint",
    "ModelInfo",
    "SafeCheckpointer",
    "find_checkpoint",
    "load_weights",
    "read_model_info",
    "read_weights",
    "save_classes",
]
