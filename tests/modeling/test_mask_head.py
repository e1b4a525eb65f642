import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_mask_head
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from panoptic_lovasz import add_panoptic_lovasz_config
from panoptic_lovasz.modeling.mask_head import mask_lovasz_loss


def head(name="LovaszMaskHead", weight=1.0, agnostic=False):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    mask = cfg.MODEL.ROI_MASK_HEAD
    mask.NAME, mask.NUM_CONV, mask.CONV_DIM, mask.LOVASZ_WEIGHT = name, 1, 8, weight
    mask.CLS_AGNOSTIC_MASK = agnostic
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    torch.manual_seed(0)
    return build_mask_head(cfg, ShapeSpec(channels=4, width=7, height=7)).train()


def proposals(*counts):
    found = []
    for count in counts:
        image = Instances((40, 50))
        image.proposal_boxes = Boxes(torch.tensor([[4.0, 5.0, 30.0, 35.0]]).repeat(count, 1))
        image.gt_classes = torch.arange(count) % 3
        masks = torch.zeros(count, 40, 50, dtype=torch.bool)
        masks[:, 10:30, 8:20] = True
        image.gt_masks = BitMasks(masks)
        found.append(image)
    return found


def test_the_cross_entropy_is_detectron2s_and_so_are_the_parameters():
    stock, ours = head("MaskRCNNConvUpsampleHead"), head(weight=2.0)
    ours.load_state_dict(stock.state_dict())
    x = torch.randn(5, 4, 7, 7)
    with EventStorage():
        expected, losses = stock(x, proposals(2, 0, 3)), ours(x, proposals(2, 0, 3))
    assert losses["loss_mask"] == expected["loss_mask"]
    lovasz = mask_lovasz_loss(ours.layers(x), proposals(2, 0, 3))
    assert losses["loss_mask_lovasz"] == 2 * lovasz


def test_without_a_weight_the_losses_are_detectron2s_alone():
    with EventStorage():
        assert head(weight=0.0)(torch.randn(2, 4, 7, 7), proposals(2)).keys() == {"loss_mask"}


@pytest.mark.parametrize("classes", [1, 3])
def test_a_region_with_its_mask_costs_nothing_and_with_its_complement_everything(classes):
    images = proposals(1, 2)
    boxes = [i.gt_masks.crop_and_resize(i.proposal_boxes.tensor, 14) for i in images]
    sure = 100.0 * (2.0 * torch.cat(boxes) - 1)
    right = sure[:, None].repeat(1, classes, 1, 1)
    assert mask_lovasz_loss(right, images) == pytest.approx(0, abs=1e-6)
    assert mask_lovasz_loss(-right, images) == pytest.approx(1, abs=2e-3)


def test_the_loss_is_the_mean_over_regions_of_one_minus_the_iou_for_sure_masks():
    images = proposals(1, 1)
    sure = torch.full((2, 3, 14, 14), -100.0)
    target = images[0].gt_masks.crop_and_resize(images[0].proposal_boxes.tensor, 14)[0] > 0.5
    sure[0, 0] = 200.0 * target - 100  # the first is right, the second finds nothing
    assert mask_lovasz_loss(sure, images) == pytest.approx(0.5, abs=2e-3)


def test_no_region_gives_zero_with_zero_gradients():
    x = torch.randn(0, 4, 7, 7, requires_grad=True)
    with EventStorage():
        losses = head()(x, proposals(0, 0))
    assert losses["loss_mask_lovasz"] == 0
    sum(losses.values()).backward()


def test_the_gradient_reaches_the_logits_of_the_regions_own_class_alone():
    logits = torch.randn(3, 3, 14, 14, requires_grad=True)
    mask_lovasz_loss(logits, proposals(3)).backward()
    own = logits.grad.flatten(2).abs().sum(2)
    assert (own.diagonal() > 0).all()
    assert (own == own.diagonal().diag()).all()
