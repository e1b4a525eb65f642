import math

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_lovasz.losses import fused, lovasz_hinge, lovasz_softmax, operator, sorting

METHODS = pytest.mark.parametrize("method", ["exact", "binned"])
# So many bins that few pixels share one: with so few pixels a shared bin shows in the gradient.
BINS = {"num_bins": 2**15}
VALUE = 1e-6
GRADIENT = 2e-3


def make(shape=(2, 5, 9, 7), *, scale=2.0, ignored=0.2, num_present=4, seed=0, dtype=torch.float32):
    """Random logits with noisy labels; classes from `num_present` on do not occur."""
    generator = torch.Generator().manual_seed(seed)
    batch, _, *spatial = shape
    logits = torch.randn(shape, generator=generator) * scale
    target = torch.randint(0, num_present, (batch, *spatial), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits.to(dtype).requires_grad_(), target


def value_and_gradient(function, logits, target, **options):
    loss = function(logits, target, **options)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.item(), gradient.double()


def relative(found, expected):
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


def assert_as_defined(logits, target, method, **options):
    value, gradient = value_and_gradient(
        lovasz_softmax, logits, target, method=method, **BINS, **options
    )
    expected, expected_gradient = value_and_gradient(
        oracle.lovasz_softmax, logits, target, **options
    )
    assert value == pytest.approx(expected, abs=VALUE)
    assert relative(gradient, expected_gradient) < GRADIENT


@METHODS
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all", [1], [0, 2, 4]])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_the_definition(method, per_image, classes, weighted):
    logits, target = make()
    options = {
        "per_image": per_image,
        "classes": classes,
        "class_weights": torch.tensor([0.5, 2.0, 1.0, 0.1, 3.0]) if weighted else None,
    }
    assert_as_defined(logits, target, method, **options)


@METHODS
@pytest.mark.parametrize("per_image", [False, True])
def test_images_may_have_different_classes(method, per_image):
    logits, target = make((3, 5, 9, 7))
    for image, classes in enumerate(([0, 1], [2], [1, 3, 4])):
        random = torch.tensor(classes)[torch.randint(0, len(classes), (9, 7))]
        target[image] = torch.where(target[image] == 255, 255, random)
    assert_as_defined(logits, target, method, per_image=per_image)


@METHODS
@pytest.mark.parametrize("spatial", [(40,), (1,), (5, 8), (3, 4, 5), (2, 3, 2, 4)])
def test_any_number_of_spatial_dimensions_will_do(method, spatial):
    logits, target = make((3, 4, *spatial), ignored=0.1)
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, method=method, **BINS)
    flat = lovasz_softmax(logits.flatten(2), target.flatten(1), method=method, **BINS)
    expected, expected_gradient = value_and_gradient(oracle.lovasz_softmax, logits, target)
    assert value == pytest.approx(flat.item(), abs=1e-7)
    assert value == pytest.approx(expected, abs=VALUE)
    assert relative(gradient, expected_gradient) < GRADIENT


@METHODS
@pytest.mark.parametrize("num_points", [1, 40, 1024, 2500])
def test_points_are_the_pixels_of_one_image(method, num_points):
    logits, target = make((1, 4, num_points), ignored=0.1)
    points = logits[0].t().detach().requires_grad_()
    value, gradient = value_and_gradient(
        lovasz_softmax, points, target[0].to(torch.uint8), method=method
    )
    expected, expected_gradient = value_and_gradient(lovasz_softmax, logits, target, method=method)
    assert value == pytest.approx(expected, abs=1e-7)
    assert gradient.shape == (num_points, 4)
    assert relative(gradient, expected_gradient[0].t()) < 1e-5


