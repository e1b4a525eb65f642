"""The compiled CPU passes against the plain PyTorch ones, which are tested against the paper."""

import multiprocessing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

numba = pytest.importorskip("numba")

from panoptic_lovasz.compiled import jit  # noqa: E402
from panoptic_lovasz.losses.counters import RESIDUAL_BITS, RESIDUAL_TOTAL_BITS  # noqa: E402
from panoptic_lovasz.losses.fused import cross_entropy_lovasz  # noqa: E402
from panoptic_lovasz.losses.kernels import numba_impl, torch_impl  # noqa: E402
from panoptic_lovasz.losses.options import LossOptions  # noqa: E402

# B, C, h, w, s
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 1, 3, 2, 4),
    (1, 2, 1, 1, 8),
    (1, 3, 1, 7, 4),
    (1, 4, 9, 1, 3),
    (2, 5, 7, 9, 4),
    (3, 19, 13, 10, 2),
    (1, 7, 17, 23, 1),
    (1, 150, 5, 6, 8),
]


def make_batch(shape, ignored=0.1, scale=2.0, dtype=torch.float32):
    num_images, num_classes, height, width, factor = shape
    logits = (torch.randn(num_images, num_classes, height, width) * scale).to(dtype)
    target = torch.randint(num_classes, (num_images, height * factor, width * factor))
    target[torch.rand(target.shape) < ignored] = 255
    return logits, target


def count(module, logits, target, active, scale_factor, num_bins=64, **options):
    options = LossOptions(scale_factor=scale_factor, num_bins=num_bins, **options)
    return module.count(logits, target, active, options)


def loss_and_gradient(logits, target, impl, factors=(1.0, 1.0), **options):
    logits = logits.detach().requires_grad_()
    losses = cross_entropy_lovasz(logits, target, impl=impl, **options)
    sum(factor * loss for factor, loss in zip(factors, losses, strict=True)).backward()
    return torch.stack(losses).detach(), logits.grad


def assert_same(logits, target, tolerance=1e-5, **options):
    losses, gradient = loss_and_gradient(logits, target, "numba", **options)
    expected_losses, expected = loss_and_gradient(logits, target, "torch", **options)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-6)
    assert gradient.dtype == logits.dtype and gradient.shape == logits.shape
    error = (gradient.double() - expected.double()).norm()
    assert error <= tolerance * expected.double().norm() + 1e-12


@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "per image"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_counts_the_same_pixels_in_the_same_bins(shape, per_image):
    logits, target = make_batch(shape)
    active = torch.rand(shape[0] if per_image else 1, shape[1]) < 0.7
    counters, sums, _ = count(numba_impl, logits, target, active, shape[-1])
    expected, expected_sums, _ = count(torch_impl, logits, target, active, shape[-1])
    counts, residuals = counters >> RESIDUAL_TOTAL_BITS, counters % (1 << RESIDUAL_TOTAL_BITS)
    torch.testing.assert_close(sums, expected_sums, rtol=1e-6, atol=1e-6)
    assert torch.equal(counts.sum(-1), (expected >> RESIDUAL_TOTAL_BITS).sum(-1))
    assert (counters[~active] == 0).all()
    # The softmax is rounded differently: a pixel very near to a bin's edge may cross it, and its
    # place inside the bin, kept in steps, may be one step further. Nothing else may happen.
    moved = (counts - (expected >> RESIDUAL_TOTAL_BITS)).abs().sum() // 2
    assert moved <= 1e-3 * counts.sum()
    steps = residuals + (torch.arange(counters.shape[-1]) << RESIDUAL_BITS) * counts
    expected_steps = expected % (1 << RESIDUAL_TOTAL_BITS)
    expected_steps += (torch.arange(counters.shape[-1]) << RESIDUAL_BITS) * (
        expected >> RESIDUAL_TOTAL_BITS
    )
    assert ((steps - expected_steps).sum(-1).abs() <= counts.sum(-1)).all()


