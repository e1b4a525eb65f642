import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from PIL import Image

from panoptic_lovasz.data import load_coco_panoptic_json
from panoptic_lovasz.data.converters import convert_cityscapes
from panoptic_lovasz.data.converters.cityscapes import CATEGORIES
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.tools import convert

ROAD, CAR, STATIC = 7, 26, 4


@pytest.fixture
def release(tmp_path):
    values = np.full((20, 40), ROAD, np.uint16)
    values[:5] = STATIC  # not one of the 19 classes
    values[6:10, :10] = CAR * 1000
    values[6:10, 10:20] = CAR * 1000 + 1
    values[6:10, 30:] = CAR  # a group of cars
    for split in ("train", "val"):
        labels = tmp_path / "gtFine" / split / "ulm"
        images = tmp_path / "leftImg8bit" / split / "ulm"
        labels.mkdir(parents=True)
        images.mkdir(parents=True)
        Image.fromarray(values).save(labels / "ulm_000000_000019_gtFine_instanceIds.png")
        image = np.zeros((20, 40, 3), np.uint8)
        Image.fromarray(image).save(images / "ulm_000000_000019_leftImg8bit.png")
    return tmp_path


def test_instances_groups_and_ignored_classes_of_the_release_keep_their_meaning(release):
    out = release / "out"
    assert convert_cityscapes(release, out, progress=False) == {"train": 1, "val": 1}
    (found,) = load_coco_panoptic_json(
        out / "annotations/panoptic_val.json", out / "val", out / "panoptic_val"
    )
    assert found["file_name"].endswith("val/ulm/ulm_000000_000019_leftImg8bit.png")
    segments = sorted((s["isthing"], s["iscrowd"], s["area"]) for s in found["segments_info"])
    road = 20 * 40 - 5 * 40 - 3 * 40
    assert segments == [(False, 0, road), (True, 0, 40), (True, 0, 40), (True, 1, 40)]


def test_the_categories_are_those_of_detectron2_with_the_ids_of_the_release():
    named = {c["name"]: c["id"] for c in CATEGORIES}
    assert named["road"] == 7 and named["car"] == 26 and named["bicycle"] == 33
    for ours, theirs in zip(CATEGORIES, CITYSCAPES_CATEGORIES, strict=True):
        assert (ours["name"], ours["isthing"]) == (theirs["name"], theirs["isthing"])
        assert tuple(ours["color"]) == tuple(theirs["color"])


def test_a_folder_that_is_no_release_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(DatasetError, match="has no gtFine"):
        convert_cityscapes(tmp_path, tmp_path / "out", progress=False)


def test_a_missing_image_is_named(release):
    (release / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png").unlink()
    with pytest.raises(DatasetError, match=r"ulm_000000_000019_leftImg8bit\.png"):
        convert_cityscapes(release, release / "out", progress=False)


def test_the_command_line_converts_both_splits(release, capsys):
    out = release / "out"
    convert.main(["cityscapes", "--input", str(release), "--output", str(out)])
    assert capsys.readouterr().out.splitlines() == [
        f"{out}/annotations/panoptic_{split}.json: 1 images" for split in ("train", "val")
    ]


def test_an_output_that_has_something_else_in_place_of_the_images_is_left_as_it_is(release):
    (release / "out/train").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"out/train exists and is not .*leftImg8bit/train"):
        convert_cityscapes(release, release / "out", progress=False)
    assert list((release / "out").rglob("*")) == [release / "out/train"]
