"""Kernels of the second pass of :mod:`.triton_impl`."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_cells import (
    SIZES,
    STEPS_PER_BIN,
    block_of_cells,
    corner_offsets,
    corner_weights,
    error_steps,
    load_pixels,
    places,
    upsample,
)


@triton.jit
def _coefficients(ce_gradient, ce_scale, region_gradient, NUM_BINS: tl.constexpr):
    """Factors of the sum of the cross-entropy, and of the region term for p in steps."""
    ce = tl.zeros((), tl.float32)
    region = tl.zeros((), tl.float32)
    if ce_gradient is not None:
        ce = (tl.load(ce_gradient).to(tl.float64) * tl.load(ce_scale)).to(tl.float32)
    if region_gradient is not None:
        region = tl.load(region_gradient).to(tl.float32)
    return ce, region


@triton.jit(do_not_specialize=SIZES)
def mean_slope_kernel(
    logits,
    class_weights,
    lse,
    labels,
    has_label,
    active,
    weights,
    ce_gradient,
    ce_scale,
    region_gradient,
    mean_slope,
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
    """Sum over classes of p times slope, of some rows of the pixels of some cells.

    The slope is the derivative of the losses with respect to p, but for the part of the
    cross-entropy that only the pixel's own class has.
    """
    image = tl.program_id(1).to(tl.int64)
    program = image * tl.num_programs(0) + tl.program_id(0)
    program = program * tl.num_programs(2) + tl.program_id(2)
    _, row, column = block_of_cells(tl.program_id(0), height, width, CELLS)
    y, x = places(0, ROWS, COLUMNS)
    pixel = (program * (ROWS * COLUMNS) + y * COLUMNS + x) * CELLS + tl.arange(0, CELLS)
    log_sum = load_pixels(lse + pixel, None, None)
    label = load_pixels(labels + pixel, None, None).to(tl.int32)
    y, x = places(tl.program_id(2), ROWS, COLUMNS)
    corners = corner_offsets(row, column, height, width)
    plane = logits + image * CLASSES * height * width
    has_label += program * CLASSES
    if PER_IMAGE:
        active += image * CLASSES
        weights += image * (CLASSES * 2 * NUM_BINS)
    # Weights of the bins, looked up at each pixel's error and summed over the classes.
    mean = tl.zeros(label.shape, tl.float32)
    for c in range(CLASSES):
        if tl.load(active + c):
            scaled = tl.exp2(upsample(plane, corners, y, x, SCALE) - log_sum)
            if tl.load(has_label + c) != 0:
                mean = tl.fma(scaled, _own_slope(scaled, label == c, weights, NUM_BINS), mean)
            else:  # background everywhere
                mean = tl.fma(scaled, _slope(scaled, weights, NUM_BINS), mean)
        plane += height * width
        weights += 2 * NUM_BINS
    counted = label >= 0
    weight = tl.where(counted, 1.0, 0.0)
    if class_weights is not None:
        weight = load_pixels(class_weights + label, counted, 0.0)
    ce, region = _coefficients(ce_gradient, ce_scale, region_gradient, NUM_BINS)
    mean = mean * (region / (NUM_BINS * STEPS_PER_BIN)) - ce * weight
    tl.store(tl.ravel(mean_slope + pixel), tl.ravel(tl.where(counted, mean, 0.0)))


@triton.jit(do_not_specialize=SIZES)
def gradient_kernel(
    logits,
    class_weights,
    lse,
    labels,
    has_label,
    mean_slope,
    active,
    weights,
    ce_gradient,
    ce_scale,
    region_gradient,
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
    first = tl.program_id(0) % chunks * CHUNK
    tile = tl.program_id(0) // chunks
    image = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(width, TILE_COLUMNS - 1)
    first_row = tile // across * (TILE_ROWS - 1)
    first_column = tile % across * (TILE_COLUMNS - 1)
    word = _labels_of_tile(
        has_label, image * blocks, first, first_row, first_column, height, width,
        CLASSES, STEPS, CELLS, TILE_ROWS, TILE_COLUMNS, CHUNK,
    )  # fmt: skip

    # A thread has a cell, and the pixels of all its places or of some rows of them at a time.
    thread = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    tile_row, tile_column = thread // TILE_COLUMNS, thread % TILE_COLUMNS
    row, column = first_row + tile_row, first_column + tile_column
    inside = (row <= height) & (column <= width)
    cell = row * (width + 1) + column
    pixel = (image * blocks + cell // CELLS) * (STEPS * ROWS * COLUMNS * CELLS) + cell % CELLS
    corners = corner_offsets(row, column, height, width)
    y, x = places(0, ROWS, COLUMNS)
    place = pixel + (y * COLUMNS + x) * CELLS
    log_sum, mean = _load_state(lse, mean_slope, place, inside)
    # The last corner of a cell is the element of the logits with the cell's row and column.
    owned = (tile_row < TILE_ROWS - 1) & (tile_column < TILE_COLUMNS - 1)
    owned &= (row < height) & (column < width)
    right_cell = tl.minimum(thread + 1, TILE_ROWS * TILE_COLUMNS - 1)
    lower_cell = tl.minimum(thread + TILE_COLUMNS, TILE_ROWS * TILE_COLUMNS - 1)
    if PER_IMAGE:
        active += image * CLASSES
        weights += image * (CLASSES * 2 * NUM_BINS)
    ce, all_region = _coefficients(ce_gradient, ce_scale, region_gradient, NUM_BINS)
    for i in range(CHUNK):
        c = first + i
        if c < CLASSES:
            plane = (image * CLASSES + c) * height * width
            region = tl.where(tl.load(active + c), all_region, 0.0)
            table = weights + c * (2 * NUM_BINS)
            own_ce = ce * (NUM_BINS * STEPS_PER_BIN)
            if class_weights is not None:
                own_ce *= tl.load(class_weights + c)
            top_left = tl.zeros(thread.shape, tl.float32)
            top_right, bottom_left, bottom_right = top_left, top_left, top_left
            for step in range(STEPS):
                if STEPS > 1:
                    y, x = places(step, ROWS, COLUMNS)
                    place = pixel + (y * COLUMNS + x) * CELLS
                    log_sum, mean = _load_state(lse, mean_slope, place, inside)
                # Slopes of the pixels ...
                below = upsample(logits + plane, corners, y, x, SCALE) - log_sum
                scaled = tl.exp2(tl.where(below > -1000.0, below, -1000.0))  # NaN without a label
                if ((word >> i) & 1) != 0:
                    own = load_pixels(labels + place, inside, -1).to(tl.int32) == c
                    slope = tl.fma(region, _own_slope(scaled, own, table, NUM_BINS), -mean)
                    slope = scaled * slope - tl.where(own, own_ce, 0.0)
                else:
                    slope = tl.fma(region, _slope(scaled, table, NUM_BINS), -mean)
                    slope = scaled * slope
                # ... are handed back to the corners of the cells, ...
                near, far = corner_weights(x, SCALE)
                left, right = _fold(tl.sum(slope * near, 1), tl.sum(slope * far, 1), column, width)
                near, far = corner_weights((step * ROWS + tl.arange(0, ROWS))[:, None], SCALE)
                top_left += tl.sum(left * near, 0)
                top_right += tl.sum(right * near, 0)
                bottom_left += tl.sum(left * far, 0)
                bottom_right += tl.sum(right * far, 0)
            # ... each of which adds up what the four cells around it give.
            top = top_right + tl.gather(top_left, right_cell, 0)
            bottom = bottom_right + tl.gather(bottom_left, right_cell, 0)
            top, bottom = _fold(top, bottom, row, height)
            total = (bottom + tl.gather(top, lower_cell, 0)) * (1.0 / (NUM_BINS * STEPS_PER_BIN))
            tl.store(gradient + plane + row * width + column, total, mask=owned)


@triton.jit
def _labels_of_tile(
    has_label, first_block, first_class, first_row, first_column, height, width,
    CLASSES: tl.constexpr, STEPS: tl.constexpr, CELLS: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One bit for each of some classes: whether it may be the label of a pixel of the tile.

    A row of the tile lies in at most two blocks of cells, those of its first and its last cell.
    """
    end = tl.arange(0, 2 * TILE_ROWS)
    row = first_row + end // 2
    column = tl.minimum(first_column + end % 2 * (TILE_COLUMNS - 1), width)
    block = first_block + (row * (width + 1) + column) // CELLS
    i = tl.arange(0, CHUNK)
    exists = (row <= height)[:, None] & (first_class + i < CLASSES)[None, :]
    found = tl.zeros((CHUNK,), tl.int32)
    for step in range(STEPS):
        flags = has_label + (block * STEPS + step)[:, None] * CLASSES + (first_class + i)[None, :]
        flags = tl.load(flags, mask=exists, other=0)
        found = tl.maximum(found, tl.max(flags.to(tl.int32), 0))
    return tl.sum(found << i, 0)


@triton.jit
def _load_state(lse, mean_slope, place, inside):
    log_sum = load_pixels(lse + place, inside, float("inf"))
    return log_sum, load_pixels(mean_slope + place, inside, 0.0)


@triton.jit
def _fold(before, after, index, size):
    """At the border both corners of a cell are one element: give it what both would get."""
    both = before + after
    after_all = tl.where(index == 0, both, tl.where(index == size, 0.0, after))
    return tl.where(index == size, both, tl.where(index == 0, 0.0, before)), after_all


@triton.jit
def _slope(scaled, table, NUM_BINS: tl.constexpr):
    """Derivative of the region term with respect to p, where all is background."""
    bins = error_steps(scaled, None, NUM_BINS)[1]
    return load_pixels(table + bins, None, None)


@triton.jit
def _own_slope(scaled, foreground, table, NUM_BINS: tl.constexpr):
    """The same where the class may be the pixel's own."""
    bins = error_steps(scaled, foreground, NUM_BINS)[1] + tl.where(foreground, NUM_BINS, 0)
    weight = load_pixels(table + bins, None, None)
    return tl.where(foreground, -weight, weight)
