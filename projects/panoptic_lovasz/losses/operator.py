"""The fused loss as an operator of PyTorch: ``torch.compile`` takes it whole, forward and backward.

An operator's schema wants plain arguments, so :class:`.LossOptions` is spelled out here and put
together again inside. Shapes of all results follow from those of the arguments (`_fake`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .counters import unpack
from .kernels import load
from .labels import (
    check_labels,
    check_labels_later,
    class_shares,
    label_range,
    present_classes,
)
from .options import LossOptions
from .regions import region_loss

__all__ = ["cross_entropy_region"]

_OPTIONS = (
    "int scale_factor, int ignore_index, float ce_weight, str region, float region_weight, "
    "str classes, int[] class_list, bool per_image, int num_bins, Tensor? class_weights, "
    "float tversky_alpha, float tversky_beta, str process_group, str impl"
)
_SAVED = "Tensor saved, Tensor active, Tensor weights, Tensor ce_scale, Tensor extremes"


def cross_entropy_region(
    logits: Tensor, target: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and region loss of checked arguments, contiguous, with a named ``impl``."""
    later = logits.is_cuda and logits.requires_grad and torch.is_grad_enabled()
    return _forward(logits, target, later, *_spelled_out(options))[:2]


def _spelled_out(options: LossOptions) -> tuple[Any, ...]:
    listed = not isinstance(options.classes, str)
    group = options.process_group
    return (
        *options[:5],
        "list" if listed else options.classes,
        [int(c) for c in options.classes] if listed else [],
        *options[6:11],
        "" if group is None else group.group_name,
        options.impl,
    )


def _put_together(*plain: Any) -> LossOptions:
    *first, classes, class_list = plain[:7]
    group = plain[-2] and dist.distributed_c10d._resolve_process_group(plain[-2])
    classes = class_list if classes == "list" else classes
    return LossOptions._make((*first, classes, *plain[7:-2], group or None, plain[-1]))


@torch.library.custom_op(
    "panoptic_lovasz::cross_entropy_region",
    mutates_args=(),
    schema=f"(Tensor logits, Tensor target, bool check_labels_later, {_OPTIONS}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward(logits: Tensor, target: Tensor, later: bool, *plain: Any) -> tuple[Tensor, ...]:
    """Cross-entropy, region loss, and the tensors that the backward pass wants (`_SAVED`)."""
    options = _put_together(*plain)
    num_images, num_classes = logits.shape[:2]
    num_groups = num_images if options.per_image else 1
    with torch.autocast(logits.device.type, enabled=False):
        extremes = label_range(target, options.ignore_index)
        if not later:
            check_labels(extremes, num_classes, options.ignore_index)
        if options.region_weight == 0:
            shares = torch.zeros(num_groups, num_classes, device=logits.device)
        else:
            present = present_classes(target, num_classes, options.ignore_index, num_groups)
            shares = _shares(present, options)
        active = shares > 0
        counters, ce_sums, saved = load(options.impl).count(logits, target, active, options)
        ce, region, weights, ce_scale = _losses(counters, ce_sums, shares, options)
    return ce, region, saved, active, weights, ce_scale, extremes


@_forward.register_fake
def _fake(logits: Tensor, target: Tensor, later: bool, *plain: Any) -> tuple[Tensor, ...]:
    options = _put_together(*plain)
    num_images, num_classes = logits.shape[:2]
    num_groups = num_images if options.per_image else 1
    ce, region = (logits.new_empty((), dtype=torch.float32) for _ in range(2))
    saved = logits.new_empty(load(options.impl).saved_shape(logits, options), dtype=torch.float32)
    weights = ce.new_empty((num_groups, num_classes, 2, options.num_bins))
    active = ce.new_empty((num_groups, num_classes), dtype=torch.bool)
    ce_scale = ce.new_empty((), dtype=torch.float64)
    return ce, region, saved, active, weights, ce_scale, target.new_empty(2)


@torch.library.custom_op(
    "panoptic_lovasz::cross_entropy_region_backward",
    mutates_args=(),
    schema="(Tensor? ce_gradient, Tensor? region_gradient, Tensor logits, Tensor target, "
    f"{_SAVED}, bool check_labels_later, {_OPTIONS}) -> Tensor",
)
def _backward(
    ce_gradient: Tensor | None,
    region_gradient: Tensor | None,
    logits: Tensor,
    target: Tensor,
    saved: Tensor,
    active: Tensor,
    weights: Tensor,
    ce_scale: Tensor,
    extremes: Tensor,
    later: bool,
    *plain: Any,
) -> Tensor:
    """Gradient with respect to the logits."""
    options = _put_together(*plain)
    if later:
        check_labels_later(extremes, logits.shape[1], options.ignore_index)
    nothing = torch.zeros((), device=logits.device)
    ce_gradient = nothing if ce_gradient is None else (ce_gradient * ce_scale).float()
    region_gradient = nothing if region_gradient is None else region_gradient.float()
    with torch.autocast(logits.device.type, enabled=False):
        return load(options.impl).weigh(
            logits, target, saved, active, weights, ce_gradient, region_gradient, options
        )


@_backward.register_fake
def _(ce_gradient: Any, region_gradient: Any, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    logits, target, *ctx.options = inputs
    ctx.save_for_backward(logits, target, *output[2:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    gradient = _backward(*gradients[:2], *ctx.saved_tensors, *ctx.options)
    return gradient, None, *(None for _ in ctx.options)


def _refuse(ctx: Any, *gradients: Tensor | None) -> None:
    raise RuntimeError(
        "cross_entropy_region and the Lovász losses made of it have no second derivative: their "
        "gradient cannot be differentiated again. Leave them out of a gradient penalty, or use "
        'lovasz_softmax(method="exact").'
    )


_forward.register_autograd(_differentiate, setup_context=_keep)
_backward.register_autograd(_refuse, setup_context=lambda ctx, inputs, output: None)


def _losses(
    counters: Tensor, ce_sums: Tensor, shares: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both losses, derivative of the region loss by bin, factor of the cross-entropy's slope."""
    group = options.process_group
    num_processes = 1 if group is None else dist.get_world_size(group)
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
    return ce.float(), region.float(), weights, ce_scale


def _shares(present: Tensor, options: LossOptions) -> Tensor:
    """Share of each group's class in the loss, (G, C) float64; adds up to 1 over all processes."""
    if options.per_image:
        (num_labeled,) = _sum_over_processes(options.process_group, present.any(1).sum())
    else:
        (present,) = _sum_over_processes(options.process_group, present)
        present = present > 0
        num_labeled = present.any().double()
    shares = class_shares(present, options.classes, options.class_weights)
    return shares / num_labeled.clamp(min=1)


def _sum_over_processes(process_group: dist.ProcessGroup | None, *tensors: Tensor) -> list[Tensor]:
    """Sum of each tensor over the processes, float64: exact for the counters' integers."""
    if process_group is None:
        return [tensor.double() for tensor in tensors]
    flat = torch.cat([tensor.double().flatten() for tensor in tensors])
    dist.all_reduce(flat, group=process_group)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
