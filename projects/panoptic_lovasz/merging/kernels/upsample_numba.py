"""Two bilinear resizes in a row, computed at the output's pixels only, to the last bit.

The head's logits are upsampled by an integer factor, cropped to the image and resized to the
output, as ``F.interpolate`` does twice; what lies between is never in memory. A pixel's bits depend
on how the installed PyTorch was compiled (which multiplications and additions were contracted to
one fused operation), so :func:`arithmetic` finds out by comparison, once in a process.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba.extending import intrinsic
from torch.nn import functional as F

from ...compiled import in_threads, jit

__all__ = ["Arithmetic", "arithmetic", "labels_of_resized", "resize"]

ROWS_PER_STRIP = 32

# How a PyTorch build evaluates a * weight_a + b * weight_b.
FUSED_FIRST, UNFUSED, FUSED_SECOND = range(3)


class Arithmetic(NamedTuple):
    """How a PyTorch build rounds."""

    mode: int  # of _blend
    fused_positions: bool


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
def _blend(a, weight_a, b, weight_b, mode):
    if mode == FUSED_FIRST:
        return _fma(a, weight_a, b * weight_b)  # type: ignore[call-arg]  # numba gives typingctx
    if mode == FUSED_SECOND:
        return _fma(b, weight_b, a * weight_a)  # type: ignore[call-arg]  # numba gives typingctx
    return a * weight_a + b * weight_b


@jit
def _gather(row, left, right, weight_left, weight_right, out, mode):
    for x in range(out.shape[0]):
        out[x] = _blend(row[left[x]], weight_left[x], row[right[x]], weight_right[x], mode)


@jit
def _between(a, weight_a, b, weight_b, c, d, weight_ac, weight_bd, out, mode):
    """A row of the image in between, already resized along x: a, b at its left columns, c, d at
    its right ones; a and c lie above b and d."""
    for x in range(out.shape[0]):
        left = _blend(a[x], weight_a, b[x], weight_b, mode)
        right = _blend(c[x], weight_a, d[x], weight_b, mode)
        out[x] = _blend(left, weight_ac[x], right, weight_bd[x], mode)


@jit
def _store(a, weight_a, b, weight_b, out, mode):
    for x in range(out.shape[0]):
        out[x] = _blend(a[x], weight_a, b[x], weight_b, mode)


@jit
def _keep_maximum(a, weight_a, b, weight_b, label, best, labels, mode):
    for x in range(best.shape[0]):
        value = _blend(a[x], weight_a, b[x], weight_b, mode)
        labels[x] = label if value > best[x] else labels[x]  # the first maximum stays, as argmax
        best[x] = value if value > best[x] else best[x]


@jit
def _resize_strip(logits, start, stop, y_axis, x_axis, single, labels, out, mode):
    """Output rows ``start`` to ``stop``: the maxima's labels, or (``out`` not empty) the logits.

    ``single``: there is nothing to resize the second time.
    """
    ys, y_weights, y_second, y_second_weights = y_axis
    xs, x_weights, _, x_second_weights = x_axis
    width = xs.shape[2]
    low = logits.shape[1]
    high = 0
    for y in range(start, stop):
        low = min(low, ys[0, 0, y])
        high = max(high, ys[1, 1, y])
    columns = np.empty((high - low + 1, 2, width), np.float32)
    between = np.empty((2, width), np.float32)  # rows in between, the even one and the odd one
    held = np.empty(2, np.int64)
    best = np.full((stop - start, width), -np.inf, np.float32)
    for c in range(logits.shape[0]):
        for row in range(low, high + 1):
            for side in range(1 if single else 2):
                _gather(
                    logits[c, row], xs[side, 0], xs[side, 1], x_weights[side, 0],
                    x_weights[side, 1], columns[row - low, side], mode,
                )  # fmt: skip
        held[:] = -1
        for y in range(start, stop):
            if single:
                above, below = columns[ys[0, 0, y] - low, 0], columns[ys[0, 1, y] - low, 0]
                weights = y_weights[0, :, y]
            else:
                for side in range(2):
                    row = y_second[side, y]
                    if held[row % 2] != row:
                        a, b = columns[ys[side, 0, y] - low], columns[ys[side, 1, y] - low]
                        _between(
                            a[0], y_weights[side, 0, y], b[0], y_weights[side, 1, y], a[1], b[1],
                            x_second_weights[0], x_second_weights[1], between[row % 2], mode,
                        )  # fmt: skip
                        held[row % 2] = row
                above, below = between[y_second[0, y] % 2], between[y_second[1, y] % 2]
                weights = y_second_weights[:, y]
            if out.shape[0]:
                _store(above, weights[0], below, weights[1], out[c, y], mode)
            else:
                _keep_maximum(
                    above, weights[0], below, weights[1], c, best[y - start], labels[y], mode
                )


def _positions(n_in: int, n_out: int, ratio: np.float32, fused: bool):
    """Source positions (2, n_out) and weights (2, n_out) of one bilinear resize."""
    if n_in == n_out:
        index = np.arange(n_out)
        ones = np.ones(n_out, np.float32)
        return np.stack([index, index]), np.stack([ones, np.zeros_like(ones)])
    centre = np.arange(n_out, dtype=np.float32) + np.float32(0.5)
    if fused:  # float64 holds the product exactly, so that this rounds once
        source = (centre.astype(np.float64) * np.float64(ratio) - 0.5).astype(np.float32)
    else:
        source = centre * ratio - np.float32(0.5)
    source = np.maximum(source, np.float32(0))
    left = np.minimum(source.astype(np.int64), n_in - 1)
    right = np.minimum(left + 1, n_in - 1)
    weight = np.clip(source - left.astype(np.float32), np.float32(0), np.float32(1))
    return np.stack([left, right]), np.stack([np.float32(1) - weight, weight])


def _axis(n: int, scale: int, n_image: int, n_out: int, fused: bool) -> _Axis:
    first, first_weights = _positions(n, n * scale, np.float32(1 / scale), fused)
    ratio = np.float32(n_image) / np.float32(n_out)
    second, second_weights = _positions(n_image, n_out, ratio, fused)
    return _Axis(
        np.ascontiguousarray(first[:, second].swapaxes(0, 1).astype(np.int32)),
        np.ascontiguousarray(first_weights[:, second].swapaxes(0, 1)),
        second.astype(np.int32),
        second_weights,
    )


def _run(logits, scale, image_size, size, labels, out, how: Arithmetic | None) -> None:
    if how is None:
        raise RuntimeError("no known way to round as this PyTorch does; arithmetic() tells before")
    mode, fused = how
    y = _axis(logits.shape[1], scale, image_size[0], size[0], fused)
    x = _axis(logits.shape[2], scale, image_size[1], size[1], fused)
    single = tuple(image_size) == tuple(size)  # the second resize is the identity

    def strip(start: int) -> None:
        stop = min(start + ROWS_PER_STRIP, size[0])
        _resize_strip(logits, start, stop, y, x, single, labels, out, mode)

    in_threads(strip, range(0, size[0], ROWS_PER_STRIP))


_NO_LOGITS = np.empty((0, 0, 0), np.float32)
_NO_LABELS = np.empty((0, 0), np.int32)


def labels_of_resized(
    logits: torch.Tensor, scale: int, image_size: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """``resize(...).argmax(dim=0)`` without the resized logits; int32, (H, W)."""
    labels = torch.zeros(size, dtype=torch.int32)
    _run(logits.numpy(), scale, image_size, size, labels.numpy(), _NO_LOGITS, arithmetic())
    return labels


def resize(
    logits: torch.Tensor, scale: int, image_size: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """Both resizes of logits (C, h, w), float32, contiguous and finite, on the CPU: (C, H, W)."""
    out = torch.empty((len(logits), *size))
    _run(logits.numpy(), scale, image_size, size, _NO_LABELS, out.numpy(), arithmetic())
    return out


@functools.cache
def arithmetic() -> Arithmetic | None:
    """How this PyTorch rounds.

    ``None`` if no known way reproduces ``F.interpolate`` bit for bit; then do not use this module.
    """
    logits = torch.randn(4, 61, 83, generator=torch.Generator().manual_seed(0))
    image_size, size = (243, 327), (146, 613)
    between = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)
    between = between[..., : image_size[0], : image_size[1]]
    expected = F.interpolate(between, size=size, mode="bilinear", align_corners=False)[0]
    out = torch.empty_like(expected)
    for mode in (FUSED_FIRST, UNFUSED, FUSED_SECOND):
        for fused in (mode != UNFUSED, mode == UNFUSED):
            how = Arithmetic(mode, fused)
            _run(logits.numpy(), 4, image_size, size, _NO_LABELS, out.numpy(), how)
            if torch.equal(out, expected):
                return how
    return None
