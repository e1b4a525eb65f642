"""Two bilinear resizes in a row and the largest class, in one launch on a CUDA device.

Every pixel of the output reads the up to sixteen logits that it is made from, a class after the
other; what lies between the resizes is never in memory. The bits are those of PyTorch's CUDA
kernels, whose compiler fuses the first product of a sum of two; whoever uses this module makes sure
of it.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from ..labels import HeadLogits

__all__ = ["labels", "resize"]

TILE_HEIGHT, TILE_WIDTH = 4, 64


@triton.jit
def _positions(index, ratio, size):
    """Two source positions of a bilinear resize along one axis, and the weight of the second."""
    source = tl.maximum(tl.fma(index.to(tl.float32) + 0.5, ratio, -0.5), 0.0)
    first = tl.minimum(source.to(tl.int32), size - 1)
    return first, tl.minimum(first + 1, size - 1), source - first.to(tl.float32)


@triton.jit
def _mix(a, b, c, d, weight_y, weight_x, logits):
    """Between four corners, as PyTorch writes it: rounded to the type of the logits; float32."""
    above = tl.fma(1.0 - weight_x, a, weight_x * b)
    below = tl.fma(1.0 - weight_x, c, weight_x * d)
    value = tl.fma(1.0 - weight_y, above, weight_y * below)
    return value.to(logits.dtype.element_ty).to(tl.float32)


@triton.jit
def _between(
    logits, top, bottom, weight_y, left, right, weight_x, width, IS_UPSAMPLED: tl.constexpr
):
    """The image in between, upsampled by the stride, at some positions: float32."""
    a = tl.load(logits + top * width + left).to(tl.float32)
    if not IS_UPSAMPLED:
        return a
    b = tl.load(logits + top * width + right).to(tl.float32)
    c = tl.load(logits + bottom * width + left).to(tl.float32)
    d = tl.load(logits + bottom * width + right).to(tl.float32)
    return _mix(a, b, c, d, weight_y, weight_x, logits)


@triton.jit
def resize_kernel(
    logits, out, height, width, ratio, image_height, image_width, out_height, out_width,
    ratio_y, ratio_x,
    CLASSES: tl.constexpr, IS_UPSAMPLED: tl.constexpr, IS_RESIZED: tl.constexpr,
    ONLY_LABELS: tl.constexpr, TILE_HEIGHT: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """A tile of the output: its logits of all classes, or only the first largest class."""
    y = tl.program_id(1) * TILE_HEIGHT + tl.arange(0, TILE_HEIGHT)[:, None]
    x = tl.program_id(0) * TILE_WIDTH + tl.arange(0, TILE_WIDTH)[None, :]
    inside = (y < out_height) & (x < out_width)
    pixel = y * out_width + x
    # Outside of the output the last pixel is computed again: no load needs a mask.
    y, x = tl.minimum(y, out_height - 1), tl.minimum(x, out_width - 1)
    # Positions in the image in between, then in the logits for each of the former.
    y0, y1, weight_y = _positions(y, ratio_y, image_height)
    x0, x1, weight_x = _positions(x, ratio_x, image_width)
    top0, bottom0, weight_y0 = _positions(y0, ratio, height)
    top1, bottom1, weight_y1 = _positions(y1, ratio, height)
    left0, right0, weight_x0 = _positions(x0, ratio, width)
    left1, right1, weight_x1 = _positions(x1, ratio, width)
    label = tl.zeros([TILE_HEIGHT, TILE_WIDTH], tl.int32)
    best = tl.full([TILE_HEIGHT, TILE_WIDTH], -float("inf"), tl.float32)
    for c in range(CLASSES):
        value = _between(
            logits, top0, bottom0, weight_y0, left0, right0, weight_x0, width, IS_UPSAMPLED
        )
        if IS_RESIZED:
            right = _between(
                logits, top0, bottom0, weight_y0, left1, right1, weight_x1, width, IS_UPSAMPLED
            )
            below = _between(
                logits, top1, bottom1, weight_y1, left0, right0, weight_x0, width, IS_UPSAMPLED
            )
            diagonal = _between(
                logits, top1, bottom1, weight_y1, left1, right1, weight_x1, width, IS_UPSAMPLED
            )
            value = _mix(value, right, below, diagonal, weight_y, weight_x, logits)
        logits += height * width
        if ONLY_LABELS:
            better = (value > best) | ((value != value) & (best == best))  # the order of argmax
            label = tl.where(better, c, label)
            best = tl.where(better, value, best)
        else:
            tl.store(out + pixel, value, mask=inside)
            out += out_height * out_width
    if ONLY_LABELS:
        tl.store(out + pixel, label, mask=inside)


def _run(logits: HeadLogits, out: torch.Tensor, only_labels: bool) -> torch.Tensor:
    values = logits.values
    classes, height, width = values.shape
    (image_height, image_width), size = logits.image_size, logits.size
    ratios = (np.float32(a) / np.float32(b) for a, b in zip(logits.image_size, size, strict=True))
    with torch.cuda.device_of(values):  # Triton launches on the current device
        resize_kernel[triton.cdiv(size[1], TILE_WIDTH), triton.cdiv(size[0], TILE_HEIGHT)](
            values, out, height, width, 1 / logits.stride, image_height, image_width,
            *size, *map(float, ratios), classes, logits.stride != 1,
            tuple(logits.image_size) != tuple(size), only_labels, TILE_HEIGHT, TILE_WIDTH,
        )  # fmt: skip
    return out


def labels(logits: HeadLogits) -> torch.Tensor:
    """``resize(logits).argmax(dim=0)`` without the resized logits: (H, W) int32."""
    out = torch.empty(logits.size, dtype=torch.int32, device=logits.values.device)
    return _run(logits, out, only_labels=True)


def resize(logits: HeadLogits) -> torch.Tensor:
    """Both resizes of contiguous logits: (C, H, W)."""
    return _run(logits, logits.values.new_empty(len(logits.values), *logits.size), False)
