"""Cross-entropy and a region loss of an upsampled map, computed from the map before upsampling.

Equal to ``F.interpolate`` + ``F.cross_entropy`` + :func:`.lovasz.lovasz_softmax` with the binned
method, in value and gradient; nothing of the size of the upsampled logits is ever stored.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from . import operator
from .counters import MAX_PIXELS
from .kernels import choose
from .labels import as_class_weights, as_labels
from .options import LossOptions

__all__ = [
    "as_images",
    "check_logits",
    "check_offsets",
    "cross_entropy_lovasz",
    "cross_entropy_region",
    "fused_loss",
    "with_float64",
]

logger = logging.getLogger(__name__)

# Types of devices that lack a type of number that the sums over pixels need.
WITHOUT_FLOAT64 = ("mps",)
# Points are laid out as the pixels of an image with rows of so many.
POINTS_PER_ROW = 1024


def cross_entropy_lovasz(
    logits: Tensor,
    target: Tensor,
    *,
    lovasz_weight: float = 1.0,
    offsets: Sequence[int] | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and Lovász-Softmax loss of logits that are upsampled on the fly.

    :func:`cross_entropy_region` with ``region="lovasz"``. Source of the second term: Berman et
    al., "The Lovász-Softmax loss", CVPR 2018, equations 11 and 12, binned as ``docs/loss.md``
    describes: at most 1 / K below the definition.

    Args:
        logits, target, offsets: see :func:`cross_entropy_region`.
        lovasz_weight: factor of the Lovász loss; with 0 the loss is not computed.
        **options: the other attributes of :class:`.options.LossOptions`, by name.

    Returns:
        Cross-entropy and Lovász loss, 0-dim float32, each multiplied by its weight.
    """
    for name in ("region", "region_weight"):
        if name in options:
            raise TypeError(
                f"{name} is an option of cross_entropy_region; the region term of "
                "cross_entropy_lovasz is 'lovasz', with the weight lovasz_weight"
            )
    chosen = LossOptions.of(region="lovasz", region_weight=lovasz_weight, **options)
    return fused_loss(logits, target, chosen, offsets)


def cross_entropy_region(
    logits: Tensor, target: Tensor, *, offsets: Sequence[int] | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and a region loss of logits that are upsampled on the fly.

    The softmax, the errors and the gradient are computed in float32 and all sums over pixels in
    integers or float64, whatever the logits' dtype and also under autocast. A batch without any
    label gives 0 with zero gradients. If a softmax of a pixel that counts is NaN (a logit is NaN
    or +inf) both losses are NaN.

    Args:
        logits: (B, C, h, w), any floating dtype; or (N, C), one row a point, not upsampled.
        target: (B, h s, w s), or (N,) for points; any integer dtype: the class of each pixel, in
            [0, C), or ``ignore_index``.
        offsets: row after the last one of each cloud, in increasing order, if points are of
            several; with ``per_image`` each cloud is then an image.
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
    return fused_loss(logits, target, LossOptions.of(**options), offsets)


def fused_loss(
    logits: Tensor, target: Tensor, options: LossOptions, offsets: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`cross_entropy_region` with its options as one value."""
    options.check()
    check_logits(logits)
    target = as_labels(target, options.ignore_index)
    check_offsets(offsets, logits)
    if logits.dim() == 2:
        clouds = offsets if options.per_image else None
        logits, target = as_images(logits, target, options.ignore_index, clouds)
        options = options._replace(scale_factor=1)
    _check_shapes(logits, target, options.scale_factor)
    device = logits.device
    logits, target = with_float64(logits, target)
    num_images, num_classes = logits.shape[:2]
    if target.numel() > MAX_PIXELS * (num_images if options.per_image else 1):
        raise ValueError(f"more than {MAX_PIXELS} pixels in one group; use per_image=True")
    options = options._replace(
        scale_factor=int(options.scale_factor),
        num_bins=int(options.num_bins),
        class_weights=as_class_weights(options.class_weights, num_classes, logits.device),
        impl=choose(options.impl, logits.device) if target.numel() else "torch",
    )
    ce, region = operator.cross_entropy_region(logits.contiguous(), target.contiguous(), options)
    return ce.to(device), region.to(device)


def check_logits(logits: Tensor) -> None:
    """Raise a TypeError for what is no floating tensor."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"logits must be a tensor, not {type(logits).__name__}")
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating, not {logits.dtype}")


def check_offsets(offsets: Sequence[int] | None, logits: Tensor) -> None:
    """Raise a ValueError for offsets of what is not points."""
    if offsets is not None and logits.dim() != 2:
        raise ValueError(
            f"offsets are for points, logits (N, C); the logits are {tuple(logits.shape)}"
        )


def with_float64(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both where they are, or on the CPU if their device lacks the type of the sums over pixels."""
    if logits.device.type not in WITHOUT_FLOAT64:
        return logits, target
    _tell_of_the_cpu(logits.device.type)
    return logits.cpu(), target.cpu()


@functools.cache
def _tell_of_the_cpu(device_type: str) -> None:
    logger.warning(
        f"{device_type!r} devices have no float64, so the loss is computed on the CPU: the "
        "same results, for the time of two copies and of the CPU. Nothing needs to be done; on "
        "CUDA and on the CPU the loss stays where the logits are."
    )


def as_images(
    logits: Tensor, target: Tensor, ignore_index: int, offsets: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """Points (N, C) and labels (N,) as images (B, C, h, w), one for each cloud.

    Ignored pixels fill the smaller clouds, and the last row.

    Args:
        offsets: row after the last one of each cloud; None for a single one.
    """
    num_points, num_classes = logits.shape
    if tuple(target.shape) != (num_points,):
        raise ValueError(
            f"target must be of shape {(num_points,)}, one label for each row of the logits "
            f"{tuple(logits.shape)}, not {tuple(target.shape)}"
        )
    logits, target = logits[None], target.long()[None]
    if offsets is not None:
        ends = [0, *map(int, offsets)]
        if ends != sorted(ends) or ends[-1] != num_points:
            raise ValueError(
                f"offsets must increase up to {num_points}, the number of points, not {ends[1:]}"
            )
        sizes = [end - start for start, end in itertools.pairwise(ends)]
        logits, target = (
            pad_sequence(x[0].split(sizes), batch_first=True, padding_value=value)
            for x, value in ((logits, 0), (target, ignore_index))
        )
    missing = -logits.shape[1] % POINTS_PER_ROW
    logits = F.pad(logits.movedim(2, 1), (0, missing))
    target = F.pad(target, (0, missing), value=ignore_index)
    return (
        logits.view(len(logits), num_classes, -1, POINTS_PER_ROW),
        target.view(len(target), -1, POINTS_PER_ROW),
    )


def _check_shapes(logits: Tensor, target: Tensor, scale_factor: int) -> None:
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
