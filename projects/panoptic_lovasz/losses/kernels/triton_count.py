"""Kernels of the first pass of :mod:`.triton_impl` that go through the pixels."""

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
    fraction,
    interpolate_row,
    load_corners,
    load_pixels,
    load_targets,
    places,
    takes_part,
    tally_parts,
    upsample,
    upsample_each,
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
    has_label,
    sums,
    tally,
    ignore_index,
    height,
    width,
    groups,
    CLASSES: tl.constexpr,
    PADDED_CLASSES: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NUM_BINS: tl.constexpr,
    PER_IMAGE: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Log-sum-exp and label of some rows of the pixels of some cells; their cross-entropy.

    Pixels that do not count have the log-sum-exp +inf (all probabilities 0) and the label -1. The
    log-sum-exp is lowered so that probabilities come out in steps, see ``error_steps``.
    """
    image = tl.program_id(1).to(tl.int64)
    program = image * tl.num_programs(0) + tl.program_id(0)
    program = program * tl.num_programs(2) + tl.program_id(2)
    labeled, present, uncounted = tally_parts(tally, groups, CLASSES)[:3]
    if PER_IMAGE:
        uncounted += image
        labeled += image
        present += image * CLASSES

    # Labels: those that are wrong, and which classes occur here and in the group.
    has_label += program * CLASSES
    classes = tl.arange(0, PADDED_CLASSES)
    tl.store(has_label + classes, 0, mask=classes < CLASSES)
    inside, row, column = block_of_cells(tl.program_id(0), height, width, CELLS)
    y, x = places(tl.program_id(2), ROWS, COLUMNS)
    target += image * height * width * (SCALE * SCALE)
    label, counted = load_targets(
        target, ignore_index, inside, row, column, y, x, height, width, SCALE
    )
    wrong = counted & ((label < 0) | (label >= CLASSES))
    tl.atomic_min(tally + tl.zeros_like(label), label, mask=wrong, sem="relaxed")
    tl.atomic_max(tally + 1 + tl.zeros_like(label), label, mask=wrong, sem="relaxed")
    counted = counted & (label >= 0) & (label < CLASSES)
    label = tl.where(counted, label.to(tl.int32), -1)
    tl.debug_barrier()  # all of has_label is 0 by now
    tl.store(has_label + label, 1, mask=counted)
    tl.store(present + label, 1, mask=counted)
    tl.store(labeled + tl.zeros_like(label), 1, mask=counted)
    unused = tl.where(counted | (x >= SCALE), 0, 1)
    tl.atomic_add(uncounted, tl.sum(tl.ravel(unused), 0).to(tl.int64), sem="relaxed")

    # Softmax, in two rounds: the highest logit, and the sum of exponentials relative to it.
    corners = corner_offsets(row, column, height, width)
    image_logits = logits + image * CLASSES * height * width
    highest = tl.full(label.shape, -3.4e38, tl.float32)
    plane = image_logits
    for _ in range(CLASSES):
        highest = tl.maximum(highest, upsample(plane, corners, y, x, SCALE))
        plane += height * width
    total = tl.zeros(label.shape, tl.float32)
    plane = image_logits
    for _ in range(CLASSES):
        total += tl.exp2(upsample(plane, corners, y, x, SCALE) - highest)
        plane += height * width
    log_total = tl.log2(total)
    log_steps = tl.log2(tl.full((), NUM_BINS * STEPS_PER_BIN, tl.float32))
    log_sum = tl.where(counted, highest + (log_total - log_steps), float("inf"))
    pixel = program * (ROWS * COLUMNS) + (y - tl.program_id(2) * ROWS) * COLUMNS + x
    pixel = pixel * CELLS + tl.arange(0, CELLS)
    tl.store(tl.ravel(lse + pixel), tl.ravel(log_sum))
    tl.store(tl.ravel(labels + pixel), tl.ravel(label))

    # Cross-entropy: sums over the program's pixels, added up in a fixed order later.
    plane = image_logits + tl.maximum(label, 0).to(tl.int64) * (height * width)
    own = upsample_each(plane, corners, counted, y, x, SCALE) - highest
    weight = tl.where(counted, 1.0, 0.0)
    if class_weights is not None:
        weight = load_pixels(class_weights + label, counted, 0.0)
    loss = tl.where(counted, (log_total - own) * LN_2 * weight, 0.0)
    tl.store(sums + 2 * program, tl.sum(tl.ravel(loss), 0))
    tl.store(sums + 2 * program + 1, tl.sum(tl.ravel(weight), 0))


@triton.jit(do_not_specialize=SIZES)
def count_kernel(
    logits,
    lse,
    labels,
    has_label,
    listed,
    class_weights,
    tally,
    height,
    width,
    blocks,
    groups,
    CLASSES: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    NUM_BINS: tl.constexpr,
    PER_IMAGE: tl.constexpr,
    LISTED: tl.constexpr,
    COPIES: tl.constexpr,
    CELLS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Add the pixels of some cells to the counters of some classes that take part."""
    chunks = tl.cdiv(CLASSES, CHUNK)
    block = tl.program_id(0) // chunks
    first = tl.program_id(0) % chunks * CHUNK
    image = tl.program_id(1).to(tl.int64)
    group = image * 0
    if PER_IMAGE:
        group = image
    _, present, _, counters = tally_parts(tally, groups, CLASSES)
    _, row, column = block_of_cells(block, height, width, CELLS)
    corners = corner_offsets(row, column, height, width)
    program = (image * blocks + block) * STEPS
    pixel = program * (ROWS * COLUMNS * CELLS) + tl.arange(0, CELLS)
    for i in range(CHUNK):
        c = first + i
        index = (block % COPIES * groups + group) * CLASSES + c
        group_present = present + group * CLASSES
        if takes_part(c, group_present, listed, class_weights, c < CLASSES, LISTED) > 0:
            _count_class(
                logits + (image * CLASSES + c) * height * width, corners, lse + pixel,
                labels + pixel, has_label + program * CLASSES + c, c,
                counters + index * (2 * NUM_BINS),
                CLASSES, SCALE, ROWS, COLUMNS, STEPS, NUM_BINS, CELLS,
            )  # fmt: skip


