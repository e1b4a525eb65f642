"""Load a model's weights for inference: all of them, or an error."""

from __future__ import annotations

import os

from torch import nn

from .checkpointer import SafeCheckpointer

__all__ = ["load_weights"]


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    trust_weights: bool = False,
    averaged: bool = False,
) -> None:
    """Load all of a model's weights for inference, from a file or a URL that iopath knows.

    Args:
        model: the network.
        path: .pth, .pt, .pkl or .safetensors.
        trust_weights: load pickles of any content, which may run code.
        averaged: load the averaged weights of a checkpoint, not the trained ones.

    Raises:
        CheckpointError: if the file is missing, damaged, holds anything but tensors, arrays and
            plain containers, does not fit the model, or has no averaged weights.
    """
    checkpointer = SafeCheckpointer(
        model, trust_weights=trust_weights, averaged=averaged, complete=True
    )
    checkpointer.load(os.fspath(path), checkpointables=[])
