"""The fused loss with its gradient: a function of autograd, and an operator for ``torch.compile``.

The compiler takes the operator whole, forward and backward. Its schema wants plain arguments, so
:class:`.LossOptions` is spelled out here and put together again inside. Shapes of all results
follow from those of the arguments (`_fake`). Without the compiler the function does the same: on
its way to an operator PyTorch spends more time than a GPU does on a small batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .kernels import load
from .labels import check_labels, check_labels_later
from .options import LossOptions

__all__ = ["cross_entropy_region"]

_OPTIONS = (
    "int scale_factor, int ignore_index, float ce_weight, str region, float region_weight, "
    "str classes, int[] class_list, bool per_image, int num_bins, Tensor? class_weights, "
    "float tversky_alpha, float tversky_beta, str process_group, str impl"
)


def cross_entropy_region(
    logits: Tensor, target: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and region loss of checked arguments, contiguous, with a named ``impl``."""
    later = logits.is_cuda and logits.requires_grad and torch.is_grad_enabled()
    if torch.compiler.is_compiling():
        return _forward(logits, target, later, *_spelled_out(options))[:2]
    return _Function.apply(logits, target, later, options)[:2]


def _losses(
    options: LossOptions, logits: Tensor, target: Tensor, later: bool
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Cross-entropy, region loss, range of the labels, and what the backward pass wants back."""
    ce, region, extremes, saved = load(options.impl).forward(logits, target, options)
    if not later:
        check_labels(extremes, logits.shape[1], options.ignore_index)
    return ce, region, extremes, saved


def _gradient(
    options: LossOptions,
    ce_gradient: Tensor | None,
    region_gradient: Tensor | None,
    logits: Tensor,
    target: Tensor,
    extremes: Tensor,
    saved: list[Tensor],
    later: bool,
) -> Tensor:
    """Gradient with respect to the logits."""
    if later:
        check_labels_later(extremes, logits.shape[1], options.ignore_index)
    return load(options.impl).backward(ce_gradient, region_gradient, logits, target, saved, options)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(logits: Tensor, target: Tensor, later: bool, options: LossOptions) -> Any:
        *results, saved = _losses(options, logits, target, later)
        return *results, *saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        logits, target, *ctx.rest = inputs
        ctx.save_for_backward(logits, target, *output[2:])
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        logits, target, extremes, *saved = ctx.saved_tensors
        later, options = ctx.rest
        arguments = (gradients[0], gradients[1], logits, target, extremes, saved, later)
        if torch.is_grad_enabled():  # for a second derivative, which the operator refuses
            gradient = _backward(*arguments, *_spelled_out(options))
        else:
            gradient = _gradient(options, *arguments)
        return gradient, None, None, None


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
    "(Tensor, Tensor, Tensor, Tensor[])",
)
def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The operator's way to :func:`_losses`."""
    return _losses(_put_together(*arguments[3:]), *arguments[:3])


@_forward.register_fake
def _fake(
    logits: Tensor, target: Tensor, later: bool, *plain: Any
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    options = _put_together(*plain)
    ce, region = (logits.new_empty((), dtype=torch.float32) for _ in range(2))
    saved = load(options.impl).new_saved(logits, options)
    return ce, region, logits.new_empty(2, dtype=torch.int64), saved


@torch.library.custom_op(
    "panoptic_lovasz::cross_entropy_region_backward",
    mutates_args=(),
    schema="(Tensor? ce_gradient, Tensor? region_gradient, Tensor logits, Tensor target, "
    f"Tensor extremes, Tensor[] saved, bool check_labels_later, {_OPTIONS}) -> Tensor",
)
def _backward(*arguments: Any) -> Tensor:
    """The operator's way to :func:`_gradient`."""
    return _gradient(_put_together(*arguments[7:]), *arguments[:7])


@_backward.register_fake
def _(ce_gradient: Any, region_gradient: Any, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    logits, target, *ctx.options = inputs
    _, _, extremes, saved = output
    ctx.save_for_backward(logits, target, extremes, *saved)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
    logits, target, extremes, *saved = ctx.saved_tensors
    gradient = _backward(*gradients[:2], logits, target, extremes, saved, *ctx.options)
    # PyTorch takes an empty list of classes for one of tensors, and wants a gradient of each.
    return gradient, None, *([] if option == [] else None for option in ctx.options)


def _refuse(ctx: Any, *gradients: Tensor | None) -> None:
    raise RuntimeError(
        "cross_entropy_region and the Lovász losses made of it have no second derivative: their "
        "gradient cannot be differentiated again. Leave them out of a gradient penalty, or use "
        'lovasz_softmax(method="exact").'
    )


_forward.register_autograd(_differentiate, setup_context=_keep)
_backward.register_autograd(_refuse, setup_context=lambda ctx, inputs, output: None)
