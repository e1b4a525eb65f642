"""What the kernels of :mod:`.triton_impl` share: pixels in cells, upsampled logits, bins.

Logarithms and exponentials are to base 2, so logits are multiplied by log2(e) when loaded.
Roundings are spelled out with ``fma``, and the interpolation's weights are single products with
exact integers: every kernel computes the same probability to the last bit and puts a pixel into
the same bin.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Errors are rounded to steps; a bin has 2 ** STEP_BITS of them.
STEP_BITS = tl.constexpr(9)
STEPS_PER_BIN = tl.constexpr(1 << 9)
LOG2_E = tl.constexpr(1.4426950408889634)
LEAST_LOGIT = tl.constexpr(-1e30)

# Sizes that change from image to image: no new compilation for what they are divisible by.
SIZES = ["ignore_index", "height", "width", "blocks", "groups", "num_sums", "num_values"]


@triton.jit
def tally_parts(tally, groups, CLASSES: tl.constexpr):
    """Where the integers that all programs change begin, behind two for wrong labels.

    By group, whether any label occurs; by group and class, whether it does; by group, places of
    cells without a pixel that counts; counters.
    """
    present = tally + 2 + groups
    uncounted = present + groups * CLASSES
    return tally + 2, present, uncounted, uncounted + groups


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
def load_targets(
    target, ignore_index, inside, row, column, y, x, height, width, SCALE: tl.constexpr
):
    """Labels, int64, of the pixels at places y, x of cells, and where there is one to be heeded."""
    pixel_y = (row - 1) * SCALE + SCALE // 2 + y
    pixel_x = (column - 1) * SCALE + SCALE // 2 + x
    exists = inside & (pixel_y >= 0) & (pixel_y < height * SCALE) & (y < SCALE)
    exists &= (pixel_x >= 0) & (pixel_x < width * SCALE) & (x < SCALE)
    label = load_pixels(target + pixel_y * (width * SCALE) + pixel_x, exists, 0).to(tl.int64)
    return label, exists & (label != ignore_index)


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
    """The four logits around each cell: the upper two, and by how much the lower two exceed them.

    All times log2(e).
    """
    a, b, c, d = corners
    return _from_above(
        tl.load(plane + a), tl.load(plane + b), tl.load(plane + c), tl.load(plane + d)
    )


@triton.jit
def _from_above(a, b, c, d):
    a, b, c, d = _finite(a), _finite(b), _finite(c), _finite(d)
    return a * LOG2_E, b * LOG2_E, (c - a) * LOG2_E, (d - b) * LOG2_E


@triton.jit
def _finite(logit):
    # From -inf to -inf there would be no difference.
    return tl.maximum(logit.to(tl.float32), LEAST_LOGIT, tl.PropagateNan.ALL)


@triton.jit
def fraction(place, SCALE: tl.constexpr):
    """How far a place in the cell is from the first of two corners to the second."""
    return (2 * place + (1 - SCALE % 2)) * (0.5 / SCALE)


@triton.jit
def corner_weights(place, SCALE: tl.constexpr):
    """Weights of the corners before and after a place in the cell, in one direction."""
    twice = 2 * place + (1 - SCALE % 2)
    return (2 * SCALE - twice) * (0.5 / SCALE), twice * (0.5 / SCALE)


@triton.jit
def interpolate_row(top_left, top_right, down_left, down_right, y, SCALE: tl.constexpr):
    """Logits at the left end of row y of the cells, and by how much the right end exceeds them."""
    far = fraction(y, SCALE)
    left = tl.fma(down_left, far, top_left)
    return left, tl.fma(down_right, far, top_right) - left


@triton.jit
def upsample(plane, corners, y, x, SCALE: tl.constexpr):
    """Logits, times log2(e), at places (ROWS, 1, 1) and (1, COLUMNS, 1) of the cells."""
    a, b, c, d = load_corners(plane, corners)
    a, b, c, d = a[None, None, :], b[None, None, :], c[None, None, :], d[None, None, :]
    if SCALE == 1:
        return a
    left, rise = interpolate_row(a, b, c, d, y, SCALE)
    return tl.fma(rise, fraction(x, SCALE), left)


@triton.jit
def upsample_each(planes, corners, mask, y, x, SCALE: tl.constexpr):
    """:func:`upsample` where each pixel has a plane of its own."""
    a, b, c, d = corners
    a = load_pixels(planes + a[None, None, :], mask, 0.0)
    b = load_pixels(planes + b[None, None, :], mask, 0.0)
    c = load_pixels(planes + c[None, None, :], mask, 0.0)
    d = load_pixels(planes + d[None, None, :], mask, 0.0)
    a, b, c, d = _from_above(a, b, c, d)
    if SCALE == 1:
        return a
    left, rise = interpolate_row(a, b, c, d, y, SCALE)
    return tl.fma(rise, fraction(x, SCALE), left)


@triton.jit
def error_steps(scaled, foreground, NUM_BINS: tl.constexpr):
    """Error of a pixel in steps, and its bin.

    Args:
        scaled: probability times ``NUM_BINS * STEPS_PER_BIN``; NaN is taken for a small number.
        foreground: whether the class is the pixel's; None where it is nobody's.
    """
    steps = tl.maximum((scaled + 0.5).to(tl.int32), 0)
    if foreground is not None:
        steps = tl.where(foreground, tl.maximum(NUM_BINS * STEPS_PER_BIN - steps, 0), steps)
    # The largest error ends the last bin; a probability may be rounded to above 1.
    return steps, tl.minimum(steps >> STEP_BITS, NUM_BINS - 1)


@triton.jit
def takes_part(c, present, listed, class_weights, mask, LISTED: tl.constexpr):
    """Weight of classes c in the mean over the classes of a group; 0 where they take no part.

    ``LISTED``: of the classes in the list ``listed``, or if that is None of all; not of those
    that are present.
    """
    weight = tl.where(mask, 1.0, 0.0)
    if not LISTED:
        weight = tl.where(tl.load(present + c, mask=mask, other=0) > 0, weight, 0.0)
    elif listed is not None:
        weight = tl.where(tl.load(listed + c, mask=mask, other=0) > 0, weight, 0.0)
    if class_weights is not None:
        weight *= tl.load(class_weights + c, mask=mask, other=0.0)
    return weight
