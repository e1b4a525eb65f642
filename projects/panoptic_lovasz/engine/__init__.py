"""Training: the trainer and how its processes are started."""

from .launch import launch
from .trainer import Trainer

__all__ = ["Trainer", "launch"]
