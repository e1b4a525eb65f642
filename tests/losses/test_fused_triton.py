"""The CUDA passes against the plain PyTorch ones, which are tested against the paper.

Where there is no GPU the kernels run in Triton's interpreter (tests/conftest.py turns it on), on
small shapes.
"""

import math

import oracle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from panoptic_lovasz.losses import cross_entropy_lovasz
from panoptic_lovasz.losses.kernels import load, triton_impl
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
    (1, 1, 1, 1, 16),
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


def both_passes(impl, logits, target, scale_factor, num_bins=64, weights=None, **options):
    """Losses, extreme labels and gradient, the last with other weights of the bins if given."""
    options = LossOptions(scale_factor=scale_factor, num_bins=num_bins, **options)
    implementation = load(impl)
    ce, region, extremes, saved = implementation.forward(logits, target, options)
    if weights is not None:
        *_, active, own_weights, _ = saved
        own_weights.copy_(weights * active[:, :, None, None])
    coefficients = torch.tensor([0.3, 0.7], device=DEVICE)
    gradient = implementation.backward(*coefficients, logits, target, saved, options)
    return ce, region, extremes, gradient


def relative(found, expected):
    # The gradient of a single class is 0 but for the rounding of sums over pixels.
    least = 1 if expected.shape[1] == 1 else 1e-12
    return ((found - expected).double().norm() / expected.double().norm().clamp(min=least)).item()


def assert_same(logits, target, scale_factor, num_bins=64, tolerance=5e-4, **options):
    # Weights that hardly differ from one bin to the next, for pixels that another rounding moves.
    weights = torch.rand(*logits.shape[:2], 2, 1) + torch.linspace(0, 0.1, num_bins)
    weights = weights if options.get("per_image") else weights[:1]
    arguments = (logits, target, scale_factor, num_bins, weights.to(DEVICE))
    ce, region, extremes, gradient = both_passes("triton", *arguments, **options)
    expected_ce, expected_region, _, expected = both_passes("torch", *arguments, **options)
    torch.testing.assert_close(ce, expected_ce, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(region, expected_region, rtol=1e-5, atol=2e-5)
    assert extremes.tolist() == [0, 0]
    assert gradient.dtype == logits.dtype and gradient.shape == logits.shape
    assert relative(gradient, expected) < tolerance


@pytest.mark.parametrize(
    "shape", SHAPES + [pytest.param(shape, marks=needs_cuda) for shape in CUDA_SHAPES], ids=str
)
def test_both_passes_are_those_in_plain_pytorch(shape):
    logits, target = make_batch(shape)
    classes = [c for c in range(shape[1]) if c % 4 != 1]
    assert_same(logits, target, shape[4], classes=classes)


@pytest.mark.parametrize(
    ("region", "classes", "per_image"),
    [
        ("lovasz", "present", True),
        ("jaccard", "all", False),
        ("dice", [0, 3], True),
        ("tversky", "present", False),
        ("lovasz", "all", True),
    ],
)
def test_images_may_be_groups_of_their_own_and_classes_have_weights(region, classes, per_image):
    logits, target = make_batch((3, 5, 2, 3, 1))
    target[0] = 255
    target[1] = target[1].clamp(max=2)  # so that classes are missing
    options = {"region": region, "classes": classes, "region_weight": 0.5, "ce_weight": 2.0}
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 1.0], device=DEVICE)
    assert_same(logits, target, 1, class_weights=weights, per_image=per_image, **options)


def test_without_a_region_term_there_is_cross_entropy_alone():
    logits, target = make_batch((2, 3, 3, 2, 2))
    assert_same(logits, target, 2, region_weight=0.0)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("region_weight", [1.0, 0.0])
def test_several_processes_have_one_batch(per_image, region_weight, second_process):
    logits, target = make_batch((2, 3, 3, 3, 1))
    options = {"process_group": second_process[0], "per_image": per_image}
    assert_same(logits, target, 1, region_weight=region_weight, **options)


def test_any_number_of_bins_and_of_blocks_is_added_up():
    logits, target = make_batch((1, 2, 13, 13, 1))
    for num_bins in (1023, 2500):
        assert_same(logits, target, 1, num_bins)
    assert_same(logits, target, 1, 2000, region="dice")


