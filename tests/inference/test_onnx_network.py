import sys
import tempfile

import numpy as np
import pytest
import torch

from panoptic_lovasz.errors import ConfigError
from panoptic_lovasz.inference import PanopticPredictor
from panoptic_lovasz.inference import predictor as predictor_module
from panoptic_lovasz.inference.onnx_network import check_onnx_options


@pytest.fixture(scope="module")
def onnx_packages():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="ONNX needs the extra packages of [export]")


@pytest.fixture(scope="module", params=["Detectron2's rules", "own rules"])
def pair(request, onnx_packages, tiny_cfg, tmp_path_factory):
    """One network in PyTorch and in ONNX Runtime, and the folder of its temporary files."""
    cfg = tiny_cfg.clone()
    if request.param == "own rules":
        combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
        combine.CONFIDENCE_AWARE, combine.MARGIN, combine.VOID_LABELS = True, 0.0, [2]
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        torch.manual_seed(0)
        in_torch = PanopticPredictor(cfg)
        torch.manual_seed(0)
        in_onnx = PanopticPredictor(cfg, backend="onnx", batch_size=3)
    return in_torch, in_onnx, folder


def assert_nearly_same(actual, expected):
    np.testing.assert_array_equal(actual.image, expected.image)
    assert actual.classes == expected.classes and actual.source == expected.source
    assert actual.segment_map.dtype == expected.segment_map.dtype
    assert actual.segment_map.shape == expected.segment_map.shape
    assert (actual.segment_map == expected.segment_map).mean() > 0.999
    assert [(s.id, s.category_id, s.isthing) for s in actual.segments] == [
        (s.id, s.category_id, s.isthing) for s in expected.segments
    ]
    for a, b in zip(actual.segments, expected.segments, strict=True):
        assert (a.score is None) == (b.score is None)
        assert a.score == pytest.approx(b.score, abs=1e-5)


@pytest.mark.parametrize(
    "shape", [(60, 90), (90, 60), (64, 64), (31, 200), (1, 1), (1, 3000), (300, 2)]
)
def test_onnx_runtime_gives_the_result_of_pytorch_for_every_size(pair, shape):
    in_torch, in_onnx, _ = pair
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = in_torch(image)
    assert expected.segments
    assert_nearly_same(in_onnx(image), expected)


def test_a_stream_of_mixed_sizes_comes_in_order_whatever_the_batch_size(pair, photo):
    in_torch, in_onnx, _ = pair
    images = [photo, photo[:50], photo[:, ::-1], photo[::-1]]
    results = list(in_onnx.predict(iter(images)))
    for result, image in zip(results, images, strict=True):
        assert_nearly_same(result, in_torch(image))


def test_the_exported_file_is_not_left_behind(pair):
    _, _, folder = pair
    assert list(folder.iterdir()) == []


def test_the_network_is_run_by_onnx_runtime_and_not_by_pytorch(pair, photo):
    _, in_onnx, _ = pair
    calls = []
    handle = in_onnx.model.backbone.register_forward_hook(lambda *args: calls.append(args))
    in_onnx(photo)
    handle.remove()
    assert calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorrt"}, r"backend is 'tensorrt', expected 'torch' or 'onnx'"),
        ({"backend": "onnx", "device": "cuda"}, r"device is 'cuda', but .*say device='cpu'"),
        ({"backend": "onnx", "amp": True}, r"amp is True, but .*leave amp out"),
    ],
)
def test_what_a_backend_cannot_do_is_refused_before_a_model_is_built(
    tiny_cfg, monkeypatch, options, message
):
    monkeypatch.setattr(predictor_module, "build_model", None)
    with pytest.raises(ConfigError, match=message):
        PanopticPredictor(tiny_cfg, **options)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_a_model_is_built(
    onnx_packages, tiny_cfg, monkeypatch, package
):
    monkeypatch.setattr(predictor_module, "build_model", None)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"package {package}: pip install 'panoptic_lovasz\[export\]'"
    with pytest.raises(ConfigError, match=message):
        PanopticPredictor(tiny_cfg, backend="onnx")


@pytest.mark.parametrize("device", [None, "cpu", "cpu:0"])
def test_the_cpu_may_be_named_as_pytorch_allows(onnx_packages, device):
    check_onnx_options(device, amp=False)


def test_the_default_device_is_the_cpu_where_the_config_names_another(
    onnx_packages, tiny_cfg, monkeypatch
):
    monkeypatch.setattr(predictor_module, "OnnxNetwork", lambda predictor: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = tiny_cfg.clone()
    cfg.MODEL.DEVICE = "cuda"
    assert PanopticPredictor(cfg, backend="onnx").cfg.MODEL.DEVICE == "cpu"


def test_a_network_that_cannot_be_exported_is_refused(onnx_packages, tiny_cfg):
    cfg = tiny_cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(
        ConfigError, match=r"META_ARCHITECTURE is 'GeneralizedRCNN', which gives no"
    ):
        PanopticPredictor(cfg, backend="onnx")
