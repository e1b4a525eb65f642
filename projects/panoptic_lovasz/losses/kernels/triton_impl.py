"""Cross-entropy and a region term from low-resolution logits: Triton kernels for CUDA.

The work is cut into *cells*, the squares between the centers of four neighboring elements of the
logits, half ones at the border included: (h + 1)(w + 1) per image, each with s x s places for
pixels. The pixel at one place has the same interpolation weights in every cell. A thread owns a
cell: it loads four logits per class and computes the pixels between them in registers. What is
kept per pixel (log-sum-exp, label, mean slope) is stored by place first and by cell last, so that
neighboring threads use neighboring addresses.

Each pass has a kernel that walks through the classes of a pixel and one for which, given what the
first one found, all classes are independent:

- ``count``: log-sum-exp of each pixel and sums of the cross-entropy; then the counters.
- ``weigh``: mean slope of each pixel under its softmax; then the gradient.

The cost is arithmetic, four times the softmax of all pixels, and atomic additions to the counters:
one for each run of pixels of a cell in the same bin; and where such a run ends in the lowest bin
of the background, as in nearly all cells of most classes once a network has learned something,
one for a whole block of cells.

Results are the same to the last bit in every run: counters are integers, and each element of the
gradient is summed in a fixed order by the program that owns it and computes all cells around it.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from ..options import LossOptions
from .triton_count import count_kernel, softmax_kernel
from .triton_weigh import gradient_kernel, mean_slope_kernel

__all__ = ["count", "saved_shape", "weigh"]

# Cells per program, one for each thread.
CELLS = 128
# Cells of a tile in the gradient's kernel, which owns one row and one column of elements less.
TILE_ROWS, TILE_COLUMNS = 16, 16
# Lets two of its programs share a multiprocessor; hardly anything is spilled.
MAX_REGISTERS = 128
# Pixels that a thread works on at a time, at most; at least one row of its cell.
THREAD_PIXELS = 16
# Classes that a program walks through in the kernels for which they are independent. Later ones
# find what is stored per pixel in the first-level cache or in registers.
COUNT_CLASSES, GRADIENT_CLASSES = 8, 16
# Programs share out their additions among so many copies of the counters, of so many bytes at most.
COPIES, COPIES_BYTES = 4, 8 << 20


def count(
    logits: Tensor,
    target: Tensor,
    active: Tensor,
    options: LossOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """First pass, see :func:`.torch_impl.count`. The third result is laid out by cells."""
    batch, num_classes, height, width = logits.shape
    num_groups = len(active)
    lse = logits.new_empty(saved_shape(logits, options), dtype=torch.float32)
    _, blocks, steps, rows, columns, _ = lse.shape
    labels = torch.empty_like(lse, dtype=torch.int32)
    sums = logits.new_empty((batch * blocks * steps, 2), dtype=torch.float32)
    ignored = torch.empty(len(sums), dtype=torch.int32, device=logits.device)
    shape = (num_groups, num_classes, 2, options.num_bins)
    copies = max(1, min(COPIES, blocks, COPIES_BYTES // (8 * math.prod(shape))))
    counters = torch.zeros((copies, *shape), dtype=torch.int64, device=logits.device)
    constants = {
        "CLASSES": num_classes, "SCALE": options.scale_factor, "ROWS": rows, "COLUMNS": columns,
        "CELLS": CELLS, "num_warps": CELLS // 32,
    }  # fmt: skip
    with torch.cuda.device_of(logits):
        softmax_kernel[blocks, batch, steps](
            logits, target, options.class_weights, lse, labels, sums, ignored,
            options.ignore_index, height, width, **constants,
        )  # fmt: skip
        count_kernel[blocks * triton.cdiv(num_classes, COUNT_CLASSES), batch](
            logits, lse, labels, ignored, active, counters,
            height, width, blocks, **constants, STEPS=steps, NUM_BINS=options.num_bins,
            PER_IMAGE=num_groups > 1, COPIES=copies, CHUNK=COUNT_CLASSES,
        )  # fmt: skip
    return counters.sum(0), sums.sum(0, dtype=torch.float64), lse


def saved_shape(logits: Tensor, options: LossOptions) -> tuple[int, ...]:
    """Shape of the third result of :func:`count`: by image, block of cells, place and cell."""
    batch, _, height, width = logits.shape
    rows, columns, steps = _thread_pixels(options.scale_factor)
    return batch, triton.cdiv((height + 1) * (width + 1), CELLS), steps, rows, columns, CELLS


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
    """Second pass, see :func:`.torch_impl.weigh`."""
    batch, num_classes, height, width = logits.shape
    _, blocks, steps, rows, columns, _ = saved.shape
    labels = torch.empty_like(saved, dtype=torch.int32)
    mean_slope = torch.empty_like(saved)
    gradient = torch.empty_like(logits)
    coefficients = (ce_coefficient, region_coefficient)
    constants = {
        "CLASSES": num_classes, "SCALE": options.scale_factor, "ROWS": rows, "COLUMNS": columns,
        "NUM_BINS": weights.shape[-1], "PER_IMAGE": len(active) > 1, "CELLS": CELLS,
    }  # fmt: skip
    tiles = triton.cdiv(height, TILE_ROWS - 1) * triton.cdiv(width, TILE_COLUMNS - 1)
    with torch.cuda.device_of(logits):
        mean_slope_kernel[blocks, batch, steps](
            logits, target, options.class_weights, saved, active, weights, *coefficients,
            labels, mean_slope, options.ignore_index, height, width, **constants,
            num_warps=CELLS // 32,
        )  # fmt: skip
        gradient_kernel[tiles * triton.cdiv(num_classes, GRADIENT_CLASSES), batch](
            logits, options.class_weights, saved, labels, mean_slope, active, weights,
            *coefficients, gradient, height, width, blocks, **constants, STEPS=steps,
            TILE_ROWS=TILE_ROWS, TILE_COLUMNS=TILE_COLUMNS, CHUNK=GRADIENT_CLASSES,
            num_warps=TILE_ROWS * TILE_COLUMNS // 32, maxnreg=MAX_REGISTERS,
        )  # fmt: skip
    return gradient


def _thread_pixels(scale_factor: int) -> tuple[int, int, int]:
    """Rows and columns of a cell's places that a thread takes at a time, and how often it does.

    The first two are powers of 2, so there may be places without a pixel.
    """
    columns = triton.next_power_of_2(scale_factor)
    rows = max(1, min(columns, THREAD_PIXELS // columns))
    return rows, columns, triton.cdiv(scale_factor, rows)
