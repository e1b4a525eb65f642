import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.model_zoo import get_config
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.merging import CombineRules

OTHER_MODELS = Path(__file__).resolve().parents[2] / "docs/other_models.md"


@pytest.fixture(scope="module")
def model(slim_cfg):
    torch.manual_seed(0)
    return build_model(slim_cfg)


@pytest.fixture(autouse=True)
def _storage():
    with EventStorage():
        yield


def _item(labels=None):
    instances = Instances((64, 96))
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[0, 10:40, 20:60] = True
    instances.gt_masks = BitMasks(masks)
    instances.gt_boxes = Boxes([[20.0, 10.0, 60.0, 40.0]])
    instances.gt_classes = torch.tensor([1])
    sem_seg = torch.full((64, 96), 2) if labels is None else labels
    image = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
    return {"file_name": "street.jpg", "image": image, "sem_seg": sem_seg, "instances": instances}


def test_training_returns_the_losses_of_both_branches(model):
    losses = model.train()([_item(), _item()])
    assert set(losses) == {
        "loss_sem_seg_ce",
        "loss_sem_seg_lovasz",
        "loss_rpn_cls",
        "loss_rpn_loc",
        "loss_cls",
        "loss_box_reg",
        "loss_mask",
    }
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_instance_loss_weight_scales_box_class_and_mask_losses_only(slim_cfg, model):
    cfg = slim_cfg.clone()
    cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT = 0.25
    weighted = build_model(cfg)
    weighted.load_state_dict(model.state_dict())
    items = [_item()]
    torch.manual_seed(1)
    plain = model.train()(items)
    torch.manual_seed(1)
    scaled = weighted.train()(items)
    for name, loss in plain.items():
        factor = 0.25 if name in ("loss_cls", "loss_box_reg", "loss_mask") else 1.0
        torch.testing.assert_close(scaled[name], factor * loss)


def test_the_instance_loss_weight_scales_every_stage_of_a_cascade(slim_cfg):
    cfg = slim_cfg.clone()
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    plain = build_model(cfg).roi_heads
    cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT = 0.25
    scaled = build_model(cfg).roi_heads
    assert len(scaled.box_predictor) == 3
    for before, after in zip(plain.box_predictor, scaled.box_predictor, strict=True):
        box = before.loss_weight["loss_box_reg"]
        assert after.loss_weight == {"loss_cls": 0.25, "loss_box_reg": 0.25 * box}
    assert scaled.mask_head.loss_weight == 0.25 * plain.mask_head.loss_weight


def test_a_batch_without_any_label_and_any_instance_trains(model):
    item = _item(torch.full((64, 96), 255))
    item["instances"] = item["instances"][:0]
    losses = model.train()([item])
    assert losses["loss_sem_seg_ce"] == 0 and losses["loss_sem_seg_lovasz"] == 0
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    model.zero_grad()


@pytest.mark.parametrize("field", ["sem_seg", "instances"])
def test_a_missing_field_is_named_with_its_image_and_the_remedy(model, field):
    item = _item()
    del item[field]
    with pytest.raises(DatasetError, match=rf"street\.jpg: the field '{field}'.*Mapper"):
        model.train()([item])


def test_a_label_out_of_range_is_named_with_its_image(model):
    labels = torch.full((64, 96), 2)
    labels[3, 4] = 77
    with pytest.raises(DatasetError, match=r"77.*street\.jpg"):
        model.train()([_item(labels)])


def test_an_error_of_a_loss_of_the_users_is_not_blamed_on_the_images(model, monkeypatch):
    def broken(logits, target):
        _, _, _, _, _ = logits.shape

    monkeypatch.setattr(model.sem_seg_head, "losses", broken)
    with pytest.raises(ValueError, match="unpack") as caught:
        model.train()([_item()])
    assert not isinstance(caught.value, DatasetError)


@torch.no_grad()
def test_inference_returns_what_detectron2_returns(model):
    image = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
    (result,) = model.eval()([{"image": image, "height": 128, "width": 192}])
    panoptic_seg, segments_info = result["panoptic_seg"]
    assert panoptic_seg.shape == (128, 192) and panoptic_seg.dtype == torch.int32
    assert {s["id"] for s in segments_info} == set(panoptic_seg.unique().tolist()) - {0}
    assert result["sem_seg"].shape[1:] == (128, 192)


@pytest.fixture
def lazy_model():
    """The Python config that the page shows."""
    section = OTHER_MODELS.read_text(encoding="utf-8").partition("## Python configs")[2]
    names = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)
    return names["model"]


def test_a_python_config_makes_detectron2s_model_with_the_lovasz_terms(lazy_model):
    stock = instantiate(get_config("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py").model)
    ours = instantiate(lazy_model)
    ours.load_state_dict(stock.state_dict())
    item = _item(torch.arange(64 * 96).reshape(64, 96) % 54)
    torch.manual_seed(1)  # regions are drawn
    expected = stock.train()([item])
    torch.manual_seed(1)
    losses = ours.train()([item])
    expected["loss_sem_seg_ce"] = expected.pop("loss_sem_seg")
    lovasz = [losses.pop(name) for name in ("loss_sem_seg_lovasz", "loss_mask_lovasz")]
    assert all(0 < value < 1 for value in lovasz)
    torch.testing.assert_close(losses, expected)
    assert "panoptic_seg" in ours.eval()([item])[0]


def test_a_python_config_sets_the_rules_of_merging(lazy_model):
    lazy_model.combine_rules = LazyCall(CombineRules)(stuff_area_limit=7)
    assert instantiate(lazy_model).combine_rules.stuff_area_limit == 7
