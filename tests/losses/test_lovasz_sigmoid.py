"""The Lovász loss of binary maps, against its definition in float64."""

import math

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_lovasz.losses import lovasz_sigmoid, lovasz_softmax


def make(shape, ignored=0.2, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * scale
    target = torch.randint(0, 2, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < ignored] = 255
    return logits.requires_grad_(), target


def maps_of(x, multilabel, per_image):
    """(maps, pixels), in the obvious way."""
    if not multilabel:
        return x.flatten(1) if per_image else x.flatten()[None]
    rows = [[x[b, c].flatten() for b in range(x.shape[0])] for c in range(x.shape[1])]
    if per_image:
        return torch.stack([row for rows_of_class in rows for row in rows_of_class])
    return torch.stack([torch.cat(rows_of_class) for rows_of_class in rows])


CASES = pytest.mark.parametrize(
    ("shape", "multilabel"), [((3, 40), False), ((3, 6, 7), False), ((2, 3, 5, 6), True)], ids=str
)


@CASES
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all"])
def test_value_and_gradient_are_those_of_the_definition(shape, multilabel, per_image, classes):
    logits, target = make(shape)
    target[0] = torch.where(target[0] == 1, 0, target[0])  # maps without foreground
    options = {"multilabel": multilabel, "per_image": per_image}
    loss = lovasz_sigmoid(logits, target, classes=classes, num_bins=2**15, **options)
    maps, labels = (maps_of(x, **options) for x in (logits, target))
    expected = oracle.lovasz_sigmoid(maps, labels, classes=classes)
    assert loss.item() == pytest.approx(expected.item(), abs=2e-6)
    (found,), (gradient,) = (torch.autograd.grad(x, logits) for x in (loss, expected))
    # A pixel within rounding of a bin's edge is weighed as its neighbor's: of 40 that shows.
    assert (found - gradient).norm() <= 1e-2 * gradient.norm()


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    per_image=st.booleans(),
    classes=st.sampled_from(["present", "all"]),
    num_bins=st.sampled_from([1, 7, 1024]),
    ignored=st.sampled_from([0.0, 0.5, 0.95]),
    scale=st.sampled_from([0.0, 1.0, 50.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_the_loss_is_at_most_1_over_k_below_the_definition(
    shape, per_image, classes, num_bins, ignored, scale, seed
):
    logits, target = make(shape, ignored, scale, seed)
    options = {"classes": classes, "per_image": per_image, "num_bins": num_bins}
    found = lovasz_sigmoid(logits, target, **options).item()
    maps, labels = (maps_of(x, False, per_image) for x in (logits, target))
    expected = oracle.lovasz_sigmoid(maps, labels, classes=classes).item()
    assert -1e-5 - 1 / num_bins <= found - expected <= 1e-5 + 1 / (512 * num_bins)


@CASES
def test_maps_without_foreground_change_nothing_unless_all_are_asked_for(shape, multilabel):
    logits, target = make(shape, ignored=0.0)
    options = {"multilabel": multilabel, "per_image": True}
    expected = lovasz_sigmoid(logits[1:], target[1:], **options)
    target[0] = 0
    loss = lovasz_sigmoid(logits, target, **options)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert not torch.autograd.grad(loss, logits)[0][0].any()
    assert lovasz_sigmoid(logits, target, classes="all", **options).item() != loss.item()
    nothing = lovasz_sigmoid(logits, torch.zeros_like(target), **options)
    assert nothing.item() == 0 and not torch.autograd.grad(nothing, logits)[0].any()


def test_a_map_is_a_class_of_two_whose_other_logit_is_0():
    logits, target = make((2, 6, 7))
    both = torch.stack((torch.zeros_like(logits), logits), 1)
    expected = lovasz_softmax(both, target, classes=[1], per_image=True)
    assert lovasz_sigmoid(logits, target, per_image=True) == expected


def test_right_costs_0_and_wrong_costs_1_in_half_precision_and_for_bool_masks():
    target = torch.rand(2, 8, 8) > 0.5
    right = (2.0 * target - 1).half() * 100
    assert lovasz_sigmoid(right, target).item() == 0
    wrong = lovasz_sigmoid(-right, target)
    assert wrong.dtype == torch.float32 and wrong.item() == pytest.approx(1, abs=1e-6)


def test_what_ignored_pixels_predict_does_not_matter_even_if_it_is_nan():
    logits, target = make((2, 6, 7))
    target[target == 255] = -1
    expected = lovasz_sigmoid(logits, target, ignore_index=-1)
    with torch.no_grad():
        logits[target == -1] = math.nan
    assert lovasz_sigmoid(logits, target, ignore_index=-1) == expected
    small = target.to(torch.int8)
    assert lovasz_sigmoid(logits, small, ignore_index=-1) == expected


@pytest.mark.parametrize("label", [2, -1])
def test_a_target_that_cannot_be_is_an_error_even_where_nothing_is_foreground(label):
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    target[1, 0, 0] = label
    with pytest.raises(ValueError, match=f"label {label} "):
        lovasz_sigmoid(torch.zeros(2, 4, 4), target)


def test_shapes_types_and_options_are_checked():
    with pytest.raises(ValueError, match=r"\(B, \*spatial\), not \(4,\)"):
        lovasz_sigmoid(torch.zeros(4), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(B, C, \*spatial\)"):
        lovasz_sigmoid(torch.zeros(4, 5), torch.zeros(4, 5, dtype=torch.long), multilabel=True)
    with pytest.raises(ValueError, match='"present" or "all", not'):
        lovasz_sigmoid(torch.zeros(4, 5), torch.zeros(4, 5, dtype=torch.long), classes="some")
    with pytest.raises(TypeError, match="float32"):
        lovasz_sigmoid(torch.zeros(4, 5), torch.zeros(4, 5))
