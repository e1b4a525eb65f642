"""The "sem_seg" output of an image, computed when it is first read."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_map_only

from .labels import HeadLogits, semantic_logits

__all__ = ["SemSegLogits"]


class SemSegLogits(torch.Tensor):
    """The "sem_seg" logits (C, H, W) of one image, computed when first read.

    They are the largest tensor of the output (1.8 GB for 54 classes at 2048x4096) and most callers
    only want ``argmax(dim=0)``, which is answered without them until then. Anything else (indexing,
    ``.cpu()``, ``.numpy()``, pickling, any function of PyTorch) works on the ordinary tensor that
    :meth:`materialize` returns.
    """

    _source: HeadLogits | torch.Tensor  # once materialized, the ordinary tensor
    _labels: torch.Tensor

    @staticmethod
    def __new__(cls, logits: HeadLogits, labels: torch.Tensor):
        """``labels``: argmax over the classes, (H, W) int32."""
        values = logits.values
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, (len(values), *logits.size), dtype=values.dtype, device=values.device
        )
        tensor._source = logits
        tensor._labels = labels
        return tensor

    def materialize(self) -> torch.Tensor:
        """The logits as an ordinary tensor, bit for bit those of Detectron2."""
        with torch._C.DisableTorchFunctionSubclass():
            if isinstance(self._source, HeadLogits):
                self._source = semantic_logits(self._source)
            return self._source

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
    if dim not in (0, -3) or keepdim or others or not isinstance(input, SemSegLogits):
        return None
    # logits that were computed may have been changed in place since
    return input._labels.long() if isinstance(input._source, HeadLogits) else None
