"""The fused loss as an operator: torch.compile takes it whole, and autograd knows its limits."""

import pytest
import torch
import torch._inductor.config

from panoptic_lovasz.losses import (
    cross_entropy_lovasz,
    cross_entropy_region,
    lovasz_hinge,
    lovasz_sigmoid,
    lovasz_softmax,
    operator,
)
from panoptic_lovasz.losses.options import LossOptions


def make(batch=2, num_classes=4, size=(4, 5), scale_factor=4):
    logits = torch.randn(batch, num_classes, *size, requires_grad=True)
    target = torch.randint(0, num_classes, (batch, *(n * scale_factor for n in size)))
    target[:, :3] = 255
    return logits, target


def losses_of(logits, target):
    """Through an operation before and after, as in a network."""
    weights = torch.tensor([0.5, 1.0, 2.0, 1.0])
    ce, lovasz = cross_entropy_lovasz(logits * 2, target, class_weights=weights)
    _, dice = cross_entropy_region(logits, target, region="dice", per_image=True, classes=[0, 2])
    return ce + 2 * lovasz + dice


def step(function, *inputs):
    loss = function(*inputs)
    return loss.detach(), torch.autograd.grad(loss, inputs[0])[0]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])  # without, with a backward graph
def test_a_whole_graph_has_the_same_values_and_gradients_for_shapes_that_change(backend):
    torch._dynamo.reset()
    compiled = torch.compile(losses_of, fullgraph=True, dynamic=True, backend=backend)
    for batch, size in ((2, (4, 5)), (3, (6, 2)), (1, (3, 3))):
        logits, target = make(batch, size=size)
        expected = step(losses_of, logits, target)
        for found, value in zip(step(compiled, logits, target), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_the_compiler_for_the_cpu_gives_the_same(monkeypatch):
    torch._dynamo.reset()
    # Code for an operator of the same name with other results would be taken from there.
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    compiled = torch.compile(lovasz_softmax, fullgraph=True)
    logits, target = make(scale_factor=1)
    expected = step(lovasz_softmax, logits, target)
    for found, value in zip(step(compiled, logits, target), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("function", [lovasz_softmax, lovasz_sigmoid, lovasz_hinge])
def test_the_other_losses_are_compiled_whole_too(function):
    torch._dynamo.reset()
    logits, target = make(scale_factor=1)
    if function is not lovasz_softmax:
        logits, target = logits[:, 0], target % 2
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for found, value in zip(
        step(compiled, logits, target), step(function, logits, target), strict=True
    ):
        assert torch.equal(found, value)


def test_points_are_compiled_whole_for_any_number_of_them():
    torch._dynamo.reset()
    compiled = torch.compile(lovasz_softmax, fullgraph=True, dynamic=True, backend="aot_eager")
    for num_points in (40, 1500, 2100):
        points = torch.randn(num_points, 3, requires_grad=True)
        target = torch.randint(0, 3, (num_points,))
        expected = step(lovasz_softmax, points, target)
        for found, value in zip(step(compiled, points, target), expected, strict=True):
            assert torch.equal(found, value)


@pytest.mark.parametrize("impl", ["torch", "numba"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"per_image": True, "classes": [0, 1], "region": "tversky"},
        {"class_weights": torch.ones(4), "region_weight": 0.0},
    ],
    ids=str,
)
def test_the_operators_are_what_their_schemas_and_fakes_say(impl, changes):
    logits, target = make()
    options = operator._spelled_out(LossOptions(impl=impl, **changes))
    inputs = (logits, target, False, *options)
    torch.library.opcheck(operator._forward, inputs)
    _, _, extremes, saved = operator._forward(logits.detach(), *inputs[1:])
    one = torch.ones(())
    backward = (one, one, logits.detach(), target, extremes, saved, False, *options)
    torch.library.opcheck(operator._backward, backward)


def test_a_gradient_of_the_gradient_is_refused():
    logits, target = make()
    ce, lovasz = cross_entropy_lovasz(logits, target)
    (gradient,) = torch.autograd.grad(ce + lovasz, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.square().sum().backward()


def test_a_gradient_penalty_on_another_loss_is_not_disturbed():
    logits, target = make()
    ce, lovasz = cross_entropy_lovasz(logits, target)
    (other,) = torch.autograd.grad(logits.pow(3).sum(), logits, create_graph=True)
    (ce + lovasz + other.square().sum()).backward()
    assert logits.grad.isfinite().all()


def test_a_term_that_is_not_used_has_no_gradient():
    logits, target = make()
    for index in (0, 1):
        weights = {"ce_weight": float(index == 0), "lovasz_weight": float(index == 1)}
        (found,) = torch.autograd.grad(cross_entropy_lovasz(logits, target)[index], logits)
        expected = torch.autograd.grad(sum(cross_entropy_lovasz(logits, target, **weights)), logits)
        assert torch.equal(found, expected[0])


def test_a_bad_label_is_an_error_from_a_compiled_graph_as_well():
    torch._dynamo.reset()
    compiled = torch.compile(losses_of, fullgraph=True, backend="aot_eager")
    logits, target = make()
    compiled(logits, target)
    target[0, -1, -1] = 9
    with pytest.raises(ValueError, match="label 9 "):
        compiled(logits, target)
