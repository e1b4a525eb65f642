from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import jaccard_loss, lovasz_weights

from panoptic_lovasz.losses.counters import (
    MAX_PIXELS,
    RESIDUAL_TOTAL_BITS,
    bin_errors,
    bin_weights,
    pixel_weights,
    unpack,
)

PIXELS = st.lists(
    st.tuples(st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()),
    min_size=1,
    max_size=60,
)
BINS = st.sampled_from([1, 2, 3, 7, 16, 64])


def count(errors, foreground, num_bins):
    """Counters (2, K) of one class."""
    counters = torch.zeros(2, num_bins, dtype=torch.int64)
    for error, row in zip(errors, foreground, strict=True):
        bins, value = bin_errors(torch.tensor([error], dtype=torch.float32), num_bins)
        counters[int(row), bins] += value
    return counters


def binned_loss(errors, foreground, num_bins):
    counts, sums = unpack(count(errors, foreground, num_bins))
    return (bin_weights(counts) * sums).sum().item()


@pytest.mark.parametrize(
    ("error", "bin_", "residual"),
    [
        (0.0, 0, 0),
        (0.249, 0, 255),
        (0.25, 1, 0),
        (0.375, 1, 128),
        (0.9999999, 3, 256),
        (1.0, 3, 256),
    ],
)
def test_an_error_falls_into_its_bin_and_keeps_its_place_inside_it(error, bin_, residual):
    bins, value = bin_errors(torch.tensor([error]), 4)
    assert bins.item() == bin_
    assert value.item() == (1 << RESIDUAL_TOTAL_BITS) + residual


@pytest.mark.parametrize("error", [float("nan"), float("inf"), -float("inf"), -1.0, 2.0])
def test_an_error_out_of_range_still_adds_one_pixel_to_a_bin_that_exists(error):
    bins, value = bin_errors(torch.tensor([error]), 4)
    assert 0 <= bins.item() < 4
    assert value.item() >> RESIDUAL_TOTAL_BITS == 1
    counts, errors = unpack(value)
    assert counts.item() == 1 and 0 <= errors.item() <= 1


def test_counters_give_back_the_number_of_pixels_and_the_sum_of_their_errors():
    counts, sums = unpack(count([0.1, 0.2, 0.3, 1.0, 1.0], [False, False, True, True, True], 4))
    assert counts.tolist() == [[2, 0, 0, 0], [0, 1, 0, 2]]
    assert sums.sum(1).tolist() == pytest.approx([0.3, 2.3], abs=5 / (4 * 512))
    assert sums[1, 3].item() == 2


def test_the_sum_of_the_errors_is_exact_in_steps_of_a_256th_of_a_bin():
    _, sums = unpack(count([1 / 1024, 514 / 1024, 0.0], [True, True, False], 4))
    assert sums.tolist() == [[0, 0, 0, 0], [1 / 1024, 0, 514 / 1024, 0]]


@pytest.mark.parametrize("error", [0.0, 0.7, 1.0])
def test_counters_hold_as_many_pixels_as_they_promise(error):
    bins, value = bin_errors(torch.tensor([error]), 1024)
    counters = torch.zeros(1024, dtype=torch.int64)
    counters[bins] = value * MAX_PIXELS
    counts, sums = unpack(counters)
    assert counts.sum().item() == MAX_PIXELS == 2**27 - 1
    assert sums.sum().item() == pytest.approx(error * MAX_PIXELS, rel=1e-5)


