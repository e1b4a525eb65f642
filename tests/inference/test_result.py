import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz.data import (
    PanopticClasses,
    load_coco_panoptic_json,
    write_coco_panoptic,
)
from panoptic_lovasz.data.id_map import read_panoptic_png
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.inference.result import PanopticResult

CATEGORIES = [
    {"id": 7, "name": "dog", "isthing": 1},
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 20, "name": "grass", "isthing": 0},
]


@pytest.fixture
def result():
    """A cat and some grass; the third segment has no pixel."""
    seg = np.zeros((40, 50), np.int32)
    seg[20:] = 2
    seg[10:30, 5:15] = 1
    info = [
        {"id": 1, "isthing": True, "category_id": 0, "score": 0.75, "instance_id": 4},
        {"id": 2, "isthing": False, "category_id": 1, "area": 900},
        {"id": 3, "isthing": True, "category_id": 1, "score": 0.5, "instance_id": 1},
    ]
    classes = PanopticClasses.from_categories(CATEGORIES)
    image = np.full((40, 50, 3), 100, np.uint8)
    return PanopticResult.from_output(image, seg, info, classes)


def test_segments_have_names_scores_areas_and_boxes(result):
    cat, grass = result.segments
    assert dataclasses.asdict(cat) == {
        "id": 1,
        "class_name": "cat",
        "isthing": True,
        "category_id": 0,
        "dataset_category_id": 3,
        "score": 0.75,
        "area": 200,
        "box": (5, 10, 15, 30),
    }
    assert (grass.class_name, grass.score, grass.dataset_category_id) == ("grass", None, 20)
    assert grass.area == (result.segment_map == 2).sum()


def test_an_overlay_has_a_legend_below_and_takes_the_drawing_options(result):
    with_legend, without = result.overlay(scale=2), result.overlay(scale=2, legend=False)
    assert without.shape == (80, 100, 3)
    assert with_legend.shape[0] > 80
    np.testing.assert_array_equal(with_legend[:80], without)


@pytest.mark.parametrize("name", ["a.png", "b.jpg", "deep/c.webp"])
def test_an_overlay_is_saved_in_the_format_of_the_ending(result, tmp_path, name):
    result.save(tmp_path / name, scale=1)
    saved = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
    assert np.abs(saved - result.overlay(scale=1)).mean() < 6
    assert len(list((tmp_path / name).parent.glob("*"))) == 1  # no temporary file is left


def test_an_ending_that_is_no_picture_format_is_refused(result, tmp_path):
    with pytest.raises(DatasetError, match=r"end in '\.docx'"):
        result.save(tmp_path / "a.docx")


def test_results_written_in_the_coco_format_are_read_back_alike(result, tmp_path):
    json_file, folder = tmp_path / "pred.json", tmp_path / "pred"
    samples = [result.to_coco("x/one.jpg", 17)]
    write_coco_panoptic(json_file, folder, CATEGORIES, samples, progress=False)
    np.testing.assert_array_equal(read_panoptic_png(folder / "x/one.png"), result.segment_map)
    annotation = json.loads(json_file.read_text())["annotations"][0]
    assert annotation["image_id"] == 17
    assert [(s["id"], s["category_id"]) for s in annotation["segments_info"]] == [(1, 3), (2, 20)]
    assert annotation["segments_info"][0]["score"] == 0.75
    assert annotation["segments_info"][0]["bbox"] == [5, 10, 10, 20]
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "one.jpg").touch()
    assert len(load_coco_panoptic_json(json_file, tmp_path, folder)) == 1


def test_a_result_without_a_file_needs_a_name_for_the_coco_format(result):
    with pytest.raises(DatasetError, match="file_name"):
        result.to_coco()


def test_a_result_without_any_segment_is_drawn_and_written(result, tmp_path):
    empty = PanopticResult.from_output(
        result.image, np.zeros((40, 50), np.int32), [], result.classes
    )
    assert empty.segments == ()
    assert empty.overlay().shape[2] == 3
    samples = [empty.to_coco("a.jpg")]
    write_coco_panoptic(tmp_path / "p.json", tmp_path / "p", CATEGORIES, samples, progress=False)
    assert json.loads((tmp_path / "p.json").read_text())["annotations"][0]["segments_info"] == []
