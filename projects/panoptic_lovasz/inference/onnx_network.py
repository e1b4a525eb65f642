"""A predictor's network in ONNX Runtime, called as Detectron2's models are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigError
from .export import example_image, export_predictor
from .exported import load_exported, merge_outputs, require

if TYPE_CHECKING:
    from .predictor import PanopticPredictor

__all__ = ["OnnxNetwork", "check_onnx_options"]


def check_onnx_options(device: str | torch.device | None, amp: bool) -> None:
    """Check what a user asks of the backend "onnx", before anything is built.

    Raises:
        ConfigError: if it is another device than the CPU or mixed precision, or if a package is
            missing.
    """
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise ConfigError(
            f"device is {device!r}, but backend='onnx' computes on the CPU: say device='cpu' or "
            "leave it out, or use backend='torch'"
        )
    if amp:
        raise ConfigError(
            "amp is True, but backend='onnx' computes in float32: leave amp out, or use "
            "backend='torch'"
        )
    require("onnx", "onnxscript", "onnxruntime")


class OnnxNetwork:
    """Exports a predictor's network and runs it, with its merging, image by image.

    It keeps the weights that the predictor has when it is made, and no file.

    Args:
        predictor: on the CPU.

    Raises:
        ConfigError: see :func:`~.export.export_predictor`.
    """

    def __init__(self, predictor: PanopticPredictor):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            export_predictor(predictor, file, example_image(predictor.cfg))
            self._run = load_exported(file)
            self._description = json.loads(file.with_suffix(".json").read_text())

    def __call__(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        Args:
            batch: one dict an image: "image", a tensor (C, h, w), and "height" and "width" of the
                output.

        Returns:
            One dict an image, whose "panoptic_seg" is what Panoptic FPN returns.
        """
        return [{"panoptic_seg": self._segment(**item)} for item in batch]

    def _segment(self, image, height: int, width: int):
        return merge_outputs(self._run(image.float()), self._description, height, width)
