"""Cross-entropy and a region loss of an upsampled map, computed from the map before upsampling.

Equal to ``F.interpolate`` + ``F.cross_entropy`` + :func:`.lovasz.lovasz_softmax` with the binned
method, in value and gradient; nothing of the size of the upsampled logits is ever stored.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .counters import MAX_PIXELS, unpack
from .kernels import choose
from .labels import (
    as_class_weights,
    check_labels,
    check_labels_later,
    check_type,
    class_shares,
    label_range,
    present_classes,
)
from .options import LossOptions
from .regions import region_loss

__all__ = ["cross_entropy_lovasz", "cross_entropy_region", "fused_loss"]

# Points are laid out as the pixels of an image with rows of so many.
POINTS_PER_ROW = 1024


def cross_entropy_lovasz(
    logits: Tensor, target: Tensor, *, lovasz_weight: float = 1.0, **options: Any
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and Lovász-Softmax loss of logits that are upsampled on the fly.

    :func:`cross_entropy_region` with ``region="lovasz"``. Source of the second term: Berman et
    al., "The Lovász-Softmax loss", CVPR 2018, equations 11 and 12, binned as ``docs/loss.md``
    describes: at most 1 / K below the definition.

    Args:
        logits, target: see :func:`cross_entropy_region`.
        lovasz_weight: factor of the Lovász loss; with 0 the loss is not computed.
        **options: the other attributes of :class:`.options.LossOptions`, by name.

    Returns:
        Cross-entropy and Lovász loss, 0-dim float32, each multiplied by its weight.
    """
    chosen = LossOptions(region="lovasz", region_weight=lovasz_weight, **options)
    return fused_loss(logits, target, chosen)


