"""Load a model's weights for inference: all of them, or an error."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from ..errors import CheckpointError
from .checkpointer import SafeCheckpointer

__all__ = ["load_weights"]


class _CompleteCheckpointer(SafeCheckpointer):
    """Refuses weights that leave a part of the network at random."""

    def _load_model(self, checkpoint: Any):
        result = super()._load_model(checkpoint)
        wrong = [f"{name} is {file}, expected {net}" for name, file, net in result.incorrect_shapes]
        # a shape that does not fit is listed as missing, too
        missing = set(result.missing_keys) - {name for name, _, _ in result.incorrect_shapes}
        wrong += [f"{name} is missing" for name in sorted(missing)]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise CheckpointError(
                "the weights do not belong to the network that the config describes: "
                f"{'; '.join(wrong[:3])}{more}"
            )
        return result


def load_weights(model: nn.Module, path: str | os.PathLike, *, trust_weights: bool = False) -> None:
    """Load all of a model's weights for inference, from a file or a URL that iopath knows.

    Args:
        model: the network.
        path: .pth, .pt, .pkl or .safetensors.
        trust_weights: load pickles of any content, which may run code.

    Raises:
        CheckpointError: if the file is missing, damaged, holds anything but tensors, arrays and
            plain containers, or does not fit the model.
    """
    path = os.fspath(path)
    checkpointer = _CompleteCheckpointer(model, trust_weights=trust_weights)
    if "://" not in path and not os.path.isfile(path):
        raise CheckpointError(f"weights {path} do not exist (MODEL.WEIGHTS)")
    checkpointer.load(path, checkpointables=[])
