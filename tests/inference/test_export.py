import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from torch import nn

from panoptic_lovasz.errors import ConfigError
from panoptic_lovasz.inference import PanopticPredictor
from panoptic_lovasz.inference.export import check_export, example_image, export_predictor
from panoptic_lovasz.inference.exported import OUTPUTS, _rules, load_exported, merge_outputs
from panoptic_lovasz.merging import CombineRules
from panoptic_lovasz.modeling import LovaszSemSegFPNHead
from panoptic_lovasz.tools.export import main


@pytest.fixture(scope="module")
def images():
    """Three images of different sizes; the last is of one color."""
    torch.manual_seed(0)
    noise = torch.rand(3, 96, 96) * 255
    return [noise[:, :64], noise[:, :50, :90].contiguous(), torch.full((3, 64, 64), 255.0)]


@pytest.fixture(scope="module")
def exportable(tiny_cfg, predictor, images):
    """A network that finds things in the noise but nothing in the image of one color."""
    with torch.no_grad():
        scores = [predictor.model([{"image": i}])[0]["instances"].scores for i in images]
    threshold = ((scores[0].max() + scores[2].max()) / 2).item()
    assert scores[0].max() > threshold > scores[2].max()
    cfg = tiny_cfg.clone()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = threshold
    limited = PanopticPredictor(cfg)
    limited.model.load_state_dict(predictor.model.state_dict())
    return limited


@pytest.fixture(scope="module", params=["ts", "onnx"])
def exported(request, exportable, images, tmp_path_factory):
    if request.param == "onnx":
        pytest.importorskip("onnxruntime", reason="ONNX needs the extra packages of [export]")
        pytest.importorskip("onnxscript", reason="ONNX needs the extra packages of [export]")
    path = tmp_path_factory.mktemp("export") / f"model.{request.param}"
    export_predictor(exportable, path, images[0])
    return path


def test_the_exported_network_gives_the_same_outputs_at_every_size(exported, exportable, images):
    worst = check_export(exportable, exported, images)
    assert set(worst) == set(OUTPUTS)
    assert worst["boxes"] < 1e-2 and worst["masks"] < 1e-4 and worst["classes"] == 0


def test_an_image_without_instances_gives_empty_outputs(exported, images):
    run = load_exported(exported)
    assert len(run(images[0])["scores"]) > 0
    outputs = run(images[2])
    assert {name: len(outputs[name]) for name in ("boxes", "classes", "masks", "scores")} == {
        "boxes": 0,
        "classes": 0,
        "masks": 0,
        "scores": 0,
    }
    assert outputs["image_size"].tolist() == [64, 64]


def test_the_exported_network_computes_with_as_many_threads_as_pytorch(exported):
    if exported.suffix == ".ts" or not Path("/proc/self/task").is_dir():
        pytest.skip("TorchScript's threads are PyTorch's own; threads are counted on Linux")
    loaded, added = [], []
    threads = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            before = len(os.listdir("/proc/self/task"))
            loaded.append(load_exported(exported))
            added.append(len(os.listdir("/proc/self/task")) - before)
    finally:
        torch.set_num_threads(threads)
    assert added == [0, 2]


def test_merging_the_outputs_gives_the_predictors_segmentation(exported, exportable, images):
    description = json.loads(exported.with_suffix(".json").read_text())
    run = load_exported(exported)
    for image in images:
        merged, segments = merge_outputs(run(image), description, 75, 101)
        with torch.no_grad():
            [expected] = exportable.model([{"image": image, "height": 75, "width": 101}])
        expected_map, expected_segments = expected["panoptic_seg"]
        assert (merged == expected_map).float().mean() > 0.999
        assert [(s["id"], s["category_id"], s["isthing"]) for s in segments] == [
            (s["id"], s["category_id"], s["isthing"]) for s in expected_segments
        ]


def test_the_description_says_how_to_feed_the_network(exported, exportable):
    description = json.loads(exported.with_suffix(".json").read_text())
    assert description["input"]["image"] == "float32 (3, H, W), 0..255, BGR"
    assert description["input"]["short_side"] == 64
    assert description["categories"] == exportable.categories
    assert list(description["outputs"]) == list(OUTPUTS)


def test_a_network_with_other_weights_does_not_pass_the_check(exported, tiny_cfg, images):
    torch.manual_seed(5)
    with pytest.raises(ConfigError, match=r"output '\w+' for an image of \(64, 96\)"):
        check_export(PanopticPredictor(tiny_cfg), exported, images[:1])


