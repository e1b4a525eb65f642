import pickle

import pytest
import torch
from detectron2.structures import BitMasks, Instances
from hypothesis import given
from hypothesis import strategies as st

from panoptic_lovasz.data.masks import LabelMapMasks


@pytest.fixture
def masks():
    label_map = torch.tensor([[0, 1, 1], [2, 1, 3]], dtype=torch.uint8)
    return LabelMapMasks(label_map, torch.tensor([1, 3], dtype=torch.uint8))


def plain(masks):
    return BitMasks(masks.tensor)


def test_masks_are_where_the_label_map_has_the_label(masks):
    assert masks.tensor.int().tolist() == [[[0, 1, 1], [0, 1, 0]], [[0, 0, 0], [0, 0, 1]]]
    assert isinstance(masks, BitMasks)
    assert len(masks) == 2
    assert tuple(masks.image_size) == (2, 3)
    assert [m.tolist() for m in masks] == masks.tensor.tolist()
    assert repr(masks) == "LabelMapMasks(num_instances=2)"


@pytest.mark.parametrize(
    "item", [0, 1, -1, slice(1, None), torch.tensor([True, False]), torch.tensor([1, 0, 1])]
)
def test_indexing_gives_what_bit_masks_give(masks, item):
    assert torch.equal(masks[item].tensor, plain(masks)[item].tensor)
    assert isinstance(masks[item], LabelMapMasks)


def test_boxes_and_emptiness_are_those_of_bit_masks(masks):
    with_empty = LabelMapMasks(masks.label_map, torch.tensor([3, 9], dtype=torch.uint8))
    assert with_empty.nonempty().tolist() == [True, False]
    assert torch.equal(
        with_empty.get_bounding_boxes().tensor, plain(with_empty).get_bounding_boxes().tensor
    )


@given(st.integers(0, 2**31), st.integers(0, 6), st.sampled_from([1, 7, 28]))
def test_crops_are_those_of_bit_masks(seed, count, size):
    generator = torch.Generator().manual_seed(seed)
    label_map = torch.randint(0, 4, (17, 23), generator=generator).repeat_interleave(2, 1)
    labels = torch.randint(0, 5, (count,), generator=generator)
    corners = torch.rand(count, 2, generator=generator) * 20
    extents = torch.rand(count, 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + extents], dim=1)
    masks = LabelMapMasks(label_map, labels)
    assert torch.equal(
        masks.crop_and_resize(boxes, size), plain(masks).crop_and_resize(boxes, size)
    )


def test_a_box_per_mask_is_needed(masks):
    with pytest.raises(ValueError, match="3 boxes for 2 masks"):
        masks.crop_and_resize(torch.zeros(3, 4), 7)


def test_no_mask_at_all_is_fine(masks):
    none = masks[torch.tensor([], dtype=torch.long)]
    assert none.tensor.shape == (0, 2, 3)
    assert none.crop_and_resize(torch.zeros(0, 4), 7).shape == (0, 7, 7)
    assert len(none.get_bounding_boxes()) == 0


def test_masks_move_and_join_inside_instances(masks):
    instances = Instances((2, 3), gt_masks=masks)
    moved = instances.to("cpu")
    assert isinstance(moved.gt_masks, LabelMapMasks)
    assert moved.gt_masks.device == torch.device("cpu")
    joined = Instances.cat([instances, moved[1:]])
    assert torch.equal(joined.gt_masks.tensor, masks.tensor[[0, 1, 1]])


def test_what_a_worker_sends_is_one_map_whatever_the_number_of_masks():
    label_map = torch.zeros(100, 100, dtype=torch.uint8)
    sizes = [
        len(pickle.dumps(LabelMapMasks(label_map, torch.zeros(n, dtype=torch.uint8))))
        for n in (1, 50)
    ]
    assert sizes[1] < sizes[0] + 100
