import copy

import pytest
import torch
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model

from panoptic_lovasz import LovaszSemSegFPNHead
from panoptic_lovasz.errors import ConfigError


def _config(slim_cfg, **options):
    cfg = slim_cfg.clone()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # instances in spite of random weights
    combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
    combine.INSTANCES_CONFIDENCE_THRESH = 0.1
    combine.STUFF_AREA_LIMIT = 50
    for key, value in options.items():
        combine[key] = value
    return cfg


def _images():
    sizes = [((150, 200), (180, 240)), ((130, 210), (130, 210))]
    return [
        {
            "image": torch.randint(0, 255, (3, *size), dtype=torch.uint8),
            "height": height,
            "width": width,
        }
        for size, (height, width) in sizes
    ]


def _assert_equal(results, expected):
    for ours, stock in zip(results, expected, strict=True):
        assert list(ours) == list(stock)
        assert torch.equal(ours["sem_seg"], stock["sem_seg"])
        assert torch.equal(ours["panoptic_seg"][0], stock["panoptic_seg"][0])
        assert ours["panoptic_seg"][1] == stock["panoptic_seg"][1]
        fields = ours["instances"].get_fields()
        assert list(fields) == list(stock["instances"].get_fields())
        for name in ("scores", "pred_classes", "pred_masks"):
            assert torch.equal(fields[name], stock["instances"].get(name))


@pytest.fixture
def models(slim_cfg):
    stock = build_model(_config(slim_cfg, IMPL="detectron2")).eval()
    fast = build_model(_config(slim_cfg)).eval()
    fast.load_state_dict(stock.state_dict())
    return stock, fast


@torch.no_grad()
@pytest.mark.parametrize("mixed_precision", [False, True])
def test_both_implementations_give_the_same_results(models, mixed_precision):
    images = _images()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed_precision):
        stock, fast = (model(copy.deepcopy(images)) for model in models)
    _assert_equal(fast, stock)
    assert any(s["isthing"] for s in stock[0]["panoptic_seg"][1])
    assert any(not s["isthing"] for s in stock[0]["panoptic_seg"][1])


def test_results_outside_of_no_grad_are_the_same(models):
    images = _images()[:1]
    stock, fast = (model(copy.deepcopy(images)) for model in models)
    _assert_equal(fast, stock)


@torch.no_grad()
def test_without_post_processing_the_raw_outputs_are_detectron2s(models):
    images = _images()
    stock, fast = (model.inference(images, do_postprocess=False) for model in models)
    for ours, expected in zip(fast[1], stock[1], strict=True):
        assert torch.equal(ours, expected)


@torch.no_grad()
def test_a_head_with_a_forward_of_its_own_is_asked_for_full_size_logits(slim_cfg):
    class InvertedHead(LovaszSemSegFPNHead):
        def forward(self, features, targets=None):
            logits, losses = super().forward(features, targets)
            return -logits, losses

    SEM_SEG_HEADS_REGISTRY.register(InvertedHead)
    results = []
    for implementation in ("fast", "detectron2"):
        cfg = _config(slim_cfg, IMPL=implementation)
        cfg.MODEL.SEM_SEG_HEAD.NAME = "InvertedHead"
        torch.manual_seed(0)
        results.append(build_model(cfg).eval()(_images()[:1]))
        torch.manual_seed(0)
    _assert_equal(*results)


def test_an_unknown_implementation_is_refused(slim_cfg):
    with pytest.raises(ConfigError, match=r"COMBINE\.IMPL is 'quick'"):
        build_model(_config(slim_cfg, IMPL="quick"))


@pytest.mark.parametrize("rule", [{"VOID_LABELS": [1]}, {"CONFIDENCE_AWARE": True}])
def test_detectron2s_implementation_refuses_rules_that_it_does_not_know(slim_cfg, rule):
    with pytest.raises(ConfigError, match='IMPL "fast"'):
        build_model(_config(slim_cfg, IMPL="detectron2", **rule))


@torch.no_grad()
def test_void_labels_of_the_config_are_left_unassigned(slim_cfg):
    images = _images()[:1]
    torch.manual_seed(0)
    (plain,) = build_model(_config(slim_cfg)).eval()(images)
    stuff = {s["category_id"] for s in plain["panoptic_seg"][1] if not s["isthing"]}
    torch.manual_seed(0)
    (result,) = build_model(_config(slim_cfg, VOID_LABELS=sorted(stuff))).eval()(images)
    assert stuff and all(s["isthing"] for s in result["panoptic_seg"][1])
