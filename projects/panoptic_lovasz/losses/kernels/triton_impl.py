"""Cross-entropy and a region term from low-resolution logits: Triton kernels for CUDA.

The work is cut into *cells*, the squares between the centers of four neighboring elements of the
logits, half ones at the border included: (h + 1)(w + 1) per image, each with s x s places for
pixels. The pixel at one place has the same interpolation weights in every cell. A thread owns a
cell: it loads four logits per class and computes the pixels between them in registers. What is
kept per pixel (log-sum-exp, label, mean slope) is stored by place first and by cell last, so that
neighboring threads use neighboring addresses.

A training step is five launches on the way forth and two on the way back, with hardly an
operation of PyTorch in between, since at small sizes these cost more than the kernels:

- zeros for the counters; labels, log-sum-exp and sums of the cross-entropy; counters; weights of
  the bins and terms of the classes; losses. With a process group one more, and what its processes
  have in common is added up twice: which classes there are, and counters.
- mean slope of each pixel under its softmax; gradient.

The cost is arithmetic, four times the softmax of all pixels, and atomic additions to the counters:
one for each run of pixels of a cell in the same bin; and where such a run ends in the lowest bin
of the background, as in nearly all cells of most classes once a network has learned something,
one for a whole block of cells. Blocks of cells know which classes are a label in them: for all
others, that is nearly always, a kernel has nothing to do with labels.

Results are the same to the last bit in every run: counters are integers, and each element of the
gradient is summed in a fixed order by the program that owns it and computes all cells around it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..labels import listed_classes
from ..options import LossOptions
from ..regions import tversky_weights
from .triton_count import count_kernel, softmax_kernel
from .triton_terms import losses_kernel, totals_kernel, weights_kernel
from .triton_weigh import gradient_kernel, mean_slope_kernel

__all__ = ["backward", "forward", "new_saved"]

# Cells per program, one for each thread.
CELLS = 128
# Cells of a tile in the gradient's kernel, which owns one row and one column of elements less.
TILE_ROWS, TILE_COLUMNS = 8, 16
# Lets 16 warps share a multiprocessor.
MAX_REGISTERS = 128
# Pixels that a thread works on at a time, at most; at least one row of its cell.
THREAD_PIXELS = 16
# Classes that a program walks through in the kernels for which they are independent. Later ones
# find what is stored per pixel in the first-level cache or in registers.
COUNT_CLASSES, GRADIENT_CLASSES = 2, 16
# Programs share out their additions among so many copies of the counters, of so many bytes at most.
COPIES, COPIES_BYTES = 8, 16 << 20
# Bins, or partial sums, that a program takes at a time.
BLOCK = 1024


def new_saved(logits: Tensor, options: LossOptions) -> list[Tensor]:
    """Tensors for what the second pass wants back.

    Log-sum-exp and label of each pixel, by image, block of cells, place and cell; which classes
    are a label in a block; which take part in a group; weights of the bins; factor of the
    cross-entropy.
    """
    batch, num_classes, height, width = logits.shape
    num_groups = batch if options.per_image else 1
    rows, columns, steps = _thread_pixels(options.scale_factor)
    blocks = _cdiv((height + 1) * (width + 1), CELLS)
    pixels = (batch, blocks, steps, rows, columns, CELLS)
    label_type = torch.int16 if num_classes <= torch.iinfo(torch.int16).max else torch.int32
    return [
        logits.new_empty(pixels, dtype=torch.float32),
        logits.new_empty(pixels, dtype=label_type),
        logits.new_empty((batch, blocks, steps, num_classes), dtype=torch.int8),
        logits.new_empty((num_groups, num_classes), dtype=torch.bool),
        logits.new_empty((num_groups, num_classes, 2, options.num_bins), dtype=torch.float32),
        logits.new_empty((), dtype=torch.float64),
    ]


def forward(
    logits: Tensor, target: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """First pass, see :class:`..passes.TwoPasses`."""
    batch, num_classes, height, width = logits.shape
    saved = new_saved(logits, options)
    lse, labels, has_label, active, weights, ce_scale = saved
    groups, num_bins = len(active), options.num_bins
    _, blocks, steps, rows, columns, _ = lse.shape
    copies = max(1, min(COPIES, blocks, COPIES_BYTES // (8 * weights.numel())))
    num_flags = 2 + groups * (2 + num_classes)
    if options.region_weight == 0:
        copies = 0
        active.zero_()
        weights.zero_()
    tally = logits.new_zeros(num_flags + copies * weights.numel(), dtype=torch.int64)
    num_sums = batch * blocks * steps
    sums = logits.new_empty(2 * num_sums, dtype=torch.float32)
    ce, region = (logits.new_empty((), dtype=torch.float32) for _ in range(2))
    extremes = logits.new_empty(2, dtype=torch.int64)
    values = totals = bin_totals = listed = None
    if not isinstance(options.classes, str):
        listed = listed_classes(tuple(options.classes), num_classes, logits.device)
    group, world = options.process_group, 1
    sizes: dict[str, Any] = {
        "CLASSES": num_classes, "PADDED_CLASSES": _power_of_2(num_classes),
    }  # fmt: skip
    pixels: dict[str, Any] = {
        "SCALE": options.scale_factor, "ROWS": rows, "COLUMNS": columns, "CELLS": CELLS,
        "NUM_BINS": num_bins, "PER_IMAGE": groups > 1, "num_warps": CELLS // 32,
    }  # fmt: skip
    bins: dict[str, Any] = {"NUM_BINS": num_bins, "COPIES": copies, "BLOCK": BLOCK}
    chosen = {"LISTED": options.classes != "present"}
    with torch.cuda.device_of(logits):
        softmax_kernel[blocks, batch, steps](
            logits, target, options.class_weights, lse, labels, has_label, sums, tally,
            options.ignore_index, height, width, groups, **sizes, **pixels, maxnreg=MAX_REGISTERS,
        )  # fmt: skip
        if group is not None:
            world = dist.get_world_size(group)
            if not options.per_image:
                dist.all_reduce(tally[2 : num_flags - groups], group=group)
        if options.region_weight != 0:
            count_kernel[blocks * _cdiv(num_classes, COUNT_CLASSES), batch](
                logits, lse, labels, has_label, listed, options.class_weights, tally,
                height, width, blocks, groups, CLASSES=num_classes, **pixels, **chosen,
                STEPS=steps, COPIES=copies, CHUNK=COUNT_CLASSES,
            )  # fmt: skip
        if group is not None:
            both = 0 if options.per_image or copies == 0 else 2 * weights.numel()
            totals = logits.new_empty(3 + both, dtype=torch.float64)
            totals_kernel[1 + (groups * num_classes if both else 0),](
                tally, sums, totals, num_sums, groups, CLASSES=num_classes, **bins
            )
            dist.all_reduce(totals, group=group)
            bin_totals = totals if both else None
        if options.region_weight != 0:
            values = logits.new_empty(groups * num_classes, dtype=torch.float64)
            weights_kernel[groups * num_classes,](
                tally, totals, bin_totals, listed, options.class_weights, weights, active, values,
                groups, options.region_weight * world, *tversky_weights(options),
                **sizes, **bins, **chosen, LOVASZ=options.region == "lovasz",
            )  # fmt: skip
        # Images are this process's own; the classes of a batch are everyone's.
        region_factor = options.region_weight * (world if options.per_image else 1)
        losses_kernel[1,](
            tally, sums, totals, values, ce, region, ce_scale, extremes, num_sums,
            groups * num_classes, options.ce_weight, options.ce_weight * world, region_factor,
            BLOCK=BLOCK,
        )  # fmt: skip
    return ce, region, extremes, saved


def backward(
    ce_gradient: Tensor | None,
    region_gradient: Tensor | None,
    logits: Tensor,
    target: Tensor,
    saved: list[Tensor],
    options: LossOptions,
) -> Tensor:
    """Second pass, see :class:`..passes.TwoPasses`."""
    batch, num_classes, height, width = logits.shape
    lse, labels, has_label, active, weights, ce_scale = saved
    _, blocks, steps, rows, columns, _ = lse.shape
    mean_slope = torch.empty_like(lse)
    gradient = torch.empty_like(logits)
    common = (active, weights, ce_gradient, ce_scale, region_gradient)
    constants: dict[str, Any] = {
        "CLASSES": num_classes, "SCALE": options.scale_factor, "ROWS": rows, "COLUMNS": columns,
        "NUM_BINS": options.num_bins, "PER_IMAGE": len(active) > 1, "CELLS": CELLS,
    }  # fmt: skip
    tiles = _cdiv(height, TILE_ROWS - 1) * _cdiv(width, TILE_COLUMNS - 1)
    with torch.cuda.device_of(logits):
        mean_slope_kernel[blocks, batch, steps](
            logits, options.class_weights, lse, labels, has_label, *common, mean_slope,
            height, width, **constants, num_warps=CELLS // 32, maxnreg=MAX_REGISTERS,
        )  # fmt: skip
        gradient_kernel[tiles * _cdiv(num_classes, GRADIENT_CLASSES), batch](
            logits, options.class_weights, lse, labels, has_label, mean_slope, *common, gradient,
            height, width, blocks, **constants, STEPS=steps,
            TILE_ROWS=TILE_ROWS, TILE_COLUMNS=TILE_COLUMNS, CHUNK=GRADIENT_CLASSES,
            num_warps=TILE_ROWS * TILE_COLUMNS // 32, maxnreg=MAX_REGISTERS,
        )  # fmt: skip
    return gradient


# As in Triton, whose own take the host 6 microseconds a call.
def _cdiv(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _thread_pixels(scale_factor: int) -> tuple[int, int, int]:
    """Rows and columns of a cell's places that a thread takes at a time, and how often it does.

    The first two are powers of 2, so there may be places without a pixel.
    """
    columns = _power_of_2(scale_factor)
    rows = max(1, min(columns, THREAD_PIXELS // columns))
    return rows, columns, _cdiv(scale_factor, rows)
