"""Soft Jaccard, Dice and Tversky losses from the counters, against their definitions in float64."""

import functools

import oracle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_lovasz.losses import cross_entropy_lovasz, cross_entropy_region

WEIGHTS = {"jaccard": (1.0, 1.0), "dice": (0.5, 0.5), "tversky": (0.2, 0.9)}
REGIONS = pytest.mark.parametrize("region", list(WEIGHTS))
OPTIONS = {"tversky_alpha": 0.2, "tversky_beta": 0.9, "ce_weight": 0.0}


def make(shape=(2, 5, 5, 6), *, scale_factor=4, present=4, ignored=0.2, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * scale
    size = (shape[0], shape[2] * scale_factor, shape[3] * scale_factor)
    target = torch.randint(0, present, size, generator=generator)
    target[torch.rand(size, generator=generator) < ignored] = 255
    return logits.requires_grad_(), target


def definition(logits, target, region, scale_factor=4, **options):
    alpha, beta = WEIGHTS[region]
    upsampled = logits.double()
    if scale_factor > 1:
        upsampled = F.interpolate(upsampled, scale_factor=scale_factor, mode="bilinear")
    loss = functools.partial(oracle.tversky, alpha=alpha, beta=beta)
    return oracle.region(upsampled, target, loss, **options)


def assert_as_defined(logits, target, region, *, impl="auto", num_bins=1024, **options):
    _, loss = cross_entropy_region(
        logits, target, region=region, impl=impl, num_bins=num_bins, **OPTIONS, **options
    )
    expected = definition(logits, target, region, **options)
    # Errors are counted in steps of 1 / (256 K): each is off by half of one at most, and so are
    # the means over foreground and background that value and gradient are made of.
    step = 1 / (512 * num_bins)
    background = target.numel() / min(max((target == c).sum().item(), 1) for c in target.unique())
    assert loss.item() == pytest.approx(expected.item(), abs=4 * background * step + 1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    difference = (gradient.double() - expected_gradient).norm()
    assert difference <= 1e-5 * expected_gradient.norm() + 1e-9


@REGIONS
@pytest.mark.parametrize("impl", ["torch", "numba"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per_image": True},
        {"classes": [0, 2]},
        {"class_weights": torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0]), "per_image": True},
        {"scale_factor": 1},
        {"ignore_index": 1},
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_the_definition(region, impl, options):
    logits, target = make(scale_factor=options.get("scale_factor", 4))
    target[target == 255] = options.get("ignore_index", 255)
    assert_as_defined(logits, target, region, impl=impl, **options)


@given(
    region=st.sampled_from(sorted(WEIGHTS)),
    shape=st.tuples(*(st.integers(1, n) for n in (3, 6, 5, 5))),
    scale_factor=st.integers(1, 4),
    ignored=st.sampled_from([0.0, 0.5, 0.9]),
    scale=st.sampled_from([0.0, 1.0, 8.0]),
    num_bins=st.sampled_from([1, 32, 1024]),
    per_image=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_any_batch_is_within_the_steps_of_the_counters(
    region, shape, scale_factor, ignored, scale, num_bins, per_image, seed
):
    logits, target = make(
        shape, scale_factor=scale_factor, present=shape[1], ignored=ignored, scale=scale, seed=seed
    )
    options = {"scale_factor": scale_factor, "per_image": per_image}
    _, loss = cross_entropy_region(
        logits, target, region=region, num_bins=num_bins, **OPTIONS, **options
    )
    expected = definition(logits, target, region, **options)
    # Half a step of each pixel's error, times the largest weight that one can have here.
    bound = 2 * target.numel() / (512 * num_bins)
    assert abs(loss.item() - expected.item()) <= min(1, bound) + 1e-5
    assert 0 <= loss.item() <= 1 + 1e-6
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


@REGIONS
def test_an_absent_class_that_takes_part_has_the_value_1_and_no_gradient_of_its_own(region):
    logits, target = make()  # class 4 does not occur
    options = {"region": region, **OPTIONS}
    _, present = cross_entropy_region(logits, target, **options)
    _, everything = cross_entropy_region(logits, target, classes="all", **options)
    assert everything.item() == pytest.approx((4 * present.item() + 1) / 5, abs=1e-6)
    found, expected = (torch.autograd.grad(x, logits)[0] for x in (everything, present))
    assert torch.allclose(found, expected * 0.8, atol=1e-9)
    _, alone = cross_entropy_region(logits, target, classes=[4], **options)
    assert alone.item() == 1 and not torch.autograd.grad(alone, logits)[0].any()


@REGIONS
def test_right_costs_0_wrong_costs_1_and_no_label_costs_nothing(region):
    _, target = make(scale_factor=1, ignored=0.0)
    right = F.one_hot(target, 5).permute(0, 3, 1, 2) * 200.0
    options = {"region": region, "scale_factor": 1}
    assert cross_entropy_region(right, target, **options)[1].item() == 0
    assert cross_entropy_region(right.roll(1, 1), target, **options)[1].item() == 1
    ignored = torch.full_like(target, 255)
    assert [x.item() for x in cross_entropy_region(right, ignored, **options)] == [0, 0]


def test_tversky_is_jaccard_with_weights_of_1_and_dice_with_halves():
    logits, target = make()
    for region, weight in (("jaccard", 1.0), ("dice", 0.5)):
        expected = cross_entropy_region(logits, target, region=region)
        found = cross_entropy_region(
            logits, target, region="tversky", tversky_alpha=weight, tversky_beta=weight
        )
        assert found == expected


def test_a_large_alpha_punishes_false_positives_and_a_large_beta_false_negatives():
    logits, target = make((1, 2, 8, 8), scale_factor=1, present=2, ignored=0.0)
    for sign, larger in ((1, "tversky_alpha"), (-1, "tversky_beta")):
        biased = logits + torch.tensor([0.0, 4.0 * sign]).view(1, 2, 1, 1)

        def loss(biased=biased, **weights):
            return cross_entropy_region(
                biased, target, region="tversky", scale_factor=1, classes=[1], **weights
            )[1].item()

        weights = {"tversky_alpha": 0.1, "tversky_beta": 0.1}
        assert loss(**{**weights, larger: 2.0}) > 2 * loss(**weights)


@REGIONS
@pytest.mark.parametrize("per_image", [False, True])
def test_the_mean_over_two_processes_is_that_of_one_with_all_images(
    region, per_image, second_process
):
    logits, target = make()
    options = {"region": region, "per_image": per_image, **OPTIONS}
    _, expected = cross_entropy_region(logits, target, **options)
    group, factor = second_process
    _, found = cross_entropy_region(logits, target, process_group=group, **options)
    assert found.item() == pytest.approx(expected.item() * (factor if per_image else 1))
    (found,), (expected,) = (torch.autograd.grad(x, logits) for x in (found, expected))
    assert torch.allclose(found, expected * factor, rtol=1e-4, atol=1e-8)


@REGIONS
def test_the_cross_entropy_beside_it_is_that_beside_the_lovasz_loss(region):
    logits, target = make()
    ce, _ = cross_entropy_region(logits, target, region=region, region_weight=0.3)
    assert ce == cross_entropy_lovasz(logits, target)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": "focal"}, "lovasz, jaccard, dice, tversky, not 'focal'"),
        ({"tversky_alpha": -0.1}, "tversky_alpha must be a number not below 0"),
        ({"tversky_beta": float("inf")}, "tversky_beta must be a number not below 0"),
    ],
)
def test_options_that_cannot_be_are_errors(options, message):
    logits, target = make()
    with pytest.raises(ValueError, match=message):
        cross_entropy_region(logits, target, **options)


def test_an_option_that_there_is_not_is_a_type_error_that_names_it():
    logits, target = make()
    with pytest.raises(TypeError, match="smooth"):
        cross_entropy_region(logits, target, smooth=1.0)
