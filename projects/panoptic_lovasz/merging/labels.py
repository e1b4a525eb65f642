"""Semantic labels at the output's size without full-size logits, and those logits on demand."""

from __future__ import annotations

import functools
import math

import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

__all__ = ["SemSegLogits", "semantic_labels", "semantic_logits"]

CLASSES_PER_CHUNK = 4
# F.interpolate takes other code paths for images of fewer pixels and for 3 channels, which round
# differently; there the stock operators run as they are, and cost little.
MIN_PIXELS = 128 * 128


def semantic_logits(
    logits: torch.Tensor, scale: int, image_size: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """The logits that Detectron2 puts in "sem_seg", bit for bit.

    Upsampled ``scale`` times (``SemSegFPNHead.forward``), cropped to the image without its padding
    and resized to the output (``sem_seg_postprocess``), both bilinearly.

    Args:
        logits: (C, h, w) of one image as the head's last convolution gives them.
        scale: the head's stride, a positive integer.
        image_size: (height, width) of the network's input without padding.
        size: (H, W) of the output.

    Returns:
        (C, H, W), of the dtype of ``logits``.
    """
    if _compiled(logits, scale, size):
        from .kernels import upsample_numba

        return upsample_numba.resize(logits, scale, image_size, size)
    return _stock(logits, scale, image_size, size)


def semantic_labels(
    logits: torch.Tensor, scale: int, image_size: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """``semantic_logits(...).argmax(dim=0)``, bit for bit, without ever holding its argument.

    Args: see :func:`semantic_logits`.

    Returns:
        (H, W) int32; of several maxima the first.
    """
    if _compiled(logits, scale, size):
        from .kernels import upsample_numba

        return upsample_numba.labels_of_resized(logits, scale, image_size, size)
    if not _is_regular(logits, scale, size):
        return _stock(logits, scale, image_size, size).argmax(dim=0).int()
    # A class's pixels do not depend on its neighbours: a few classes at a time give the same bits.
    best = torch.full(size, -math.inf, dtype=logits.dtype, device=logits.device)
    labels = torch.zeros(size, dtype=torch.int32, device=logits.device)
    for start in range(0, len(logits), CLASSES_PER_CHUNK):
        start = min(start, len(logits) - CLASSES_PER_CHUNK)  # always the same number of channels
        chunk = logits[start : start + CLASSES_PER_CHUNK]
        values, indices = _stock(chunk, scale, image_size, size).max(dim=0)
        better = (values > best) | (values.isnan() & ~best.isnan())  # the order of argmax
        best = torch.where(better, values, best)
        labels = torch.where(better, indices.int() + start, labels)
    return labels


def _stock(logits, scale, image_size, size) -> torch.Tensor:
    if scale != 1:
        logits = F.interpolate(
            logits[None], scale_factor=scale, mode="bilinear", align_corners=False
        )[0]
    return sem_seg_postprocess(logits, image_size, *size)


def _is_regular(logits, scale, size) -> bool:
    return (
        len(logits) >= CLASSES_PER_CHUNK
        and min(logits[0].numel() * scale**2, size[0] * size[1]) >= MIN_PIXELS
        and logits.is_contiguous()
    )


def _compiled(logits, scale, size) -> bool:
    """Whether the compiled kernels apply and give the very bits of the stock operators."""
    return (
        logits.device.type == "cpu"
        and logits.dtype == torch.float32
        and _is_regular(logits, scale, size)
        and _arithmetic_is_known()
        and bool(logits.sum().isfinite())  # the kernels compare as if there were no NaN
    )


@functools.cache
def _arithmetic_is_known() -> bool:
    try:
        from .kernels.upsample_numba import arithmetic
    except ImportError:
        return False
    return arithmetic() is not None


class SemSegLogits(torch.Tensor):
    """The "sem_seg" logits (C, H, W) of one image, computed when first read.

    They are the largest tensor of the output (1.8 GB for 54 classes at 2048x4096) and most callers
    only want ``argmax(dim=0)``, which is answered without them. Anything else (indexing,
    ``.cpu()``, ``.numpy()``, pickling, any function of PyTorch) works on the ordinary tensor that
    :meth:`materialize` returns.
    """

    _source: tuple  # the arguments of semantic_logits; once materialized, its result alone
    _labels: torch.Tensor

    @staticmethod
    def __new__(cls, logits, scale, image_size, size, labels):
        """Arguments as in :func:`semantic_logits`; ``labels``: their argmax, (H, W) int32."""
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, (len(logits), *size), dtype=logits.dtype, device=logits.device
        )
        tensor._source = (logits, scale, image_size, size)
        tensor._labels = labels
        return tensor

    def materialize(self) -> torch.Tensor:
        """The logits as an ordinary tensor, bit for bit those of Detectron2."""
        with torch._C.DisableTorchFunctionSubclass():
            logits, *how = self._source
            if how:
                logits = semantic_logits(logits, *how)
                self._source = (logits,)
            return logits

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in (torch.argmax, torch.Tensor.argmax):
            labels = _argmax_of_lazy(*args, **kwargs)
            if labels is not None:
                return labels
        return func(*_materialized(args), **_materialized(kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub has a plain function
        cls, func, types, args=(), kwargs=None
    ):  # calls from compiled code
        return func(*_materialized(args), **_materialized(kwargs or {}))


_ATTRIBUTES = ("shape", "dtype", "device", "ndim", "is_cuda")
_METADATA = {
    *(getattr(torch.Tensor, name).__get__ for name in _ATTRIBUTES),
    torch.Tensor.numel,
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.__len__,
}


def _materialized(arguments):
    return tree_map_only(SemSegLogits, SemSegLogits.materialize, arguments)


def _argmax_of_lazy(input, dim=None, keepdim=False, **others) -> torch.Tensor | None:
    if dim in (0, -3) and not keepdim and not others and isinstance(input, SemSegLogits):
        return input._labels.long()
    return None
