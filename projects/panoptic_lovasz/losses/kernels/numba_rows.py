"""Loops of the fused loss over a few rows of an image, compiled for the CPU with numba.

Logits are interpolated, exponentiated and used on the spot, for one tile of one full-resolution
row and all classes at a time, which the cache holds. Inside a tile the pixels are ordered by
phase, ``pixel = phase * cells + cell`` for the column ``cell * scale_factor + phase``, so that
every inner loop, the interpolation too, runs over neighbors in memory and becomes vector code.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from ...compiled import jit
from ..counters import RESIDUAL_BITS, RESIDUAL_TOTAL_BITS

__all__ = ["count_rows", "weigh_rows"]

_ONE, _ZERO = np.float32(1), np.float32(0)
_LOG2_E = np.float32(math.log2(math.e))
_ROUND = np.float32(1.5 * 2**23)  # x + _ROUND is x rounded to an integer, ties to even ...
_ROUND_BITS = 0x4B400000  # ... which its bits hold, less these
_STEPS = np.float32(1 << RESIDUAL_BITS)
_PACK = 1 << (RESIDUAL_BITS + 1)  # a residual reaches 2**RESIDUAL_BITS and needs a bit more
_PIXEL = 1 << RESIDUAL_TOTAL_BITS


_jit = functools.partial(jit, fastmath={"contract", "nsz"})


# Comparisons are written so that NaN passes _exp and stops at _quantize, which gives indices.


@_jit
def _exp(x):
    """e**x for x <= 0, to 1e-7 (1 + |x|) of the result; 0 below -88."""
    t = x * _LOG2_E
    t = np.float32(-127) if t < np.float32(-127) else t
    rounded = np.float32(t + _ROUND)
    f = t - (rounded - _ROUND)
    y = np.float32(1.326472719e-3)  # 2**f on [-1/2, 1/2], minimax
    y = y * f + np.float32(9.671512640e-3)
    y = y * f + np.float32(5.550733743e-2)
    y = y * f + np.float32(2.402224209e-1)
    y = y * f + np.float32(6.931469776e-1)
    y = y * f + _ONE
    exponent = np.int32((rounded.view(np.int32) << 23) + 0x3F800000)
    return y * exponent.view(np.float32)


@_jit
def _quantize(error, num_bins):
    """Bin and residual of an error, those of :func:`.counters.bin_errors`; NaN as 0."""
    scaled = error * np.float32(num_bins)
    scaled = scaled if scaled > _ZERO else _ZERO
    scaled = scaled if scaled < np.float32(num_bins) else np.float32(num_bins)
    bin_ = min(np.int32(scaled), np.int32(num_bins - 1))
    rounded = np.float32((scaled - np.float32(bin_)) * _STEPS + _ROUND)
    return bin_, rounded.view(np.int32) - _ROUND_BITS


@_jit
def _blend(out, a, b, weight):
    if weight == _ZERO:  # without multiplying, as b may be infinite
        out[:] = a
        return
    for j in range(out.shape[0]):
        out[j] = (_ONE - weight) * a[j] + weight * b[j]


@_jit
def _add_scaled(out, a, weight):
    if weight == _ZERO:
        return
    for j in range(out.shape[0]):
        out[j] += weight * a[j]


@_jit
def _exp_shifted(values, shift, total):
    for j in range(values.shape[0]):
        values[j] = _exp(values[j] - shift[j])
        total[j] += values[j]


@_jit
def _probabilities(logits, log_sum):
    """Softmax, in place. Pixels that do not count get 0, even if a logit is NaN."""
    for j in range(logits.shape[0]):
        p = _exp(logits[j] - log_sum[j])
        logits[j] = _ZERO if log_sum[j] == np.float32(np.inf) else p


@_jit
def _count_class(values, inverse, packed, counters):
    """Add the pixels' probabilities, ``values * inverse``, to the counters of one class."""
    num_bins = counters.shape[0]
    for j in range(values.shape[0]):
        bin_, residual = _quantize(values[j] * inverse[j], num_bins)
        packed[j] = bin_ * _PACK + residual
    for j in range(values.shape[0]):
        value = np.uint32(packed[j])
        counters[value // np.uint32(_PACK)] += _PIXEL + np.int64(value % np.uint32(_PACK))


@_jit
def _weigh_class(p, weights, bins, weighted, total):
    """weighted = p times the weight of p's bin; added to ``total``."""
    num_bins = weights.shape[0]
    for j in range(p.shape[0]):
        bins[j], _ = _quantize(p[j], num_bins)
    for j in range(p.shape[0]):
        weighted[j] = weights[np.uint32(bins[j])]
    for j in range(p.shape[0]):
        weighted[j] *= p[j]
        total[j] += weighted[j]


@_jit
def _add_product(out, a, b):
    for j in range(out.shape[0]):
        out[j] += a[j] * b[j]


@_jit
def _neighbors(position, scale_factor):
    """First of the two low-resolution neighbors of a position, and the weight of the second."""
    source = np.float32((position + 0.5) / scale_factor - 0.5)
    first = math.floor(source)
    return int(first), np.float32(source - first)


@_jit
def _interpolate(logits, row, start, scale_factor, blended, out):
    """Upsample one class (h + 2, w + 2): one full-resolution row, from column ``start`` s on."""
    cells = blended.shape[0] - 2
    first, weight = _neighbors(row, scale_factor)
    low = logits[:, start : start + cells + 2]
    _blend(blended, low[first + 1], low[first + 2], weight)
    for phase in range(scale_factor):
        first, weight = _neighbors(phase, scale_factor)
        left, right = blended[first + 1 : first + 1 + cells], blended[first + 2 : first + 2 + cells]
        _blend(out[phase * cells : (phase + 1) * cells], left, right, weight)


@_jit
def _interpolate_adjoint(row_gradient, row, start, scale_factor, blended, gradient):
    """Add the gradient of what :func:`_interpolate` returned to that of its logits."""
    cells = blended.shape[0] - 2
    blended[:] = _ZERO
    for phase in range(scale_factor):
        first, weight = _neighbors(phase, scale_factor)
        part = row_gradient[phase * cells : (phase + 1) * cells]
        _add_scaled(blended[first + 1 : first + 1 + cells], part, _ONE - weight)
        _add_scaled(blended[first + 2 : first + 2 + cells], part, weight)
    first, weight = _neighbors(row, scale_factor)
    _add_scaled(gradient[first + 1, start : start + cells + 2], blended, _ONE - weight)
    _add_scaled(gradient[first + 2, start : start + cells + 2], blended, weight)


@_jit
def _read_labels(target, start, scale_factor, num_classes, ignore_index, labels):
    """Labels of one row of a tile, -1 where a pixel does not count."""
    cells = labels.shape[0] // scale_factor
    for phase in range(scale_factor):
        for j in range(cells):
            label = target[(start + j) * scale_factor + phase]
            counts = label != ignore_index and 0 <= label < num_classes
            labels[phase * cells + j] = label if counts else -1


@_jit
def count_rows(
    logits, target, first, last, active, ce_weights,
    scale_factor, ignore_index, tile, counters, log_sum, sums,
):  # fmt: skip
    """Count rows ``first`` to ``last`` (exclusive) of the logits of one image.

    Args:
        logits: (C, h + 2, w + 2) float32: the edges repeated once more on all sides.
        target: (h s, w s) int64.
        active, ce_weights: (C,) bool; (C,) float32, class weights of the cross-entropy.
        tile: columns of the logits in one tile.
        counters: (C, 2, K) int64, added to.
        log_sum: (h s, w s) float32, written; infinite where a pixel does not count.
        sums: (h s, 2) float64, added to: per row the sums of the cross-entropy.
    """
    num_classes, width = logits.shape[0], logits.shape[2] - 2
    num_bins = counters.shape[2]
    for start in range(0, width, tile):
        cells = min(tile, width - start)
        n = cells * scale_factor
        values = np.empty((num_classes, n), np.float32)
        blended = np.empty(cells + 2, np.float32)
        labels, packed = np.empty(n, np.int32), np.empty(n, np.int32)
        top, total = np.empty(n, np.float32), np.empty(n, np.float32)
        for row in range(first * scale_factor, last * scale_factor):
            saved = log_sum[row, start * scale_factor : start * scale_factor + n]
            saved[:] = np.inf
            _read_labels(target[row], start, scale_factor, num_classes, ignore_index, labels)
            if labels.max() < 0:
                continue
            top[:] = -np.inf
            total[:] = _ZERO
            for c in range(num_classes):
                _interpolate(logits[c], row, start, scale_factor, blended, values[c])
                np.maximum(top, values[c], top)
            for j in range(n):
                if labels[j] >= 0:
                    saved[j] = values[labels[j], j]
            for c in range(num_classes):
                _exp_shifted(values[c], top, total)
            for j in range(n):
                label = labels[j]
                if label < 0:
                    total[j] = _ZERO
                    continue
                logit = saved[j]
                saved[j] = top[j] + np.float32(math.log(total[j]))
                sums[row, 0] += ce_weights[label] * (saved[j] - logit)
                sums[row, 1] += ce_weights[label]
                total[j] = _ONE / total[j]
                if active[label]:
                    bin_, residual = _quantize(_ONE - values[label, j] * total[j], num_bins)
                    counters[label, 1, bin_] += _PIXEL + residual
                    # The next loop, free of branches, counts it as background with error 0.
                    values[label, j] = _ZERO
                    counters[label, 0, 0] -= _PIXEL
            ignored = np.sum(labels < 0)
            for c in range(num_classes):
                if active[c]:
                    _count_class(values[c], total, packed, counters[c, 0])
                    counters[c, 0, 0] -= ignored * _PIXEL


@_jit
def weigh_rows(
    logits, target, first, last, active, ce_weights,
    scale_factor, ignore_index, tile, weights, log_sum, gradient,
):  # fmt: skip
    """Add what rows ``first`` to ``last`` (exclusive) contribute to the gradient.

    Args:
        ce_weights: (C,) float32, class weights times the coefficient of the cross-entropy.
        weights: (C, 2, K) float32, bin weights times the coefficient of the Lovász term.
        log_sum: as :func:`count_rows` left it, with the same ``tile``.
        gradient: (C, h + 2, w + 2) float32, that of ``logits``, added to: in the rows ``first``
            to ``last + 1``.

    The other arguments are those of :func:`count_rows`.
    """
    num_classes, width = logits.shape[0], logits.shape[2] - 2
    num_bins = weights.shape[2]
    for start in range(0, width, tile):
        cells = min(tile, width - start)
        n = cells * scale_factor
        p, weighted = np.empty((num_classes, n), np.float32), np.empty((num_classes, n), np.float32)
        blended = np.empty(cells + 2, np.float32)
        labels, bins = np.empty(n, np.int32), np.empty(n, np.int32)
        own, factor = np.empty(n, np.float32), np.empty(n, np.float32)
        for row in range(first * scale_factor, last * scale_factor):
            _read_labels(target[row], start, scale_factor, num_classes, ignore_index, labels)
            if labels.max() < 0:
                continue
            saved = log_sum[row, start * scale_factor : start * scale_factor + n]
            for c in range(num_classes):
                _interpolate(logits[c], row, start, scale_factor, blended, p[c])
                _probabilities(p[c], saved)
            for j in range(n):
                if labels[j] >= 0:
                    own[j] = p[labels[j], j]
                    p[labels[j], j] = _ZERO  # the next loop, free of branches, weighs it as 0
            factor[:] = _ZERO
            for c in range(num_classes):
                if active[c]:
                    _weigh_class(p[c], weights[c, 0], bins, weighted[c], factor)
                else:
                    weighted[c] = _ZERO
            # With d the slope of the Lovász term in p and e the weight of the cross-entropy, the
            # gradient of class c is p_c d_c - e [c is the label] + p_c (e - sum of all p d).
            for j in range(n):
                label = labels[j]
                if label < 0:
                    factor[j] = _ZERO
                    continue
                p[label, j] = own[j]
                slope = _ZERO
                if active[label]:
                    bin_, _ = _quantize(_ONE - own[j], num_bins)
                    slope = -own[j] * weights[label, 1, bin_]
                weighted[label, j] = slope - ce_weights[label]
                factor[j] = ce_weights[label] - (factor[j] + slope)
            for c in range(num_classes):
                _add_product(weighted[c], p[c], factor)
                _interpolate_adjoint(weighted[c], row, start, scale_factor, blended, gradient[c])
