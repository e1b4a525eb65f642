"""Cross-entropy and Lovász-Softmax of an upsampled map, computed from the map before upsampling.

Equal to ``F.interpolate`` + ``F.cross_entropy`` + :func:`.lovasz.lovasz_softmax` with the binned
method, in value and gradient; nothing of the size of the upsampled logits is ever stored.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .counters import MAX_PIXELS, bin_weights, unpack
from .kernels import torch_impl
from .labels import (
    as_class_weights,
    check_labels,
    class_shares,
    present_classes,
    raise_pending,
)

__all__ = ["cross_entropy_lovasz"]

KERNELS = f"{__package__}.kernels"
COMPILED = {"cpu": ".numba_impl", "cuda": ".triton_impl"}
IMPLEMENTATIONS = ("auto", "torch", "numba", "triton")


@torch.compiler.disable
def cross_entropy_lovasz(
    logits: Tensor,
    target: Tensor,
    *,
    scale_factor: int = 4,
    ignore_index: int = 255,
    ce_weight: float = 1.0,
    lovasz_weight: float = 1.0,
    classes: str | Sequence[int] = "present",
    per_image: bool = False,
    num_bins: int = 1024,
    class_weights: Tensor | Sequence[float] | None = None,
    process_group: dist.ProcessGroup | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and Lovász-Softmax loss of logits that are upsampled on the fly.

    The softmax, the errors and the gradient are computed in float32 and all sums over pixels in
    integers or float64, whatever the logits' dtype and also under autocast. A batch without any
    label gives 0 with zero gradients. If a softmax of a pixel that counts is NaN (a logit is NaN
    or +inf) both losses are NaN.

    Source of the second term: Berman et al., "The Lovász-Softmax loss", CVPR 2018, equations 11
    and 12, binned as ``docs/loss.md`` describes: at most 1 / K below the definition.

    Args:
        logits: (B, C, h, w), any floating dtype.
        target: (B, h s, w s), any integer dtype: the class of each pixel, in [0, C), or
            ``ignore_index``.
        scale_factor: s, factor of the bilinear upsampling with ``align_corners=False``; 1 for
            none.
        ignore_index: label of pixels that count in neither loss.
        ce_weight: factor of the cross-entropy.
        lovasz_weight: factor of the Lovász loss; with 0 the loss is not computed.
        classes: average the Lovász loss over the classes "present" in the ground truth (of the
            group), over "all", or over a list of classes. A class that is not present contributes
            its largest error.
        per_image: average the Lovász loss over the images that have a label, instead of taking
            the batch as one image.
        num_bins: K, the number of bins per class.
        class_weights: (C,) not negative: weights of the classes, as in ``F.cross_entropy`` and in
            the mean of the Lovász loss over classes; None weighs all alike.
        process_group: take the batches of all its processes as one batch. The mean over the
            processes of the returned values, and of the gradients (what
            ``DistributedDataParallel`` takes), equals one process on the concatenated batch.
        impl: "torch", "numba" (CPU), "triton" (CUDA), or "auto": the compiled one for the
            logits' device if its package is installed, else "torch".

    Returns:
        Cross-entropy and Lovász loss, 0-dim float32, each multiplied by its weight.

    Raises:
        ValueError: shapes or devices that do not match; a label that is neither in [0, C) nor
            ``ignore_index`` (on CUDA raised without waiting for the device: possibly only in the
            backward pass or by the next call); an option out of its range.
        TypeError: logits that are not floating or a target that is not of an integer type.
    """
    _check_shapes(logits, target, scale_factor)
    _check_options(num_bins, impl)
    num_images, num_classes = logits.shape[:2]
    num_groups = num_images if per_image else 1
    if target.numel() > MAX_PIXELS * num_groups:
        raise ValueError(f"more than {MAX_PIXELS} pixels in one group; use per_image=True")
    check_labels(target, num_classes, ignore_index)
    class_weights = as_class_weights(class_weights, num_classes, logits.device)
    logits, target = logits.contiguous(), target.contiguous()
    with torch.no_grad():
        if lovasz_weight == 0:
            shares = torch.zeros(num_groups, num_classes, device=logits.device)
        else:
            present = present_classes(target, num_classes, ignore_index, num_groups)
            shares = _shares(present, classes, class_weights, per_image, process_group)
    options = _Options(
        module=_implementation(impl, logits.device.type) if target.numel() else torch_impl,
        passes={
            "scale_factor": int(scale_factor),
            "ignore_index": ignore_index,
            "class_weights": class_weights,
        },
        num_bins=num_bins,
        ce_weight=ce_weight,
        lovasz_weight=lovasz_weight,
        per_image=per_image,
        process_group=process_group,
    )
    with torch.autocast(logits.device.type, enabled=False):
        return _CrossEntropyLovasz.apply(logits, target, shares, options)