def cross_entropy_region(logits: Tensor, target: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Cross-entropy and a region loss of logits that are upsampled on the fly.

    The softmax, the errors and the gradient are computed in float32 and all sums over pixels in
    integers or float64, whatever the logits' dtype and also under autocast. A batch without any
    label gives 0 with zero gradients. If a softmax of a pixel that counts is NaN (a logit is NaN
    or +inf) both losses are NaN.

    Args:
        logits: (B, C, h, w), any floating dtype; or (N, C), one row a point, not upsampled.
        target: (B, h s, w s), or (N,) for points; any integer dtype: the class of each pixel, in
            [0, C), or ``ignore_index``.
        **options: attributes of :class:`.options.LossOptions`, by name.

    Returns:
        Cross-entropy and region loss, 0-dim float32, each multiplied by its weight.

    Raises:
        LabelError: a label that is neither in [0, C) nor ``ignore_index``. On CUDA the backward
            pass raises it, so that nobody waits for the device.
        ValueError: shapes or devices that do not match; an option out of its range.
        TypeError: logits that are not floating, a target that is not of an integer type, or an
            option that there is not.
    """
    return fused_loss(logits, target, LossOptions(**options))


@torch.compiler.disable
def fused_loss(logits: Tensor, target: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """:func:`cross_entropy_region` with its options as one value."""
    options.check()
    if logits.dim() == 2:
        logits, target = _as_image(logits, target, options.ignore_index)
        options = options._replace(scale_factor=1)
    _check_shapes(logits, target, options.scale_factor)
    num_images, num_classes = logits.shape[:2]
    num_groups = num_images if options.per_image else 1
    if target.numel() > MAX_PIXELS * num_groups:
        raise ValueError(f"more than {MAX_PIXELS} pixels in one group; use per_image=True")
    extremes = label_range(target, options.ignore_index)
    if not (logits.is_cuda and logits.requires_grad):
        check_labels(extremes, num_classes, options.ignore_index)
    options = options._replace(
        scale_factor=int(options.scale_factor),
        class_weights=as_class_weights(options.class_weights, num_classes, logits.device),
    )
    logits, target = logits.contiguous(), target.contiguous()
    with torch.no_grad():
        if options.region_weight == 0:
            shares = torch.zeros(num_groups, num_classes, device=logits.device)
        else:
            present = present_classes(target, num_classes, options.ignore_index, num_groups)
            shares = _shares(present, options)
    with torch.autocast(logits.device.type, enabled=False):
        return _CrossEntropyRegion.apply(logits, target, shares, extremes, options)


class _CrossEntropyRegion(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        shares: Tensor,
        extremes: Tensor,
        options: LossOptions,
    ) -> tuple[Tensor, Tensor]:
        ctx.kernels = choose(options.impl if target.numel() else "torch", logits.device)
        active = shares > 0
        counters, ce_sums, saved = ctx.kernels.count(logits, target, active, options)
        group = options.process_group
        num_processes = _num_processes(group)
        if options.region_weight == 0:
            (ce_sums,) = _sum_over_processes(group, ce_sums)
            region = ce_sums.new_zeros(())
            weights = torch.zeros_like(counters, dtype=torch.float32)
        else:
            counts, errors = unpack(counters)
            if options.per_image:
                (ce_sums,) = _sum_over_processes(group, ce_sums)
            else:
                counts, errors, ce_sums = _sum_over_processes(group, counts, errors, ce_sums)
            region, weights = region_loss(counts, errors, shares, options)
            region = region * options.region_weight
            # Images are this process's own; the classes of a batch are everyone's.
            region = region * (num_processes if options.per_image else 1)
            weights = (weights * (options.region_weight * num_processes)).float()
            # Counters cannot hold a NaN; the sum of the cross-entropy saw the same softmax.
            region = torch.where(ce_sums[0].isnan(), ce_sums[0], region)
        denominator = torch.where(ce_sums[1] > 0, ce_sums[1], 1)
        ce = options.ce_weight * ce_sums[0] / denominator
        ce_scale = options.ce_weight * num_processes / denominator
        ctx.save_for_backward(logits, target, saved, active, weights, ce_scale, extremes)
        ctx.options = options
        return ce.float(), region.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, ce_grad: Tensor, region_grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, saved, active, weights, ce_scale, extremes = ctx.saved_tensors
        if logits.is_cuda:
            check_labels_later(extremes, logits.shape[1], ctx.options.ignore_index)
        coefficients = (ce_grad * ce_scale).float(), region_grad.float()
        with torch.autocast(logits.device.type, enabled=False):
            gradient = ctx.kernels.weigh(
                logits, target, saved, active, weights, *coefficients, ctx.options
            )
        return gradient, None, None, None, None


def _shares(present: Tensor, options: LossOptions) -> Tensor:
    """Share of each group's class in the loss, (G, C) float64; adds up to 1 over all processes."""
    if options.per_image:
        (num_labelled,) = _sum_over_processes(options.process_group, present.any(1).sum())
    else:
        (present,) = _sum_over_processes(options.process_group, present)
        present = present > 0
        num_labelled = present.any().double()
    shares = class_shares(present, options.classes, options.class_weights)
    return shares / num_labelled.clamp(min=1)


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


def _as_image(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Points (N, C) and labels (N,) as an image (1, C, h, w); ignored pixels fill its last row."""
    num_points, num_classes = logits.shape
    if tuple(target.shape) != (num_points,):
        raise ValueError(
            f"target must be of shape {(num_points,)}, one label for each row of the logits "
            f"{tuple(logits.shape)}, not {tuple(target.shape)}"
        )
    check_type(target)
    missing = -num_points % POINTS_PER_ROW
    logits = F.pad(logits.t(), (0, missing))
    target = F.pad(target.long(), (0, missing), value=ignore_index)
    return logits.view(1, num_classes, -1, POINTS_PER_ROW), target.view(1, -1, POINTS_PER_ROW)


def _check_shapes(logits: Tensor, target: Tensor, scale_factor: int) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating, not {logits.dtype}")
    if logits.dim() != 4 or logits.shape[1] < 1:
        raise ValueError(
            f"logits must be of shape (B, C, h, w) or (N, C), not {tuple(logits.shape)}"
        )
    if target.device != logits.device:
        raise ValueError(f"logits are on {logits.device}, target is on {target.device}")
    num_images, _, height, width = logits.shape
    expected = (num_images, int(height * scale_factor), int(width * scale_factor))
    if tuple(target.shape) != expected:
        raise ValueError(
            f"target must be of shape {expected}, that of the logits {tuple(logits.shape)} "
            f"upsampled by {scale_factor}, not {tuple(target.shape)}"
        )
