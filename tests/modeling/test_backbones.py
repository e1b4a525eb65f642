import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from panoptic_lovasz import add_panoptic_lovasz_config, load_config
from panoptic_lovasz.errors import ConfigError
from panoptic_lovasz.modeling import TimmBackbone

pytest.importorskip("timm", reason="needs timm")

LITE0 = "tf_efficientnet_lite0"
IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


@pytest.fixture
def timm_cfg(slim_cfg):
    """The slim network with a timm backbone in place of its own."""

    def make(name="resnet10t", **options):
        cfg = slim_cfg.clone()
        cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
        cfg.MODEL.TIMM.NAME = name
        cfg.INPUT.FORMAT = "RGB"
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = IMAGENET["mean"], IMAGENET["std"]
        for key, value in options.items():
            cfg.MODEL.TIMM[key] = value
        return cfg

    return make


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        (LITE0, [24, 40, 112, 320]),
        ("resnet10t", [64, 128, 256, 512]),
        ("mobilenetv3_small_050", [8, 16, 24, 288]),
        ("convnext_atto", [40, 80, 160, 320]),
        ("dla34", [64, 128, 256, 512]),  # of which timm describes more maps than it returns
    ],
)
def test_feature_maps_have_the_strides_that_their_names_say_and_gradients_reach_the_input(
    name, channels
):
    backbone = TimmBackbone(name, norm="BN")
    shapes = backbone.output_shape()
    assert [shape.channels for shape in shapes.values()] == channels
    image = torch.rand(1, 3, 64, 96, requires_grad=True)
    features = backbone(image)
    for (key, shape), stride in zip(shapes.items(), (4, 8, 16, 32), strict=True):
        assert shape.stride == stride
        assert features[key].shape == (1, shape.channels, 64 // stride, 96 // stride)
    sum(f.mean() for f in features.values()).backward()
    assert image.grad.abs().sum() > 0


def test_a_model_of_a_larger_stride_than_32_is_tried_with_an_image_that_fits_it():
    backbone = TimmBackbone("efficientvim_m1", out_features=["res4", "res5", "res6"])
    assert [shape.stride for shape in backbone.output_shape().values()] == [16, 32, 64]


def test_only_the_features_that_are_wanted_are_returned():
    backbone = TimmBackbone("resnet10t", out_features=["res3", "res5"])
    assert list(backbone(torch.rand(1, 3, 32, 32))) == ["res3", "res5"]


@pytest.mark.parametrize("name", [LITE0, "convnext_atto"])
def test_the_memory_format_changes_nothing_but_the_rounding(name):
    torch.manual_seed(0)
    plain = TimmBackbone(name)
    other = TimmBackbone(name, channels_last=True)
    other.load_state_dict(plain.state_dict())
    weights = [p for p in other.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    image = torch.rand(1, 3, 64, 96)
    expected, found = plain(image), other(image)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4)


def test_a_panoptic_model_with_it_trains_and_predicts(timm_cfg):
    model = build_model(timm_cfg(NORM="BN"))
    image = {"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}
    instances = Instances((64, 96), gt_classes=torch.tensor([1]))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]]))
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[0, 8:40, 8:40] = True
    instances.gt_masks = BitMasks(mask)
    labels = torch.ones(64, 96, dtype=torch.int64)
    with EventStorage():
        losses = model([{**image, "sem_seg": labels, "instances": instances}])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.backbone.bottom_up.parameters())
    with torch.no_grad():
        panoptic, _ = model.eval()([image])[0]["panoptic_seg"]
    assert panoptic.shape == (64, 96)


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/tmp", "resnet10x", ""])
def test_a_name_that_timm_does_not_have_itself_is_refused(name):
    with pytest.raises(ConfigError, match=r"MODEL\.TIMM\.NAME is .* timm\.list_models\(\)"):
        TimmBackbone(name)


def test_a_misspelled_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'resnet10t'"):
        TimmBackbone("resnet10tt")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_tiny_patch16_224", {}, "takes images of one size only"),
        ("resnet10t", {"out_features": ["res2", "res6"]}, "no res6; it gives res1, res2, res3"),
        ("resnet10t", {"norm": "GN"}, "NORM is 'GN', expected one of BN, FrozenBN, SyncBN"),
        ("resnet10t", {"freeze_at": 6}, "FREEZE_AT is 6, expected 0 to 5"),
        ("densenet121", {"drop_path_rate": 0.1}, "with DROP_PATH_RATE 0.1"),
        ("resnet10t", {"drop_path_rate": 1.0}, "DROP_PATH_RATE is 1.0, expected .* below 1"),
        ("resnet10t", {"drop_path_rate": -0.5}, "DROP_PATH_RATE is -0.5"),
        ("mambaout_femto", {}, r"'mambaout_femto' cannot be a backbone: .* gives .*'res2': \("),
        (
            "mobilevitv2_050",
            {},
            r"'mobilevitv2_050' cannot be a backbone: an image \(3, 96, 160",
        ),
        # images are padded to its largest stride, so this is 16 there
        ("dla34", {"out_features": ["res3", "res4"]}, r"'dla34' cannot be a backbone: an image"),
    ],
)
def test_what_a_model_cannot_do_is_an_error_that_names_the_key(name, options, message):
    with pytest.raises(ConfigError, match=message):
        TimmBackbone(name, **options)


