"""Semantic logits and labels at the output's size, from the logits of the head's last layer."""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType

import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch.nn import functional as F

from ..compiled import compiled_kernels

__all__ = ["HeadLogits", "semantic_labels", "semantic_logits"]

KERNELS = f"{__package__}.kernels.labels_{{}}"
CLASSES_PER_CHUNK = 4
KERNEL_DTYPES = {
    "cpu": {torch.float32},
    "cuda": {torch.float32, torch.float16, torch.bfloat16},
}
# F.interpolate takes other code paths for images of fewer pixels and for 3 channels, which round
# differently; there the stock operators run as they are, and cost little.
MIN_PIXELS = 128 * 128


@dataclasses.dataclass(frozen=True, eq=False)
class HeadLogits:
    """One image's semantic logits before they are upsampled, and the sizes they are meant for.

    Attributes:
        values: (C, h, w) float, as the head's last convolution gives them.
        stride: the head's, a positive integer: the factor by which it upsamples them.
        image_size: (height, width) of the network's input without padding.
        size: (H, W) of the output.
    """

    values: torch.Tensor
    stride: int
    image_size: tuple[int, int]
    size: tuple[int, int]

    def classes(self, start: int, stop: int) -> HeadLogits:
        """Those of the classes ``start`` to ``stop``."""
        return dataclasses.replace(self, values=self.values[start:stop])


def semantic_logits(logits: HeadLogits) -> torch.Tensor:
    """The logits that Detectron2 puts in "sem_seg", bit for bit.

    Upsampled by the stride (``SemSegFPNHead.forward``), cropped to the image without its padding
    and resized to the output (``sem_seg_postprocess``), both bilinearly.

    Returns:
        (C, H, W), of the dtype of ``logits``.
    """
    kernels = _kernels(logits)
    return _stock(logits) if kernels is None else kernels.resize(logits)


def semantic_labels(logits: HeadLogits) -> torch.Tensor:
    """``semantic_logits(logits).argmax(dim=0)``, bit for bit, without ever holding its argument.

    Returns:
        (H, W) int32; of several maxima the first.
    """
    kernels = _kernels(logits)
    if kernels is not None:
        return kernels.labels(logits)
    values = logits.values
    if not _is_regular(logits):
        return _stock(logits).argmax(dim=0).int()
    # A class's pixels do not depend on its neighbors: a few classes at a time give the same bits.
    best = torch.full(logits.size, -math.inf, dtype=values.dtype, device=values.device)
    labels = torch.zeros(logits.size, dtype=torch.int32, device=values.device)
    for start in range(0, len(values), CLASSES_PER_CHUNK):
        start = min(start, len(values) - CLASSES_PER_CHUNK)  # always the same number of channels
        maxima, indices = _stock(logits.classes(start, start + CLASSES_PER_CHUNK)).max(dim=0)
        better = (maxima > best) | (maxima.isnan() & ~best.isnan())  # the order of argmax
        best = torch.where(better, maxima, best)
        labels = torch.where(better, indices.int() + start, labels)
    return labels


def _stock(logits: HeadLogits) -> torch.Tensor:
    values = logits.values
    if logits.stride != 1:
        values = F.interpolate(
            values[None], scale_factor=logits.stride, mode="bilinear", align_corners=False
        )[0]
    return sem_seg_postprocess(values, logits.image_size, *logits.size)


def _is_regular(logits: HeadLogits) -> bool:
    height, width = logits.size
    return (
        len(logits.values) >= CLASSES_PER_CHUNK
        and min(logits.values[0].numel() * logits.stride**2, height * width) >= MIN_PIXELS
        and logits.values.is_contiguous()
    )


def _kernels(logits: HeadLogits) -> ModuleType | None:
    """The compiled kernels, where they apply and give the very bits of the stock operators."""
    values = logits.values
    if values.dtype not in KERNEL_DTYPES.get(values.device.type, ()) or not _is_regular(logits):
        return None
    kernels = compiled_kernels(KERNELS, values.device, _are_exact)
    # Those for the CPU compare as if there were no NaN; a GPU must not be waited for.
    return None if values.device.type == "cpu" and not values.sum().isfinite() else kernels


def _are_exact(kernels: ModuleType, device: torch.device) -> bool:
    """Whether kernels round as this build of PyTorch does, in both resizes."""
    values = torch.randn(4, 61, 83, generator=torch.Generator().manual_seed(0)).to(device)
    logits = HeadLogits(values, 4, image_size=(243, 327), size=(146, 613))
    expected = _stock(logits)
    return torch.equal(kernels.resize(logits), expected) and torch.equal(
        kernels.labels(logits).long(), expected.argmax(dim=0)
    )