def test_a_network_with_other_logits_does_not_pass_the_check(exported, exportable, images):
    other = PanopticPredictor(exportable.cfg)
    other.model.load_state_dict(exportable.model.state_dict())
    with torch.no_grad():
        other.model.sem_seg_head.predictor.bias += 0.5
    with pytest.raises(ConfigError, match=r"'sem_seg' .* differs from the network's by up to 0\.5"):
        check_export(other, exported, images[:1])


class Untraceable(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args):
        if torch.jit.is_tracing():
            raise NotImplementedError("this layer cannot be traced\nfor a reason")
        return self.inner(*args)


@pytest.mark.parametrize(
    ("part", "layer"),
    [
        ("backbone", "bottom_up.stem"),
        ("sem_seg_head", "predictor"),
        ("proposal_generator", "rpn_head"),
        ("roi_heads", "box_predictor.cls_score"),
    ],
)
def test_a_part_that_cannot_be_exported_is_named_with_the_reason(
    tiny_cfg, images, tmp_path, part, layer
):
    predictor = PanopticPredictor(tiny_cfg)
    *path, last = f"{part}.{layer}".split(".")
    parent = predictor.model.get_submodule(".".join(path))
    setattr(parent, last, Untraceable(getattr(parent, last)))
    message = rf"the network's {part} \(\w+\) cannot be exported to \.ts: .*this layer cannot"
    with pytest.raises(ConfigError, match=message):
        export_predictor(predictor, tmp_path / "model.ts", images[0])
    assert list(tmp_path.iterdir()) == []


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_an_operator_that_onnx_does_not_have_is_named_with_its_part(tiny_cfg, images, tmp_path):
    pytest.importorskip("onnxscript", reason="ONNX needs the extra packages of [export]")
    predictor = PanopticPredictor(tiny_cfg)
    predictor.model.backbone.bottom_up.stem = nn.Sequential(
        predictor.model.backbone.bottom_up.stem, Bessel()
    )
    with pytest.raises(ConfigError, match=r"backbone \(FPN\) cannot .*\.onnx.*bessel_j0"):
        export_predictor(predictor, tmp_path / "model.onnx", images[0])


@pytest.mark.parametrize("name", ["model.pb", "model"])
def test_an_unknown_ending_is_refused(predictor, images, tmp_path, name):
    with pytest.raises(ConfigError, match=r"ends in \.ts \(TorchScript\) or \.onnx"):
        export_predictor(predictor, tmp_path / name, images[0])
    with pytest.raises(ConfigError, match=r"ends in \.ts \(TorchScript\) or \.onnx"):
        load_exported(tmp_path / name)


def test_a_missing_package_is_named_with_the_extra_that_has_it(
    predictor, images, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"package onnx: pip install 'panoptic_lovasz\[export\]'"):
        export_predictor(predictor, tmp_path / "model.onnx", images[0])


def test_the_tool_exports_a_checkpoint_and_prints_the_differences(
    tiny_cfg, predictor, photo_folder, tmp_path, capsys
):
    (tmp_path / "config.yaml").write_text(tiny_cfg.dump())
    torch.save(predictor.model.state_dict(), tmp_path / "model_final.pth")
    output = tmp_path / "deploy" / "model.ts"
    main(
        [
            "--checkpoint",
            str(tmp_path),
            "--output",
            str(output),
            "--image",
            str(photo_folder / "a.png"),
        ]
    )
    printed = capsys.readouterr().out
    assert all(name in printed for name in OUTPUTS)
    assert sorted(p.name for p in output.parent.iterdir()) == ["model.json", "model.ts"]
    assert main(["--checkpoint", str(tmp_path / "none"), "--output", str(output)]) == 1
    assert "none' is not a file" in capsys.readouterr().err


def test_the_networks_input_is_resized_and_in_its_channel_order(predictor, photo):
    tensor = predictor.network_input(photo)
    assert tuple(tensor.shape) == (3, 64, 96)
    blue = tensor[0].float().mean().item()
    np.testing.assert_allclose(blue, photo[..., 2].mean(), atol=2)


