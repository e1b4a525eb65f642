import math
import sys
from types import SimpleNamespace

import oracle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from panoptic_lovasz.losses import (
    cross_entropy_lovasz,
    fused,
    kernels,
    lovasz_hinge,
    lovasz_sigmoid,
    lovasz_softmax,
)
from panoptic_lovasz.losses.kernels import torch_impl
from panoptic_lovasz.losses.options import LossOptions

BINS = {"num_bins": 2**15}  # few pixels share a bin


def make(batch=2, num_classes=5, size=(5, 6), *, scale_factor=4, ignored=0.2, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, num_classes, *size, generator=generator) * scale
    height, width = (s * scale_factor for s in size)
    target = torch.randint(0, max(num_classes - 1, 1), (batch, height, width), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits.requires_grad_(), target


def torch_loss(logits, target, **options):
    return cross_entropy_lovasz(logits, target, impl="torch", **options)


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0].double()


def relative(found, expected):
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("scale_factor", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_and_gradients_are_those_of_the_upsampled_logits(scale_factor, per_image, weighted):
    logits, target = make(scale_factor=scale_factor)
    weights = torch.tensor([0.5, 2.0, 1.0, 0.1, 3.0]) if weighted else None
    options = {"scale_factor": scale_factor, "per_image": per_image, "class_weights": weights}
    found = torch_loss(logits, target, **BINS, **options)
    expected = oracle.cross_entropy_lovasz(logits, target, **options)
    for term, expected_term in zip(found, expected, strict=True):
        assert term.dtype == torch.float32 and term.shape == ()
        assert term.item() == pytest.approx(expected_term.item(), abs=2e-6)
        assert relative(gradient(term, logits), gradient(expected_term, logits)) < 1e-3


@pytest.mark.parametrize("ignore_index", [-1, 0, 3])
def test_the_ignored_label_may_be_negative_or_a_class(ignore_index):
    logits, target = make()
    target[target == 255] = ignore_index
    found = torch_loss(logits, target, ignore_index=ignore_index, **BINS)
    expected = oracle.cross_entropy_lovasz(logits, target, ignore_index=ignore_index)
    for term, expected_term in zip(found, expected, strict=True):
        assert term.item() == pytest.approx(expected_term.item(), abs=2e-6)
        assert relative(gradient(term, logits), gradient(expected_term, logits)) < 1e-3


@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 3),
    num_classes=st.integers(2, 7),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    scale_factor=st.integers(1, 5),
    ignored=st.sampled_from([0.0, 0.5, 0.99]),
    scale=st.sampled_from([0.0, 1.0, 30.0]),
    strip=st.sampled_from([1, 200, 1 << 20]),
)
@settings(max_examples=40, deadline=None)
def test_any_shape_cut_into_any_strips_gives_the_same(
    seed, batch, num_classes, size, scale_factor, ignored, scale, strip
):
    options = {"scale_factor": scale_factor, "ignored": ignored, "scale": scale, "seed": seed}
    logits, target = make(batch, num_classes, size, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_impl, "STRIP_ELEMENTS", strip)
        ce, lovasz = torch_loss(logits, target, scale_factor=scale_factor, num_bins=64)
        found = gradient(ce + lovasz, logits)
    expected_ce, expected_lovasz = oracle.cross_entropy_lovasz(
        logits, target, scale_factor=scale_factor
    )
    assert ce.item() == pytest.approx(expected_ce.item(), rel=1e-5, abs=1e-6)
    assert abs(lovasz.item() - expected_lovasz.item()) <= 1 / 64 + 1e-6
    ce, lovasz = torch_loss(logits, target, scale_factor=scale_factor, num_bins=64)
    assert relative(found, gradient(ce + lovasz, logits)) < 1e-5