@triton.jit
def _count_class(
    plane, corners, lse, labels, has_label, c, histogram,
    CLASSES: tl.constexpr, SCALE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STEPS: tl.constexpr, NUM_BINS: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """Make one addition for each run of pixels in the same bin, on a way back and forth through
    the cell. The last run, often the whole cell, is mostly in the first bin: add these up first.
    """
    ends = load_corners(plane, corners)
    # Bin of the last pixels (foreground after background), and what they add to its counter.
    run_bin = tl.zeros((CELLS,), tl.int32)
    run = tl.zeros((CELLS,), tl.int64)
    for step in range(STEPS):
        place = step * (ROWS * COLUMNS * CELLS)
        # Where the class is nobody's label, as most are in most places, all is background.
        if tl.load(has_label + step * CLASSES) != 0:
            run_bin, run = _count_rows(
                ends, lse + place, labels + place, c, histogram, run_bin, run, step * ROWS,
                SCALE, ROWS, COLUMNS, NUM_BINS, CELLS,
            )  # fmt: skip
        else:
            run_bin, run = _count_rows(
                ends, lse + place, None, c, histogram, run_bin, run, step * ROWS,
                SCALE, ROWS, COLUMNS, NUM_BINS, CELLS,
            )  # fmt: skip
    tl.atomic_add(histogram + run_bin, run, mask=run_bin > 0, sem="relaxed")
    tl.atomic_add(histogram, tl.sum(tl.where(run_bin == 0, run, 0), 0), sem="relaxed")


@triton.jit
def _count_rows(
    ends, lse, labels, c, histogram, run_bin, run, first_row,
    SCALE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    NUM_BINS: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    top_left, top_right, down_left, down_right = ends
    for i in tl.static_range(ROWS):
        left, rise = interpolate_row(
            top_left, top_right, down_left, down_right, first_row + i, SCALE
        )
        for j in tl.static_range(SCALE):
            x = j if i % 2 == 0 else SCALE - 1 - j
            place = (i * COLUMNS + x) * CELLS
            logit = top_left
            if SCALE > 1:
                logit = tl.fma(rise, fraction(tl.full((), x, tl.int32), SCALE), left)
            scaled = tl.exp2(logit - tl.load(lse + place))
            if labels is None:
                steps, bins = error_steps(scaled, None, NUM_BINS)
                target = bins
            else:
                foreground = tl.load(labels + place).to(tl.int32) == c
                steps, bins = error_steps(scaled, foreground, NUM_BINS)
                target = bins + tl.where(foreground, NUM_BINS, 0)
            new = target != run_bin
            tl.atomic_add(histogram + run_bin, run, mask=new, sem="relaxed")
            residual = (steps - (bins << STEP_BITS)).to(tl.uint32).to(tl.int64)
            run = tl.where(new, 0, run) + (residual + ONE_PIXEL)
            run_bin = target
    return run_bin, run