@pytest.mark.parametrize("ignore_index", [255, -1])
def test_the_fused_loss_takes_points_and_does_not_upsample_them(ignore_index):
    logits, target = make((1, 4, 1500))
    target[target == 255] = ignore_index
    points = logits[0].t().detach().requires_grad_()
    options = {"ignore_index": ignore_index, **BINS}
    ce, lovasz = fused.cross_entropy_lovasz(points, target[0], **options)
    expected = oracle.cross_entropy_lovasz(
        logits[:, :, None], target[:, None], scale_factor=1, ignore_index=ignore_index
    )
    assert [ce.item(), lovasz.item()] == pytest.approx([x.item() for x in expected], abs=VALUE)
    (gradient,) = torch.autograd.grad(ce + lovasz, points)
    (expected,) = torch.autograd.grad(sum(expected), logits)
    assert relative(gradient.double(), expected[0].t().double()) < GRADIENT


@METHODS
@pytest.mark.parametrize("classes", ["present", "all"])
def test_clouds_of_points_are_averaged_over_if_their_offsets_are_given(method, classes):
    sizes = [700, 1, 1300]
    points = torch.randn(2001, 4, requires_grad=True)
    target = torch.randint(0, 4, (2001,))
    target[:500] = 255
    options = {"method": method, "classes": classes}
    value, gradient = value_and_gradient(
        lovasz_softmax, points, target, per_image=True, offsets=[700, 701, 2001], **options
    )
    alone = [
        value_and_gradient(lovasz_softmax, cloud.requires_grad_(), labels, **options)
        for cloud, labels in zip(points.detach().split(sizes), target.split(sizes), strict=True)
    ]
    assert value == pytest.approx(sum(value for value, _ in alone) / 3, abs=1e-6)
    assert relative(gradient, torch.cat([gradient for _, gradient in alone]) / 3) < 1e-5
    together = lovasz_softmax(points, target, offsets=[700, 701, 2001], **options)
    assert together == lovasz_softmax(points, target, **options)


@pytest.mark.parametrize("offsets", [[3, 2, 7], [3], [], [3, 9]])
def test_offsets_that_do_not_divide_the_points_are_an_error(offsets):
    with pytest.raises(ValueError, match=r"increase up to 7, the number of points, not \["):
        lovasz_softmax(
            torch.zeros(7, 3), torch.zeros(7, dtype=torch.long), per_image=True, offsets=offsets
        )


@pytest.mark.parametrize("function", [lovasz_softmax, fused.cross_entropy_lovasz])
def test_points_without_a_label_each_are_an_error(function):
    with pytest.raises(ValueError, match=r"\(7,\).*\(7, 3\).*not \(6,\)"):
        function(torch.zeros(7, 3), torch.zeros(6, dtype=torch.long))
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = lovasz_softmax(empty, torch.zeros(0, dtype=torch.long))
    assert loss.item() == 0 and torch.autograd.grad(loss, empty)[0].shape == (0, 3)


@METHODS
@pytest.mark.parametrize("num_classes", [2, 3, 21])
@pytest.mark.parametrize("per_image", [False, True])
def test_a_perfect_prediction_costs_0_and_a_wholly_wrong_one_1(method, num_classes, per_image):
    target = torch.randint(0, num_classes, (2, 16, 16))
    options = {"method": method, "per_image": per_image}
    right = torch.nn.functional.one_hot(target, num_classes).permute(0, 3, 1, 2) * 200.0
    assert lovasz_softmax(right, target, **options).item() == 0
    wrong = right.roll(1, dims=1)
    assert lovasz_softmax(wrong, target, **options).item() == pytest.approx(1, abs=1e-6)


@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 3),
    num_classes=st.integers(2, 6),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    scale=st.sampled_from([0.0, 0.01, 1.0, 5.0, 1e4]),
    ignored=st.sampled_from([0.0, 0.3, 0.95]),
    per_image=st.booleans(),
    num_bins=st.sampled_from([1, 2, 5, 32, 1024]),
)
@settings(max_examples=60, deadline=None)
def test_the_binned_loss_is_within_1_over_k_of_the_definition(
    seed, batch, num_classes, size, scale, ignored, per_image, num_bins
):
    logits, target = make(
        (batch, num_classes, *size),
        scale=scale,
        ignored=ignored,
        num_present=num_classes,
        seed=seed,
    )
    options = {"per_image": per_image, "classes": "all"}
    expected = oracle.lovasz_softmax(logits, target, **options).item()
    exact = lovasz_softmax(logits, target, method="exact", **options).item()
    binned = lovasz_softmax(logits, target, num_bins=num_bins, **options).item()
    assert exact == pytest.approx(expected, abs=2e-6)
    assert abs(binned - expected) <= 1 / num_bins + 2e-6
    assert 0 <= binned <= 1 + 1e-6


