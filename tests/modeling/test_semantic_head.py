from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import nn
from torch.nn import functional as F

from panoptic_lovasz import LovaszSemSegFPNHead, add_panoptic_lovasz_config
from panoptic_lovasz.losses import SEM_SEG_LOSS_REGISTRY, build_sem_seg_loss

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
INPUT_SHAPE = {"p2": ShapeSpec(channels=8, stride=4), "p3": ShapeSpec(channels=8, stride=8)}


def _coco_config(name):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "COCO-PanopticSegmentation" / name))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def _head_config(**loss_options):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p2", "p3"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    for key, value in loss_options.items():
        cfg.MODEL.SEM_SEG_HEAD.LOSS[key] = value
    return cfg


def _features():
    return {"p2": torch.randn(2, 8, 8, 12), "p3": torch.randn(2, 8, 4, 6)}


def _flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize(
    ("ours", "zoo"),
    [
        ("panoptic_lovasz_R_50_3x.yaml", "panoptic_fpn_R_50_3x.yaml"),
        ("panoptic_lovasz_R_101_3x.yaml", "panoptic_fpn_R_101_3x.yaml"),
    ],
)
def test_a_model_zoo_checkpoint_has_exactly_the_parameters_of_our_model(ours, zoo):
    stock_cfg = model_zoo.get_config(f"COCO-PanopticSegmentation/{zoo}")
    stock_cfg.MODEL.DEVICE = "cpu"
    stock = build_model(stock_cfg).state_dict()
    model = build_model(_coco_config(ours))
    outcome = model.load_state_dict(stock, strict=False)
    assert not outcome.missing_keys and not outcome.unexpected_keys
    assert torch.equal(model.sem_seg_head.predictor.weight, stock["sem_seg_head.predictor.weight"])


@pytest.mark.parametrize(
    ("ours", "zoo"),
    [
        ("panoptic_lovasz_R_50_1x.yaml", "panoptic_fpn_R_50_1x.yaml"),
        ("panoptic_lovasz_R_50_3x.yaml", "panoptic_fpn_R_50_3x.yaml"),
        ("panoptic_lovasz_R_101_3x.yaml", "panoptic_fpn_R_101_3x.yaml"),
    ],
)
def test_the_coco_configs_differ_from_the_zoo_in_model_names_loss_and_data_alone(ours, zoo):
    ours = dict(_flat(_coco_config(ours)))
    stock = dict(_flat(model_zoo.get_config(f"COCO-PanopticSegmentation/{zoo}")))
    differing = {key for key, value in stock.items() if ours[key] != value}
    assert differing == {
        "MODEL.META_ARCHITECTURE",
        "MODEL.SEM_SEG_HEAD.NAME",
        "MODEL.DEVICE",
        "DATASETS.TRAIN",
        "DATASETS.TEST",
        "INPUT.MASK_FORMAT",
    }


def test_the_head_with_cross_entropy_alone_gives_the_loss_of_detectron2():
    cfg = _head_config(NAME="CrossEntropyLoss")
    head = LovaszSemSegFPNHead(cfg, INPUT_SHAPE)
    stock = SemSegFPNHead(cfg, INPUT_SHAPE)
    stock.load_state_dict(head.state_dict())
    features, target = _features(), torch.randint(0, 5, (2, 32, 48))
    target[0, :5] = 255
    _, losses = head(features, target)
    _, expected = stock(features, target)
    torch.testing.assert_close(losses["loss_sem_seg_ce"], expected["loss_sem_seg"])


def test_every_term_is_logged_by_name_and_weighted_by_lambda_s():
    cfg = _head_config()
    cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = 0.5
    head = LovaszSemSegFPNHead(cfg, INPUT_SHAPE)
    features, target = _features(), torch.randint(0, 5, (2, 32, 48))
    _, losses = head(features, target)
    unweighted = build_sem_seg_loss(cfg)(head.layers(features), target)
    assert set(losses) == {"loss_sem_seg_ce", "loss_sem_seg_lovasz"}
    for name, value in losses.items():
        torch.testing.assert_close(value, 0.5 * unweighted[name])


def test_inference_does_not_depend_on_the_loss():
    head = LovaszSemSegFPNHead(_head_config(), INPUT_SHAPE).eval()
    stock = SemSegFPNHead(_head_config(), INPUT_SHAPE).eval()
    stock.load_state_dict(head.state_dict())
    features = _features()
    assert torch.equal(head(features)[0], stock(features)[0])


def test_a_loss_that_a_user_registered_is_usable_by_its_name():
    class SquaredError(nn.Module):
        def __init__(self, cfg):
            super().__init__()

        def forward(self, logits, target):
            logits = F.interpolate(logits, size=target.shape[1:], mode="bilinear")
            one_hot = F.one_hot(target, logits.shape[1]).movedim(-1, 1)
            return {"loss_sem_seg_squared": (logits.softmax(1) - one_hot).square().mean()}

    SEM_SEG_LOSS_REGISTRY.register(SquaredError)
    head = LovaszSemSegFPNHead(_head_config(NAME="SquaredError"), INPUT_SHAPE)
    _, losses = head(_features(), torch.randint(0, 5, (2, 32, 48)))
    assert list(losses) == ["loss_sem_seg_squared"]


def test_logits_are_contiguous_whatever_the_memory_format_of_the_features():
    head = LovaszSemSegFPNHead(_head_config(), INPUT_SHAPE).eval()
    expected = head.layers(_features())
    features = {k: v.to(memory_format=torch.channels_last) for k, v in _features().items()}
    assert head.layers(features).is_contiguous() and expected.is_contiguous()
