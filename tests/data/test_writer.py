import json

import numpy as np
import pytest

from panoptic_lovasz.data import PanopticSample, load_coco_panoptic_json, write_coco_panoptic
from panoptic_lovasz.data.id_map import read_panoptic_png
from panoptic_lovasz.errors import DatasetError

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
    {"id": 2, "name": "sky", "isthing": 0},
]
IDS = np.array([[0, 4, 4], [9, 9, 4]])
SEGMENTS = [{"id": 4, "category_id": 1}, {"id": 9, "category_id": 2, "iscrowd": False}]


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out/annotations/a.json", tmp_path / "out/panoptic"


def write(target, samples, **kwargs):
    return write_coco_panoptic(*target, CATEGORIES, samples, progress=False, **kwargs)


def everything_under(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_what_is_written_loads_again(target, tmp_path):
    samples = [
        PanopticSample("city/a.jpg", IDS, SEGMENTS),
        PanopticSample("b.png", IDS.T, SEGMENTS, image_id="second"),
    ]
    assert write(target, iter(samples), info={"version": "1"}) == 2
    for name in ("city/a.jpg", "b.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    first, second = load_coco_panoptic_json(target[0], tmp_path / "images", target[1])
    assert (first["image_id"], second["image_id"]) == (1, "second")
    assert (first["height"], first["width"]) == (2, 3)
    assert first["pan_seg_file_name"].endswith("out/panoptic/city/a.png")
    np.testing.assert_array_equal(read_panoptic_png(first["pan_seg_file_name"]), IDS)
    np.testing.assert_array_equal(read_panoptic_png(second["pan_seg_file_name"]), IDS.T)
    content = json.loads(target[0].read_text())
    assert content["categories"] == CATEGORIES
    assert content["info"] == {"version": "1"}


def test_areas_and_boxes_are_computed_and_segments_without_a_pixel_left_out(target):
    invisible = {"id": 77, "category_id": 1}
    write(target, [PanopticSample("a.jpg", IDS, [*SEGMENTS, invisible])])
    (annotation,) = json.loads(target[0].read_text())["annotations"]
    assert annotation["segments_info"] == [
        {"id": 4, "category_id": 1, "iscrowd": 0, "area": 3, "bbox": [1, 0, 2, 2]},
        {"id": 9, "category_id": 2, "iscrowd": 0, "area": 2, "bbox": [0, 1, 2, 1]},
    ]


def test_an_image_that_is_all_void_has_no_segments(target):
    write(target, [PanopticSample("a.jpg", np.zeros((2, 2), int), [])])
    assert json.loads(target[0].read_text())["annotations"][0]["segments_info"] == []


def test_samples_are_taken_one_at_a_time(target):
    on_disk = []

    def samples():
        for n in range(3):
            on_disk.append(len(list(target[1].parent.rglob("*.png"))))
            yield PanopticSample(f"{n}.jpg", IDS, SEGMENTS)

    write(target, samples())
    assert on_disk == [0, 1, 2]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([("a.jpg", IDS, SEGMENTS[:1])], r"a\.jpg: pixels have the ids \[9\], but no segment does"),
        ([("a.jpg", IDS, [*SEGMENTS, SEGMENTS[0]])], r"a\.jpg: segment id 4 occurs more than once"),
        (
            [("a.jpg", IDS, [{"id": 4, "category_id": 5}, SEGMENTS[1]])],
            r"a\.jpg: segment 4 has the category_id 5, expected one of 'categories': \[1, 2\]",
        ),
        ([("a.png", IDS, SEGMENTS)] * 3, r"earlier image .* same PNG a\.png"),
        ([("a.jpg", IDS, SEGMENTS, 1), ("b.jpg", IDS, SEGMENTS, 1)], "image_id 1 occurs more"),
        (
            [("a.jpg", IDS, SEGMENTS, 1), ("a.jpg", IDS, SEGMENTS, 2)],
            r"file_name 'a\.jpg' occurs more",
        ),
        ([("../a.jpg", IDS, SEGMENTS)], "expected a path relative to the image folder"),
        ([("/a.jpg", IDS, SEGMENTS)], "expected a path relative to the image folder"),
    ],
)
def test_a_wrong_sample_is_an_error_and_nothing_is_written(target, tmp_path, samples, message):
    with pytest.raises(DatasetError, match=message):
        write(target, [PanopticSample(*sample) for sample in samples])
    assert everything_under(tmp_path) == {}


def test_an_interruption_leaves_the_old_data_set_as_it_was(target, tmp_path):
    write(target, [PanopticSample("a.jpg", IDS, SEGMENTS)])
    before = everything_under(tmp_path)

    def samples():
        yield PanopticSample("a.jpg", IDS[::-1], SEGMENTS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(target, samples(), overwrite=True)
    assert everything_under(tmp_path) == before


def test_an_existing_data_set_is_only_replaced_when_asked_for(target):
    write(target, [PanopticSample("a.jpg", IDS, SEGMENTS)])
    with pytest.raises(DatasetError, match=r"a\.json exists already"):
        write(target, [PanopticSample("a.jpg", IDS.T, SEGMENTS)])
    target[0].rename(target[0].with_suffix(".old"))
    with pytest.raises(DatasetError, match="panoptic is not an empty folder"):
        write(target, [PanopticSample("a.jpg", IDS.T, SEGMENTS)])
    write(target, [PanopticSample("a.jpg", IDS.T, SEGMENTS)], overwrite=True)
    np.testing.assert_array_equal(read_panoptic_png(target[1] / "a.png"), IDS.T)