@METHODS
def test_the_order_of_the_pixels_does_not_matter(method):
    logits, target = make((1, 5, 200))
    order = torch.randperm(200)
    first, gradient = value_and_gradient(lovasz_softmax, logits, target, method=method)
    shuffled = logits[:, :, order].detach().requires_grad_()
    second, shuffled_gradient = value_and_gradient(
        lovasz_softmax, shuffled, target[:, order], method=method
    )
    assert first == second if method == "binned" else first == pytest.approx(second, abs=1e-7)
    assert relative(shuffled_gradient, gradient[:, :, order]) < 1e-5


@METHODS
def test_pixels_of_equal_error_share_a_gradient_that_lowers_the_loss(method):
    logits = torch.zeros(2, 4, 6, 6, requires_grad=True)
    target = torch.randint(0, 4, (2, 6, 6))
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, method=method)
    assert value == pytest.approx(oracle.lovasz_softmax(logits, target).item(), abs=1e-6)
    assert gradient.isfinite().all()
    after = oracle.lovasz_softmax(logits - 0.1 * gradient, target).item()
    assert after < value


def test_the_default_is_binned_with_1024_bins():
    logits, target = make((2, 5, 60, 60))
    options = {"method": "binned", "num_bins": 1024}
    expected, expected_gradient = value_and_gradient(lovasz_softmax, logits, target, **options)
    found, gradient = value_and_gradient(lovasz_softmax, logits, target)
    assert found == expected
    assert torch.equal(gradient, expected_gradient)


def test_equal_logits_get_equal_gradients_from_the_binned_method():
    logits = torch.zeros(2, 4, 6, 6, requires_grad=True)
    target = torch.randint(0, 4, (2, 6, 6))
    _, gradient = value_and_gradient(lovasz_softmax, logits, target)
    for c in range(4):
        assert gradient.transpose(0, 1)[:, target == c].std(1).max() < 1e-9


@METHODS
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all", [0, 1]])
def test_a_batch_without_labels_costs_0_and_has_zero_gradients(method, per_image, classes):
    logits, target = make(ignored=1.1)
    options = {"method": method, "per_image": per_image, "classes": classes}
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, **options)
    assert value == 0
    assert not gradient.any()


@METHODS
@pytest.mark.parametrize("shape", [(0, 5, 3, 3), (2, 5, 0, 3)])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all", [0, 1]])
def test_an_empty_batch_costs_0(method, shape, per_image, classes):
    logits, target = make(shape)
    options = {"method": method, "per_image": per_image, "classes": classes}
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, **options)
    assert value == 0 and gradient.shape == shape


@METHODS
def test_the_loss_per_image_is_the_mean_over_images_that_have_a_label(method):
    logits, target = make((4, 5, 6, 6))
    target[2] = 255
    single = [
        lovasz_softmax(logits[i : i + 1], target[i : i + 1], method=method).item()
        for i in (0, 1, 3)
    ]
    together = lovasz_softmax(logits, target, per_image=True, method=method).item()
    assert together == pytest.approx(sum(single) / 3, abs=1e-6)


def test_processes_may_share_the_binned_loss_but_not_the_exact_one(second_process):
    logits, target = make()
    group, factor = second_process
    value, gradient = value_and_gradient(lovasz_softmax, logits, target)
    same, own = value_and_gradient(lovasz_softmax, logits, target, process_group=group)
    assert same == pytest.approx(value)
    assert relative(own, factor * gradient) < 1e-6
    with pytest.raises(ValueError, match='process_group needs method="binned"'):
        lovasz_softmax(logits, target, method="exact", process_group=group)


