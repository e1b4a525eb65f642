"""The network, up to the merge, as TorchScript or ONNX.

What is exported takes one image and gives the instance branch's detections and the semantic
branch's logits. Pasting the masks, upsampling the logits and merging are left to the application,
because they depend on the size of the original image; :mod:`.exported` does them in Python.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter
from detectron2.modeling import PanopticFPN
from detectron2.structures import Instances
from torch import Tensor

from ..errors import ConfigError
from ..files import replacing, write_text
from ..merging import CombineRules
from ..modeling import PanopticLovaszFPN, logits_stride, semantic_logits
from .exported import OUTPUTS, load_exported, require

if TYPE_CHECKING:
    from .predictor import PanopticPredictor

__all__ = ["check_export", "example_image", "export_predictor"]

_OPSET = 17
_TOLERANCE = 1e-3
# What the exported network and its merging do; a class of one's own may do something else.
_INFERENCE = (PanopticFPN.inference, PanopticLovaszFPN.inference)


def example_image(cfg: CfgNode) -> Tensor:
    """Noise to trace with: float32 (C, H, W) in 0..255, of the size of the network's input."""
    size = cfg.INPUT.MIN_SIZE_TEST or 512  # 0 leaves images as they are
    shape = len(cfg.MODEL.PIXEL_MEAN), size, size * 4 // 3
    return 255 * torch.rand(shape, generator=torch.Generator().manual_seed(0))


def export_predictor(predictor: PanopticPredictor, path: str | os.PathLike, image: Tensor) -> None:
    """Write a predictor's network for images of any size, and a JSON file that says how to use it.

    The JSON, of the same name, holds the input's channel order and size, the outputs' meaning, the
    rules of merging and the classes.

    Args:
        predictor: on the CPU.
        path: the file to write, ending in ``.ts`` (TorchScript) or ``.onnx``; atomically.
        image: float32 (3, H, W) in 0..255, in the channel order INPUT.FORMAT.

    Raises:
        ConfigError: if the ending is unknown, a package is missing, the network is no Panoptic FPN,
            or a part of it cannot be exported; the message names the part and the reason.
    """
    path = Path(path)
    write = {".ts": _write_torchscript, ".onnx": _write_onnx}.get(path.suffix)
    if write is None:
        raise ConfigError(f"{path}: expected a name that ends in .ts (TorchScript) or .onnx")
    if path.suffix == ".onnx":
        require("onnx", "onnxscript")
    if torch.device(predictor.cfg.MODEL.DEVICE).type != "cpu":
        raise ConfigError("export from the CPU: its tensors become part of the exported network")
    if getattr(type(predictor.model), "inference", None) not in _INFERENCE:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {predictor.cfg.MODEL.META_ARCHITECTURE!r}, but only "
            "'PanopticLovaszFPN' and 'PanopticFPN' can be exported"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        try:
            _export(predictor.model, image, _network, write, partial)
        except Exception as error:  # any operator may fail in its own way
            raise ConfigError(_explain(predictor.model, image, write, partial, error)) from error
    write_text(path.with_suffix(".json"), json.dumps(_description(predictor), indent=1))


@torch.no_grad()
def check_export(
    predictor: PanopticPredictor, path: str | os.PathLike, images: Iterable[Tensor]
) -> dict[str, float]:
    """Compare an exported network's outputs with those of the network itself.

    Args:
        predictor: what was exported.
        path: the exported file.
        images: float32 (3, H, W) each, preferably of different sizes.

    Returns:
        The largest absolute difference of each output over all images.

    Raises:
        ConfigError: if shapes differ, or values by more than 1e-3 (absolute or relative).
    """
    exported = load_exported(path)
    adapter = _adapter(predictor.model, _network, ({"image": torch.zeros(3, 64, 64)},))
    worst = dict.fromkeys(OUTPUTS, 0.0)
    for image in images:
        actual = exported(image)
        for name, expected in zip(OUTPUTS, adapter(image), strict=True):
            where = f"{path}: output '{name}' for an image of {tuple(image.shape[1:])}"
            if actual[name].shape != expected.shape:
                raise ConfigError(
                    f"{where} has the shape {tuple(actual[name].shape)}, the network's has "
                    f"{tuple(expected.shape)}"
                )
            difference = (actual[name].double() - expected.double()).abs()
            if expected.numel():
                worst[name] = max(worst[name], difference.max().item())
            if (difference > _TOLERANCE * (1 + expected.double().abs())).any():
                raise ConfigError(
                    f"{where} differs from the network's by up to {difference.max().item():.2g}"
                )
    return worst


