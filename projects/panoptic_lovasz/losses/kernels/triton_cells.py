"""What the kernels of :mod:`.triton_impl` share: pixels in cells, upsampled logits, bins.

Logarithms and exponentials are to base 2, so logits are multiplied by log2(e) when loaded.
Roundings are spelled out with ``fma``, and the interpolation's weights are single products with
exact integers: every kernel computes the same probability to the last bit and puts a pixel into
the same bin.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..counters import RESIDUAL_BITS

# Errors are rounded down to halves of the residual's unit: this many bits below the bin.
STEP_BITS = tl.constexpr(RESIDUAL_BITS + 1)
STEPS_PER_BIN = tl.constexpr(2 << RESIDUAL_BITS)
LOG2_E = tl.constexpr(1.4426950408889634)

# Sizes that change from image to image: no new compilation for what they are divisible by.
SIZES = ["ignore_index", "height", "width", "blocks"]


@triton.jit
def block_of_cells(block, height, width, CELLS: tl.constexpr):
    """Cells of a block: which exist, and the row and column of each."""
    cell = block * CELLS + tl.arange(0, CELLS)
    return cell < (height + 1) * (width + 1), cell // (width + 1), cell % (width + 1)


@triton.jit
def places(step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows and columns inside a cell, shaped (ROWS, 1, 1) and (1, COLUMNS, 1)."""
    y = step * ROWS + tl.arange(0, ROWS)
    return y[:, None, None], tl.arange(0, COLUMNS)[None, :, None]


@triton.jit
def load_labels(
    target, ignore_index, inside, row, column, y, x, height, width,
    CLASSES: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """Labels of the pixels at places y, x of cells; -1 where there is none that counts."""
    pixel_y = (row - 1) * SCALE + SCALE // 2 + y
    pixel_x = (column - 1) * SCALE + SCALE // 2 + x
    exists = inside & (pixel_y >= 0) & (pixel_y < height * SCALE) & (y < SCALE)
    exists &= (pixel_x >= 0) & (pixel_x < width * SCALE) & (x < SCALE)
    label = load_pixels(target + pixel_y * (width * SCALE) + pixel_x, exists, 0).to(tl.int64)
    exists &= (label != ignore_index) & (label >= 0) & (label < CLASSES)
    return tl.where(exists, label, -1).to(tl.int32)


@triton.jit
def load_pixels(pointers, mask, other):
    """Load, in one dimension: with more, Triton may hand neighboring pixels of a cell to
    neighboring threads, and everything that depends on them too.
    """
    if mask is None:
        values = tl.load(tl.ravel(pointers))
    else:
        mask, _ = tl.broadcast(mask, pointers)
        values = tl.load(tl.ravel(pointers), mask=tl.ravel(mask), other=other)
    return tl.reshape(values, pointers.shape)


@triton.jit
def corner_offsets(row, column, height, width):
    """Offsets of the four logits around each cell: top left and right, bottom left and right."""
    top = tl.minimum(tl.maximum(row - 1, 0), height - 1) * width
    bottom = tl.minimum(row, height - 1) * width
    left = tl.minimum(tl.maximum(column - 1, 0), width - 1)
    right = tl.minimum(column, width - 1)
    return top + left, top + right, bottom + left, bottom + right


@triton.jit
def load_corners(plane, corners):
    """The four logits around each cell, times log2(e)."""
    a, b, c, d = corners
    a = tl.load(plane + a).to(tl.float32) * LOG2_E
    b = tl.load(plane + b).to(tl.float32) * LOG2_E
    c = tl.load(plane + c).to(tl.float32) * LOG2_E
    d = tl.load(plane + d).to(tl.float32) * LOG2_E
    return a, b, c, d


@triton.jit
def corner_weights(place, SCALE: tl.constexpr):
    """Weights of the corners before and after a place in the cell, in one direction."""
    twice = 2 * place + (1 - SCALE % 2)
    return (2 * SCALE - twice) * (0.5 / SCALE), twice * (0.5 / SCALE)


@triton.jit
def interpolate(top_left, top_right, bottom_left, bottom_right, y, x, SCALE: tl.constexpr):
    """Logits at places y, x between the corners of the cells."""
    if SCALE == 1:
        return top_left
    near, far = corner_weights(y, SCALE)
    left = tl.fma(bottom_left, far, top_left * near)
    right = tl.fma(bottom_right, far, top_right * near)
    near, far = corner_weights(x, SCALE)
    return tl.fma(right, far, left * near)


@triton.jit
def upsample(plane, corners, y, x, SCALE: tl.constexpr):
    """Logits, times log2(e), at places (ROWS, 1, 1) and (1, COLUMNS, 1) of the cells."""
    a, b, c, d = load_corners(plane, corners)
    a, b, c, d = a[None, None, :], b[None, None, :], c[None, None, :], d[None, None, :]
    return interpolate(a, b, c, d, y, x, SCALE)


@triton.jit
def error_steps(p, foreground, NUM_BINS: tl.constexpr):
    """Error of a pixel in steps, rounded down; inside a bin whatever it is.

    The largest error is a step less than its own, which is not in a bin of its own then and
    makes no difference to its rounded residual.
    """
    steps = tl.where(foreground, 1 - p, p) * (NUM_BINS * STEPS_PER_BIN)
    return tl.maximum(tl.minimum(steps.to(tl.int32), NUM_BINS * STEPS_PER_BIN - 1), 0)
