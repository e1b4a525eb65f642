"""Kernels of the second pass of :mod:`.triton_impl`."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_cells import (
    SIZES,
    STEP_BITS,
    block_of_cells,
    corner_offsets,
    corner_weights,
    error_steps,
    load_labels,
    load_pixels,
    places,
    upsample,
)


@triton.jit(do_not_specialize=SIZES)
def mean_slope_kernel(
    logits,
    target,
    class_weights,
    lse,
    active,
    weights,
    ce_coefficient,
    region_coefficient,
    labels,
    mean_slope,
    ignore_index,
    height,
    width,
    CLASSES: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NUM_BINS: tl.constexpr,
    PER_IMAGE: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Label, and sum over classes of p times slope, of some rows of the pixels of some cells.

    The slope is the derivative of the losses with respect to p, but for the part of the
    cross-entropy that only the pixel's own class has.
    """
    image = tl.program_id(1).to(tl.int64)
    program = image * tl.num_programs(0) + tl.program_id(0)
    program = program * tl.num_programs(2) + tl.program_id(2)
    inside, row, column = block_of_cells(tl.program_id(0), height, width, CELLS)
    y, x = places(0, ROWS, COLUMNS)
    pixel = (program * (ROWS * COLUMNS) + y * COLUMNS + x) * CELLS + tl.arange(0, CELLS)
    y, x = places(tl.program_id(2), ROWS, COLUMNS)
    target += image * height * width * (SCALE * SCALE)
    label = load_labels(
        target, ignore_index, inside, row, column, y, x, height, width, CLASSES, SCALE
    )
    corners = corner_offsets(row, column, height, width)
    log_sum = load_pixels(lse + pixel, None, None)
    plane = logits + image * CLASSES * height * width
    if PER_IMAGE:
        active += image * CLASSES
        weights += image * (CLASSES * 2 * NUM_BINS)
    mean = tl.zeros(label.shape, tl.float32)
    for c in range(CLASSES):
        if tl.load(active + c):
            p = tl.exp2(upsample(plane, corners, y, x, SCALE) - log_sum)
            mean = tl.fma(p, _slope(p, label == c, weights, NUM_BINS), mean)
        plane += height * width
        weights += 2 * NUM_BINS
    counted = label >= 0
    weight = tl.where(counted, 1.0, 0.0)
    if class_weights is not None:
        weight = load_pixels(class_weights + label, counted, 0.0)
    mean = tl.load(region_coefficient) * mean - tl.load(ce_coefficient) * weight
    tl.store(tl.ravel(labels + pixel), tl.ravel(label))
    tl.store(tl.ravel(mean_slope + pixel), tl.ravel(mean))


@triton.jit(do_not_specialize=SIZES)
def gradient_kernel(
    logits,
    class_weights,
    lse,
    labels,
    mean_slope,
    active,
    weights,
    ce_coefficient,
    region_coefficient,
    gradient,
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
    CELLS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Gradient with respect to a tile of the logits of some classes."""
    chunks = tl.cdiv(CLASSES, CHUNK)
    tile = tl.program_id(0) // chunks
    first = tl.program_id(0) % chunks * CHUNK
    image = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(width, TILE_COLUMNS - 1)
    thread = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    tile_row, tile_column = thread // TILE_COLUMNS, thread % TILE_COLUMNS
    row = tile // across * (TILE_ROWS - 1) + tile_row
    column = tile % across * (TILE_COLUMNS - 1) + tile_column
    inside = (row <= height) & (column <= width)
    cell = row * (width + 1) + column
    pixel = (image * blocks + cell // CELLS) * (STEPS * ROWS * COLUMNS * CELLS) + cell % CELLS
    corners = corner_offsets(row, column, height, width)
    y, x = places(0, ROWS, COLUMNS)
    label, log_sum, mean = _load_state(
        labels, lse, mean_slope, pixel + (y * COLUMNS + x) * CELLS, inside
    )
    # The last corner of a cell is the element of the logits with the cell's row and column.
    owned = (tile_row < TILE_ROWS - 1) & (tile_column < TILE_COLUMNS - 1)
    owned &= (row < height) & (column < width)
    right_cell = tl.minimum(thread + 1, TILE_ROWS * TILE_COLUMNS - 1)
    lower_cell = tl.minimum(thread + TILE_COLUMNS, TILE_ROWS * TILE_COLUMNS - 1)
    if PER_IMAGE:
        active += image * CLASSES
        weights += image * (CLASSES * 2 * NUM_BINS)
    ce = tl.load(ce_coefficient)
    region = tl.load(region_coefficient)
    for i in range(CHUNK):
        c = first + i
        if c < CLASSES:
            plane = (image * CLASSES + c) * height * width
            is_active = tl.load(active + c)
            table = weights + c * (2 * NUM_BINS)
            own_ce = ce
            if class_weights is not None:
                own_ce = ce * tl.load(class_weights + c)
            top_left = tl.zeros(thread.shape, tl.float32)
            top_right, bottom_left, bottom_right = top_left, top_left, top_left
            for step in range(STEPS):
                if STEPS > 1:
                    y, x = places(step, ROWS, COLUMNS)
                    label, log_sum, mean = _load_state(
                        labels, lse, mean_slope, pixel + (y * COLUMNS + x) * CELLS, inside
                    )
                p = tl.exp2(upsample(logits + plane, corners, y, x, SCALE) - log_sum)
                own = label == c
                slope = -mean
                if is_active:
                    slope = tl.fma(region, _slope(p, own, table, NUM_BINS), slope)
                slope = tl.where(label >= 0, p * slope, 0.0) - tl.where(own, own_ce, 0.0)
                near, far = corner_weights(x, SCALE)
                left, right = _fold(tl.sum(slope * near, 1), tl.sum(slope * far, 1), column, width)
                near, far = corner_weights((step * ROWS + tl.arange(0, ROWS))[:, None], SCALE)
                top_left += tl.sum(left * near, 0)
                top_right += tl.sum(right * near, 0)
                bottom_left += tl.sum(left * far, 0)
                bottom_right += tl.sum(right * far, 0)
            top = top_right + tl.gather(top_left, right_cell, 0)
            bottom = bottom_right + tl.gather(bottom_left, right_cell, 0)
            top, bottom = _fold(top, bottom, row, height)
            total = bottom + tl.gather(top, lower_cell, 0)
            tl.store(gradient + plane + row * width + column, total, mask=owned)


@triton.jit
def _load_state(labels, lse, mean_slope, place, inside):
    label = load_pixels(labels + place, inside, -1)
    log_sum = load_pixels(lse + place, inside, 0.0)
    return label, log_sum, load_pixels(mean_slope + place, inside, 0.0)


@triton.jit
def _fold(before, after, index, size):
    """At the border both corners of a cell are one element: give it what both would get."""
    both = before + after
    after_all = tl.where(index == 0, both, tl.where(index == size, 0.0, after))
    return tl.where(index == size, both, tl.where(index == 0, 0.0, before)), after_all


@triton.jit
def _slope(p, foreground, table, NUM_BINS: tl.constexpr):
    """Derivative of the region term with respect to p."""
    bins = error_steps(p, foreground, NUM_BINS) >> STEP_BITS
    bins += tl.where(foreground, NUM_BINS, 0)
    weight = load_pixels(table + bins, None, None)
    return tl.where(foreground, -weight, weight)
