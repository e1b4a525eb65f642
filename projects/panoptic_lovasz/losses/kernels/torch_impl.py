"""Cross-entropy and a region term from low-resolution logits, in plain PyTorch.

The image is worked through in strips of rows, so that upsampled logits exist for one strip at a
time only. Runs on any device and is the yardstick for the compiled implementations. Each
implementation is a module with the functions :func:`read_labels`, :func:`count`, :func:`weigh` and
:func:`saved_shape`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..counters import bin_errors
from ..labels import label_range, present_classes
from ..options import LossOptions

__all__ = ["count", "read_labels", "saved_shape", "weigh"]

# Elements (classes x pixels) of one strip: 4 MB of float32, small enough for a CPU's caches.
STRIP_ELEMENTS = 1 << 20


def read_labels(
    target: Tensor, num_classes: int, ignore_index: int, num_groups: int
) -> tuple[Tensor, Tensor]:
    """What the labels alone decide.

    Args:
        target: (B, h s, w s), any integer dtype, contiguous.
        num_groups: G, 1 (the batch is one group) or B (each image is one).

    Returns:
        - the smallest and the largest label, ignored ones taken as 0, (2,) integer: at least those
          outside [0, C);
        - the classes that occur in each group, (G, C) bool.
    """
    present = present_classes(target, num_classes, ignore_index, num_groups)
    return label_range(target, ignore_index), present


def count(
    logits: Tensor,
    target: Tensor,
    active: Tensor,
    options: LossOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """First pass: counters of the region term and sums of the cross-entropy.

    Args:
        logits: (B, C, h, w), any floating dtype, contiguous.
        target: (B, h s, w s), any integer dtype, contiguous. Pixels whose label is
            ``ignore_index`` or lies outside [0, C) do not count.
        active: (G, C) bool. G is 1 (the batch is one group) or B (each image is one). Counters
            of classes that are not active stay 0.
        options: ``scale_factor``, ``ignore_index``, ``num_bins`` and ``class_weights`` are read;
            the last is a (C,) float32 tensor or None.

    Returns:
        - counters (G, C, 2, K) int64: per group, class, background (0) or foreground (1) and bin
          the sum of what :func:`.counters.bin_errors` returns for a pixel.
        - (2,) float64: sum of weight times negative log-likelihood, and sum of the weights. The
          first is NaN where the softmax of a pixel that counts is.
        - float32, of the shape that ``saved_shape`` tells: what the implementation wants back in
          :func:`weigh` per pixel, such as the log-sum-exp; nothing here.
    """
    num_groups, num_classes = active.shape
    shape = (num_groups, num_classes, 2, options.num_bins)
    counters = torch.zeros(shape, dtype=torch.int64, device=logits.device)
    sums = torch.zeros(2, dtype=torch.float64, device=logits.device)
    classes = [row.nonzero().flatten() for row in active]
    for strip in _strips(logits, options.scale_factor):
        group = strip.image % num_groups
        upsampled = strip.upsample(logits[strip.image, :, strip.rows].float(), options.scale_factor)
        label = strip.labels(target, num_classes, options.ignore_index)
        probabilities, log_sum, shifted = _softmax(upsampled)
        weight = _pixel_weights(label, options.class_weights)
        nll = log_sum - shifted.gather(0, label.clamp(min=0)[None])[0]
        sums[0] += torch.where(label >= 0, nll * weight, 0).sum(dtype=torch.float64)
        sums[1] += weight.sum(dtype=torch.float64)
        if len(classes[group]):
            index, _, value = _bins(probabilities, label, classes[group], options.num_bins)
            value.masked_fill_(label < 0, 0)
            counters[group].view(-1).scatter_add_(0, index.view(-1), value.view(-1))
    return counters, sums, logits.new_empty(saved_shape(logits, options), dtype=torch.float32)


def saved_shape(logits: Tensor, options: LossOptions) -> tuple[int, ...]:
    """Shape of the third result of :func:`count`."""
    return (0,)


def weigh(
    logits: Tensor,
    target: Tensor,
    saved: Tensor,
    active: Tensor,
    weights: Tensor,
    ce_coefficient: Tensor,
    region_coefficient: Tensor,
    options: LossOptions,
) -> Tensor:
    """Second pass: gradient with respect to the low-resolution logits.

    Args:
        saved: the third result of :func:`count`.
        weights: (G, C, 2, K) float32, derivative of the region term with respect to the error of
            a pixel in that bin. Only the rows of active classes are read.
        ce_coefficient: 0-dim float32 on the logits' device, factor of the cross-entropy sum.
        region_coefficient: the same, of the region term.

    The other arguments are those of :func:`count`.

    Returns:
        (B, C, h, w) in the dtype of ``logits``. Pixels that do not count add exactly 0.
    """
    num_groups, num_classes, _, num_bins = weights.shape
    gradient = torch.zeros(logits.shape, device=logits.device)
    classes = [row.nonzero().flatten() for row in active]
    for strip in _strips(logits, options.scale_factor):
        group = strip.image % num_groups
        upsampled = strip.upsample(logits[strip.image, :, strip.rows].float(), options.scale_factor)
        label = strip.labels(target, num_classes, options.ignore_index)
        p, _, _ = _softmax(upsampled)
        ce = ce_coefficient * _pixel_weights(label, options.class_weights)
        strip_gradient = p * ce
        if len(classes[group]):
            index, foreground, _ = _bins(p, label, classes[group], num_bins)
            # dm/dp is -1 for foreground and 1 for background.
            slope = weights[group].view(-1)[index] * region_coefficient
            through_p = p[classes[group]] * torch.where(foreground, -slope, slope)
            strip_gradient.sub_(p * through_p.sum(0)).index_add_(0, classes[group], through_p)
        strip_gradient.scatter_add_(0, label.clamp(min=0)[None], -ce[None])
        strip_gradient.masked_fill_(label < 0, 0)
        gradient[strip.image, :, strip.rows] += strip.upsample_adjoint(
            strip_gradient, logits.shape[3], options.scale_factor
        )
    return gradient.to(logits.dtype)


class _Strip(NamedTuple):
    """Some rows of one image."""

    image: int
    rows: slice  # rows of the logits that the strip depends on
    inner: slice  # the strip's rows among these, upsampled
    pixels: slice  # the strip's rows in the target

    def upsample(self, logits: Tensor, scale_factor: int) -> Tensor:
        """(C, rows, w) logits -> (C, N) logits of the strip's pixels."""
        if scale_factor > 1:
            logits = F.interpolate(
                logits[None], scale_factor=scale_factor, mode="bilinear", align_corners=False
            )[0]
        return logits[:, self.inner].flatten(1)

    def upsample_adjoint(self, gradient: Tensor, width: int, scale_factor: int) -> Tensor:
        """Gradient with respect to what :meth:`upsample` was given, (C, rows, width)."""
        rows = self.rows.stop - self.rows.start
        size = (len(gradient), rows * scale_factor, width * scale_factor)
        upsampled = gradient.new_zeros(size)
        upsampled[:, self.inner] = gradient.view(len(gradient), -1, size[2])
        if scale_factor == 1:
            return upsampled
        return torch.ops.aten.upsample_bilinear2d_backward(
            upsampled[None], size[1:], (1, size[0], rows, width), False, scale_factor, scale_factor
        )[0]

    def labels(self, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
        """(N,) int64 labels of the strip's pixels, -1 where they do not count."""
        label = target[self.image, self.pixels].flatten().long()
        return label.masked_fill((label == ignore_index) | (label < 0) | (label >= num_classes), -1)


def _strips(logits: Tensor, scale_factor: int) -> Iterator[_Strip]:
    batch, num_classes, height, width = logits.shape
    step = max(1, STRIP_ELEMENTS // (num_classes * width * scale_factor**2))
    for image in range(batch):
        for first in range(0, height, step):
            last = min(first + step, height)
            # Interpolation reads one more row on either side.
            start, stop = max(first - 1, 0), min(last + 1, height)
            yield _Strip(
                image,
                slice(start, stop),
                slice((first - start) * scale_factor, (last - start) * scale_factor),
                slice(first * scale_factor, last * scale_factor),
            )


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(C, N) -> softmax; log-sum-exp of the shifted logits (N,); logits minus their maximum."""
    shifted = logits - logits.amax(0)
    exp = shifted.exp()
    total = exp.sum(0)
    return exp.div_(total), total.log(), shifted


def _pixel_weights(label: Tensor, class_weights: Tensor | None) -> Tensor:
    """Weight of each pixel in the cross-entropy, 0 where it does not count; (N,) float32."""
    if class_weights is None:
        return (label >= 0).float()
    return class_weights[label.clamp(min=0)].masked_fill(label < 0, 0)


def _bins(
    p: Tensor, label: Tensor, classes: Tensor, num_bins: int
) -> tuple[Tensor, Tensor, Tensor]:
    """For every active class and pixel: flat index of its counter, foreground or not, integer."""
    foreground = classes[:, None] == label
    errors = p[classes]
    errors = torch.where(foreground, 1 - errors, errors)
    bins, value = bin_errors(errors, num_bins)
    return bins.add_((classes[:, None] * 2 + foreground) * num_bins), foreground, value
