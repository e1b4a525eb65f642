import copy

import pytest
import torch
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, Instances, ROIMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from panoptic_lovasz.merging import (
    CombineRules,
    merge,
    paste,
    postprocess,
    postprocess_panoptic,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"))]  # fmt: skip


def _detectron2(detections, logits, image_size, height, width, rules):
    """What PanopticFPN.inference does with the raw outputs for an image."""
    logits = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    sem_seg = sem_seg_postprocess(logits, image_size, height, width)
    instances = detector_postprocess(detections, height, width)
    panoptic_seg = combine_semantic_and_instance_outputs(
        instances,
        sem_seg.argmax(dim=0),
        rules.overlap_thresh,
        rules.stuff_area_limit,
        rules.instances_confidence_thresh,
    )
    return {"sem_seg": sem_seg, "instances": instances, "panoptic_seg": panoptic_seg}


def _raw(image_size, count, classes, seed=0):
    """Random raw outputs; about one box in five is empty."""
    generator = torch.Generator().manual_seed(seed)
    height, width = image_size
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values
    boxes = corners.reshape(-1, 4) * torch.tensor([width, height, width, height])
    empty = torch.rand(count, generator=generator) < 0.2
    boxes[empty, 2] = boxes[empty, 0]
    detections = Instances(image_size)
    detections.pred_boxes = Boxes(boxes)
    detections.scores = torch.randint(4, 10, (count,), generator=generator) / 10
    detections.pred_classes = torch.randint(0, 9, (count,), generator=generator)
    masks = torch.rand(count, 1, 4, 4, generator=generator)
    detections.pred_masks = F.interpolate(masks, size=28, mode="bicubic").clamp(0, 1)
    padded = [-(-n // 32) * 8 for n in image_size]
    logits = torch.randn(1, classes, *(n // 4 + 1 for n in padded), generator=generator)
    return detections, F.interpolate(logits, size=padded, mode="bicubic")[0]


def _assert_equal(result, expected):
    assert list(result) == list(expected)
    ours, stock = result["instances"], expected["instances"]
    assert ours.image_size == stock.image_size
    assert list(ours.get_fields()) == list(stock.get_fields())
    assert torch.equal(ours.pred_boxes.tensor, stock.pred_boxes.tensor)
    for field in ("scores", "pred_classes", "pred_masks"):
        assert ours.get(field).dtype == stock.get(field).dtype
        assert torch.equal(ours.get(field), stock.get(field))
    assert torch.equal(result["sem_seg"].argmax(dim=0), expected["sem_seg"].argmax(dim=0))
    assert torch.equal(result["sem_seg"], expected["sem_seg"])
    assert torch.equal(result["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert result["panoptic_seg"][1] == expected["panoptic_seg"][1]


@pytest.mark.parametrize("device", DEVICES)
def test_the_result_equals_detectron2s_bit_for_bit(device):
    size = st.tuples(st.integers(1, 220), st.integers(1, 220))

    @settings(deadline=None, max_examples=60)
    @given(
        image_size=size,
        output_size=st.one_of(size, st.none()),
        count=st.integers(0, 8),
        classes=st.integers(1, 7),
        seed=st.integers(0, 2**31),
        limit=st.sampled_from([0, 50, 4096]),
    )
    def check(image_size, output_size, count, classes, seed, limit):
        detections, logits = _raw(image_size, count, classes, seed)
        raw = detections.to(device), logits.to(device), image_size, *(output_size or image_size)
        rules = CombineRules(stuff_area_limit=limit)
        expected = _detectron2(copy.deepcopy(raw[0]), *raw[1:], rules)
        _assert_equal(postprocess_panoptic(*raw, rules=rules), expected)

    check()


def test_boxes_are_clipped_to_the_image_as_by_detectron2():
    detections, logits = _raw((120, 150), 8, 6)
    detections.pred_boxes.tensor += torch.tensor([-60.0, -50.0, 60.0, 50.0])
    raw = detections, logits, (120, 150), 200, 240
    rules = CombineRules(stuff_area_limit=50)
    expected = _detectron2(copy.deepcopy(raw[0]), *raw[1:], rules)
    _assert_equal(postprocess_panoptic(*raw, rules=rules), expected)


def test_under_autocast_the_logits_are_interpolated_in_detectron2s_type():
    detections, logits = _raw((120, 150), 8, 6)
    raw = detections, logits.bfloat16(), (120, 150), 200, 240
    rules = CombineRules(stuff_area_limit=50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = _detectron2(copy.deepcopy(raw[0]), *raw[1:], rules)
        result = postprocess_panoptic(*raw, rules=rules)
    _assert_equal(result, expected)
    assert result["sem_seg"].dtype == expected["sem_seg"].dtype


@pytest.fixture
def _as_on_a_gpu(monkeypatch):
    """The path that waits for the device once, in plain PyTorch."""
    monkeypatch.setattr(postprocess, "_waiting_is_cheap", lambda tensor: False)
    monkeypatch.setattr(merge, "compiled_kernels", lambda *arguments: None)
    monkeypatch.setattr(paste, "_compiled_kernel", lambda masks, boxes: None)


@pytest.mark.parametrize("empty", [[], [0], [7], [2, 3]])
@pytest.mark.usefixtures("_as_on_a_gpu")
def test_the_path_that_waits_for_the_device_once_gives_the_same(empty):
    detections, logits = _raw((120, 150), 8, 6)
    boxes = detections.pred_boxes.tensor
    boxes[:, 2:] += 1
    boxes[empty, 2] = boxes[empty, 0]
    rules = CombineRules(stuff_area_limit=50)
    raw = detections, logits, (120, 150), 200, 240
    expected = _detectron2(copy.deepcopy(raw[0]), *raw[1:], rules)
    _assert_equal(postprocess_panoptic(*raw, rules=rules), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_host_waits_once(recwarn):
    detections, logits = _raw((480, 640), 100, 54)
    detections.pred_boxes.tensor[:, 2:] += 1
    detections, logits = detections.to("cuda"), logits.cuda()
    postprocess_panoptic(copy.deepcopy(detections), logits, (480, 640), 480, 640)  # compiles
    recwarn.clear()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        postprocess_panoptic(detections, logits, (480, 640), 480, 640)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchronizing CUDA operation" in str(w.message) for w in recwarn.list) == 1


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_boxes_that_are_not_finite_are_reported(value):
    detections, logits = _raw((64, 64), 2, 3)
    detections.pred_boxes.tensor[1, 2] = value
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        postprocess_panoptic(detections, logits, (64, 64), 64, 64)


def test_masks_may_come_as_detectron2s_roi_masks():
    detections, logits = _raw((120, 150), 4, 3)
    raw = logits, (120, 150), 60, 75
    expected = postprocess_panoptic(copy.deepcopy(detections), *raw)
    detections.pred_masks = ROIMasks(detections.pred_masks[:, 0])
    _assert_equal(postprocess_panoptic(detections, *raw), expected)


def test_keypoints_are_scaled_as_by_detectron2():
    detections, logits = _raw((120, 150), 4, 3)
    detections.pred_keypoints = torch.rand(4, 5, 3) * 100
    expected = detector_postprocess(copy.deepcopy(detections), 60, 75)
    result = postprocess_panoptic(detections, logits, (120, 150), 60, 75)["instances"]
    assert torch.equal(result.pred_keypoints, expected.pred_keypoints)


def _one_instance(score, probability, margin, limit=0):
    """An instance on the left half of 256 x 256 pixels; class 1 everywhere at probability 0.8."""
    detections = Instances((256, 256))
    detections.pred_boxes = Boxes([[0.0, 0.0, 128.0, 256.0]])
    detections.scores = torch.tensor([score])
    detections.pred_classes = torch.tensor([3])
    detections.pred_masks = torch.full((1, 1, 28, 28), probability)
    logits = torch.tensor([0.1, 0.8, 0.1]).log()[:, None, None].expand(3, 64, 64).contiguous()
    rules = CombineRules(stuff_area_limit=limit, confidence_aware=True, margin=margin)
    result = postprocess_panoptic(detections, logits, (256, 256), 256, 256, rules=rules)
    return result["panoptic_seg"]


def test_a_confident_instance_keeps_its_pixels_from_stuff():
    panoptic_seg, segments = _one_instance(score=0.9, probability=0.95, margin=0.0)
    assert [s["isthing"] for s in segments] == [True, False]
    assert panoptic_seg[128, 64] == 1 and panoptic_seg[128, 200] == 2


def test_more_confident_stuff_takes_an_instances_pixels_and_an_instance_without_any_goes():
    panoptic_seg, segments = _one_instance(score=0.9, probability=0.6, margin=0.0)
    assert segments == [{"id": 1, "isthing": False, "category_id": 1, "area": 256 * 256}]
    assert (panoptic_seg == 1).all()


def test_within_the_margin_the_instance_wins():
    panoptic_seg, _ = _one_instance(score=0.9, probability=0.6, margin=0.3)  # 0.54 against 0.8
    assert panoptic_seg[128, 64] == 1 and panoptic_seg[128, 200] == 2


def test_stuff_of_just_the_area_limit_takes_an_instances_pixels():
    _, segments = _one_instance(score=0.9, probability=0.6, margin=0.0, limit=256 * 256)
    assert [s["isthing"] for s in segments] == [False]


def test_stuff_below_the_area_limit_takes_nothing_from_an_instance():
    panoptic_seg, segments = _one_instance(0.9, 0.6, margin=0.0, limit=256 * 256 + 1)
    assert [s["isthing"] for s in segments] == [True]
    assert panoptic_seg[128, 64] == 1 and panoptic_seg[128, 200] == 0


def test_a_margin_of_one_changes_nothing():
    detections, logits = _raw((120, 150), 8, 6)
    rules = {"stuff_area_limit": 50}
    plain = postprocess_panoptic(
        copy.deepcopy(detections), logits, (120, 150), 200, 240, rules=CombineRules(**rules)
    )
    aware = postprocess_panoptic(
        detections,
        logits,
        (120, 150),
        200,
        240,
        rules=CombineRules(**rules, confidence_aware=True, margin=1.0),
    )
    _assert_equal(aware, plain)
