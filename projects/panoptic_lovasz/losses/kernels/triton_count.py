"""Kernels of the first pass of :mod:`.triton_impl`."""

from __future__ import annotations

import triton
import triton.language as tl

from ..counters import RESIDUAL_TOTAL_BITS
from .triton_cells import (
    SIZES,
    STEP_BITS,
    STEPS_PER_BIN,
    block_of_cells,
    corner_offsets,
    error_steps,
    interpolate,
    load_corners,
    load_labels,
    load_pixels,
    places,
    upsample,
)

ONE_PIXEL = tl.constexpr(1 << RESIDUAL_TOTAL_BITS)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=SIZES)
def softmax_kernel(
    logits,
    target,
    class_weights,
    lse,
    labels,
    sums,
    ignored,
    ignore_index,
    height,
    width,
    CLASSES: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Log-sum-exp and label of some rows of the pixels of some cells; their cross-entropy.

    Pixels that do not count have the log-sum-exp +inf (all probabilities 0) and the label -1.
    ``ignored`` is their number, unused columns of the cells not included.
    """
    image = tl.program_id(1).to(tl.int64)
    program = image * tl.num_programs(0) + tl.program_id(0)
    program = program * tl.num_programs(2) + tl.program_id(2)
    inside, row, column = block_of_cells(tl.program_id(0), height, width, CELLS)
    y, x = places(tl.program_id(2), ROWS, COLUMNS)
    target += image * height * width * (SCALE * SCALE)
    label = load_labels(
        target, ignore_index, inside, row, column, y, x, height, width, CLASSES, SCALE
    )
    corners = corner_offsets(row, column, height, width)
    plane = logits + image * CLASSES * height * width
    highest = tl.full(label.shape, -3.4e38, tl.float32)
    total = tl.zeros(label.shape, tl.float32)
    own = tl.zeros(label.shape, tl.float32)
    for c in range(CLASSES):
        logit = upsample(plane, corners, y, x, SCALE)
        difference = logit - highest
        exponential = tl.exp2(-tl.abs(difference))
        total = tl.where(difference > 0, tl.fma(total, exponential, 1.0), total + exponential)
        highest = tl.maximum(highest, logit)
        own = tl.where(label == c, logit, own)
        plane += height * width
    counted = label >= 0
    log_total = tl.where(highest == float("inf"), float("nan"), tl.log2(total))
    log_sum = tl.where(counted, highest + log_total, float("inf"))
    y, x = places(0, ROWS, COLUMNS)
    pixel = (program * (ROWS * COLUMNS) + y * COLUMNS + x) * CELLS + tl.arange(0, CELLS)
    tl.store(tl.ravel(lse + pixel), tl.ravel(log_sum))
    tl.store(tl.ravel(labels + pixel), tl.ravel(label))
    weight = tl.where(counted, 1.0, 0.0)
    if class_weights is not None:
        weight = load_pixels(class_weights + label, counted, 0.0)
    loss = tl.where(counted, (highest - own + log_total) * LN_2 * weight, 0.0)
    tl.store(sums + 2 * program, tl.sum(tl.ravel(loss), 0))
    tl.store(sums + 2 * program + 1, tl.sum(tl.ravel(weight), 0))
    unused = tl.where(counted | (x >= SCALE), 0, 1)
    tl.store(ignored + program, tl.sum(tl.ravel(unused), 0))


@triton.jit(do_not_specialize=SIZES)
def count_kernel(
    logits,
    lse,
    labels,
    ignored,
    active,
    counters,
    height,
    width,
    blocks,
    CLASSES: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    NUM_BINS: tl.constexpr,
    PER_IMAGE: tl.constexpr,
    COPIES: tl.constexpr,
    CELLS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Add the pixels of some cells to the counters of some classes."""
    chunks = tl.cdiv(CLASSES, CHUNK)
    block = tl.program_id(0) // chunks
    first = tl.program_id(0) % chunks * CHUNK
    image = tl.program_id(1).to(tl.int64)
    group, groups = 0, 1
    if PER_IMAGE:
        group, groups = tl.program_id(1), tl.num_programs(1)
    _, row, column = block_of_cells(block, height, width, CELLS)
    corners = corner_offsets(row, column, height, width)
    program = (image * blocks + block) * STEPS
    pixel = program * (ROWS * COLUMNS * CELLS) + tl.arange(0, CELLS)
    num_ignored = tl.load(ignored + program).to(tl.int64)
    for step in range(1, STEPS):
        num_ignored += tl.load(ignored + program + step)
    for i in range(CHUNK):
        c = first + i
        index = (block % COPIES * groups + group).to(tl.int64) * CLASSES + c
        if tl.load(active + group * CLASSES + c, mask=c < CLASSES, other=0):
            plane = logits + (image * CLASSES + c) * height * width
            histogram = counters + index * (2 * NUM_BINS)
            _count_class(
                plane, corners, lse + pixel, labels + pixel, num_ignored, c, histogram,
                SCALE, ROWS, COLUMNS, STEPS, NUM_BINS, CELLS,
            )  # fmt: skip


@triton.jit
def _count_class(
    plane, corners, lse, labels, num_ignored, c, histogram,
    SCALE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
    NUM_BINS: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """Make one addition for each run of pixels in the same bin, on a way back and forth through
    the cell. The last run, often the whole cell, is mostly in the first bin: add these up first.
    """
    top_left, top_right, bottom_left, bottom_right = load_corners(plane, corners)
    run_bin = tl.full((CELLS,), -1, tl.int32)  # of the last pixels; foreground after background
    run = tl.zeros((CELLS,), tl.int64)  # what they add to the counter of this bin
    for step in range(STEPS):
        for i in tl.static_range(ROWS):
            for j in tl.static_range(SCALE):
                x = j if i % 2 == 0 else SCALE - 1 - j
                place = ((step * ROWS + i) * COLUMNS + x) * CELLS
                foreground = tl.load(labels + place) == c
                logit = interpolate(
                    top_left, top_right, bottom_left, bottom_right,
                    step * ROWS + i, tl.full((), x, tl.int32), SCALE,
                )  # fmt: skip
                p = tl.exp2(logit - tl.load(lse + place))
                steps = error_steps(p, foreground, NUM_BINS)
                residual = ((steps & (STEPS_PER_BIN - 1)) + 1) >> 1
                bins = (steps >> STEP_BITS) + tl.where(foreground, NUM_BINS, 0)
                ends = bins != run_bin
                tl.atomic_add(histogram + run_bin, run, mask=ends & (run_bin >= 0), sem="relaxed")
                run = tl.where(ends, 0, run) + (residual.to(tl.int64) + ONE_PIXEL)
                run_bin = bins
    tl.atomic_add(histogram + run_bin, run, mask=run_bin > 0, sem="relaxed")
    first_bin = tl.sum(tl.where(run_bin == 0, run, 0), 0)
    # Pixels that do not count are in there, or in an addition above, with an error of 0.
    tl.atomic_add(histogram, first_bin - num_ignored * ONE_PIXEL, sem="relaxed")
