"""Kernels of :mod:`.triton_impl` from the counters to the losses and the weights of the bins."""

from __future__ import annotations

import triton
import triton.language as tl

from ..counters import RESIDUAL_TOTAL_BITS
from .triton_cells import SIZES, STEP_BITS, STEPS_PER_BIN, takes_part, tally_parts

COUNT_SHIFT = tl.constexpr(RESIDUAL_TOTAL_BITS)
RESIDUAL_MASK = tl.constexpr((1 << RESIDUAL_TOTAL_BITS) - 1)


@triton.jit
def _load_bins(
    tally, totals, groups, group, c, kind: tl.constexpr, bins,
    CLASSES: tl.constexpr, NUM_BINS: tl.constexpr, COPIES: tl.constexpr,
):  # fmt: skip
    """Number of pixels, and sum of their errors, in some bins of a class; float64 and exact."""
    exists = bins < NUM_BINS
    row = ((group * CLASSES + c) * 2 + kind) * NUM_BINS
    if totals is not None:  # added up over processes
        counts = tl.load(totals + 3 + row + bins, mask=exists, other=0.0)
        errors = totals + 3 + groups * (CLASSES * 2 * NUM_BINS)
        return counts, tl.load(errors + row + bins, mask=exists, other=0.0)
    _, _, uncounted, counters = tally_parts(tally, groups, CLASSES)
    counter = tl.zeros(bins.shape, tl.int64)
    for copy in tl.static_range(COPIES):
        offset = copy * groups.to(tl.int64) * (CLASSES * 2 * NUM_BINS)
        counter += tl.load(counters + offset + row + bins, mask=exists, other=0)
    if kind == 0:  # pixels that do not count were put there with an error of 0
        counter -= tl.where(bins == 0, tl.load(uncounted + group) << COUNT_SHIFT, 0)
    counts = counter >> COUNT_SHIFT
    steps = (counts * bins << STEP_BITS) + (counter & RESIDUAL_MASK)
    return counts.to(tl.float64), steps.to(tl.float64) / (NUM_BINS * STEPS_PER_BIN)


@triton.jit
def _sum_pairs(sums, num_sums, BLOCK: tl.constexpr):
    """Sums of the cross-entropy and of the weights of its pixels, over all programs."""
    loss = tl.zeros((BLOCK,), tl.float64)
    weight = tl.zeros((BLOCK,), tl.float64)
    index = tl.arange(0, BLOCK).to(tl.int64)
    start = num_sums * 0
    while start < num_sums:
        loss += tl.load(sums + 2 * (start + index), mask=start + index < num_sums, other=0.0)
        weight += tl.load(sums + 2 * (start + index) + 1, mask=start + index < num_sums, other=0.0)
        start += BLOCK
    return tl.sum(loss, 0), tl.sum(weight, 0)


