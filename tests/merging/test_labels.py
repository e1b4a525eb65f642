import copy
import io
import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from panoptic_lovasz.merging import HeadLogits, SemSegLogits, lazy_logits
from panoptic_lovasz.merging import labels as sem_seg
from panoptic_lovasz.merging.labels import semantic_labels, semantic_logits

# Without a GPU Triton's interpreter runs the kernels (tests/conftest.py).
TRITON_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _detectron2(logits, scale, image_size, size):
    """What SemSegFPNHead.forward and PanopticFPN.inference do to the logits of an image."""
    logits = F.interpolate(logits[None], scale_factor=scale, mode="bilinear", align_corners=False)
    return sem_seg_postprocess(logits[0], image_size, *size)


@st.composite
def _resizes(draw):
    """Logits and sizes on either side of MIN_PIXELS, with and without a second resize."""
    scale = draw(st.sampled_from([1, 2, 4, 8]))
    h, w = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    classes = draw(st.integers(1, 9))
    image_size = tuple(max(1, scale * n - draw(st.integers(0, 31))) for n in (h, w))
    size = draw(st.one_of(st.just(image_size), st.tuples(st.integers(1, 250), st.integers(1, 250))))
    logits = torch.randn(
        classes, h, w, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    )
    if draw(st.booleans()):
        logits = logits.round()  # many ties between classes
    return logits, scale, image_size, size


@pytest.fixture(params=["compiled", "chunks"])
def _implementation(request, monkeypatch):
    if request.param == "chunks":
        monkeypatch.setattr(sem_seg, "compiled_kernels", lambda *arguments: None)


@pytest.fixture(params=[1, 2])
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_implementation", "_threads")
def test_labels_and_logits_equal_detectron2_bit_for_bit():
    @settings(deadline=None, max_examples=60)
    @given(_resizes())
    def check(resize):
        expected = _detectron2(*resize)
        assert torch.equal(semantic_logits(HeadLogits(*resize)), expected)
        assert torch.equal(semantic_labels(HeadLogits(*resize)).long(), expected.argmax(dim=0))

    check()


def test_the_compiled_kernels_reproduce_this_pytorch():
    numba_kernels = pytest.importorskip("panoptic_lovasz.merging.kernels.labels_numba")
    assert sem_seg._are_exact(numba_kernels, torch.device("cpu"))


@pytest.mark.parametrize("function", ["labels", "resize"])
def test_kernels_that_round_in_another_way_are_noticed(function, monkeypatch):
    numba_kernels = pytest.importorskip("panoptic_lovasz.merging.kernels.labels_numba")
    exact = getattr(numba_kernels, function)

    def inexact(logits):
        result = exact(logits)
        result[-1, -1] += 1
        return result

    monkeypatch.setattr(numba_kernels, function, inexact)
    assert not sem_seg._are_exact(numba_kernels, torch.device("cpu"))


