"""The Lovász-Softmax, Lovász-sigmoid and Lovász hinge losses of full-resolution logits.

Source: Berman, Rannen Triki, Blaschko, "The Lovász-Softmax loss: a tractable surrogate for the
optimization of the intersection-over-union measure in neural networks", CVPR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .fused import as_images, check_logits, check_offsets, fused_loss, with_float64
from .labels import as_class_weights, as_labels
from .options import LossOptions
from .sorting import at_least_float32, exact_lovasz_softmax, sorted_loss, valid_labels

__all__ = ["lovasz_hinge", "lovasz_sigmoid", "lovasz_softmax"]

METHODS = ("binned", "exact")


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    classes: str | Sequence[int] = "present",
    per_image: bool = False,
    method: str = "binned",
    num_bins: int = 1024,
    class_weights: Tensor | Sequence[float] | None = None,
    process_group: dist.ProcessGroup | None = None,
    offsets: Sequence[int] | None = None,
) -> Tensor:
    """Lovász-Softmax loss (section 3.2, equations 11 and 12): a surrogate of 1 - mean IoU.

    0 for a perfect prediction and 1 for a wholly wrong one. With a single class the softmax is 1
    everywhere, so the loss is 0.

    Args:
        logits: (B, C, *spatial) of any floating dtype; without spatial dimensions, (N, C), the
            rows are points, which form one group.
        target: (B, *spatial) of any integer dtype: classes in [0, C), or ``ignore_index``.
        method: "binned" takes time linear in the pixels and differs from the definition by
            1 / ``num_bins`` at most; "exact" sorts the errors of every class.
        num_bins: number of bins per class, for the binned method.
        process_group: as in :class:`.options.LossOptions`; the binned method only, since
            counters can be added up over processes and sorted lists cannot.
        offsets: see :func:`.fused.cross_entropy_region`.

    The other arguments, the errors raised and the behavior for a batch without labels, for NaN,
    for half precision and under autocast are those of :func:`.fused.cross_entropy_region`.

    Returns:
        0-dim float32.
    """
    check_logits(logits)
    target = as_labels(target, ignore_index)
    _check_shapes(logits, target)
    check_offsets(offsets, logits)
    if method == "exact":
        if process_group is not None:
            raise ValueError('process_group needs method="binned"')
        if logits.dim() == 2:
            logits, target = as_images(logits, target, ignore_index, offsets if per_image else None)
        device = logits.device
        logits, target = with_float64(logits, target)
        return exact_lovasz_softmax(
            logits, target, ignore_index, classes, per_image, class_weights
        ).to(device)
    if method != "binned":
        raise ValueError(f'method must be "binned" or "exact", not {method!r}')
    if logits.dim() > 2:
        num_images, num_classes, *height, width = logits.shape
        logits = logits.reshape(num_images, num_classes, math.prod(height), width)
        target = target.reshape(num_images, math.prod(height), width)
    options = LossOptions(
        scale_factor=1,
        ignore_index=ignore_index,
        classes=classes,
        per_image=per_image,
        num_bins=num_bins,
        class_weights=as_class_weights(class_weights, logits.shape[1], logits.device),
        process_group=process_group,
    )
    return fused_loss(logits, target, options, offsets)[1]


def lovasz_hinge(
    logits: Tensor, target: Tensor, *, ignore_index: int = 255, per_image: bool = True
) -> Tensor:
    """Lovász hinge loss of a binary segmentation (section 3.1): a surrogate of 1 - IoU.

    The errors are hinge losses, ``max(0, 1 - logit)`` where the target is 1 and
    ``max(0, 1 + logit)`` where it is 0. They have no upper bound and are sorted, not binned.

    Args:
        logits: (B, *spatial) of any floating dtype.
        target: the same shape, bool or any integer dtype: 0, 1 or ``ignore_index``.
        ignore_index: label of pixels that do not count.
        per_image: average over the images that have a label, instead of taking the batch as one
            image.

    Returns:
        0-dim float32; 0 with zero gradients if every pixel is ignored.

    Raises:
        ValueError: shapes that differ, or a target other than 0, 1 and ``ignore_index``.
        TypeError: logits that are not floating or a target that is not of an integer type.
    """
    check_logits(logits)
    target = _as_binary(target, ignore_index)
    if logits.dim() < 2 or logits.shape != target.shape:
        raise ValueError(
            "logits and target must both be of shape (B, *spatial), not "
            f"{tuple(logits.shape)} and {tuple(target.shape)}"
        )
    device = logits.device
    logits, target = with_float64(logits, target)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.flatten(1), target.flatten(1)
        if not per_image:
            logits, target = logits.reshape(1, -1), target.reshape(1, -1)
        valid = valid_labels(target, 2, ignore_index)
        foreground = valid & (target == 1)
        logits = at_least_float32(logits.masked_fill(~valid, 0))
        errors = torch.where(foreground, 1 - logits, 1 + logits).relu()
        losses = sorted_loss(errors, foreground, valid)
        return (losses.sum() / valid.any(1).sum().clamp(min=1)).float().to(device)


def lovasz_sigmoid(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    classes: str = "present",
    multilabel: bool = False,
    per_image: bool = False,
    num_bins: int = 1024,
) -> Tensor:
    """Lovász loss of binary maps with sigmoid errors: a surrogate of 1 - IoU of the foreground.

    The extension of the Jaccard loss (equation 7) at the errors ``|target - sigmoid(logit)|``,
    averaged over maps: in linear time, since they lie in [0, 1] and can be binned. A map is the
    second of two classes' softmax with a logit of 0 for the background.

    Args:
        logits: of any floating dtype. (B, *spatial) for one map per image, or per mask in case of
            a mask classifier; (B, C, *spatial) with ``multilabel``, one map per image and class.
        target: the same shape, bool or any integer dtype: 0, 1 or ``ignore_index``.
        ignore_index: label of pixels that do not count.
        classes: "present" leaves maps without foreground out of the mean; "all" does not, and
            such a map costs its largest error.
        multilabel: the second dimension is that of classes, which have a map each.
        per_image: take each image's maps on their own, as rows of masks need, instead of the
            batch as one image.
        num_bins: K; the loss is at most 1 / K below the definition.

    Returns:
        0-dim float32; 0 with zero gradients if no map takes part.

    Raises:
        LabelError: a target other than 0, 1 and ``ignore_index``.
        ValueError: shapes that differ, or an option out of its range.
        TypeError: logits that are not floating or a target that is not of an integer type.
    """
    check_logits(logits)
    target = _as_binary(target, ignore_index)
    if logits.dim() < 2 + multilabel or logits.shape != target.shape:
        shape = "(B, C, *spatial)" if multilabel else "(B, *spatial)"
        raise ValueError(
            f"logits and target must both be of shape {shape}, not "
            f"{tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if classes not in ("present", "all"):
        raise ValueError(f'classes must be "present" or "all", not {classes!r}')
    logits, target = (_as_maps(x, multilabel, per_image) for x in (logits, target))
    if classes == "present":
        # A label that cannot be keeps its map, for the check to find it.
        takes_part = ((target != 0) & (target != ignore_index)).flatten(1).any(1)
        target = target.to(torch.promote_types(target.dtype, torch.int16))
        target = target.masked_fill(~takes_part[:, None, None], ignore_index)
    options = LossOptions(
        scale_factor=1,
        ignore_index=ignore_index,
        ce_weight=0.0,
        classes=[1],
        per_image=True,
        num_bins=num_bins,
    )
    return fused_loss(torch.stack((torch.zeros_like(logits), logits), 1), target, options)[1]


def _as_binary(target: Tensor, ignore_index: int) -> Tensor:
    """Labels of an integer type, of bool as well."""
    is_bool = isinstance(target, Tensor) and target.dtype == torch.bool
    return as_labels(target.to(torch.uint8) if is_bool else target, ignore_index)


def _as_maps(x: Tensor, multilabel: bool, per_image: bool) -> Tensor:
    """(B, *spatial) or (B, C, *spatial) to (maps, height, width)."""
    if not multilabel:
        x = x[:, None]
    *height, width = x.shape[2:]
    x = x.reshape(*x.shape[:2], math.prod(height), width)
    return x.flatten(0, 1) if per_image else x.transpose(0, 1).flatten(1, 2)


def _check_shapes(logits: Tensor, target: Tensor) -> None:
    if logits.dim() < 2 or logits.shape[1] < 1:
        raise ValueError(
            f"logits must be of shape (B, C, *spatial) or (N, C), not {tuple(logits.shape)}"
        )
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != expected:
        raise ValueError(
            f"target must be of shape {expected}, that of the logits {tuple(logits.shape)} "
            f"without the channels, not {tuple(target.shape)}"
        )
