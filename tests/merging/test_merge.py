import re
import types

import pytest
import torch
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_lovasz.merging import CombineRules, merge, merge_panoptic
from panoptic_lovasz.merging.kernels import merge_torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"))]  # fmt: skip


def _instances(masks, scores, classes=None):
    instances = Instances(masks.shape[1:])
    instances.pred_boxes = Boxes(torch.zeros(len(masks), 4))
    instances.scores = torch.as_tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.arange(len(masks)) if classes is None else classes
    instances.pred_masks = masks
    return instances


@st.composite
def _scenes(draw):
    """Instances and labels with ties in the scores, empty masks and masks that overlap much."""
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    count = draw(st.integers(0, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:
        y, x = (torch.randint(0, n, (2,), generator=generator).sort().values for n in mask.shape)
        window = mask[y[0] : y[1] + 1, x[0] : x[1] + 1]
        density = draw(st.sampled_from([0.0, 0.5, 1.0]))
        window[:] = torch.rand(window.shape, generator=generator) < density
    scores = draw(
        st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0]), min_size=count, max_size=count)
    )
    labels = torch.tensor(draw(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True)))
    labels = labels[torch.randint(0, len(labels), (height, width), generator=generator)]
    return _instances(masks, torch.tensor(scores)), labels


_thresholds = st.tuples(
    st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 1.0]),
    st.sampled_from([0, 1, 5, 30.5]),
    st.sampled_from([0.0, 0.3, 0.5, 0.95]),
)


def _assert_equal(result, expected):
    assert result[0].dtype == expected[0].dtype == torch.int32
    assert torch.equal(result[0].cpu(), expected[0].cpu())
    assert result[1] == expected[1]
    for ours, stock in zip(result[1], expected[1], strict=True):
        assert [(k, type(v)) for k, v in ours.items()] == [(k, type(v)) for k, v in stock.items()]


@pytest.fixture(params=["compiled", "torch"])
def _implementation(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(merge, "compiled_kernels", lambda *arguments: None)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.usefixtures("_implementation")
def test_merging_equals_detectron2_in_map_fields_order_and_types(device):
    @settings(deadline=None)
    @given(_scenes(), _thresholds)
    def check(scene, thresholds):
        instances, labels = scene[0].to(device), scene[1].to(device)
        expected = combine_semantic_and_instance_outputs(instances, labels, *thresholds)
        _assert_equal(merge_panoptic(instances, labels, CombineRules(*thresholds)), expected)

    check()


def test_the_triton_kernel_equals_the_plain_passes():
    if torch.cuda.is_available():
        pytest.skip("the CUDA tests above run the kernel itself")
    merge_triton = pytest.importorskip("panoptic_lovasz.merging.kernels.merge_triton")
    for count, height, width in [(0, 3, 4), (1, 1, 1), (9, 70, 150)]:
        masks = torch.zeros(count, height, width, dtype=torch.bool)
        size = torch.tensor([height, height, width, width])
        corners = torch.rand(count, 2, 2).sort().values.reshape(count, 4)
        regions = (corners * size).int()
        for mask, (y0, y1, x0, x1) in zip(masks, regions.tolist(), strict=True):
            mask[y0:y1, x0:x1] = torch.rand(y1 - y0, x1 - x0) < 0.9
        order = torch.randperm(count)
        active = torch.arange(count) < count - 1
        for threshold in (0.0, 0.3, 1.0):
            arguments = (masks, regions, order, active, threshold)
            expected, result = merge_torch.accept(*arguments), merge_triton.accept(*arguments)
            assert all(map(torch.equal, result, expected)), (count, threshold)
    assert expected[1].sum() == 8


def test_the_triton_kernel_is_launched_on_the_device_of_the_masks(launches):
    merge_triton = pytest.importorskip("panoptic_lovasz.merging.kernels.merge_triton")
    found = launches(merge_triton, "_step")
    masks, order = torch.zeros(2, 3, 4, dtype=torch.bool), torch.arange(2)
    regions = torch.zeros(2, 4, dtype=torch.int32)
    merge_triton.accept(masks, regions, order, order >= 0, 0.5)
    assert len(found) == 3 and all(tensor is masks for tensor in found)


def test_kernels_that_accept_other_instances_are_noticed():
    cpu = torch.device("cpu")
    assert merge._agrees(merge_torch, cpu)

    def accept(*arguments):
        owner, accepted = merge_torch.accept(*arguments)
        return owner, ~accepted

    assert not merge._agrees(types.SimpleNamespace(accept=accept), cpu)


def test_many_instances_of_one_score_stay_in_detectron2s_order():
    masks = torch.zeros(300, 20, 20, dtype=torch.bool)
    masks.view(300, -1)[torch.arange(300), torch.arange(300)] = True
    instances = _instances(masks, torch.full((300,), 0.75))
    labels = torch.ones(20, 20, dtype=torch.int64)
    expected = combine_semantic_and_instance_outputs(instances, labels, 0.5, 10, 0.5)
    _assert_equal(merge_panoptic(instances, labels, CombineRules(0.5, 10, 0.5)), expected)


def test_an_instance_is_dropped_only_when_more_than_the_allowed_share_is_taken():
    masks = torch.zeros(2, 1, 8, dtype=torch.bool)
    masks[0, 0, :4] = True
    masks[1, 0, 2:6] = True  # half of it is taken
    labels = torch.zeros(1, 8, dtype=torch.int64)
    panoptic_seg, segments = merge_panoptic(
        _instances(masks, [0.9, 0.8]), labels, CombineRules(0.5, 0, 0.5)
    )
    assert panoptic_seg.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0]]
    assert [s["instance_id"] for s in segments] == [0, 1]
    panoptic_seg, segments = merge_panoptic(
        _instances(masks, [0.9, 0.8]), labels, CombineRules(0.49, 0, 0.5)
    )
    assert panoptic_seg.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.usefixtures("_implementation")