@given(PIXELS, BINS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_counters_do_not_depend_on_the_order_of_the_pixels(pixels, num_bins, random):
    shuffled = random.sample(pixels, len(pixels))
    before = count(*zip(*pixels, strict=True), num_bins)
    after = count(*zip(*shuffled, strict=True), num_bins)
    assert torch.equal(before, after)


@given(PIXELS, BINS)
@settings(deadline=None)
def test_a_bin_weighs_what_it_adds_to_the_jaccard_loss(pixels, num_bins):
    errors, foreground = zip(*pixels, strict=True)
    counts, _ = unpack(count(errors, foreground, num_bins))
    weights = bin_weights(counts)
    assert (weights >= 0).all() and weights.isfinite().all()
    spent = (weights * counts).sum(0)
    total = sum(foreground)
    for k in range(num_bins):
        n_b, n_f = counts[:, k:].sum(1).tolist()
        upper_b, upper_f = counts[:, k + 1 :].sum(1).tolist()
        expected = jaccard_loss(total, n_f, n_b) - jaccard_loss(total, upper_f, upper_b)
        assert spent[k].item() == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_bins_of_one_pixel_have_the_weights_of_the_definition(foreground, random):
    num_bins = len(foreground)
    order = random.sample(range(num_bins), num_bins)
    errors = [(k + 0.5) / num_bins for k in order]
    counters = count(errors, foreground, num_bins)
    weights = bin_weights(unpack(counters)[0])
    found = [weights[int(f), k].item() for f, k in zip(foreground, order, strict=True)]
    assert found == pytest.approx(lovasz_weights(errors, foreground), abs=1e-12)


def test_inside_a_bin_both_kinds_share_as_in_a_random_order():
    """The mean over all orders of 3 foreground and 2 background pixels, within a few percent."""
    counts = torch.tensor([[2.0, 7.0], [3.0, 4.0]], dtype=torch.float64)  # K = 2
    weights = bin_weights(counts)
    kinds = [True] * 3 + [False] * 2
    sums = {True: 0.0, False: 0.0}
    orders = set(permutations(kinds))
    for order in orders:
        n = {True: 4, False: 7}
        before = jaccard_loss(7, 4, 7)
        for kind in order:
            n[kind] += 1
            after = jaccard_loss(7, n[True], n[False])
            sums[kind] += (after - before) / len(orders)
            before = after
    assert weights[1, 0].item() * 3 == pytest.approx(sums[True], rel=0.05)
    assert weights[0, 0].item() * 2 == pytest.approx(sums[False], rel=0.05)


@given(PIXELS, BINS)
@settings(deadline=None)
def test_the_binned_loss_is_below_the_definition_and_keeps_its_bound(pixels, num_bins):
    errors, foreground = zip(*pixels, strict=True)
    weights = lovasz_weights(errors, foreground)
    exact = sum(w * m for w, m in zip(weights, errors, strict=True))
    wrong = [f for m, f in pixels if m > 0]
    largest = jaccard_loss(sum(foreground), sum(wrong), len(wrong) - sum(wrong))
    short = exact - binned_loss(errors, foreground, num_bins)
    rounding = largest / (512 * num_bins) + 1e-6  # places inside a bin have 8 bits
    assert -rounding <= short <= largest / num_bins + rounding


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 9), st.integers(0, 9))
@settings(deadline=None)
def test_weights_of_a_bin_are_a_subgradient(f, b, more_foreground, n_b):
    """No part of a bin's pixels weighs more than it adds on its own: the base polytope."""
    for n_f in range(more_foreground + 1):
        total = f + more_foreground
        numbers = torch.tensor([f, b, n_f, n_b, total], dtype=torch.float64)
        w_f, w_b = (w.item() for w in pixel_weights(*numbers))
        before = jaccard_loss(total, n_f, n_b)
        for part_f in range(f + 1):
            for part_b in range(b + 1):
                added = jaccard_loss(total, n_f + part_f, n_b + part_b) - before
                assert part_f * w_f + part_b * w_b <= added + 1e-12


@given(PIXELS)
@settings(deadline=None)
def test_the_definition_is_the_integral_of_the_jaccard_loss_over_thresholds(pixels):
    errors, foreground = zip(*pixels, strict=True)
    weights = lovasz_weights(errors, foreground)
    exact = sum(w * m for w, m in zip(weights, errors, strict=True))
    edges = sorted({0.0, 1.0, *errors})
    integral = 0.0
    for low, high in pairwise(edges):
        wrong = [f for m, f in pixels if m > (low + high) / 2]
        loss = jaccard_loss(sum(foreground), sum(wrong), len(wrong) - sum(wrong))
        integral += (high - low) * loss
    assert integral == pytest.approx(exact, abs=1e-9)