class _Options(NamedTuple):
    module: ModuleType
    passes: dict[str, Any]
    num_bins: int
    ce_weight: float
    lovasz_weight: float
    per_image: bool
    process_group: dist.ProcessGroup | None


class _CrossEntropyLovasz(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, shares: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        active = shares > 0
        counters, ce_sums, saved = options.module.count(
            logits, target, active, num_bins=options.num_bins, **options.passes
        )
        group = options.process_group
        num_processes = _num_processes(group)
        if options.lovasz_weight == 0:
            (ce_sums,) = _sum_over_processes(group, ce_sums)
            lovasz = ce_sums.new_zeros(())
            weights = torch.zeros_like(counters, dtype=torch.float32)
        else:
            counts, errors = unpack(counters)
            if options.per_image:
                (ce_sums,) = _sum_over_processes(group, ce_sums)
            else:
                counts, errors, ce_sums = _sum_over_processes(group, counts, errors, ce_sums)
            weights = bin_weights(counts) * shares[:, :, None, None]
            lovasz = (weights * errors).sum() * options.lovasz_weight
            # Images are this process's own; the classes of a batch are everyone's.
            lovasz = lovasz * (num_processes if options.per_image else 1)
            weights = (weights * (options.lovasz_weight * num_processes)).float()
            # Counters cannot hold a NaN; the sum of the cross-entropy saw the same softmax.
            lovasz = torch.where(ce_sums[0].isnan(), ce_sums[0], lovasz)
        denominator = torch.where(ce_sums[1] > 0, ce_sums[1], 1)
        ce = options.ce_weight * ce_sums[0] / denominator
        ce_scale = options.ce_weight * num_processes / denominator
        ctx.save_for_backward(logits, target, saved, active, weights, ce_scale)
        ctx.options = options
        return ce.float(), lovasz.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ce_grad: Tensor, lovasz_grad: Tensor) -> tuple[Tensor | None, ...]:
        raise_pending()
        logits, target, saved, active, weights, ce_scale = ctx.saved_tensors
        coefficients = (ce_grad * ce_scale).float(), lovasz_grad.float()
        with torch.autocast(logits.device.type, enabled=False):
            gradient = ctx.options.module.weigh(
                logits, target, saved, active, weights, *coefficients, **ctx.options.passes
            )
        return gradient, None, None, None


def _shares(
    present: Tensor,
    classes: str | Sequence[int],
    class_weights: Tensor | None,
    per_image: bool,
    process_group: dist.ProcessGroup | None,
) -> Tensor:
    """Share of each group's class in the loss, (G, C) float64; adds up to 1 over all processes."""
    if per_image:
        (num_labelled,) = _sum_over_processes(process_group, present.any(1).sum())
    else:
        (present,) = _sum_over_processes(process_group, present)
        present = present > 0
        num_labelled = present.any().double()
    return class_shares(present, classes, class_weights) / num_labelled.clamp(min=1)


def _num_processes(process_group: dist.ProcessGroup | None) -> int:
    return 1 if process_group is None else dist.get_world_size(process_group)


def _sum_over_processes(process_group: dist.ProcessGroup | None, *tensors: Tensor) -> list[Tensor]:
    """Sum of each tensor over the processes, float64: exact for the counters' integers."""
    if process_group is None:
        return [tensor.double() for tensor in tensors]
    flat = torch.cat([tensor.double().flatten() for tensor in tensors])
    dist.all_reduce(flat, group=process_group)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


@functools.cache
def _implementation(impl: str, device_type: str) -> ModuleType:
    """The module with the functions ``count`` and ``weigh`` for this choice and device."""
    if impl == "auto":
        try:
            return importlib.import_module(COMPILED[device_type], KERNELS)
        except (KeyError, ImportError):  # the packages are optional
            return torch_impl
    return importlib.import_module(f".{impl}_impl", KERNELS)


def _check_shapes(logits: Tensor, target: Tensor, scale_factor: int) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating, not {logits.dtype}")
    if scale_factor < 1 or scale_factor != int(scale_factor):
        raise ValueError(f"scale_factor must be a positive integer, not {scale_factor}")
    if logits.dim() != 4 or logits.shape[1] < 1:
        raise ValueError(f"logits must be of shape (B, C, h, w), not {tuple(logits.shape)}")
    if target.device != logits.device:
        raise ValueError(f"logits are on {logits.device}, target is on {target.device}")
    num_images, _, height, width = logits.shape
    expected = (num_images, int(height * scale_factor), int(width * scale_factor))
    if tuple(target.shape) != expected:
        raise ValueError(
            f"target must be of shape {expected}, that of the logits {tuple(logits.shape)} "
            f"upsampled by {scale_factor}, not {tuple(target.shape)}"
        )


def _check_options(num_bins: int, impl: str) -> None:
    if num_bins < 1:
        raise ValueError(f"num_bins must be positive, not {num_bins}")
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, not {impl!r}")
