"""The model that comes with the project, on a photo that scikit-learn ships."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz import model_zoo
from panoptic_lovasz.inference import PanopticPredictor
from panoptic_lovasz.tools.predict import main as demo

PROJECT = Path(__file__).resolve().parents[2]
NAME = "street_facades"


@pytest.fixture(autouse=True)
def _no_other_zoo(monkeypatch):
    monkeypatch.delenv("PANOPTIC_LOVASZ_ZOO", raising=False)


@pytest.fixture(scope="module")
def photo():
    """china.jpg, 640x427: a tower of four floors at the left, trees below, a lake and the sky."""
    spec = importlib.util.find_spec("sklearn")
    return Path(spec.origin).parent / "datasets/images/china.jpg"


def test_it_is_small_and_says_what_it_is():
    entry = model_zoo.read_index()[NAME]
    assert Path(entry.file).stat().st_size <= 12e6
    assert entry.license.startswith("Apache-2.0")
    assert "facade_train" in entry.dataset
    assert entry.metrics["panoptic_seg/PQ"] > 20
    card = (PROJECT / "zoo" / f"{NAME}.md").read_text()
    assert "CC BY 4.0" in card and f"{entry.metrics['panoptic_seg/PQ']:.1f}" in card
    assert entry.sha256 in card
    assert "danielbuechele, [CC BY 2.0]" in card  # whose photo its picture shows


def test_by_its_name_alone_it_finds_windows_where_the_tower_is_and_the_trees_below(photo):
    result = PanopticPredictor.from_checkpoint(NAME)(photo)
    windows = [s.box for s in result.segments if s.class_name == "window"]
    assert len(windows) >= 8
    assert all(60 < (x0 + x1) / 2 < 360 and y1 < 400 for x0, _, x1, y1 in windows)
    (trees,) = (s.id for s in result.segments if s.class_name == "vegetation")
    assert (result.segment_map[380:, 350:] == trees).mean() > 0.9


def test_onnx_runtime_finds_the_same_segments(photo):
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="ONNX needs the extra packages of [export]")
    expected = PanopticPredictor.from_checkpoint(NAME)(photo)
    actual = PanopticPredictor.from_checkpoint(NAME, backend="onnx")(photo)
    assert (actual.segment_map == expected.segment_map).mean() > 0.999
    for a, b in zip(actual.segments, expected.segments, strict=True):
        assert (a.class_name, a.score) == (b.class_name, pytest.approx(b.score, abs=1e-4))


def test_the_command_of_the_readme_draws_a_picture(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--checkpoint", NAME, "--input", str(photo), "--output", "pictures"]
    assert demo(arguments) == 0
    drawn = np.asarray(Image.open(tmp_path / "pictures" / "china.png").convert("RGB"))
    assert drawn.shape[1] >= 640
