"""Detectron2's Python configs with this project's classes, as docs/other_models.md shows them."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.model_zoo import get_config
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from panoptic_lovasz.merging import CombineRules

PAGE = Path(__file__).resolve().parents[2] / "docs/other_models.md"


@pytest.fixture
def lazy_model():
    section = PAGE.read_text(encoding="utf-8").partition("## Python configs")[2]
    names = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)
    return names["model"]


def _item():
    instances = Instances((64, 96))
    instances.gt_boxes = Boxes([[10, 20, 60, 50]])
    instances.gt_classes = torch.tensor([3])
    instances.gt_masks = BitMasks(torch.zeros(1, 64, 96, dtype=torch.bool))
    instances.gt_masks.tensor[:, 20:50, 10:60] = True
    sem_seg = torch.randint(0, 54, (64, 96))
    sem_seg[:5] = 255
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    return {"image": image, "sem_seg": sem_seg, "instances": instances}


def _step(model, item):
    torch.manual_seed(0)  # regions are drawn
    with EventStorage():
        return model.train()([item])


def test_the_page_s_model_has_detectron2_s_parameters_and_its_losses_and_the_lovasz_terms(
    lazy_model,
):
    stock = instantiate(get_config("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py").model)
    ours = instantiate(lazy_model)
    ours.load_state_dict(stock.state_dict())
    item = _item()
    expected, losses = _step(stock, item), _step(ours, item)
    expected["loss_sem_seg_ce"] = expected.pop("loss_sem_seg")
    lovasz = {name: losses.pop(name) for name in ("loss_sem_seg_lovasz", "loss_mask_lovasz")}
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert all(0 < value < 1 for value in lovasz.values())
    assert "panoptic_seg" in ours.eval()([item])[0]


def test_rules_of_merging_are_set_in_a_python_config(lazy_model):
    lazy_model.combine_rules = LazyCall(CombineRules)(stuff_area_limit=7)
    assert instantiate(lazy_model).combine_rules.stuff_area_limit == 7