def _trainable(backbone):
    return {n.split(".")[1] for n, p in backbone.named_parameters() if p.requires_grad}


def test_freezing_follows_the_order_of_the_network():
    assert _trainable(TimmBackbone("resnet10t", norm="BN")) >= {"conv1", "bn1", "layer1"}
    stem = TimmBackbone("resnet10t", norm="BN", freeze_at=1)
    assert _trainable(stem) == {"layer1", "layer2", "layer3", "layer4"}
    two = TimmBackbone(LITE0, norm="BN", freeze_at=2)
    trained = {n for n, p in two.named_parameters() if p.requires_grad}
    assert not any(
        n.startswith(("network.conv", "network.bn1", "network.blocks.1")) for n in trained
    )
    assert any(n.startswith("network.blocks.2") for n in trained)


@pytest.mark.parametrize("options", [{"norm": "FrozenBN"}, {"norm": "BN", "freeze_at": 2}])
def test_frozen_normalization_does_not_change_in_training(options):
    backbone = TimmBackbone(LITE0, **options).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items() if "running" in k}
    backbone(torch.rand(2, 3, 64, 64))
    after = backbone.state_dict()
    changed = {k for k, v in before.items() if not torch.equal(v, after[k])}
    frozen = ("network.bn1", "network.blocks.0", "network.blocks.1")
    assert not any(k.startswith(frozen) for k in changed)
    assert bool(changed) == (options["norm"] == "BN")


def test_normalization_over_all_processes_is_detectron2s_name_for_synchronized():
    modules = list(TimmBackbone("resnet10t", norm="SyncBN").modules())
    assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in modules)
    assert not any(type(m) is torch.nn.BatchNorm2d for m in modules)


def test_frozen_normalization_keeps_the_activation_that_timm_puts_into_it():
    torch.manual_seed(1)
    trained = TimmBackbone(LITE0, norm="BN").eval()
    frozen = TimmBackbone(LITE0, norm="FrozenBN")
    frozen.load_state_dict(trained.state_dict())
    image = torch.rand(1, 3, 64, 64)
    for name, feature in trained(image).items():
        torch.testing.assert_close(frozen(image)[name], feature)


def test_the_model_says_how_images_are_normalized(tmp_path):
    base = "MODEL:\n  BACKBONE: {NAME: build_timm_fpn_backbone}\n"
    (tmp_path / "a.yaml").write_text(f"{base}  TIMM: {{NAME: {LITE0}}}\n")
    cfg = load_config(tmp_path / "a.yaml")
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == cfg.MODEL.PIXEL_STD == [127.5, 127.5, 127.5]
    cfg = load_config(tmp_path / "a.yaml", ["MODEL.TIMM.NAME", "resnet10t"])
    assert IMAGENET["std"] == cfg.MODEL.PIXEL_STD
    # what a base says of its own backbone does not hold for another
    (tmp_path / "b.yaml").write_text("MODEL: {PIXEL_STD: [57.375, 57.12, 58.395]}\n")
    (tmp_path / "c.yaml").write_text(f"_BASE_: b.yaml\n{base}")
    assert IMAGENET["std"] == load_config(tmp_path / "c.yaml").MODEL.PIXEL_STD
    assert load_config(tmp_path / "b.yaml").MODEL.PIXEL_STD == [57.375, 57.12, 58.395]


@pytest.mark.parametrize(
    ("key", "value"),
    [("INPUT.FORMAT", "BGR"), ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675])],
)
def test_a_normalization_that_contradicts_the_model_is_an_error(tmp_path, timm_cfg, key, value):
    (tmp_path / "a.yaml").write_text("MODEL: {BACKBONE: {NAME: build_timm_fpn_backbone}}\n")
    with pytest.raises(ConfigError, match=f"{key} is .* resnet50 was trained with"):
        load_config(tmp_path / "a.yaml", [key, value])
    cfg = timm_cfg()
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=f"{key} is .* resnet10t was trained with"):
        build_backbone(cfg)


def test_without_timm_the_error_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="pip install timm"):
        TimmBackbone("resnet10t")
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)  # the rest works without