@triton.jit
def _sum(values, size, BLOCK: tl.constexpr):
    """Sum of numbers in memory, float64."""
    total = tl.zeros((BLOCK,), tl.float64)
    index = tl.arange(0, BLOCK).to(tl.int64)
    start = size * 0
    while start < size:
        total += tl.load(values + start + index, mask=start + index < size, other=0).to(tl.float64)
        start += BLOCK
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=SIZES)
def totals_kernel(
    tally,
    sums,
    totals,
    num_sums,
    groups,
    CLASSES: tl.constexpr,
    NUM_BINS: tl.constexpr,
    COPIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What processes add up, as float64: sums, labeled groups, and by program those of a class."""
    labeled = tally_parts(tally, groups, CLASSES)[0]
    if tl.program_id(0) == 0:
        loss, weight = _sum_pairs(sums, num_sums, BLOCK)
        tl.store(totals, loss)
        tl.store(totals + 1, weight)
        tl.store(totals + 2, _sum(labeled, groups, BLOCK))
    else:
        index = (tl.program_id(0) - 1).to(tl.int64)
        group, c = index // CLASSES, index % CLASSES
        bins = tl.arange(0, BLOCK)
        for start in range(0, NUM_BINS, BLOCK):
            for kind in tl.static_range(2):
                counts, errors = _load_bins(
                    tally, None, groups, group, c, kind, start + bins, CLASSES, NUM_BINS, COPIES
                )
                place = totals + 3 + (index * 2 + kind) * NUM_BINS + start + bins
                exists = start + bins < NUM_BINS
                tl.store(place, counts, mask=exists)
                place += groups.to(tl.int64) * (CLASSES * 2 * NUM_BINS)
                tl.store(place, errors, mask=exists)


@triton.jit(do_not_specialize=SIZES)
def weights_kernel(
    tally,
    totals,
    bin_totals,
    listed,
    class_weights,
    weights,
    active,
    values,
    groups,
    factor,
    alpha,
    beta,
    CLASSES: tl.constexpr,
    PADDED_CLASSES: tl.constexpr,
    NUM_BINS: tl.constexpr,
    COPIES: tl.constexpr,
    LISTED: tl.constexpr,
    LOVASZ: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The region term of a class and its derivative by bin, see :mod:`..regions`."""
    index = tl.program_id(0).to(tl.int64)
    group, c = index // CLASSES, index % CLASSES
    labeled, present = tally_parts(tally, groups, CLASSES)[:2]

    # Share of the class in the mean over the classes of its group and over the groups.
    classes = tl.arange(0, PADDED_CLASSES)
    flags = present + group * CLASSES
    parts = takes_part(classes, flags, listed, class_weights, classes < CLASSES, LISTED)
    parts = tl.where(tl.load(labeled + group) > 0, parts, 0.0).to(tl.float64)
    if totals is None:
        num_labeled = _sum(labeled, groups, BLOCK)
    elif bin_totals is None:  # images of all processes
        num_labeled = tl.load(totals + 2)
    else:  # one batch of all processes
        num_labeled = tl.full((), 1.0, tl.float64)
    own = tl.sum(tl.where(classes == c, parts, 0.0), 0)
    all_parts = tl.sum(parts, 0)
    share = own / tl.where(all_parts == 0, 1.0, all_parts) / tl.maximum(num_labeled, 1.0)
    tl.store(active + index, own > 0)

    bins = tl.arange(0, BLOCK)
    weights += index * (2 * NUM_BINS)
    if own > 0:
        total = tl.zeros((), tl.float64)  # pixels of the class
        e_b, e_f = total, total
        for start in range(0, NUM_BINS, BLOCK):
            background, b_errors = _load_bins(
                tally, bin_totals, groups, group, c, 0, start + bins, CLASSES, NUM_BINS, COPIES
            )
            foreground, f_errors = _load_bins(
                tally, bin_totals, groups, group, c, 1, start + bins, CLASSES, NUM_BINS, COPIES
            )
            e_b += tl.sum(b_errors, 0)
            e_f += tl.sum(f_errors, 0)
            total += tl.sum(foreground, 0)
        value = tl.zeros((), tl.float64)
        # The weights of soft losses are the same in all bins.
        union = tl.maximum(total - e_f + alpha * e_b + beta * e_f, 2.2250738585072014e-308)
        if not LOVASZ:
            value = share * (1 - (total - e_f) / union)
        n_b, n_f = tl.zeros((), tl.float64), tl.zeros((), tl.float64)  # pixels of higher bins
        for chunk in range(tl.cdiv(NUM_BINS, BLOCK)):
            start = (tl.cdiv(NUM_BINS, BLOCK) - 1 - chunk) * BLOCK
            if LOVASZ:
                background, b_errors = _load_bins(
                    tally, bin_totals, groups, group, c, 0, start + bins, CLASSES, NUM_BINS, COPIES
                )
                foreground, f_errors = _load_bins(
                    tally, bin_totals, groups, group, c, 1, start + bins, CLASSES, NUM_BINS, COPIES
                )
                b_here, f_here = tl.sum(background, 0), tl.sum(foreground, 0)
                b_above = n_b + (b_here - tl.cumsum(background, 0))
                f_above = n_f + (f_here - tl.cumsum(foreground, 0))
                w_f, w_b = _lovasz_weights(foreground, background, f_above, b_above, total)
                n_b += b_here
                n_f += f_here
                value += share * tl.sum(w_b * b_errors + w_f * f_errors, 0)
            else:
                w_f = tl.zeros((BLOCK,), tl.float64) + (alpha * e_b + beta * total) / union / union
                w_b = tl.zeros((BLOCK,), tl.float64) + alpha * (total - e_f) / union / union
            exists = start + bins < NUM_BINS
            scale = share * factor
            tl.store(weights + start + bins, (w_b * scale).to(tl.float32), mask=exists)
            tl.store(weights + NUM_BINS + start + bins, (w_f * scale).to(tl.float32), mask=exists)
        tl.store(values + index, value)
    else:
        for start in range(0, 2 * NUM_BINS, BLOCK):
            tl.store(weights + start + bins, 0.0, mask=start + bins < 2 * NUM_BINS)
        tl.store(values + index, 0.0)


@triton.jit
def _lovasz_weights(foreground, background, n_f, n_b, total):
    """See :func:`..counters.pixel_weights`."""
    union = tl.maximum(total + n_b, 1.0)
    w_f = 1.0 / (union + background * 0.5)
    w_b = ((total - n_f) / union - foreground / (2 * union + background)) / (union + background)
    first_wrong = (total + n_b == 0) & (background > 0)
    return w_f, tl.where(first_wrong, 1.0 / tl.maximum(background, 1.0), w_b)


@triton.jit(do_not_specialize=SIZES)
def losses_kernel(
    tally,
    sums,
    totals,
    values,
    ce,
    region,
    ce_scale,
    extremes,
    num_sums,
    num_values,
    ce_weight,
    ce_factor,
    region_factor,
    BLOCK: tl.constexpr,
):
    """Both losses, and the factor of the gradient of the cross-entropy's sum."""
    if totals is None:
        loss, weight = _sum_pairs(sums, num_sums, BLOCK)
    else:
        loss, weight = tl.load(totals), tl.load(totals + 1)
    weight = tl.where(weight > 0, weight, 1.0)
    tl.store(ce, (ce_weight * loss / weight).to(tl.float32))
    tl.store(ce_scale, ce_factor / weight)
    value = tl.zeros((), tl.float64)
    if values is not None:
        # Counters cannot hold a NaN; the sum of the cross-entropy saw the same softmax.
        value = tl.where(loss == loss, region_factor * _sum(values, num_values, BLOCK), loss)
    tl.store(region, value.to(tl.float32))
    tl.store(extremes, tl.load(tally))
    tl.store(extremes + 1, tl.load(tally + 1))