def test_masks_of_any_type_are_taken_as_bool(dtype):
    instances = _instances(torch.randint(0, 2, (3, 6, 7)).to(dtype), [0.9, 0.8, 0.7])
    labels = torch.randint(0, 3, (6, 7))
    expected = combine_semantic_and_instance_outputs(instances, labels, 0.9, 1, 0.5)
    _assert_equal(merge_panoptic(instances, labels, CombineRules(0.9, 1, 0.5)), expected)


def test_instances_below_the_score_threshold_are_left_out():
    masks = torch.ones(1, 2, 2, dtype=torch.bool)
    labels = torch.ones(2, 2, dtype=torch.int64)
    _, segments = merge_panoptic(_instances(masks, [0.49]), labels, CombineRules(0.5, 1, 0.5))
    assert segments == [{"id": 1, "isthing": False, "category_id": 1, "area": 4}]


def test_stuff_below_the_area_limit_is_left_out():
    labels = torch.tensor([[1, 1, 1, 2]])
    nothing = _instances(torch.zeros(0, 1, 4, dtype=torch.bool), [])
    panoptic_seg, segments = merge_panoptic(nothing, labels, CombineRules(0.5, 2, 0.5))
    assert panoptic_seg.tolist() == [[1, 1, 1, 0]]
    assert [s["category_id"] for s in segments] == [1]


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.usefixtures("_implementation")
def test_stuff_that_does_not_occur_is_no_segment_whatever_the_area_limit(limit):
    nothing = _instances(torch.zeros(0, 1, 4, dtype=torch.bool), [])
    panoptic_seg, segments = merge_panoptic(
        nothing, torch.tensor([[1, 3, 3, 6]]), CombineRules(0.5, limit, 0.5)
    )
    assert panoptic_seg.tolist() == [[1, 2, 2, 3]]
    assert [(s["category_id"], s["area"]) for s in segments] == [(1, 1), (3, 2), (6, 1)]


def test_void_stuff_is_removed_and_the_other_ids_close_up():
    labels = torch.tensor([[1, 2, 2, 3]])
    nothing = _instances(torch.zeros(0, 1, 4, dtype=torch.bool), [])
    panoptic_seg, segments = merge_panoptic(nothing, labels, CombineRules(0.5, 0, 0.5, (2, 7)))
    assert panoptic_seg.tolist() == [[1, 0, 0, 2]]
    assert [s["category_id"] for s in segments] == [1, 3]


def test_the_confidence_aware_rule_is_refused_where_there_are_no_logits():
    nothing = _instances(torch.zeros(0, 1, 2, dtype=torch.bool), [])
    with pytest.raises(ValueError, match="postprocess_panoptic"):
        merge_panoptic(nothing, torch.tensor([[0, 3]]), CombineRules(confidence_aware=True))


def test_a_negative_label_is_refused_by_value():
    nothing = _instances(torch.zeros(0, 1, 2, dtype=torch.bool), [])
    with pytest.raises(ValueError, match="-3"):
        merge_panoptic(nothing, torch.tensor([[0, -3]]), CombineRules(0.5, 0, 0.5))


@pytest.mark.slow
def test_an_area_limit_that_float32_cannot_tell_apart_is_compared_exactly():
    labels = torch.ones(4097, 4097, dtype=torch.uint8)
    nothing = _instances(torch.zeros(0, 4097, 4097, dtype=torch.bool), [])
    area = labels.numel()
    for limit in (area - 0.5, area + 0.5):
        expected = combine_semantic_and_instance_outputs(nothing, labels, 0.5, limit, 0.5)
        _assert_equal(merge_panoptic(nothing, labels, CombineRules(0.5, limit, 0.5)), expected)
    assert not expected[1]


@pytest.mark.parametrize("size", [(6, 7), (5, 8), (9, 9), (5,)])
def test_masks_and_labels_of_different_sizes_are_refused_with_both_shapes(size):
    instances = _instances(torch.ones(2, 5, 7, dtype=torch.bool), [0.9, 0.8])
    message = rf"\(2, 5, 7\) and semantic_labels {re.escape(str(size))}, expected \(N, H, W\)"
    with pytest.raises(ValueError, match=message):
        merge_panoptic(instances, torch.ones(size, dtype=torch.int64), CombineRules())