class LargestTensor(TorchDispatchMode):
    """Largest number of elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_nothing_of_the_size_of_the_upsampled_logits_is_ever_stored(monkeypatch):
    monkeypatch.setattr(torch_impl, "STRIP_ELEMENTS", 1 << 13)
    logits, target = make(batch=2, num_classes=40, size=(16, 16))
    with LargestTensor() as largest:
        ce, lovasz = torch_loss(logits, target, num_bins=16)
        (ce + lovasz).backward()
    assert largest.elements <= max(logits.numel(), 6 << 13)
    assert largest.elements < 40 * target.numel() / 6


def test_each_term_has_its_own_gradient_and_takes_any_factor():
    logits, target = make()
    ce, lovasz = torch_loss(logits, target, ce_weight=0.5, lovasz_weight=3.0)
    plain_ce, plain_lovasz = torch_loss(logits, target)
    assert ce.item() == pytest.approx(0.5 * plain_ce.item())
    assert lovasz.item() == pytest.approx(3 * plain_lovasz.item())
    ce_gradient, lovasz_gradient = gradient(plain_ce, logits), gradient(plain_lovasz, logits)
    assert relative(gradient(ce, logits), 0.5 * ce_gradient) < 1e-6
    assert relative(gradient(lovasz, logits), 3 * lovasz_gradient) < 1e-6
    both = gradient(7 * ce - 2 * lovasz, logits)
    assert relative(both, 3.5 * ce_gradient - 6 * lovasz_gradient) < 1e-5


def test_both_terms_together_are_the_sum_of_cross_entropy_and_lovasz_softmax():
    logits, target = make()
    ce, lovasz = torch_loss(logits, target)
    upsampled = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    assert ce.item() == pytest.approx(F.cross_entropy(upsampled, target, ignore_index=255).item())
    assert lovasz.item() == pytest.approx(lovasz_softmax(upsampled, target).item(), abs=1e-6)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("lovasz_weight", [0.0, 3.0])
def test_the_mean_over_two_processes_is_that_of_one_with_all_images(
    per_image, lovasz_weight, second_process
):
    logits, target = make()
    target[0][target[0] == 2] = 255  # classes differ between the images
    options = {"per_image": per_image, "ce_weight": 0.5, "lovasz_weight": lovasz_weight}
    expected = torch_loss(logits, target, **options)
    group, factor = second_process
    found = torch_loss(logits, target, process_group=group, **options)
    # Images without labels cost 0 in the other process, while a batch costs the same in both.
    for term, expected_term, own in zip(found, expected, (False, per_image), strict=True):
        assert term.item() == pytest.approx(expected_term.item() * (factor if own else 1))
        expected_gradient = factor * gradient(expected_term, logits)
        assert relative(gradient(term, logits), expected_gradient) < 1e-6


def test_with_a_lovasz_weight_of_0_only_the_cross_entropy_is_computed(monkeypatch):
    monkeypatch.setattr(torch_impl, "_bins", lambda *_: pytest.fail("counted for nothing"))
    logits, target = make()
    ce, lovasz = torch_loss(logits, target, lovasz_weight=0.0)
    expected, _ = oracle.cross_entropy_lovasz(logits, target)
    assert lovasz.item() == 0
    assert ce.item() == pytest.approx(expected.item(), abs=1e-6)
    assert relative(gradient(ce + lovasz, logits), gradient(expected, logits)) < 1e-5
    assert not gradient(lovasz, logits).any()


def test_with_a_cross_entropy_weight_of_0_only_the_lovasz_loss_has_a_gradient():
    logits, target = make()
    ce, lovasz = torch_loss(logits, target, ce_weight=0.0)
    assert ce.item() == 0
    assert not gradient(ce, logits).any()
    assert relative(gradient(ce + lovasz, logits), gradient(lovasz, logits)) == 0


def test_only_classes_that_take_part_are_counted(monkeypatch):
    logits, target = make()  # class 4 is not present
    rows = []
    bins = torch_impl._bins
    monkeypatch.setattr(torch_impl, "_bins", lambda p, y, c, k: rows.append(c) or bins(p, y, c, k))
    torch_loss(logits, target)
    torch_loss(logits, target, classes=[1, 4])
    assert rows[0].tolist() == [0, 1, 2, 3]
    assert rows[-1].tolist() == [1, 4]


@pytest.mark.parametrize("per_image", [False, True])
def test_a_batch_without_labels_costs_0_and_has_zero_gradients(per_image):
    logits, target = make(ignored=1.1)
    ce, lovasz = torch_loss(logits, target, per_image=per_image)
    assert ce.item() == lovasz.item() == 0
    assert not gradient(ce + lovasz, logits).any()


def test_an_image_without_labels_changes_nothing_for_the_others():
    logits, target = make(batch=3)
    target[1] = 255
    for per_image in (False, True):
        ce, lovasz = torch_loss(logits, target, per_image=per_image)
        others = [0, 2]
        expected = torch_loss(logits[others], target[others], per_image=per_image)
        assert ce.item() == pytest.approx(expected[0].item(), abs=1e-6)
        assert lovasz.item() == pytest.approx(expected[1].item(), abs=1e-6)
        assert not gradient(ce + lovasz, logits)[1].any()


@pytest.mark.parametrize("shape", [(0, 5, 3, 3), (2, 5, 0, 3)])
def test_an_empty_batch_costs_0(shape):
    logits = torch.zeros(shape, requires_grad=True)
    target = torch.zeros(shape[0], shape[2] * 4, shape[3] * 4, dtype=torch.long)
    for per_image in (False, True):
        ce, lovasz = cross_entropy_lovasz(logits, target, per_image=per_image)
        assert ce.item() == lovasz.item() == 0
        assert gradient(ce + lovasz, logits).shape == shape


def test_one_pixel_and_one_class_will_do():
    logits = torch.tensor([0.3, 1.2]).view(1, 2, 1, 1).requires_grad_()
    target = torch.ones(1, 4, 4, dtype=torch.long)
    ce, lovasz = torch_loss(logits, target)
    p = logits.softmax(1)[0, 1].item()
    assert ce.item() == pytest.approx(-math.log(p))
    assert lovasz.item() == pytest.approx(1 - p, abs=1e-6)
    ce, lovasz = torch_loss(logits[:, :1], target - 1)
    assert ce.item() == lovasz.item() == 0


def test_class_weights_of_the_cross_entropy_cancel_however_small_they_are():
    logits = torch.randn(1, 2, 1, 1, requires_grad=True)
    target = torch.ones(1, 4, 4, dtype=torch.long)
    expected, _ = torch_loss(logits, target)
    ce, _ = torch_loss(logits, target, class_weights=[0.01, 0.001])
    assert ce.item() == pytest.approx(expected.item())
    assert relative(gradient(ce, logits), gradient(expected, logits)) < 1e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_both_losses_are_nan_where_a_pixel_that_counts_is_not_finite(bad):
    logits, target = make(ignored=0)
    with torch.no_grad():
        logits[0, 0, 2, 2] = bad
    ce, lovasz = torch_loss(logits, target)
    assert ce.isnan() and lovasz.isnan()


def test_a_nan_in_a_place_without_labels_harms_nothing():
    logits, target = make(size=(6, 6))
    target[:, :12] = 255
    ce, lovasz = torch_loss(logits, target)
    expected = gradient(ce + lovasz, logits)
    with torch.no_grad():
        logits[:, :, 0] = math.nan
    same_ce, same_lovasz = torch_loss(logits, target)
    assert same_ce == ce and same_lovasz == lovasz
    found = gradient(same_ce + same_lovasz, logits)
    assert torch.equal(found[:, :, 2:], expected[:, :, 2:])
    assert not found[:, :, 0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_are_float32_and_gradients_of_the_type_of_the_logits(dtype):
    logits, target = make()
    logits = logits.detach().to(dtype).requires_grad_()
    ce, lovasz = torch_loss(logits, target, **BINS)
    (found,) = torch.autograd.grad(ce + lovasz, logits)
    expected = oracle.cross_entropy_lovasz(logits, target)
    assert ce.dtype == lovasz.dtype == torch.float32
    assert found.dtype == dtype
    assert ce.item() == pytest.approx(expected[0].item(), abs=2e-6)
    assert lovasz.item() == pytest.approx(expected[1].item(), abs=2e-6)
    assert relative(found.double(), gradient(sum(expected), logits)) < 1e-2


def test_autocast_changes_nothing():
    logits, target = make()
    expected = torch_loss(logits, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch_loss(logits, target)
        assert torch.equal(gradient(sum(found), logits), gradient(sum(expected), logits))
    assert found == expected


def test_losses_of_channels_last_and_strided_tensors_are_the_same():
    logits, target = make()
    expected = torch_loss(logits, target)
    last = logits.detach().to(memory_format=torch.channels_last).requires_grad_()
    strided = F.pad(target, (0, 3))[:, :, :-3]
    found = torch_loss(last, strided)
    assert found == expected
    assert torch.equal(gradient(sum(found), last), gradient(sum(expected), logits))


def test_values_are_the_same_without_gradients():
    logits, target = make()
    with torch.no_grad():
        assert torch_loss(logits, target) == torch_loss(logits, target)
    with torch.inference_mode():
        assert torch_loss(logits.detach().clone(), target)[0] == torch_loss(logits, target)[0]


def test_auto_falls_back_to_plain_pytorch_where_there_are_no_compiled_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "compiled_kernels", lambda *_: None)
    for device in ("cpu", "meta"):
        assert kernels.choose("auto", torch.device(device)) == "torch"
    monkeypatch.setitem(sys.modules, "panoptic_lovasz.losses.kernels.numba_impl", None)
    kernels.load.cache_clear()
    with pytest.raises(ImportError, match="numba_impl"):
        cross_entropy_lovasz(*make(), impl="numba")


def test_tritons_kernels_asked_for_on_the_cpu_are_refused_with_the_reason(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="needs a GPU, but the logits are on the CPU"):
        cross_entropy_lovasz(*make(), impl="triton")


@pytest.mark.parametrize("spoiled", ["count", "weigh"])
def test_compiled_kernels_are_not_used_where_they_give_something_else(spoiled):
    """A pass that is off by 1 % in one of its results, as a miscompiled one may be."""
    cpu = torch.device("cpu")
    assert kernels.agree(torch_impl, cpu)

    def count(*arguments):
        counters, sums, saved = torch_impl.count(*arguments)
        return counters, sums * 1.01, saved

    def weigh(*arguments):
        return torch_impl.weigh(*arguments) * 1.05

    wrong = {name: getattr(torch_impl, name) for name in torch_impl.__all__}
    wrong[spoiled] = {"count": count, "weigh": weigh}[spoiled]
    assert not kernels.agree(SimpleNamespace(**wrong), cpu)


def test_auto_takes_the_compiled_implementation_where_there_is_something_to_compute(monkeypatch):
    class Taken(Exception):
        pass

    def count(*_, **__):
        raise Taken

    compiled = pytest.importorskip("panoptic_lovasz.losses.kernels.numba_impl")
    logits, target = make()
    cross_entropy_lovasz(logits, target)  # the kernels are tried when they are used first
    monkeypatch.setattr(compiled, "count", count)
    with pytest.raises(Taken):
        cross_entropy_lovasz(logits, target)
    cross_entropy_lovasz(logits[:0], target[:0])
    torch_loss(logits, target)


@pytest.mark.parametrize("label", [-1, 5, 254, 300])
def test_a_label_out_of_range_is_an_error_that_names_it(label):
    logits, target = make()
    target[1, 2, 3] = label
    with pytest.raises(ValueError, match=rf"label {label} .* 0 to 4 .* 255"):
        cross_entropy_lovasz(logits, target)


def test_passes_treat_labels_out_of_range_like_ignored_ones():
    """On CUDA they reach the passes before the host has seen them."""
    logits, target = make()
    options = LossOptions(num_bins=64)
    active = torch.ones(1, 5, dtype=torch.bool)
    weights = torch.rand(1, 5, 2, 64)
    results = []
    for outside in ([255] * 4, [-7, -1, 5, 2**31 - 1]):
        bad = target.clone()
        bad[0, 3, 4:8] = torch.tensor(outside)
        counters, sums, saved = torch_impl.count(logits, bad, active, options)
        one = torch.ones(())
        grad = torch_impl.weigh(logits, bad, saved, active, weights, one, one, options)
        results.append((counters, sums, grad))
    for ignored, outside in zip(*results, strict=True):
        assert torch.equal(ignored, outside)


def test_sums_of_the_cross_entropy_are_float64(monkeypatch):
    monkeypatch.setattr(torch_impl, "STRIP_ELEMENTS", 1)
    logits, target = torch.zeros(1, 3, 300, 5), torch.zeros(1, 600, 10, dtype=torch.long)
    weights, active = torch.full((3,), 0.1), torch.ones(1, 3, dtype=torch.bool)
    options = LossOptions(num_bins=8, scale_factor=2, class_weights=weights)
    _, sums, _ = torch_impl.count(logits, target, active, options)
    nll, weight = torch.tensor(3.0).log() * weights[0], weights[0]
    assert sums.tolist() == pytest.approx([6000 * nll.item(), 6000 * weight.item()], rel=1e-12)


def test_the_second_pass_returns_a_gradient_of_the_type_of_the_logits():
    logits, target = torch.zeros(1, 3, 2, 2).half(), torch.zeros(1, 2, 2, dtype=torch.long)
    active, one = torch.ones(1, 3, dtype=torch.bool), torch.ones(())
    weights = torch.rand(1, 3, 2, 8)
    options = LossOptions(scale_factor=1, num_bins=8)
    found = torch_impl.weigh(logits, target, None, active, weights, one, one, options)
    assert found.dtype == torch.float16 and found.shape == logits.shape


def test_ignored_pixels_add_nothing_to_the_counters():
    logits, target = make(ignored=1.1)
    active = torch.ones(1, 5, dtype=torch.bool)
    counters, sums, _ = torch_impl.count(logits, target, active, LossOptions())
    assert not counters.any() and not sums.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_factor": 2}, r"\(2, 10, 12\).*upsampled by 2.*\(2, 20, 24\)"),
        ({"scale_factor": 0}, "positive integer"),
        ({"scale_factor": 1.5}, "positive integer"),
        ({"num_bins": 0}, "num_bins"),
        ({"impl": "cuda"}, "auto, torch, numba, triton, not 'cuda'"),
        ({"scale_factor": None}, "scale_factor must be a positive integer, not None"),
        ({"num_bins": 10.5}, "num_bins must be a positive integer"),
        ({"ce_weight": None}, "ce_weight must be a number, not None"),
        ({"lovasz_weight": torch.ones(())}, "region_weight must be a number"),
        ({"classes": "none"}, '"present", "all"'),
        ({"classes": None}, '"present", "all" or a list of classes, not None'),
        ({"classes": 1}, '"present", "all" or a list of classes, not 1'),
        ({"offsets": [1, 2]}, r"offsets are for points, logits \(N, C\); the logits are \(2, 5"),
        ({"class_weights": [1.0, 2.0]}, "5 classes"),
    ],
)
def test_arguments_that_cannot_be_are_errors(options, message):
    logits, target = make()
    with pytest.raises(ValueError, match=message):
        cross_entropy_lovasz(logits, target, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore_idx": 2}, "there is no option 'ignore_idx'; did you mean ignore_index"),
        ({"qqq": 2}, "there is no option 'qqq'; there are scale_factor, ignore_index, ce_weight,"),
        ({"region": "dice"}, "region is an option of cross_entropy_region"),
        ({"region_weight": 2.0}, "region_weight is an option of .* with the weight lovasz_weight"),
        ({"ignore_index": None}, "ignore_index must be an integer, not None; a label that does n"),
        ({"ignore_index": 1.5}, "ignore_index must be an integer"),
    ],
)
def test_options_that_there_are_not_and_types_that_are_wrong_are_told(options, message):
    with pytest.raises(TypeError, match=message):
        cross_entropy_lovasz(*make(), **options)


def test_whole_numbers_may_be_floats():
    found = cross_entropy_lovasz(*make(), scale_factor=4.0, num_bins=64.0)
    assert found == cross_entropy_lovasz(*make(), num_bins=64)


def test_types_and_dimensions_are_checked():
    logits, target = make()
    for loss in (cross_entropy_lovasz, lovasz_softmax, lovasz_hinge, lovasz_sigmoid):
        with pytest.raises(TypeError, match="logits must be a tensor, not ndarray"):
            loss(logits.detach().numpy(), target)
        with pytest.raises(TypeError, match="target must be a tensor, not ndarray"):
            loss(logits, target.numpy())
    with pytest.raises(ValueError, match="B, C, h, w"):
        cross_entropy_lovasz(logits[0], target)
    with pytest.raises(ValueError, match="B, C, h, w"):
        cross_entropy_lovasz(logits[:, :0], target)
    with pytest.raises(TypeError, match="floating"):
        cross_entropy_lovasz(logits.long(), target)
    with pytest.raises(TypeError, match="integer"):
        cross_entropy_lovasz(logits, target.float())
    with pytest.raises(ValueError, match="logits are on cpu, target is on meta"):
        cross_entropy_lovasz(logits, target.to("meta"))


def test_more_pixels_than_a_counter_holds_are_an_error(monkeypatch):
    logits, target = make()
    monkeypatch.setattr(fused, "MAX_PIXELS", target[0].numel())
    with pytest.raises(ValueError, match="pixels"):
        cross_entropy_lovasz(logits, target)
    cross_entropy_lovasz(logits, target, per_image=True)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: sum(cross_entropy_lovasz(x, y)),
        lambda x, y: lovasz_softmax(x, y[:, ::4, ::4], method="exact"),
        lambda x, y: lovasz_hinge(x[:, 0], y[:, ::4, ::4].clamp(max=1)),
    ],
)
def test_a_device_without_float64_has_the_loss_computed_on_the_cpu(monkeypatch, caplog, loss):
    logits = torch.randn(1, 3, 2, 3, requires_grad=True)
    target = torch.randint(3, (1, 8, 12))
    expected = torch.autograd.grad(loss(logits, target), logits)
    monkeypatch.setattr(fused, "WITHOUT_FLOAT64", ("cpu",))
    fused._tell_of_the_cpu.cache_clear()
    for _ in range(2):
        found = torch.autograd.grad(loss(logits, target), logits)
        assert torch.equal(found[0], expected[0])
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once
    assert "no float64" in caplog.text and "on the CPU" in caplog.text