def _assert_equal_in_triton(resize):
    triton_kernels = pytest.importorskip("panoptic_lovasz.merging.kernels.labels_triton")
    logits, *sizes = resize
    resize = (logits.to(TRITON_DEVICE), *sizes)
    expected = _detectron2(*resize)
    assert torch.equal(
        triton_kernels.resize(HeadLogits(*resize)).nan_to_num(99), expected.nan_to_num(99)
    )
    assert torch.equal(triton_kernels.labels(HeadLogits(*resize)).long(), expected.argmax(dim=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "size_and_sizes",
    [
        ((3, 9), 4, (9, 34), (18, 68)),
        ((9, 11), 1, (9, 11), (18, 22)),
        ((3, 5), 8, (20, 40), (10, 80)),
        ((2, 8), 4, (7, 31), (7, 31)),
        ((1, 1), 4, (3, 4), (1, 1)),
    ],
)
def test_triton_resizes_as_pytorch_where_no_sum_is_rounded(size_and_sizes, dtype):
    # Factors of powers of two: products and sums of small integers are exact in any order.
    (h, w), *sizes = size_and_sizes
    _assert_equal_in_triton((torch.randint(-4, 5, (2, h, w)).to(dtype), *sizes))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_triton_gives_the_labels_of_logits_that_are_not_finite(value):
    logits = torch.randint(-4, 5, (3, 3, 4)).float()
    logits[[0, 2], 1, 2] = value
    _assert_equal_in_triton((logits, 2, (6, 8), (12, 16)))


def test_triton_resizes_by_any_factor_but_for_rounding():
    triton_kernels = pytest.importorskip("panoptic_lovasz.merging.kernels.labels_triton")
    resize = (torch.randn(2, 3, 9).to(TRITON_DEVICE), 4, (10, 33), (7, 43))
    found = triton_kernels.resize(HeadLogits(*resize))
    torch.testing.assert_close(found, _detectron2(*resize), atol=4e-6, rtol=0)
    assert torch.equal(triton_kernels.labels(HeadLogits(*resize)).long(), found.argmax(dim=0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(146, 613), (300, 320), (243, 327)])
def test_on_a_gpu_triton_resizes_bit_for_bit_as_pytorch(dtype, size):
    resize = (torch.randn(19, 61, 83).to(dtype), 4, (243, 327), size)
    _assert_equal_in_triton(resize)


def test_triton_is_launched_once_on_the_device_of_the_logits(launches):
    triton_kernels = pytest.importorskip("panoptic_lovasz.merging.kernels.labels_triton")
    found = launches(triton_kernels, "resize_kernel")
    logits = torch.randn(3, 4, 5)
    triton_kernels.labels(HeadLogits(logits, 4, (16, 20), (32, 40)))
    assert len(found) == 1 and found[0] is logits


# Four classes, upsampled to 128 x 128 pixels and resized to as many: just enough for the kernels.
_SMALLEST = (4, 32, 32), 4, (120, 128), (128, 128)


@pytest.mark.parametrize("shape_and_sizes", [_SMALLEST, ((4, 128, 128), 1, (120, 128), (256, 64))])
def test_regular_logits_are_resized_by_the_compiled_kernels(shape_and_sizes, monkeypatch):
    pytest.importorskip("panoptic_lovasz.merging.kernels.labels_numba")
    shape, *sizes = shape_and_sizes
    resize = (torch.randn(shape), *sizes)
    expected = _detectron2(*resize)
    semantic_labels(HeadLogits(*resize))  # the kernels are tried when they are used first
    monkeypatch.setattr(sem_seg, "_stock", None)  # cannot be called
    assert torch.equal(semantic_logits(HeadLogits(*resize)), expected)
    assert torch.equal(semantic_labels(HeadLogits(*resize)).long(), expected.argmax(dim=0))


@pytest.mark.parametrize("sizes", [(2, (38, 40), (200, 210)), (8, (150, 160), (60, 200))])
@pytest.mark.usefixtures("_implementation")
def test_small_images_equal_detectron2_bit_for_bit(sizes):
    resize = (torch.randn(7, 20, 20), *sizes)
    expected = _detectron2(*resize)
    assert torch.equal(semantic_logits(HeadLogits(*resize)), expected)
    assert torch.equal(semantic_labels(HeadLogits(*resize)).long(), expected.argmax(dim=0))


@pytest.mark.parametrize("classes", [4, 5, 11])
def test_without_them_labels_are_found_four_classes_at_a_time(classes, monkeypatch):
    (_, *size), *sizes = _SMALLEST
    resize = (torch.randn(classes, *size), *sizes)
    expected = _detectron2(*resize).argmax(dim=0)
    stock, chunks = sem_seg._stock, []
    monkeypatch.setattr(sem_seg, "_stock", lambda *a: chunks.append(len(a[0].values)) or stock(*a))
    monkeypatch.setattr(sem_seg, "compiled_kernels", lambda *arguments: None)
    assert torch.equal(semantic_labels(HeadLogits(*resize)).long(), expected)
    assert chunks == [4] * -(-classes // 4)


@torch.inference_mode()
def test_lazy_logits_work_in_inference_mode(resize):
    lazy = SemSegLogits(HeadLogits(*resize), semantic_labels(HeadLogits(*resize)))
    expected = _detectron2(*resize)
    assert torch.equal(lazy.argmax(dim=0), expected.argmax(dim=0))
    assert torch.equal(lazy, expected)


@pytest.mark.usefixtures("_implementation")
def test_of_equal_logits_the_first_class_is_the_label():
    logits = torch.randn(1, 40, 50).repeat(11, 1, 1)
    logits[0] -= 1
    assert (semantic_labels(HeadLogits(logits, 4, (150, 190), (200, 210))) == 1).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("classes", [[2], [4], [2, 4]])
def test_logits_that_are_not_finite_give_detectron2s_labels(value, classes):
    logits = torch.randn(5, 40, 50)
    logits[classes, 7, 9] = value
    resize = (logits, 4, (150, 190), (200, 210))
    assert torch.equal(
        semantic_labels(HeadLogits(*resize)).long(), _detectron2(*resize).argmax(dim=0)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_of_another_float_type_and_in_channels_last_give_detectron2s_labels(dtype):
    logits = torch.randn(1, 6, 40, 50).to(memory_format=torch.channels_last)[0]
    for values in (logits, logits.to(dtype)):
        resize = (values, 4, (150, 190), (200, 210))
        expected = _detectron2(*resize)
        assert torch.equal(semantic_logits(HeadLogits(*resize)), expected)
        assert torch.equal(semantic_labels(HeadLogits(*resize)).long(), expected.argmax(dim=0))


@pytest.fixture
def resize():
    return torch.randn(5, 40, 50), 4, (150, 190), (200, 210)


@pytest.fixture
def lazy(resize):
    return SemSegLogits(HeadLogits(*resize), semantic_labels(HeadLogits(*resize)))


def test_argmax_over_classes_is_answered_without_the_logits(lazy, resize, monkeypatch):
    monkeypatch.setattr(lazy_logits, "semantic_logits", None)  # cannot be called
    assert lazy.shape == (5, 200, 210) and lazy.size(dim=0) == len(lazy) == 5
    assert lazy.dtype == torch.float32 and lazy.device.type == "cpu"
    expected = _detectron2(*resize).argmax(dim=0)
    for labels in (lazy.argmax(dim=0), lazy.argmax(0), torch.argmax(lazy, dim=-3)):
        assert labels.dtype == torch.int64
        assert torch.equal(labels, expected)


def _saved(tensor):
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    buffer.seek(0)
    return torch.load(buffer)


@pytest.mark.parametrize(
    "read",
    [
        lambda t: t[:],
        lambda t: t.cpu(),
        lambda t: t + 0,
        lambda t: t.contiguous(),
        lambda t: torch.stack(list(t)),
        lambda t: torch.stack([t, t])[1],
        lambda t: torch.from_numpy(t.numpy()),
        lambda t: torch.from_numpy(np.asarray(t)),
        lambda t: pickle.loads(pickle.dumps(t)),
        lambda t: copy.deepcopy(t),
        _saved,
    ],
)
def test_any_other_use_sees_the_ordinary_logits(lazy, resize, read):
    result = read(lazy)
    assert type(result) is torch.Tensor
    assert torch.equal(result, _detectron2(*resize))


def test_argmax_of_another_kind_sees_the_ordinary_logits(lazy, resize):
    logits = _detectron2(*resize)
    assert lazy.argmax() == logits.argmax()
    assert torch.equal(lazy.argmax(0, keepdim=True), logits.argmax(0, keepdim=True))
    assert torch.equal(lazy.argmax(dim=1), logits.argmax(dim=1))
    assert torch.equal(lazy.argmax(axis=0), logits.argmax(axis=0))


def test_operators_called_below_torch_function_see_the_ordinary_logits(lazy, resize):
    with torch._C.DisableTorchFunctionSubclass():  # as in compiled code
        result = torch.add(lazy, lazy, alpha=2)
    assert type(result) is torch.Tensor
    assert torch.equal(result, 3 * _detectron2(*resize))


def test_the_logits_are_computed_once(lazy):
    assert lazy.cpu().data_ptr() == lazy[:].data_ptr()


@pytest.mark.parametrize("change", [torch.Tensor.neg_, lambda t: t[1].fill_(-1e9)])
def test_labels_follow_logits_that_were_changed_in_place(lazy, resize, change):
    logits = _detectron2(*resize)
    change(lazy)
    change(logits)
    assert torch.equal(lazy.argmax(dim=0), logits.argmax(dim=0))
