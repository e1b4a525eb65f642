import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config
from detectron2.projects.point_rend import add_pointrend_config

from panoptic_lovasz import add_panoptic_lovasz_config

FEATURES = {
    "res2": ShapeSpec(channels=6, stride=4),
    "res3": ShapeSpec(channels=8, stride=8),
    "res5": ShapeSpec(channels=12, stride=16),
}
CLASSES = 5


def config(name):
    cfg = get_cfg()
    add_panoptic_deeplab_config(cfg)
    add_panoptic_lovasz_config(cfg)
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME, head.NUM_CLASSES, head.NORM = name, CLASSES, "GN"
    head.IN_FEATURES, head.PROJECT_CHANNELS = ["res2", "res3", "res5"], [32, 32]
    head.CONVS_DIM = head.ASPP_CHANNELS = head.HEAD_CHANNELS = 32
    head.ASPP_DROPOUT = 0.0
    return cfg


def build(cfg):
    torch.manual_seed(0)
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, FEATURES).train()


def batch():
    features = {
        name: torch.randn(2, spec.channels, 64 // spec.stride, 64 // spec.stride)
        for name, spec in FEATURES.items()
    }
    labels = torch.randint(0, CLASSES, (2, 64, 64))
    labels[:, :9] = 255
    return features, labels


HEADS = {
    "LovaszDeepLabV3PlusHead": "DeepLabV3PlusHead",
    "LovaszPanopticDeepLabSemSegHead": "PanopticDeepLabSemSegHead",
}


@pytest.mark.parametrize(
    ("name", "loss_type"),
    [
        ("LovaszDeepLabV3PlusHead", "cross_entropy"),
        ("LovaszDeepLabV3PlusHead", "hard_pixel_mining"),
        ("LovaszPanopticDeepLabSemSegHead", "hard_pixel_mining"),
    ],
)
def test_the_heads_own_loss_is_as_it_was_and_the_region_term_is_added(name, loss_type):
    cfg = config(name)
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = loss_type
    cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = 3.0
    head = build(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NAME = HEADS[name]
    stock = build(cfg)
    stock.load_state_dict(head.state_dict())  # the same parameters, under the same names
    features, labels = batch()
    weights = (torch.rand(2, 64, 64),) if "Panoptic" in name else ()
    _, losses = head(features, labels, *weights)
    _, expected = stock(features, labels, *weights)
    assert losses.keys() == {"loss_sem_seg", "loss_sem_seg_lovasz"}
    assert losses["loss_sem_seg"] == expected["loss_sem_seg"]
    logits = head.layers(features)
    assert (
        losses["loss_sem_seg_lovasz"] == 3 * head.region_loss(logits, labels)["loss_sem_seg_lovasz"]
    )
    losses["loss_sem_seg_lovasz"].backward()
    assert head.predictor.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", HEADS)
def test_cross_entropy_alone_adds_nothing(name):
    cfg = config(name)
    cfg.MODEL.SEM_SEG_HEAD.LOSS.NAME = "CrossEntropyLoss"
    features, labels = batch()
    weights = (torch.ones(2, 64, 64),) if "Panoptic" in name else ()
    _, losses = build(cfg)(features, labels, *weights)
    assert losses.keys() == {"loss_sem_seg"}


def test_point_rend_takes_the_head_as_its_coarse_head():
    cfg = get_cfg()
    add_pointrend_config(cfg)
    add_panoptic_lovasz_config(cfg)
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME, head.NUM_CLASSES, head.CONVS_DIM = "PointRendSemSegHead", CLASSES, 32
    head.IN_FEATURES = ["res2", "res3"]
    point = cfg.MODEL.POINT_HEAD
    point.COARSE_SEM_SEG_HEAD_NAME = "LovaszSemSegFPNHead"
    point.NUM_CLASSES, point.IN_FEATURES, point.FC_DIM = CLASSES, ["res2"], 16
    point.TRAIN_NUM_POINTS = 64
    features, labels = batch()
    _, losses = build(cfg)(features, labels)
    assert losses.keys() == {"loss_sem_seg_ce", "loss_sem_seg_lovasz", "loss_sem_seg_point"}
    sum(losses.values()).backward()