@pytest.mark.parametrize("num_classes", [1, 2, 16])
@pytest.mark.parametrize("num_bins", [1, 3, 64, 1024])
def test_counters_are_identical_where_no_rounding_is_involved(num_classes, num_bins):
    """Equal logits: a probability that float32 holds exactly."""
    _, target = make_batch((2, num_classes, 3, 5, 4))
    logits = torch.full((2, num_classes, 3, 5), 0.75)
    active = torch.ones(1, num_classes, dtype=torch.bool)
    counters, *_ = count(numba_impl, logits, target, active, 4, num_bins)
    expected, *_ = count(torch_impl, logits, target, active, 4, num_bins)
    assert torch.equal(counters, expected)


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=6),
    label=st.integers(0, 5),
    num_bins=st.sampled_from([1, 7, 256, 1024]),
)
def test_places_a_single_pixel_within_one_step(logits, label, num_bins):
    logits = torch.tensor(logits)[None, :, None, None]
    num_classes = logits.shape[1]
    target = torch.full((1, 1, 1), label % num_classes)
    active = torch.ones(1, num_classes, dtype=torch.bool)
    counters, *_ = count(numba_impl, logits, target, active, 1, num_bins)
    expected, *_ = count(torch_impl, logits, target, active, 1, num_bins)

    def place(counters):
        bins = (counters[0] > 0).int().argmax(-1)
        residual = counters[0].sum(-1) % (1 << RESIDUAL_TOTAL_BITS)
        return (bins << RESIDUAL_BITS) + residual

    assert torch.equal((counters > 0).sum(-1), (expected > 0).sum(-1))
    assert ((place(counters) - place(expected)).abs() <= 1).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_and_gradient_equal_the_plain_ones(shape):
    assert_same(*make_batch(shape), scale_factor=shape[-1])