@METHODS
def test_one_pixel_costs_what_its_probability_lacks_of_1(method):
    logits = torch.tensor([[1.0, -0.5, 2.0]]).view(1, 3, 1, 1).requires_grad_()
    target = torch.tensor([[[1]]])
    expected = 1 - logits.softmax(1)[0, 1].item()
    assert lovasz_softmax(logits, target, method=method).item() == pytest.approx(expected, abs=1e-5)


@METHODS
def test_with_a_single_class_nothing_can_be_wrong(method):
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, method=method)
    assert value == 0
    assert not gradient.any()


@METHODS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_precision_are_computed_in_float32_at_least(method, dtype):
    logits, target = make(dtype=dtype)
    loss = lovasz_softmax(logits, target, method=method, **BINS)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected, expected_gradient = value_and_gradient(oracle.lovasz_softmax, logits, target)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    assert loss.item() == pytest.approx(expected, abs=VALUE)
    assert relative(gradient.double(), expected_gradient) < 1e-2


@METHODS
def test_autocast_does_not_lower_the_precision(method):
    logits, target = make()
    expected, gradient = value_and_gradient(lovasz_softmax, logits, target, method=method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, autocast_gradient = value_and_gradient(lovasz_softmax, logits, target, method=method)
    assert found == expected
    assert torch.equal(gradient, autocast_gradient)


@METHODS
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_large_logits_agree_with_float64(method, scale):
    logits, target = make(scale=scale)
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, method=method, **BINS)
    expected, _ = value_and_gradient(oracle.lovasz_softmax, logits, target)
    assert value == pytest.approx(expected, abs=1e-5)
    assert gradient.isfinite().all()


@METHODS
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_not_finite_makes_the_loss_nan(method, bad):
    logits, target = make(ignored=0)
    with torch.no_grad():
        logits[0, 2, 3, 3] = bad
    assert lovasz_softmax(logits, target, method=method).isnan()


@METHODS
def test_a_class_may_be_masked_with_minus_infinity(method):
    logits, target = make()
    with torch.no_grad():
        logits[:, 4] = -math.inf
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, method=method, **BINS)
    expected, _ = value_and_gradient(oracle.lovasz_softmax, logits, target)
    assert value == pytest.approx(expected, abs=VALUE)
    assert gradient.isfinite().all()


@METHODS
def test_what_an_ignored_pixel_predicts_does_not_matter_even_if_it_is_nan(method):
    logits, target = make()
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, method=method)
    with torch.no_grad():
        logits.transpose(0, 1)[:, target == 255] = math.nan
    same, same_gradient = value_and_gradient(lovasz_softmax, logits, target, method=method)
    assert same == value
    assert torch.equal(same_gradient, gradient)
    assert not gradient.transpose(0, 1)[:, target == 255].any()


@METHODS
@pytest.mark.parametrize("ignore_index", [-1, -100, 0, 7])
def test_the_ignored_label_may_be_negative_or_a_class(method, ignore_index):
    logits, target = make()
    target[target == 255] = ignore_index
    options = {"ignore_index": ignore_index}
    value = lovasz_softmax(logits, target, method=method, **BINS, **options).item()
    expected = oracle.lovasz_softmax(logits, target, **options).item()
    assert value == pytest.approx(expected, abs=VALUE)


@METHODS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_may_be_of_any_integer_type(method, dtype):
    logits, target = make()
    value = lovasz_softmax(logits, target.to(dtype), method=method)
    assert value == lovasz_softmax(logits, target, method=method)


@METHODS
@pytest.mark.parametrize("label", [-1, 5, 254, 256, -(2**40)])
def test_a_label_out_of_range_is_an_error_that_names_it(method, label):
    logits, target = make()
    target[1, 2, 3] = label
    with pytest.raises(ValueError, match=rf"label {label} .* 0 to 4 .* 255"):
        lovasz_softmax(logits, target, method=method)


@METHODS
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "some"}, '"present", "all" or a list'),
        ({"classes": [0, 5]}, r"0 to 4, not \[0, 5\]"),
        ({"classes": []}, "0 to 4"),
        ({"class_weights": torch.ones(4)}, "5 classes"),
    ],
)
def test_an_option_that_cannot_be_is_an_error(method, options, message):
    logits, target = make()
    with pytest.raises(ValueError, match=message):
        lovasz_softmax(logits, target, method=method, **options)


