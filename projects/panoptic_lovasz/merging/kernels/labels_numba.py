"""Two bilinear resizes in a row and the largest class, at the output's pixels only, on the CPU.

The head's logits are upsampled by its stride, cropped to the image and resized to the output, as
``F.interpolate`` does twice; what lies between is never in memory. The bits are those of a PyTorch
whose compiler fused multiplications with the additions after them, as it does for AVX2, AVX-512 and
NEON; whoever uses this module makes sure of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba.extending import intrinsic

from ...compiled import in_threads, jit
from ..labels import HeadLogits

__all__ = ["labels", "resize"]

TILE = 16  # pixels of the output a side: so few that few classes can be the largest in a tile


class _Axis(NamedTuple):
    """Both resizes along one axis: for every output position its two positions in between, and
    for each of them two positions in the logits, with their weights (float32)."""

    first: np.ndarray  # (2, 2, n) int32: [position in between, position in the logits, output]
    first_weights: np.ndarray  # (2, 2, n)
    second: np.ndarray  # (2, n) int32: [position in between, output]
    second_weights: np.ndarray  # (2, n)


@intrinsic
def _fma(typingctx, a, b, c):
    """One rounding: ``a * b + c``."""

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return numba.float32(numba.float32, numba.float32, numba.float32), codegen


@jit
def _blend(a, weight_a, b, weight_b):
    return _fma(a, weight_a, b * weight_b)  # type: ignore[call-arg]  # numba gives typingctx


@jit
def _gather(row, left, right, weights, out):
    for x in range(out.shape[0]):
        out[x] = _blend(row[left[x]], weights[0, x], row[right[x]], weights[1, x])


@jit
def _between(a, weight_a, b, weight_b, c, d, weights, out):
    """A row of the image in between, already resized along x: a, b at its left columns, c, d at
    its right ones; a and c lie above b and d."""
    for x in range(out.shape[0]):
        left = _blend(a[x], weight_a, b[x], weight_b)
        right = _blend(c[x], weight_a, d[x], weight_b)
        out[x] = _blend(left, weights[0, x], right, weights[1, x])


@jit
def _mix(a, weight_a, b, weight_b, out):
    for x in range(out.shape[0]):
        out[x] = _blend(a[x], weight_a, b[x], weight_b)


@jit
def _resize(logits, classes, y_axis, x_axis, single, out):
    """Some classes at some columns of some rows, side by side: rows of vectors are long enough.

    Args:
        logits: (C, h, w).
        classes: which ones.
        y_axis, x_axis: those of the rows and columns.
        single: there is nothing to resize the second time.
        out: (rows, number of classes times columns).
    """
    ys, y_weights, y_second, y_second_weights = y_axis
    xs, x_weights, _, x_second_weights = x_axis
    width = xs.shape[2]
    low, high = ys[0, 0, 0], ys[1, 1, -1]
    # The rows of the logits at columns of the image in between, to the left and to the right.
    sides = 1 if single else 2
    columns = np.empty((high - low + 1, sides, out.shape[1]), np.float32)
    weights = np.empty((2, out.shape[1]), np.float32)
    for i, c in enumerate(classes):
        part = slice(i * width, (i + 1) * width)
        weights[:, part] = x_second_weights
        for row in range(low, high + 1):
            for side in range(sides):
                left, right = xs[side]
                _gather(
                    logits[c, row], left, right, x_weights[side], columns[row - low, side, part]
                )
    between = np.empty((2, out.shape[1]), np.float32)  # an even row in between and an odd one
    held = np.full(2, -1)  # which ones
    for y in range(out.shape[0]):
        if single:
            above, below = columns[ys[0, 0, y] - low, 0], columns[ys[0, 1, y] - low, 0]
            _mix(above, y_weights[0, 0, y], below, y_weights[0, 1, y], out[y])
            continue
        for side in range(2):
            row = y_second[side, y]
            if held[row % 2] != row:
                a, b = columns[ys[side, 0, y] - low], columns[ys[side, 1, y] - low]
                _between(
                    a[0], y_weights[side, 0, y], b[0], y_weights[side, 1, y], a[-1], b[-1],
                    weights, between[row % 2],
                )  # fmt: skip
                held[row % 2] = row
        above, below = between[y_second[0, y] % 2], between[y_second[1, y] % 2]
        _mix(above, y_second_weights[0, y], below, y_second_weights[1, y], out[y])


@functools.partial(jit, fastmath={"nnan", "nsz"})  # lets the maximum be taken in vectors
def _is_ever_above(logits, reference, rows, columns, tolerance):
    """Whether a class exceeds another somewhere in a part of the logits, but for a tolerance."""
    for y in range(rows[0], rows[1]):
        highest = -np.float32(np.inf)
        for x in range(columns[0], columns[1]):
            highest = max(highest, logits[y, x] - reference[y, x])
        if highest >= -tolerance:
            return True
    return False


@jit
def _contenders(logits, y_axis, x_axis, tolerance):
    """The classes that can be the largest somewhere in a tile, ascending.

    Interpolation keeps order: a class that is below another in all logits that a tile is made from
    is below it at all pixels of the tile, but for rounding.
    """
    rows = y_axis[0][0, 0, 0], y_axis[0][1, 1, -1] + 1
    columns = x_axis[0][0, 0, 0], x_axis[0][1, 1, -1] + 1
    likely = logits[:, (rows[0] + rows[1]) // 2, (columns[0] + columns[1]) // 2].argmax()
    found = np.empty(len(logits), np.int32)
    count = 0
    for c in range(len(logits)):
        if _is_ever_above(logits[c], logits[likely], rows, columns, tolerance):
            found[count] = c
            count += 1
    return found[:count]


@jit
def _label_tile(logits, y_axis, x_axis, single, tolerance, labels):
    classes = _contenders(logits, y_axis, x_axis, tolerance)
    labels[:] = classes[0]
    if len(classes) == 1:
        return
    height, width = labels.shape
    values = np.empty((height, len(classes) * width), np.float32)
    _resize(logits, classes, y_axis, x_axis, single, values)
    for y in range(height):
        best = values[y, :width]
        for i in range(1, len(classes)):
            _keep_maximum(values[y, i * width : (i + 1) * width], classes[i], best, labels[y])


@jit
def _keep_maximum(values, label, best, labels):
    for x in range(best.shape[0]):  # the first maximum stays, as in argmax
        labels[x] = label if values[x] > best[x] else labels[x]
        best[x] = values[x] if values[x] > best[x] else best[x]


@jit
def _cut(axis, start, stop):
    first, first_weights, second, second_weights = axis
    return (
        first[:, :, start:stop], first_weights[:, :, start:stop],
        second[:, start:stop], second_weights[:, start:stop],
    )  # fmt: skip


@jit
def _label_strip(logits, y_axis, x_axis, single, tolerance, labels):
    width = labels.shape[1]
    for start in range(0, width, TILE):
        stop = min(start + TILE, width)
        tile = labels[:, start:stop]
        _label_tile(logits, y_axis, _cut(x_axis, start, stop), single, tolerance, tile)


@jit
def _resize_strip(logits, y_axis, x_axis, single, out):
    for c in range(len(logits)):
        _resize(logits, np.array([c]), y_axis, x_axis, single, out[c])


def _positions(n_in: int, n_out: int, ratio: np.float32):
    """Source positions (2, n_out) and weights (2, n_out) of one bilinear resize."""
    if n_in == n_out:
        index = np.arange(n_out)
        ones = np.ones(n_out, np.float32)
        return np.stack([index, index]), np.stack([ones, np.zeros_like(ones)])
    # float64 holds the product exactly, so that this rounds once, as a fused operation does.
    center = np.arange(n_out) + 0.5
    source = np.maximum((center * np.float64(ratio) - 0.5).astype(np.float32), np.float32(0))
    left = np.minimum(source.astype(np.int64), n_in - 1)
    right = np.minimum(left + 1, n_in - 1)
    weight = np.clip(source - left.astype(np.float32), np.float32(0), np.float32(1))
    return np.stack([left, right]), np.stack([np.float32(1) - weight, weight])


def _axis(n: int, stride: int, n_image: int, n_out: int) -> _Axis:
    first, first_weights = _positions(n, n * stride, np.float32(1 / stride))
    ratio = np.float32(n_image) / np.float32(n_out)
    second, second_weights = _positions(n_image, n_out, ratio)
    return _Axis(
        np.ascontiguousarray(first[:, second].swapaxes(0, 1).astype(np.int32)),
        np.ascontiguousarray(first_weights[:, second].swapaxes(0, 1)),
        second.astype(np.int32),
        second_weights,
    )


def _run(logits: HeadLogits, strip_function: Callable) -> None:
    """Call ``strip_function(logits, y_axis, x_axis, single, rows=slice)`` for each strip."""
    values = logits.values.numpy()
    (_, *shape), image_size, size = values.shape, logits.image_size, logits.size
    y, x = (
        tuple(_axis(n, logits.stride, *sizes))
        for n, *sizes in zip(shape, image_size, size, strict=True)
    )
    single = tuple(image_size) == tuple(size)  # the second resize is the identity

    def strip(start: int) -> None:
        rows = slice(start, min(start + TILE, size[0]))
        strip_function(values, tuple(a[..., rows] for a in y), x, single, rows=rows)

    in_threads(strip, range(0, size[0], TILE))


def labels(logits: HeadLogits) -> torch.Tensor:
    """``resize(logits).argmax(dim=0)`` without the resized logits: (H, W) int32."""
    out = torch.zeros(logits.size, dtype=torch.int32)
    # Each of four interpolations in a row rounds by less than 2 ** -22 of the largest number.
    low, high = logits.values.aminmax()  # one pass, and no copy as abs() makes
    tolerance = np.float32(2.0**-18) * np.float32(max(-low, high))

    def strip(*how, rows):
        _label_strip(*how, tolerance, out.numpy()[rows])

    _run(logits, strip)
    return out


def resize(logits: HeadLogits) -> torch.Tensor:
    """Both resizes of float32, contiguous and finite logits on the CPU: (C, H, W)."""
    out = torch.empty(len(logits.values), *logits.size)

    def strip(*how, rows):
        _resize_strip(*how, out.numpy()[:, rows])

    _run(logits, strip)
    return out
