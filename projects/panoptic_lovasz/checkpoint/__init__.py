"""Checkpoints: what travels with the weights, and loading them safely."""

from .folder import Checkpoint, find_checkpoint, save_classes
from .loading import SafeCheckpointer, load_weights

__all__ = ["Checkpoint", "SafeCheckpointer", "find_checkpoint", "load_weights", "save_classes"]