@pytest.fixture
def _unchecked(monkeypatch):
    """As on CUDA, where the labels reach the computation before the host has seen them."""
    for module in (operator, sorting):
        monkeypatch.setattr(module, "check_labels", lambda *_: None)


@METHODS
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("label", [-1, -300, 5, 300])
@pytest.mark.usefixtures("_unchecked")
def test_unchecked_labels_out_of_range_count_as_ignored(method, per_image, label):
    logits, target = make()
    options = {"method": method, "per_image": per_image, "classes": "all"}
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, **options)
    target[target == 255] = label
    same, same_gradient = value_and_gradient(lovasz_softmax, logits, target, **options)
    assert same == value
    assert torch.equal(same_gradient, gradient)


@pytest.mark.parametrize("label", [-1, 2])
@pytest.mark.usefixtures("_unchecked")
def test_unchecked_labels_out_of_range_count_as_ignored_in_the_hinge_loss(label):
    logits, target = torch.randn(2, 6, 6), torch.randint(0, 2, (2, 6, 6))
    target[0, :2] = target[1] = 255
    value = lovasz_hinge(logits, target)
    target[target == 255] = label
    assert lovasz_hinge(logits, target) == value


@pytest.mark.parametrize("per_image", [False, True])
def test_classes_sorted_a_few_at_a_time_give_the_same(per_image, monkeypatch):
    logits, target = make()
    options = {"method": "exact", "per_image": per_image}
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, **options)
    for elements in (1, 300):  # one row of 126 or 63 pixels at a time, and some
        monkeypatch.setattr(sorting, "SORTED_ELEMENTS", elements)
        same, same_gradient = value_and_gradient(lovasz_softmax, logits, target, **options)
        assert same == value
        assert torch.equal(same_gradient, gradient)


def test_shapes_types_and_methods_are_checked():
    logits, target = make()
    with pytest.raises(ValueError, match=r"\(2, 9, 7\).*\(2, 9, 6\)"):
        lovasz_softmax(logits, target[..., :-1])
    with pytest.raises(ValueError, match=r"one label for each row|\(5,\)"):
        lovasz_softmax(logits[0, :, 0], target[0, 0])
    with pytest.raises(ValueError, match=r"B, C, \*spatial"):
        lovasz_softmax(logits[:, :0], target)
    with pytest.raises(TypeError, match=r"float32"):
        lovasz_softmax(logits, target.float())
    with pytest.raises(TypeError, match=r"int64"):
        lovasz_softmax(target, target)
    with pytest.raises(ValueError, match='"binned" or "exact"'):
        lovasz_softmax(logits, target, method="sorted")
    with pytest.raises(ValueError, match="num_bins"):
        lovasz_softmax(logits, target, num_bins=0)


def test_a_class_of_weight_0_does_not_count():
    logits, target = make()
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    weighted = lovasz_softmax(logits, target, class_weights=weights)
    assert weighted.item() == pytest.approx(lovasz_softmax(logits, target, classes=[0, 1]).item())
    assert lovasz_softmax(logits, target, class_weights=torch.zeros(5)).item() == 0


@METHODS
def test_1024_classes_agree_with_the_definition(method):
    logits, target = make((1, 1024, 6, 6), num_present=1024, scale=4)
    value, gradient = value_and_gradient(lovasz_softmax, logits, target, method=method)
    expected, expected_gradient = value_and_gradient(oracle.lovasz_softmax, logits, target)
    assert value == pytest.approx(expected, abs=1e-5)
    assert relative(gradient, expected_gradient) < 1e-2


@pytest.mark.slow
def test_counters_stay_exact_at_2_to_the_25_pixels():
    """Half of the pixels are foreground and all have the error 0.5: float32 sums would drift."""
    logits = torch.zeros(1, 2, 2**12, 2**13, requires_grad=True)
    target = (torch.arange(2**25) % 2).view(1, 2**12, 2**13).to(torch.uint8)
    value, gradient = value_and_gradient(lovasz_softmax, logits, target)
    assert value == 0.5
    assert gradient.abs().max().item() == pytest.approx(gradient.abs().min().item(), rel=0.6)
    # Each class: 2^24 foreground pixels, union 2^25, error 1/2, dp/dz = 1/4.
    assert gradient[0, 0].sum().item() == pytest.approx(gradient[0, 1].sum().item(), abs=1e-6)


