"""Running what :mod:`.export` wrote, without the model that it came from: an image to segments."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..errors import ConfigError
from ..merging import CombineRules, postprocess_panoptic

__all__ = ["OUTPUTS", "load_exported", "merge_outputs", "require"]

OUTPUTS = {
    "boxes": "float32 (N, 4), x0, y0, x1, y1 in pixels of the network's input",
    "classes": "int64 (N,), thing 0..T-1",
    "masks": "float32 (N, 1, M, M), probabilities inside each box",
    "scores": "float32 (N,), in [0, 1]",
    "image_size": "int64 (2,), height and width of the network's input",
    "sem_seg": "float32 (1, 1 + S, h, w), logits of the semantic classes at sem_seg_stride of the "
    "input padded at the right and bottom",
}


def load_exported(path: str | os.PathLike) -> Callable[[Tensor], dict[str, Tensor]]:
    """Load what :func:`~.export.export_predictor` wrote as a function of an image, on the CPU.

    The function takes a float32 (3, H, W) tensor and returns the tensors named in ``OUTPUTS``. It
    computes with as many threads as PyTorch had when the file was loaded.

    Raises:
        ConfigError: if the ending is unknown, a package is missing, or an ONNX file refers to
            others. TorchScript is code: only for files whose author you trust.
    """
    path = Path(path)
    if path.suffix == ".ts":
        import torchvision  # noqa: F401  registers the operators that the file uses

        script = torch.jit.load(path, map_location="cpu")
        return lambda image: dict(zip(OUTPUTS, script(image), strict=True))
    if path.suffix != ".onnx":
        raise ConfigError(f"{path}: expected a name that ends in .ts (TorchScript) or .onnx")
    onnx, runtime = require("onnx", "onnxruntime")
    _check_self_contained(onnx.load(path, load_external_data=False), path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> dict[str, Tensor]:
        outputs = session.run(list(OUTPUTS), {"image": image.numpy()})
        return dict(zip(OUTPUTS, map(torch.as_tensor, outputs), strict=True))

    return run


def merge_outputs(
    outputs: Mapping[str, Tensor], description: Mapping[str, Any], height: int, width: int
) -> tuple[Tensor, list[dict]]:
    """Turn an exported network's outputs into a panoptic segmentation.

    Args:
        outputs: those of the function that :func:`load_exported` returns.
        description: content of the JSON file beside the exported one.
        height, width: size of the original image.

    Returns:
        ``panoptic_seg``, int32 (height, width), and ``segments_info``, as Panoptic FPN does.
    """
    instances = Instances(
        tuple(outputs["image_size"].tolist()),
        pred_boxes=Boxes(outputs["boxes"].clone()),
        scores=outputs["scores"],
        pred_classes=outputs["classes"],
        pred_masks=outputs["masks"],
    )
    result = postprocess_panoptic(
        instances,
        outputs["sem_seg"][0],
        instances.image_size,
        height,
        width,
        scale=description["sem_seg_stride"],
        rules=_rules(description["combine"]),
    )
    return result["panoptic_seg"]


def _rules(combine: Mapping[str, Any]) -> CombineRules:
    combine = dict(combine, void_labels=tuple(combine["void_labels"]))
    if "overlap_threshold" in combine:  # as 0.1.0 has written them
        combine["overlap_thresh"] = combine.pop("overlap_threshold")
        combine["instances_confidence_thresh"] = combine.pop("instances_score_threshold")
        margin = combine.pop("confidence_margin")
        combine |= {"confidence_aware": margin is not None, "margin": margin or 0.0}
    return CombineRules(**combine)


def _check_self_contained(model: Any, path: Path) -> None:
    """Refuse data in other files, which :func:`~.export.export_predictor` does not write."""
    waiting = [model]
    while waiting:
        message = waiting.pop()
        for field, value in message.ListFields():
            if field.name == "external_data":
                raise ConfigError(f"{path} keeps data in other files; it must hold all of it")
            if field.type == field.TYPE_MESSAGE:
                waiting += value if hasattr(value, "append") or hasattr(value, "add") else [value]


def require(*packages: str) -> list[Any]:
    """Import packages of the extra [export].

    Raises:
        ConfigError: if one is not installed; names it and how to get it.
    """
    try:
        return [importlib.import_module(name) for name in packages]
    except ImportError as error:
        raise ConfigError(
            f"ONNX needs the package {error.name}: pip install 'panoptic_lovasz[export]'"
        ) from error
