"""The compiled kernel of :mod:`.paste`: mask probabilities of one instance, thresholded."""

from __future__ import annotations

import math

import numpy as np

from ...compiled import jit

__all__ = ["MAX_DOUBTFUL", "paste_one"]

MAX_DOUBTFUL = 4096  # pixels of one instance that may be left to PyTorch


@jit
def _axis(start, box_start, box_stop, mask_size, left, weight):
    """Where the pixels from ``start`` on lie in a mask with a zero border: cell and next weight."""
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    for i in range(left.shape[0]):
        center = np.float32(start + i) + half
        position = (center - box_start) / (box_stop - box_start) * two - one
        cell = ((position + one) * np.float32(mask_size) - one) * half
        cell = min(max(cell, np.float32(-1)), np.float32(mask_size))
        floor = np.float32(math.floor(cell))
        left[i] = np.int64(floor) + 1
        weight[i] = cell - floor


@jit
def _row(upper, weight, lower, out):
    for j in range(out.shape[0]):
        out[j] = upper[j] + weight * (lower[j] - upper[j])


@jit
def _values(row, left, weight, out):
    for x in range(out.shape[0]):
        value = row[left[x]]
        out[x] = value + weight[x] * (row[left[x] + 1] - value)


@jit
def _threshold(values, threshold, out):
    for x in range(out.shape[0]):
        out[x] = values[x] >= threshold


@jit
def _count_doubtful(values, threshold, tolerance):
    count = np.int32(0)
    for x in range(values.shape[0]):
        count += np.int32(1) if abs(values[x] - threshold) <= tolerance else np.int32(0)
    return count


@jit
def paste_one(mask, box, region, threshold, out, doubtful):
    """Threshold one instance's interpolated mask inside its region.

    Args:
        mask: (M, M) float32 probabilities.
        box: (4,) float32, x0, y0, x1, y1.
        region: (4,) rows and columns to fill: y0, y1, x0, x1.
        threshold: probability from which on a pixel belongs to the instance, float32.
        out: (H, W) bool, filled inside ``region``.
        doubtful: (MAX_DOUBTFUL, 2) int32, receives row and column of the pixels so close to the
            threshold that rounding decides about them.

    Returns:
        The number of doubtful pixels; the call stopped early if it exceeds MAX_DOUBTFUL.
    """
    size = mask.shape[0]
    y0, y1, x0, x1 = region
    padded = np.zeros((size + 3, size + 3), np.float32)
    padded[1 : size + 1, 1 : size + 1] = mask
    # Both PyTorch and this kernel round: the cell, up to ``size``, and then products of values.
    tolerance = np.float32(size * np.abs(mask).max() * 2.0**-18)
    top = np.empty(y1 - y0, np.int64)
    top_weight = np.empty(y1 - y0, np.float32)
    left = np.empty(x1 - x0, np.int64)
    left_weight = np.empty(x1 - x0, np.float32)
    _axis(y0, box[1], box[3], size, top, top_weight)
    _axis(x0, box[0], box[2], size, left, left_weight)
    row = np.empty(size + 3, np.float32)
    values = np.empty(x1 - x0, np.float32)
    found = 0
    for y in range(y0, y1):
        _row(padded[top[y - y0]], top_weight[y - y0], padded[top[y - y0] + 1], row)
        _values(row, left, left_weight, values)
        _threshold(values, threshold, out[y, x0:x1])
        count = _count_doubtful(values, threshold, tolerance)
        if count == 0:
            continue
        if found + count > MAX_DOUBTFUL:
            return found + count
        for x in range(x0, x1):
            if abs(values[x - x0] - threshold) <= tolerance:
                doubtful[found] = y, x
                found += 1
    return found