def _network(model: PanopticFPN, inputs: dict) -> tuple[Instances, Tensor]:
    images, features = _backbone(model, inputs)
    logits = semantic_logits(model.sem_seg_head, features)
    proposals = model.proposal_generator(images, features, None)[0]
    return model.roi_heads(images, features, proposals, None)[0][0], logits


def _backbone(model: PanopticFPN, inputs: dict):
    images = model.preprocess_image([inputs])
    return images, model.backbone(images.tensor)


def _explain(
    model: PanopticFPN, image: Tensor, write: Callable, file: Path, error: Exception
) -> str:
    """Say which part fails, by exporting the network up to and including each part in turn."""

    def semantic(model, inputs):
        return semantic_logits(model.sem_seg_head, _backbone(model, inputs)[1])

    def proposals(model, inputs):
        images, features = _backbone(model, inputs)
        return model.proposal_generator(images, features, None)[0][0]

    parts = {
        "backbone": lambda model, inputs: _backbone(model, inputs)[1],
        "sem_seg_head": semantic,
        "proposal_generator": proposals,
    }
    failing = "roi_heads"  # what is left when all before it pass
    for name, run in parts.items():
        try:
            _export(model, image, run, write, file)
        except Exception as part_error:  # any operator may fail in its own way
            failing, error = name, part_error
            break
    kind = type(getattr(model, failing)).__name__
    reason = next(iter(str(error).strip().splitlines()), "")
    return (
        f"the network's {failing} ({kind}) cannot be exported to {file.suffix}: "
        f"{type(error).__name__}: {reason}"
    )


def _export(model: PanopticFPN, image: Tensor, run: Callable, write: Callable, file: Path) -> None:
    adapter = _adapter(model, run, ({"image": image},))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every Python number in Detectron2
        write(adapter, image, file)


def _adapter(model: PanopticFPN, run: Callable, inputs: tuple) -> TracingAdapter:
    # eval: the ONNX exporter would else leave the whole network in training mode
    return TracingAdapter(model, inputs, inference_func=run).eval()


def _write_torchscript(adapter: TracingAdapter, image: Tensor, file: Path) -> None:
    torch.jit.trace(adapter, (image,), check_trace=False).save(str(file))


def _write_onnx(adapter: TracingAdapter, image: Tensor, file: Path) -> None:
    names = list(OUTPUTS)
    axes: dict[str, dict[int, str]] = {name: {0: "instances"} for name in names[:4]}
    axes |= {"image": {1: "height", 2: "width"}, "sem_seg": {2: "h", 3: "w"}}
    torch.onnx.export(
        adapter,
        (image,),
        str(file),
        input_names=["image"],
        output_names=names,
        dynamic_axes=axes,
        opset_version=_OPSET,
        dynamo=False,  # torch.export cannot follow shapes that depend on the number of detections
    )


def _description(predictor: PanopticPredictor) -> dict[str, Any]:
    cfg: CfgNode = predictor.cfg
    return {
        "input": {
            "image": f"float32 (3, H, W), 0..255, {cfg.INPUT.FORMAT}",
            "short_side": cfg.INPUT.MIN_SIZE_TEST,
            "long_side_at_most": cfg.INPUT.MAX_SIZE_TEST,
        },
        "outputs": OUTPUTS,
        "sem_seg_stride": logits_stride(predictor.model.sem_seg_head),
        "combine": asdict(CombineRules.from_config(cfg)),
        "categories": predictor.categories,
    }