HINGE = pytest.mark.parametrize("per_image", [False, True])


@HINGE
@pytest.mark.parametrize("spatial", [(60,), (8, 9), (3, 4, 5)])
def test_the_hinge_loss_and_its_gradient_are_those_of_the_definition(per_image, spatial):
    logits, target = make((3, 1, *spatial), num_present=2)
    logits = logits[:, 0].detach().requires_grad_()
    value, gradient = value_and_gradient(lovasz_hinge, logits, target, per_image=per_image)
    expected, expected_gradient = value_and_gradient(
        oracle.lovasz_hinge, logits, target, per_image=per_image
    )
    assert value == pytest.approx(expected, rel=1e-6)
    assert relative(gradient, expected_gradient) < 1e-6


@HINGE
def test_the_hinge_loss_is_0_beyond_the_margin_and_1_on_the_decision_boundary(per_image):
    target = torch.randint(0, 2, (2, 8, 8))
    confident = (2.0 * target - 1) * 1.5
    assert lovasz_hinge(confident, target, per_image=per_image).item() == 0
    undecided = torch.zeros(2, 8, 8)
    loss = lovasz_hinge(undecided, target, per_image=per_image).item()
    assert loss == pytest.approx(1, abs=1e-6)


def test_the_hinge_loss_skips_images_without_labels_and_ignored_pixels():
    logits = torch.randn(3, 6, 6, requires_grad=True)
    target = torch.randint(0, 2, (3, 6, 6))
    target[1] = 255
    target[0, :3] = 255
    with torch.no_grad():
        logits[0, :3] = math.nan
    value, gradient = value_and_gradient(lovasz_hinge, logits, target)
    first = oracle.lovasz_hinge(logits[:1, 3:], target[:1, 3:]).item()
    last = oracle.lovasz_hinge(logits[2:], target[2:]).item()
    assert value == pytest.approx((first + last) / 2, rel=1e-6)
    assert not gradient[target == 255].any()
    value, gradient = value_and_gradient(lovasz_hinge, logits, torch.full_like(target, 255))
    assert value == 0 and not gradient.any()


@HINGE
@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5)])
def test_the_hinge_loss_of_an_empty_batch_is_0(per_image, shape):
    logits = torch.zeros(shape, requires_grad=True)
    target = torch.zeros(shape, dtype=torch.long)
    value, gradient = value_and_gradient(lovasz_hinge, logits, target, per_image=per_image)
    assert value == 0 and gradient.shape == shape


def test_the_hinge_loss_of_an_image_without_foreground_is_its_largest_error():
    logits = torch.tensor([[-3.0, 0.5, -0.5]])
    assert lovasz_hinge(logits, torch.zeros(1, 3, dtype=torch.long)).item() == 1.5


def test_the_hinge_loss_takes_bool_masks_and_half_precision():
    logits, target = torch.randn(2, 5, 5), torch.rand(2, 5, 5) > 0.5
    expected = oracle.lovasz_hinge(logits, target.long()).item()
    assert lovasz_hinge(logits, target).item() == pytest.approx(expected, rel=1e-6)
    half = lovasz_hinge(logits.half(), target)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(oracle.lovasz_hinge(logits.half(), target.long()).item())


def test_the_hinge_loss_checks_its_arguments():
    with pytest.raises(ValueError, match="label 2"):
        lovasz_hinge(torch.zeros(1, 4), torch.tensor([[0, 1, 2, 255]]))
    with pytest.raises(ValueError, match=r"\(B, \*spatial\)"):
        lovasz_hinge(torch.zeros(1, 4), torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(TypeError, match="float"):
        lovasz_hinge(torch.zeros(1, 4), torch.zeros(1, 4))
