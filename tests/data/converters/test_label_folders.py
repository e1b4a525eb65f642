import json

import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz.data import load_coco_panoptic_json
from panoptic_lovasz.data.converters import convert_label_folders
from panoptic_lovasz.data.id_map import read_panoptic_png
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.tools import convert

GRASS, COW, VOID = 4, 9, 255
CATEGORIES = [
    {"id": GRASS, "name": "grass", "isthing": 0},
    {"id": COW, "name": "cow", "isthing": 1},
]


def _write(folder, name, array):
    folder.mkdir(exist_ok=True, parents=True)
    Image.fromarray(array).save(folder / name)


@pytest.fixture
def folders(tmp_path):
    semantic = np.full((20, 30), GRASS, np.uint8)
    semantic[2:8] = COW
    semantic[15:] = VOID
    numbers = np.zeros((20, 30), np.uint16)
    numbers[2:8, :10] = 700  # more than 8 bits hold
    numbers[2:8, 10:20] = 2
    numbers[10:12] = 5  # on grass, where numbers mean nothing
    _write(tmp_path / "images", "a.jpg", np.zeros((20, 30, 3), np.uint8))
    _write(tmp_path / "semantic", "a.png", semantic)
    _write(tmp_path / "instances", "a.png", numbers)
    return tmp_path


def _convert(root):
    return convert_label_folders(
        root / "images",
        root / "semantic",
        root / "instances",
        CATEGORIES,
        root / "train.json",
        root / "panoptic_train",
        progress=False,
    )


def test_numbers_tell_things_apart_and_a_thing_without_one_is_a_crowd(folders):
    assert _convert(folders) == 1
    (found,) = load_coco_panoptic_json(
        folders / "train.json", folders / "images", folders / "panoptic_train"
    )
    segments = sorted((s["isthing"], s["iscrowd"], s["area"]) for s in found["segments_info"])
    assert segments == [(False, 0, 270), (True, 0, 60), (True, 0, 60), (True, 1, 60)]
    ids = read_panoptic_png(found["pan_seg_file_name"])
    assert (ids[15:] == 0).all() and (ids[:15] > 0).all()


def test_a_label_that_is_no_category_is_named_with_its_file(folders):
    _write(folders / "semantic", "a.png", np.full((20, 30), 77, np.uint8))
    with pytest.raises(DatasetError, match=r"semantic/a\.png has the labels \[77\]"):
        _convert(folders)


def test_a_label_file_with_colors_is_refused(folders):
    _write(folders / "semantic", "a.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"a\.png has the mode RGB, expected one channel"):
        _convert(folders)


def test_a_missing_instance_file_is_named(folders):
    (folders / "instances/a.png").unlink()
    with pytest.raises(DatasetError, match=r"instances: 1 of 1 label files are missing.*a\.png"):
        _convert(folders)


def test_the_command_line_converts_and_names_what_it_wrote(folders, capsys):
    categories = folders / "categories.json"
    categories.write_text(json.dumps(CATEGORIES))
    folder = {f: str(folders / f) for f in ("images", "semantic", "instances")}
    argv = ["labels", "--categories", str(categories), "--json", str(folders / "out.json")]
    argv += ["--panoptic", str(folders / "out")]
    for name, path in folder.items():
        argv += [f"--{name}", path]
    convert.main(argv)
    assert "out.json: 1 images" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"out\.json exists already"):
        convert.main(argv)
    convert.main([*argv, "--overwrite"])
