"""Loading weights without running code that a file may carry."""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ..errors import ConfigError

__all__ = ["SafeCheckpointer", "load_weights"]


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, reading tensors and plain containers only."""

    def _load_file(self, filename: str) -> dict[str, Any]:
        if not filename.endswith((".pth", ".pt")):
            raise ConfigError(
                f"weights {filename}: expected a .pth file; loading other formats may run code "
                "that they carry"
            )
        try:
            loaded = torch.load(filename, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ConfigError(f"weights {filename} hold more than tensors: {error}") from error
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            raise ConfigError(f"weights {filename} cannot be read: {error}") from error
        if not isinstance(loaded, dict):
            raise ConfigError(f"weights {filename} are a {type(loaded).__name__}, expected a dict")
        return loaded if "model" in loaded else {"model": loaded}


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
            raise ConfigError(
                "the weights do not belong to the network that the config describes: "
                f"{'; '.join(wrong[:3])}{more}"
            )
        return result


def load_weights(model: nn.Module, path: str | os.PathLike) -> None:
    """Load all of a model's weights for inference, from a .pth file or a URL that iopath knows.

    Raises:
        ConfigError: if the file is missing, damaged, holds anything but tensors and plain
            containers, or does not fit the model.
    """
    path = os.fspath(path)
    checkpointer = _CompleteCheckpointer(model)
    if "://" not in path and not os.path.isfile(path):
        raise ConfigError(f"weights {path} do not exist (MODEL.WEIGHTS)")
    checkpointer.load(path, checkpointables=[])