def test_the_tool_exports_a_config_with_options_and_traces_with_noise(tiny_cfg, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(tiny_cfg.dump())
    output = tmp_path / "model.ts"
    main(
        [
            "--config-file",
            str(tmp_path / "a.yaml"),
            "--output",
            str(output),
            "--opts",
            "INPUT.MIN_SIZE_TEST",
            "48",
        ]
    )
    assert "at two sizes" in capsys.readouterr().out
    assert json.loads(output.with_suffix(".json").read_text())["input"]["short_side"] == 48


def test_the_cpu_may_be_named_with_an_index(exportable, images, tmp_path, monkeypatch):
    monkeypatch.setitem(exportable.cfg.MODEL, "DEVICE", "cpu:0")
    export_predictor(exportable, tmp_path / "model.ts", images[0])
    assert max(check_export(exportable, tmp_path / "model.ts", images).values()) < 1e-3


def test_a_network_on_another_device_is_not_exported(tiny_cfg, images, tmp_path):
    predictor = PanopticPredictor(tiny_cfg)
    predictor.cfg.MODEL.DEVICE = "cuda"  # as it would be there
    with pytest.raises(ConfigError, match="export from the CPU"):
        export_predictor(predictor, tmp_path / "model.ts", images[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_to_trace_with_is_always_the_same_and_as_large_as_the_networks_input(
    tiny_cfg, channels
):
    cfg = tiny_cfg.clone()
    cfg.MODEL.PIXEL_MEAN = [100.0] * channels
    image = example_image(cfg)
    assert image.shape == (channels, 64, 85) and image.dtype == torch.float32
    assert 0 <= image.min() < 10 and 245 < image.max() <= 255
    assert torch.equal(image, example_image(cfg))
    cfg.INPUT.MIN_SIZE_TEST = 0  # images keep their size
    assert example_image(cfg).numel() > 0


class OwnInference(PanopticFPN):
    def inference(self, batched_inputs, do_postprocess=True):
        return []


@pytest.mark.parametrize("kind", [GeneralizedRCNN, OwnInference])
def test_a_network_that_is_no_panoptic_fpn_is_refused(tiny_cfg, images, tmp_path, kind):
    predictor = PanopticPredictor(tiny_cfg)
    predictor.model.__class__ = kind
    predictor.cfg.MODEL.META_ARCHITECTURE = kind.__name__
    with pytest.raises(ConfigError, match=rf"is '{kind.__name__}', but only 'PanopticLovaszFPN'"):
        export_predictor(predictor, tmp_path / "model.ts", images[0])


class Reversed(LovaszSemSegFPNHead):
    """A head that does more than to upsample what its layers give."""

    def forward(self, features, targets=None):
        logits, losses = super().forward(features, targets)
        return logits.flip(1), losses


def test_what_a_semantic_head_of_ones_own_adds_is_exported(exportable, images, tmp_path):
    predictor = PanopticPredictor(exportable.cfg)
    predictor.model.load_state_dict(exportable.model.state_dict())
    predictor.model.sem_seg_head.__class__ = Reversed
    export_predictor(predictor, tmp_path / "model.ts", images[0])
    description = json.loads((tmp_path / "model.json").read_text())
    outputs = load_exported(tmp_path / "model.ts")(images[0])
    merged, _ = merge_outputs(outputs, description, 64, 96)
    for model, same in ((predictor.model, True), (exportable.model, False)):
        with torch.no_grad():
            [output] = model([{"image": images[0]}])
        assert torch.equal(merged, output["panoptic_seg"][0]) is same


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suffix"),
    [("tf_efficientnet_lite0", "onnx"), ("mobilenetv3_small_050", "ts"), ("convnext_atto", "ts")],
)
def test_a_network_on_a_timm_backbone_is_exported_for_every_size(
    tiny_cfg, images, tmp_path, name, suffix
):
    timm = pytest.importorskip("timm", reason="needs timm")
    if suffix == "onnx":
        pytest.importorskip("onnxruntime", reason="ONNX needs the extra packages of [export]")
        pytest.importorskip("onnxscript", reason="ONNX needs the extra packages of [export]")
    cfg = tiny_cfg.clone()
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = name
    trained = timm.get_pretrained_cfg(name)
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [255 * v for v in trained.mean]
    cfg.MODEL.PIXEL_STD = [255 * v for v in trained.std]
    predictor = PanopticPredictor(cfg)
    path = tmp_path / f"model.{suffix}"
    export_predictor(predictor, path, images[0])
    worst = check_export(predictor, path, images)
    assert worst["boxes"] < 1e-2 and worst["masks"] < 1e-4 and worst["sem_seg"] < 1e-3


def test_the_rules_in_a_description_that_an_earlier_version_wrote_are_understood():
    old = {
        "overlap_threshold": 0.4,
        "stuff_area_limit": 9,
        "instances_score_threshold": 0.3,
        "void_labels": [2],
        "confidence_margin": 0.1,
    }
    assert _rules(old) == CombineRules(0.4, 9, 0.3, (2,), True, 0.1)
    assert not _rules(old | {"confidence_margin": None}).confidence_aware
    rules = CombineRules(0.4, 9, 0.3, (2,), True, 0.1)
    assert _rules(json.loads(json.dumps(asdict(rules)))) == rules