@given(
    shape=st.tuples(*(st.integers(1, n) for n in (2, 3, 4, 5, 4))),
    num_bins=st.integers(1, 40),
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    scale=st.sampled_from([0.0, 1.0, 60.0]),
    target_type=st.sampled_from([torch.uint8, torch.int16, torch.int32]),
)
@settings(max_examples=6, deadline=None, derandomize=True)
def test_any_shape_number_of_bins_and_size_of_logits_will_do(
    shape, num_bins, ignored, scale, target_type
):
    logits, target = make_batch(shape, ignored, scale)
    target = target.clamp(max=100).to(target_type)
    assert_same(logits, target, shape[4], num_bins, ignore_index=100, classes="all")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_floating_type_are_computed_with_in_float32(dtype):
    shape = (1, 3, 3, 4, 4)
    logits, target = make_batch(shape, dtype=dtype)
    # The interpreter cuts bfloat16 where the device rounds.
    assert_same(logits, target, 4, tolerance=max(5e-4, 1.2 * torch.finfo(dtype).eps))


def test_labels_outside_the_classes_are_ignored_and_index_nothing():
    logits, target = make_batch((1, 3, 4, 4, 2), ignored=0.0)
    ignored = target.clone()
    for row, label in enumerate([-1, 3, -(2**31), 2**40]):
        target[:, row], ignored[:, row] = label, 255
    found_ce, found_region, extremes, found = both_passes("triton", logits, target, 2)
    ce, region, none, expected = both_passes("triton", logits, ignored, 2)
    assert found_ce == ce and found_region == region and torch.equal(found, expected)
    assert extremes.tolist() == [-(2**31), 2**40] and none.tolist() == [0, 0]


def test_an_ignored_label_may_be_one_of_the_classes():
    logits, target = make_batch((1, 3, 3, 3, 2), ignored=0.0)
    assert_same(logits, target, 2, ignore_index=1)


def test_only_classes_that_take_part_have_weights():
    logits, target = make_batch((1, 4, 2, 2, 4))
    options = LossOptions(classes=[0, 2], num_bins=64)
    *_, saved = load("triton").forward(logits, target, options)
    *_, active, weights, _ = saved
    assert active.tolist() == [[True, False, True, False]]
    assert weights.flatten(2).any(-1).tolist() == active.tolist()


@pytest.mark.parametrize("classes", [[], [4], [-1]])
def test_a_list_of_classes_that_there_are_not_is_an_error(classes):
    logits, target = make_batch((1, 4, 2, 2, 4))
    with pytest.raises(ValueError, match="classes must list classes from 0 to 3"):
        cross_entropy_lovasz(logits, target, classes=classes, impl="triton")


@pytest.mark.parametrize("per_image", [False, True])
def test_losses_and_gradients_are_those_of_the_paper(per_image, monkeypatch):
    monkeypatch.setattr(triton_impl, "BLOCK", 2**15)  # one round of the interpreter
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
    logits.requires_grad_()
    ce, lovasz = cross_entropy_lovasz(logits, target, scale_factor=2, impl="triton")
    assert ce.isnan() and lovasz.isnan()
    (gradient,) = torch.autograd.grad(ce + lovasz, logits)
    assert gradient.isnan().any()  # which GradScaler looks at


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_in_a_place_without_labels_harm_nothing(bad):
    logits, target = make_batch((1, 3, 5, 3, 2))
    target[:, :6] = 255
    expected = both_passes("triton", logits, target, 2)
    logits[:, :, 0] = bad
    found = both_passes("triton", logits, target, 2)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not found[3][:, :, 0].any()


def test_a_class_whose_logits_are_all_minus_infinity_has_probability_0():
    logits, target = make_batch((1, 3, 3, 3, 4), ignored=0.0)
    logits[:, 2] = -1e9
    expected = both_passes("triton", logits, target % 2, 4)
    logits[:, 2] = -math.inf
    found = both_passes("triton", logits, target % 2, 4)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not found[3][:, 2].any()


@needs_cuda
def test_results_are_the_same_in_every_run():
    logits, target = make_batch((2, 54, 50, 76, 4))
    first = both_passes("triton", logits, target, 4)
    for _ in range(5):
        again = both_passes("triton", logits, target, 4)
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