@pytest.mark.parametrize(
    "options",
    [
        {"per_image": True},
        {"classes": "all"},
        {"classes": [0, 3]},
        {"class_weights": [0.5, 2.0, 0.0, 1.0, 3.0, 1.0]},
        {"per_image": True, "class_weights": [0.5, 2.0, 0.0, 1.0, 3.0, 1.0]},
        {"ce_weight": 0.0},
        {"lovasz_weight": 0.0},
        {"factors": (0.3, -2.0)},
        {"num_bins": 37},
        {"ignore_index": 2},
        {"ignore_index": -1},
    ],
    ids=str,
)
def test_every_option_means_the_same(options):
    logits, target = make_batch((3, 6, 9, 11, 4))
    target[target == 255] = options.get("ignore_index", 255)
    assert_same(logits, target, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_in_float32_and_return_their_gradient(dtype):
    logits, target = make_batch((2, 5, 6, 7, 4), dtype=dtype)
    rounding = torch.finfo(dtype).eps if dtype != torch.float64 else 0
    assert_same(logits, target.to(torch.uint8), tolerance=1e-5 + rounding)


def test_takes_logits_of_any_layout():
    logits, target = make_batch((2, 5, 6, 7, 4))
    strided = logits.to(memory_format=torch.channels_last)
    losses, gradient = loss_and_gradient(logits, target, "numba")
    strided_losses, strided_gradient = loss_and_gradient(strided, target, "numba")
    assert torch.equal(losses, strided_losses)
    assert torch.equal(gradient, strided_gradient)


@pytest.mark.parametrize("elements", [1, 100, 1000])
def test_results_hardly_depend_on_the_size_of_the_tiles(monkeypatch, elements):
    logits, target = make_batch((1, 5, 9, 23, 4))
    monkeypatch.setattr(numba_impl, "TILE_ELEMENTS", elements)
    assert_same(logits, target)


@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "per image"])
def test_results_are_identical_for_any_number_of_threads(per_image):
    logits, target = make_batch((2, 6, 37, 14, 4))
    before = torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 2, 3, 16):
            torch.set_num_threads(num_threads)
            results.append(loss_and_gradient(logits, target, "numba", per_image=per_image))
    finally:
        torch.set_num_threads(before)
    for losses, gradient in results[1:]:
        assert torch.equal(losses, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("scale", [30.0, 1e4, 1e30])
def test_huge_logits_overflow_nowhere(scale):
    """Without upsampling, whose rounding alone would change such a softmax."""
    shape = (1, 5, 12, 13, 1)
    logits, target = make_batch(shape, scale=scale)
    losses, gradient = loss_and_gradient(logits, target, "numba", scale_factor=1)
    assert losses.isfinite().all() and gradient.isfinite().all()
    assert_same(logits, target, scale_factor=1)


def test_a_class_ruled_out_by_minus_infinity_gets_no_gradient():
    logits, target = make_batch((1, 4, 6, 5, 1))
    target[target == 3] = 0
    logits[:, 3] = -torch.inf
    _, gradient = loss_and_gradient(logits, target, "numba", scale_factor=1)
    assert (gradient[:, 3] == 0).all()
    assert_same(logits, target, scale_factor=1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_reach_the_losses(bad):
    logits, target = make_batch((1, 4, 6, 5, 4), ignored=0)
    logits[0, 1, 3, 2] = bad
    losses, gradient = loss_and_gradient(logits, target, "numba")
    assert losses.isnan().all()
    assert gradient.isnan().any()


@pytest.mark.parametrize("value", [1e4, torch.nan, torch.inf, -torch.inf])
def test_pixels_that_do_not_count_change_nothing(value):
    logits, target = make_batch((1, 4, 8, 8, 4), ignored=0)
    target[:, :, :16] = 255
    other = logits.clone()
    other[..., :3] = value  # only in reach of ignored pixels
    losses, gradient = loss_and_gradient(logits, target, "numba")
    other_losses, other_gradient = loss_and_gradient(other, target, "numba")
    assert torch.equal(losses, other_losses)
    assert torch.equal(gradient[..., 3:], other_gradient[..., 3:])
    assert (gradient[..., :3] == 0).all()


@pytest.mark.parametrize("per_image", [False, True], ids=["batch", "per image"])
def test_a_batch_without_labels_gives_zero_and_no_gradient(per_image):
    logits, target = make_batch((2, 4, 5, 6, 4), ignored=1.1)
    losses, gradient = loss_and_gradient(logits, target, "numba", per_image=per_image)
    assert (losses == 0).all()
    assert (gradient == 0).all()


def test_labels_outside_the_classes_are_never_used_as_an_index():
    logits, target = make_batch((1, 4, 5, 6, 4))
    active = torch.ones(1, 4, dtype=torch.bool)
    expected, *_ = count(numba_impl, logits, target, active, 4)
    target[target == 255] = torch.tensor([4, -1, 1 << 40])[torch.arange((target == 255).sum()) % 3]
    counters, *_ = count(numba_impl, logits, target, active, 4)
    assert torch.equal(counters, expected)


def _loss_in_child(logits, target, queue):
    torch.set_num_threads(1)
    queue.put(loss_and_gradient(logits, target, "numba")[0].tolist())


def test_a_process_may_fork_after_using_it():
    logits, target = make_batch((2, 4, 9, 6, 4))
    losses, _ = loss_and_gradient(logits, target, "numba")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_loss_in_child, args=(logits, target, queue))
    child.start()
    try:
        assert queue.get(timeout=60) == losses.tolist()
    finally:
        child.kill()
        child.join()


def test_compiles_without_a_cache_where_no_folder_is_writable(monkeypatch):
    njit = numba.njit

    def njit_without_folder(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", njit_without_folder)
    assert jit(lambda x: x + 1)(1) == 2


def test_an_error_in_a_thread_surfaces(monkeypatch):
    logits, target = make_batch((1, 3, 40, 4, 1))

    def fail(*args):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(numba_impl, "count_rows", fail)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with pytest.raises(RuntimeError, match="no compiler"):
        loss_and_gradient(logits, target, "numba", scale_factor=1)
