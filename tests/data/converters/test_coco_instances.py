import json

import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz.data import load_coco_panoptic_json
from panoptic_lovasz.data.converters import convert_coco_instances
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.tools import convert

STUFF = [{"id": 92, "name": "grass"}, {"id": 93, "name": "sky"}]


def _box(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture
def source(tmp_path):
    annotations = [
        {"id": 1, "image_id": 5, "category_id": 3, "segmentation": _box(2, 2, 4, 4), "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 3, "segmentation": _box(0, 0, 10, 10)},
        {
            "id": 3,
            "image_id": 5,
            "category_id": 3,
            "iscrowd": 1,
            "segmentation": {"size": [20, 30], "counts": [590, 10]},
        },
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 20, "width": 30}],
        "categories": [{"id": 3, "name": "car", "supercategory": "vehicle"}],
        "annotations": annotations,
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    for folder in ("images", "stuff"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "images/a.jpg")
    stuff = np.full((20, 30), 92, np.uint8)
    stuff[:3] = 0
    Image.fromarray(stuff).save(tmp_path / "stuff/a.png")
    return tmp_path


def _convert(root):
    return convert_coco_instances(
        root / "instances.json",
        root / "images",
        root / "panoptic.json",
        root / "panoptic",
        stuff_pngs=root / "stuff",
        stuff_categories=STUFF,
        progress=False,
    )


def test_things_cover_stuff_and_small_things_cover_large_ones(source):
    assert _convert(source) == 1
    (found,) = load_coco_panoptic_json(
        source / "panoptic.json", source / "images", source / "panoptic"
    )
    assert found["image_id"] == 5
    areas = {(s["isthing"], s["iscrowd"]): [] for s in found["segments_info"]}
    for s in found["segments_info"]:
        areas[s["isthing"], s["iscrowd"]].append(s["area"])
    assert sorted(areas[True, 0]) == [16, 84]
    assert areas[True, 1] == [10]
    assert areas[False, 0] == [17 * 30 - 70 - 10]


def test_a_stuff_label_that_is_no_category_is_named(source):
    Image.fromarray(np.full((20, 30), 50, np.uint8)).save(source / "stuff/a.png")
    with pytest.raises(DatasetError, match=r"stuff/a\.png has the labels \[50\]"):
        _convert(source)


def test_a_mask_that_cannot_be_decoded_is_named_with_its_annotation(source):
    content = json.loads((source / "instances.json").read_text())
    content["annotations"][1]["segmentation"] = {"size": [20, 30], "counts": None}
    (source / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"a\.jpg: the mask of annotation 2 cannot be decoded"):
        _convert(source)


def test_a_file_that_is_no_instances_json_is_named(source):
    (source / "instances.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"instances\.json is no COCO instances JSON"):
        _convert(source)


def test_categories_named_as_stuff_become_one_segment_below_the_things(source):
    content = json.loads((source / "instances.json").read_text())
    content["categories"].append({"id": 8, "name": "road"})
    halves = [_box(0, 4, 15, 16), _box(15, 4, 15, 16)]
    content["annotations"] = [
        content["annotations"][0],
        *(
            {"id": 10 + n, "image_id": 5, "category_id": 8, "segmentation": half}
            for n, half in enumerate(halves)
        ),
    ]
    (source / "instances.json").write_text(json.dumps(content))
    convert_coco_instances(
        source / "instances.json",
        source / "images",
        source / "panoptic.json",
        source / "panoptic",
        stuff_names=["road"],
        progress=False,
    )
    (found,) = load_coco_panoptic_json(
        source / "panoptic.json", source / "images", source / "panoptic"
    )
    areas = sorted((s["isthing"], s["area"]) for s in found["segments_info"])
    assert areas == [(False, 30 * 16 - 4 * 2), (True, 16)]


def test_a_stuff_name_that_the_json_lacks_is_an_error_that_lists_what_it_has(source):
    with pytest.raises(DatasetError, match=r"no categories \['lawn'\]; it has \['car'\]"):
        convert_coco_instances(
            source / "instances.json",
            source / "images",
            source / "panoptic.json",
            source / "panoptic",
            stuff_names=["lawn"],
        )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.pop("images"), "is no COCO instances JSON.*images or categories"),
        (lambda c: c["images"][0].pop("file_name"), r"images\[0\] has no 'file_name'"),
        (lambda c: c["categories"][0].pop("name"), r"categories\[0\] has no 'name'"),
    ],
)
def test_a_json_that_lacks_a_field_is_an_error_that_names_it(source, spoil, message):
    content = json.loads((source / "instances.json").read_text())
    spoil(content)
    (source / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=rf"instances\.json.*{message}"):
        _convert(source)


def test_an_image_that_is_missing_or_of_another_size_than_the_json_says_is_named(source):
    Image.fromarray(np.zeros((10, 30, 3), np.uint8)).save(source / "images/a.jpg")
    Image.fromarray(np.full((10, 30), 92, np.uint8)).save(source / "stuff/a.png")
    with pytest.raises(DatasetError, match=r"a\.jpg is 30 x 10 pixels, .* JSON says 30 x 20"):
        _convert(source)


def test_the_command_line_converts_with_stuff_from_pngs(source, capsys):
    (source / "stuff.json").write_text(json.dumps(STUFF))
    argv = ["coco", "--instances-json", source / "instances.json", "--images", source / "images"]
    argv += ["--json", source / "out.json", "--panoptic", source / "out"]
    argv = [*map(str, argv), "--stuff", str(source / "stuff")]
    with pytest.raises(SystemExit, match="2"):
        convert.main(argv)
    assert "--stuff and --stuff-categories go together" in capsys.readouterr().err
    convert.main([*argv, "--stuff-categories", str(source / "stuff.json")])
    assert capsys.readouterr().out == f"{source / 'out.json'}: 1 images\n"
    (found,) = load_coco_panoptic_json(source / "out.json", source / "images", source / "out")
    assert {s["isthing"] for s in found["segments_info"]} == {True, False}
    (source / "stuff.json").write_text('[{"name": "grass"}]')
    argv += ["--overwrite", "--stuff-categories", str(source / "stuff.json")]
    assert convert.main(argv) == 1
    assert capsys.readouterr().err == "error: stuff_categories[0] has no 'id'\n"
