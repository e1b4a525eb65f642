import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz.data import load_coco_panoptic_json
from panoptic_lovasz.data.converters import convert_label_folders, read_categories
from panoptic_lovasz.data.converters.folders import label_reader
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


def _convert(root, categories=CATEGORIES):
    return convert_label_folders(
        root / "images",
        root / "semantic",
        root / "instances",
        categories,
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


def test_a_category_whose_id_is_a_void_label_is_refused_before_it_is_lost(folders):
    with pytest.raises(DatasetError, match=r"the ids \[255\] are those of categories and void"):
        _convert(folders, [*CATEGORIES, {"id": VOID, "name": "water", "isthing": 0}])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_labels_of_few_bits_are_those_of_the_file(tmp_path, bits):
    labels = np.arange(16).reshape(2, 8) % 2**bits
    packed = np.packbits(
        np.unpackbits(labels[..., None].astype(np.uint8), axis=-1)[..., -bits:].reshape(2, -1),
        axis=1,
    )
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    (tmp_path / "labels.png").write_bytes(png)
    _write(tmp_path, "image.jpg", np.zeros((2, 8, 3), np.uint8))
    with label_reader() as read_labels:
        found = read_labels(tmp_path / "labels.png", tmp_path / "image.jpg")
    np.testing.assert_array_equal(found, labels)


def test_a_label_file_with_colors_is_refused(folders):
    _write(folders / "semantic", "a.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"a\.png has the mode RGB, expected one channel"):
        _convert(folders)


def test_a_missing_instance_file_is_named(folders):
    (folders / "instances/a.png").unlink()
    with pytest.raises(
        DatasetError, match=r"1 of 1 label files are missing: .*instances lacks 'a\.png'"
    ):
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
    assert convert.main(argv) == 1
    assert "out.json exists already" in capsys.readouterr().err
    assert convert.main([*argv, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"categories .*categories\.json does not exist"),
        ("{", r"categories\.json cannot be read"),
        ("3", r"categories\.json: expected a list of categories"),
        ('{"images": []}', r"categories\.json: expected a list of categories"),
    ],
)
def test_a_file_that_holds_no_categories_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "categories.json").write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_categories(tmp_path / "categories.json")


def test_categories_may_be_those_of_a_coco_json(tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps({"categories": CATEGORIES}))
    assert read_categories(tmp_path / "coco.json") == CATEGORIES


def test_a_category_that_does_not_say_whether_it_is_a_thing_is_an_error(folders):
    with pytest.raises(DatasetError, match=r"categories\[1\] has no 'isthing'"):
        _convert(folders, [CATEGORIES[0], {"id": COW, "name": "cow"}])


@pytest.mark.parametrize("category", ["grass", {"name": "grass", "isthing": 0}])
def test_a_category_that_is_none_is_named(folders, category):
    with pytest.raises(DatasetError, match=r"categories\[1\]"):
        _convert(folders, [CATEGORIES[0], category])


def test_a_label_file_that_is_damaged_is_named(folders):
    (folders / "semantic/a.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"semantic/a\.png cannot be read: "):
        _convert(folders)


def test_what_systems_leave_in_folders_is_no_image_and_png_may_be_in_capitals(folders):
    shutil.copytree(folders / "images", folders / "images/.ipynb_checkpoints")
    (folders / "images/._a.jpg").write_bytes(b"\0\5\x16\7")
    (folders / "semantic/a.png").rename(folders / "semantic/a.PNG")
    assert _convert(folders) == 1


def test_categories_may_begin_with_a_byte_order_mark(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "c.json").write_text('[{"id": 1, "name": "Straße"}]', encoding=encoding)
        assert read_categories(tmp_path / "c.json") == [{"id": 1, "name": "Straße"}]


@pytest.mark.parametrize("orientation", [3, 6])
def test_labels_are_those_of_the_upright_image(folders, orientation, caplog):
    with Image.open(folders / "images/a.jpg") as image:
        image.load()
    exif = Image.Exif()
    exif[274] = orientation
    image.save(folders / "images/a.jpg", exif=exif)
    if orientation == 6:
        with pytest.raises(DatasetError, match="EXIF orientation 6"):
            _convert(folders)
        for folder in ("semantic", "instances"):
            labels = np.array(Image.open(folders / folder / "a.png"))
            Image.fromarray(np.rot90(labels, -1)).save(folders / folder / "a.png")
    assert _convert(folders) == 1
    assert "1 images are turned by their EXIF orientation" in caplog.text


def test_a_label_file_of_floats_is_refused(folders):
    labels = np.array(Image.open(folders / "semantic/a.png")).astype(np.float32)
    Image.fromarray(labels).save(folders / "semantic/a.png", format="TIFF")
    with pytest.raises(DatasetError, match=r"a\.png has the mode F"):
        _convert(folders)
