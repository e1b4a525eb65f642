import pytest
import torch
from detectron2.layers import paste_masks_in_image
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_lovasz.merging import paste
from panoptic_lovasz.merging.paste import paste_masks, paste_regions


@st.composite
def _boxes(draw):
    """Sizes, and boxes that are fractional, on pixel borders, tiny or as large as the image."""
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    count = draw(st.integers(0, 5))
    corner = st.floats(0, 1, width=32)
    corners = torch.tensor([[draw(corner) for _ in range(4)] for _ in range(count)])
    boxes = corners.reshape(-1, 2, 2).sort(dim=1).values.reshape(-1, 4)
    boxes = boxes * torch.tensor([width, height, width, height])
    if draw(st.booleans()):
        boxes = boxes.round()
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + draw(st.sampled_from([1e-3, 0.5])))
    return (height, width), boxes


@settings(deadline=None)
@given(_boxes(), st.sampled_from(["noise", "steps", "half", "near half"]), st.integers(0, 2**31))
def test_pasted_masks_equal_detectron2_bit_for_bit(boxes, kind, seed):
    size, boxes = boxes
    masks = torch.rand(len(boxes), 28, 28, generator=torch.Generator().manual_seed(seed))
    if kind == "steps":  # many pixels exactly on the threshold
        masks = (4 * masks).round() / 4
    elif kind == "half":
        masks = torch.full_like(masks, 0.5)
    elif kind == "near half":
        masks = 0.5 + 1e-6 * (masks - 0.5)
    expected = paste_masks_in_image(masks, boxes, size, threshold=0.5).bool()
    result = paste_masks(masks, boxes, size)
    assert result.dtype == torch.bool
    assert torch.equal(result, expected)
    for mask, (y0, y1, x0, x1) in zip(expected, paste_regions(boxes, size).tolist(), strict=True):
        assert mask.sum() == mask[y0:y1, x0:x1].sum()


def test_an_instance_with_too_many_pixels_on_the_threshold_is_pasted_by_detectron2s_code():
    masks = torch.stack([torch.eye(28), torch.full((28, 28), 0.5)])
    boxes = torch.tensor([[20.3, 10.1, 140.0, 90.7], [0.0, 0.0, 150.0, 150.0]])
    expected = paste_masks_in_image(masks, boxes, (150, 150), threshold=0.5)
    assert torch.equal(paste_masks(masks, boxes, (150, 150)), expected)
    assert expected[1].sum() > 4096


def test_a_mask_reaches_one_pixel_beyond_its_box_but_not_out_of_the_image():
    boxes = torch.tensor([[3.5, 4.0, 10.2, 20.0], [0.5, 0.0, 30.0, 39.5]])
    assert paste_regions(boxes, (40, 30)).tolist() == [[3, 21, 2, 12], [0, 40, 0, 30]]


def test_without_the_compiled_kernel_the_masks_are_the_same(monkeypatch):
    masks, boxes = torch.rand(3, 28, 28), torch.tensor([[3.0, 4.0, 50.0, 60.0]] * 3)
    compiled = paste_masks(masks, boxes, (64, 64))
    monkeypatch.setattr(paste, "_compiled_kernel", lambda masks, boxes: None)
    assert torch.equal(paste_masks(masks, boxes, (64, 64)), compiled)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_masks_of_another_float_type_are_pasted_too(dtype):
    masks, boxes = torch.rand(2, 28, 28).to(dtype), torch.tensor([[3.0, 4.0, 50.0, 60.0]] * 2)
    expected = paste_masks_in_image(masks, boxes, (64, 64), threshold=0.5)
    assert torch.equal(paste_masks(masks, boxes, (64, 64)), expected)


def test_finite_float32_masks_are_pasted_by_the_compiled_kernel(monkeypatch):
    pytest.importorskip("panoptic_lovasz.merging.kernels.paste_numba")
    monkeypatch.setattr(paste, "_paste_stock", None)  # cannot be called
    masks, boxes = torch.rand(1, 28, 28), torch.tensor([[3.0, 4.0, 50.0, 60.0]])
    assert paste_masks(masks, boxes, (64, 64)).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_masks_that_are_not_finite_are_pasted_as_by_detectron2(value):
    masks, boxes = torch.rand(2, 28, 28), torch.tensor([[3.0, 4.0, 50.0, 60.0]] * 2)
    masks[1, 7, 9] = value
    expected = paste_masks_in_image(masks, boxes, (64, 64), threshold=0.5)
    assert torch.equal(paste_masks(masks, boxes, (64, 64)), expected)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_threshold_is_detectron2s(threshold, dtype):
    masks, boxes = (4 * torch.rand(3, 28, 28)).round() / 4, torch.tensor([[3.0, 4, 50, 60]] * 3)
    masks = masks.to(dtype)
    expected = paste_masks_in_image(masks, boxes, (64, 64), threshold=threshold)
    assert torch.equal(paste_masks(masks, boxes, (64, 64), threshold), expected)
