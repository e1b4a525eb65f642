"""The CUDA passes against the plain PyTorch ones, which are tested against the paper.

Where there is no GPU the kernels run in Triton's interpreter (tests/conftest.py turns it on), on
small shapes, and a compilation for one shows that they are not only correct Python.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import oracle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from panoptic_lovasz.losses import cross_entropy_lovasz
from panoptic_lovasz.losses.counters import unpack
from panoptic_lovasz.losses.kernels import torch_impl, triton_impl
from panoptic_lovasz.losses.options import LossOptions

# What numpy says in the interpreter of values that are not finite, or very small.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_cuda = pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")

# B, C, h, w, s
SHAPES = [
    (1, 2, 1, 1, 4),
    (2, 3, 3, 2, 1),
    (1, 3, 9, 17, 2),  # several tiles of the gradient
    (1, 4, 2, 3, 3),
    (2, 5, 4, 6, 4),
    (1, 9, 1, 2, 2),  # more classes than one program counts
    (1, 2, 2, 1, 8),
    (1, 1, 1, 2, 16),
]
CUDA_SHAPES = [
    (2, 54, 50, 76, 4),
    (1, 1024, 33, 17, 2),
    (3, 19, 64, 128, 8),
    (8, 9, 90, 120, 4),
    (1, 2, 300, 500, 1),
    (4, 150, 31, 47, 3),
]


def make_batch(shape, ignored=0.1, scale=2.0, dtype=torch.float32):
    batch, num_classes, height, width, factor = shape
    logits = (torch.randn(batch, num_classes, height, width) * scale).to(dtype)
    target = torch.randint(num_classes, (batch, height * factor, width * factor))
    target[torch.rand(target.shape) < ignored] = 255
    return logits.to(DEVICE), target.to(DEVICE)


def both_passes(module, logits, target, active, weights, scale_factor, num_bins=64, **options):
    options = LossOptions(scale_factor=scale_factor, num_bins=num_bins, **options)
    counters, sums, saved = module.count(logits, target, active, options)
    coefficients = torch.tensor([0.3, 0.7], device=DEVICE)
    gradient = module.weigh(logits, target, saved, active, weights, *coefficients, options)
    return counters, sums, gradient


def relative(found, expected):
    # The gradient of a single class is 0 but for the rounding of sums over pixels.
    least = 1 if expected.shape[1] == 1 else 1e-12
    return ((found - expected).double().norm() / expected.double().norm().clamp(min=least)).item()


def assert_same(logits, target, active, scale_factor, num_bins=64, tolerance=1e-4, **options):
    groups, num_classes = active.shape
    # Weights that hardly differ from one bin to the next, for pixels that another rounding moves.
    weights = torch.rand(groups, num_classes, 2, 1) + torch.linspace(0, 1, num_bins)
    arguments = (logits, target, active, weights.to(DEVICE), scale_factor, num_bins)
    counters, sums, gradient = both_passes(triton_impl, *arguments, **options)
    expected_counters, expected_sums, expected = both_passes(torch_impl, *arguments, **options)
    counts, errors = unpack(counters)
    expected_counts, expected_errors = unpack(expected_counters)
    pixels = expected_counts.sum(-1)
    assert torch.equal(counts.sum(-1), pixels)
    moved = (counts.cumsum(-1) - expected_counts.cumsum(-1)).abs().max()
    assert moved <= 4 + 1e-4 * pixels.max()  # the pixels in a corner of an image are all alike
    torch.testing.assert_close(errors.sum(-1), expected_errors.sum(-1), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sums, expected_sums, rtol=1e-5, atol=1e-5)
    assert gradient.dtype == logits.dtype and gradient.shape == logits.shape
    assert relative(gradient, expected) < tolerance


@pytest.mark.parametrize(
    "shape", SHAPES + [pytest.param(shape, marks=needs_cuda) for shape in CUDA_SHAPES], ids=str
)
def test_both_passes_are_those_in_plain_pytorch(shape):
    logits, target = make_batch(shape)
    active = torch.rand(1, shape[1], device=DEVICE) < 0.7
    assert_same(logits, target, active, shape[4])


def test_images_may_be_groups_of_their_own_and_classes_have_weights():
    logits, target = make_batch((2, 5, 4, 6, 4))
    active = torch.rand(2, 5, device=DEVICE) < 0.7
    assert_same(logits, target, active, 4, class_weights=torch.rand(5, device=DEVICE))


@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 3, 4, 5, 4))),
    num_bins=st.integers(1, 40),
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    scale=st.sampled_from([0.0, 1.0, 60.0]),
    target_type=st.sampled_from([torch.uint8, torch.int16, torch.int32]),
)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_any_shape_number_of_bins_and_size_of_logits_will_do(
    shape, num_bins, ignored, scale, target_type
):
    logits, target = make_batch(shape, ignored, scale)
    active = torch.ones(1, shape[1], dtype=torch.bool, device=DEVICE)
    target = target.clamp(max=100).to(target_type)
    assert_same(logits, target, active, shape[4], num_bins, ignore_index=100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_floating_type_are_computed_with_in_float32(dtype):
    shape = (1, 3, 3, 4, 4)
    logits, target = make_batch(shape, dtype=dtype)
    active = torch.ones(1, 3, dtype=torch.bool, device=DEVICE)
    # The interpreter cuts bfloat16 where the device rounds.
    assert_same(logits, target, active, 4, tolerance=max(1e-4, 1.2 * torch.finfo(dtype).eps))


def test_labels_outside_the_classes_are_ignored_and_index_nothing():
    logits, target = make_batch((1, 3, 4, 4, 2), ignored=0.0)
    active = torch.ones(1, 3, dtype=torch.bool, device=DEVICE)
    ignored = target.clone()
    for row, label in enumerate([-1, 3, -(2**31), 2**40]):
        target[:, row], ignored[:, row] = label, 255
    weights = torch.rand(1, 3, 2, 64, device=DEVICE)
    found = both_passes(triton_impl, logits, target, active, weights, 2)
    expected = both_passes(triton_impl, logits, ignored, active, weights, 2)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_ignored_label_may_be_one_of_the_classes():
    logits, target = make_batch((1, 3, 3, 3, 2), ignored=0.0)
    active = torch.ones(1, 3, dtype=torch.bool, device=DEVICE)
    assert_same(logits, target, active, 2, ignore_index=1)


def test_only_active_classes_are_counted():
    logits, target = make_batch((1, 4, 2, 2, 4))
    active = torch.tensor([[True, False, True, False]], device=DEVICE)
    weights = torch.zeros(1, 4, 2, 64, device=DEVICE)
    counters, _, _ = both_passes(triton_impl, logits, target, active, weights, 4)
    assert counters.flatten(2).any(-1).tolist() == active.tolist()


@pytest.mark.parametrize("per_image", [False, True])
def test_losses_and_gradients_are_those_of_the_paper(per_image):
    logits, target = make_batch((2, 3, 3, 3, 2))
    logits.requires_grad_()
    options = {
        "scale_factor": 2,
        "per_image": per_image,
        "class_weights": torch.tensor([0.5, 2.0, 1.0]),
    }
    found = cross_entropy_lovasz(logits, target, num_bins=2**15, impl="triton", **options)
    expected = oracle.cross_entropy_lovasz(logits.cpu(), target.cpu(), **options)
    for term, expected_term in zip(found, expected, strict=True):
        assert term.item() == pytest.approx(expected_term.item(), abs=1e-5)
        (gradient,) = torch.autograd.grad(term, logits, retain_graph=True)
        (expected_gradient,) = torch.autograd.grad(expected_term, logits, retain_graph=True)
        assert relative(gradient, expected_gradient) < 2e-3


def test_a_batch_without_labels_costs_0_and_has_zero_gradients():
    logits, target = make_batch((1, 3, 2, 3, 4), ignored=1.1)
    logits.requires_grad_()
    ce, lovasz = cross_entropy_lovasz(logits, target, impl="triton")
    assert ce.item() == lovasz.item() == 0
    (gradient,) = torch.autograd.grad(ce + lovasz, logits)
    assert not gradient.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_both_losses_are_nan_where_a_pixel_that_counts_is_not_finite(bad):
    logits, target = make_batch((1, 3, 3, 3, 2), ignored=0.0)
    logits[0, 0, 1, 1] = bad
    ce, lovasz = cross_entropy_lovasz(logits, target, scale_factor=2, impl="triton")
    assert ce.isnan() and lovasz.isnan()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_in_a_place_without_labels_harm_nothing(bad):
    logits, target = make_batch((1, 3, 5, 3, 2))
    target[:, :6] = 255
    active = torch.ones(1, 3, dtype=torch.bool, device=DEVICE)
    weights = torch.rand(1, 3, 2, 64, device=DEVICE)
    counters, sums, expected = both_passes(triton_impl, logits, target, active, weights, 2)
    logits[:, :, 0] = bad
    found = both_passes(triton_impl, logits, target, active, weights, 2)
    assert torch.equal(found[0], counters) and torch.equal(found[1], sums)
    assert torch.equal(found[2], expected)
    assert not expected[:, :, 0].any()


def test_a_class_whose_logits_are_all_minus_infinity_has_probability_0():
    logits, target = make_batch((1, 3, 3, 3, 4), ignored=0.0)
    active = torch.ones(1, 3, dtype=torch.bool, device=DEVICE)
    weights = torch.rand(1, 3, 2, 64, device=DEVICE)
    arguments = (logits, target % 2, active, weights, 4)
    logits[:, 2] = -1e9
    expected = both_passes(triton_impl, *arguments)
    logits[:, 2] = -math.inf
    found = both_passes(triton_impl, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not found[2][:, 2].any()


def test_the_kernels_compile_for_a_gpu_where_there_is_none():
    script = Path(__file__).with_name("compile_triton_kernels.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kernels = {"softmax_kernel", "count_kernel", "mean_slope_kernel", "gradient_kernel"}
    assert set(done.stdout.split()) == kernels


@needs_cuda
def test_results_are_the_same_in_every_run():
    logits, target = make_batch((2, 54, 50, 76, 4))
    active = torch.ones(1, 54, dtype=torch.bool, device=DEVICE)
    weights = torch.rand(1, 54, 2, 64, device=DEVICE)
    first = both_passes(triton_impl, logits, target, active, weights, 4)
    for _ in range(5):
        again = both_passes(triton_impl, logits, target, active, weights, 4)
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


@needs_cuda
def test_a_training_step_does_not_wait_for_the_device():
    logits, target = make_batch((2, 19, 32, 64, 4))
    logits.requires_grad_()
    sum(cross_entropy_lovasz(logits, target, impl="triton")).backward()
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(cross_entropy_lovasz(logits, target, impl="triton")).backward()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@needs_cuda
def test_an_eighth_of_the_memory_of_the_upsampled_cross_entropy_is_enough():
    logits, target = make_batch((2, 54, 200, 304, 4))
    logits.requires_grad_()

    def upsampled_cross_entropy():
        upsampled = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        return F.cross_entropy(upsampled, target, ignore_index=255)

    def peak(loss):
        logits.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss().backward()
        return torch.cuda.max_memory_allocated() - before

    def fused():
        return sum(cross_entropy_lovasz(logits, target, impl="triton"))

    assert peak(fused) < peak(upsampled_cross_entropy) / 8


@needs_cuda
def test_on_the_device_the_kernels_are_what_auto_takes():
    logits, target = make_batch((2, 9, 45, 60, 8))
    assert cross_entropy_lovasz(logits, target, scale_factor=8) == cross_entropy_lovasz(
        logits, target, scale_factor=8, impl="triton"
    )
