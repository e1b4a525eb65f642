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
    """china.jpg, 640x427: a temple with a colonnade, trees, sky, people on a road."""
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
    assert f"{entry.sha256}" in card


def test_by_its_name_alone_it_finds_the_building_and_the_trees(photo):
    result = PanopticPredictor.from_checkpoint(NAME)(photo)
    area = {s.class_name: 0 for s in result.segments}
    for s in result.segments:
        area[s.class_name] += s.area
    assert area["facade"] > 0.1 * result.segment_map.size
    assert area["vegetation"] > 0.02 * result.segment_map.size
    assert any(s.isthing for s in result.segments)


def test_the_command_of_the_readme_draws_a_picture(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--checkpoint", NAME, "--input", str(photo), "--output", "pictures"]
    assert demo(arguments) == 0
    drawn = np.asarray(Image.open(tmp_path / "pictures" / "china.png").convert("RGB"))
    assert drawn.shape[1] >= 640
