import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageOps

from panoptic_lovasz.data import load_coco_panoptic_json
from panoptic_lovasz.data.checking import check_coco_instances
from panoptic_lovasz.data.converters import convert_coco_instances
from panoptic_lovasz.data.id_map import read_panoptic_png
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.tools import check_dataset, convert

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


def test_a_stuff_category_whose_id_is_a_void_label_is_refused_before_it_is_lost(source):
    STUFF.append({"id": 0, "name": "water"})
    try:
        with pytest.raises(DatasetError, match=r"the ids \[0\] are those of categories and void"):
            _convert(source)
    finally:
        STUFF.pop()


def test_a_mask_that_cannot_be_decoded_is_named_with_its_annotation(source):
    content = json.loads((source / "instances.json").read_text())
    content["annotations"][1]["segmentation"] = {"size": [20, 30], "counts": None}
    (source / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"a\.jpg: annotation 2: its RLE has the counts None"):
        _convert(source)


def test_a_file_that_is_no_instances_json_is_named(source):
    (source / "instances.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"instances\.json is not a COCO instances JSON"):
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
        (lambda c: c.pop("images"), "is not a COCO instances JSON: it has no list 'images'"),
        (lambda c: c["images"][0].pop("file_name"), r"images\[0\]: has no 'file_name'"),
        (lambda c: c["categories"][0].pop("name"), r"categories\[0\]: has no 'name'"),
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


CATEGORIES = [{"id": 1, "name": "car"}, {"id": 2, "name": "road"}]
SQUARE = [[2, 2, 12, 2, 12, 10, 2, 10]]
BRUSH = {"size": [30, 40], "counts": [62, 8, 22, 8, 22, 8, 22, 8, 1040]}


def annotation(number, category=1, segmentation=SQUARE, **fields):
    made = {"id": number, "image_id": 1, "category_id": category, "segmentation": segmentation}
    return {**made, "bbox": [2, 2, 10, 8], "area": 80, "iscrowd": 0, **fields}


class Export:
    """What an annotation tool exported: one image, 40 x 30, and a JSON to be spoilt."""

    def __init__(self, root):
        self.root = root
        (root / "images").mkdir()
        self.content = {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
            "annotations": [annotation(1)],
            "categories": CATEGORIES,
        }
        self.save_image()

    def save_image(self, name="a.jpg", size=(40, 30), orientation=1):
        exif = Image.Exif()
        exif[274] = orientation
        Image.new("RGB", size, (90, 120, 60)).save(self.root / "images" / name, exif=exif)

    def paths(self):
        (self.root / "in.json").write_text(json.dumps(self.content))
        return self.root / "in.json", self.root / "images"

    def convert(self, **choices):
        out = self.root / "out.json", self.root / "out"
        convert_coco_instances(*self.paths(), *out, progress=False, overwrite=True, **choices)
        return json.loads(out[0].read_text())

    def segments(self, **choices):
        found = self.convert(**choices)["annotations"][0]["segments_info"]
        return [(s["category_id"], s["iscrowd"], s["area"]) for s in found]

    def faults(self, **choices):
        report = check_coco_instances(*self.paths(), progress=False, **choices)
        return [str(f) for f in report.faults]


@pytest.fixture
def export(tmp_path):
    return Export(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_id", "1", r"image_id '1', of type str, is not the id of any image; there is 1 of"),
        ("image_id", 7, r"image_id 7, of type int, is not the id of any image"),
        ("category_id", 9, r"category_id 9, of type int, is not the id of any category"),
        ("category_id", "1", r"category_id is '1', expected int"),
        ("image_id", None, r"image_id is None"),
        ("iscrowd", 2, r"iscrowd is 2, expected 0 or 1"),
    ],
)
def test_an_annotation_that_refers_to_nothing_is_an_error_that_names_it(
    export, field, value, message
):
    export.content["annotations"] = [annotation(5), annotation(6, **{field: value})]
    with pytest.raises(DatasetError, match=rf"in\.json: annotations\[1\]: .*{message}"):
        export.convert()
    assert not (export.root / "out.json").exists()
    assert any("error" in fault and "annotations[1]" in fault for fault in export.faults())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["images"].append({**c["images"][0], "file_name": "b.jpg"}), "1 is the id of"),
        (lambda c: c["images"].append({**c["images"][0], "id": 2}), "'a.jpg' is that of an earl"),
        (lambda c: c.update(categories=[*CATEGORIES, CATEGORIES[0]]), "the id 1 occurs 2 times"),
        (
            lambda c: c.update(categories=[*CATEGORIES, {"id": 3, "name": "car"}]),
            "the name 'car' occurs 2 times",
        ),
        (
            lambda c: c["images"].append({**c["images"][0], "id": 2, "file_name": "./a.jpg"}),
            r"'\./a\.jpg' and 'a\.jpg' are the same file",
        ),
    ],
)
def test_what_is_there_twice_is_an_error_that_names_it(export, spoil, message):
    spoil(export.content)
    with pytest.raises(DatasetError, match=rf"in\.json: .*{message}"):
        export.convert()


def test_a_file_named_from_a_relative_folder_and_absolutely_is_there_twice(export, monkeypatch):
    monkeypatch.chdir(export.root)
    path = str(export.root / "images" / "a.jpg")
    export.content["images"].append({**export.content["images"][0], "id": 2, "file_name": path})
    json_file, _ = export.paths()
    report = check_coco_instances(json_file, "images", progress=False)
    assert any("are the same file" in str(fault) for fault in report.faults)


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ({"id": -1, "name": "bus"}, "id is -1, expected an integer >= 0"),
        ({"id": 9, "name": ""}, "name is '', expected a non-empty string"),
        ({"id": 9, "name": "bus\r"}, r"name 'bus\r' has the control character U+000D"),
    ],
)
def test_the_check_finds_the_categories_that_cannot_be_converted(export, category, message):
    export.content["categories"] = [*CATEGORIES, category]
    assert any(f.startswith("error") and message in f for f in export.faults()), export.faults()
    with pytest.raises(DatasetError, match=r"in\.json: categories"):
        export.convert()


def test_image_ids_may_be_numbers_and_texts(export):
    export.content["images"].append({"id": "1", "file_name": "b.jpg", "width": 40, "height": 30})
    export.save_image("b.jpg")
    export.content["annotations"].append(annotation(2, image_id="1"))
    converted = export.convert()
    assert [a["image_id"] for a in converted["annotations"]] == [1, "1"]
    assert all(len(a["segments_info"]) == 1 for a in converted["annotations"])


def test_brush_masks_marked_as_crowds_are_told_and_can_be_objects(export, caplog):
    export.content["annotations"] = [annotation(1, segmentation=BRUSH, iscrowd=1)]
    assert export.segments() == [(1, 1, 32)]
    assert "1 of the 1 annotations of things are crowds (iscrowd 1), 1 of them RLE" in caplog.text
    assert any("--crowds-as-objects" in fault for fault in export.faults())
    assert export.segments(crowds_as_objects=True) == [(1, 0, 32)]


@pytest.mark.parametrize("name", ["street", "car"])
@pytest.mark.parametrize("supercategory", ["none", "", None])
def test_the_root_category_of_roboflow_is_left_out(export, caplog, name, supercategory):
    root = {"id": 0, "name": name, "supercategory": supercategory}
    export.content["categories"] = [root, *({**c, "supercategory": name} for c in CATEGORIES)]
    assert [c["id"] for c in export.convert()["categories"]] == [1, 2]
    assert f"'{name}' (id 0) is the supercategory of all others" in caplog.text
    if name == "street":
        kept = export.convert(keep_root=True)["categories"]
        assert [c["name"] for c in kept] == ["street", "car", "road"]


def test_a_category_that_has_annotations_or_a_kind_of_its_own_is_no_root(export):
    export.content["categories"] = [
        {"id": 1, "name": "car", "supercategory": "none"},
        {"id": 2, "name": "road", "supercategory": "car"},
    ]
    assert len(export.convert()["categories"]) == 2
    export.content["annotations"] = [annotation(1, 2)]
    export.content["categories"][0]["supercategory"] = "car"
    assert len(export.convert()["categories"]) == 2


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "only a box"),
        (None, "only a box"),
        ([[10, 10, 14, 12]], "less than three points"),
        ([[100, 100, 120, 100, 120, 120]], "covers no pixel"),
    ],
)
def test_a_degenerate_annotation_is_left_out_counted_and_named(
    export, caplog, segmentation, reason
):
    bad = annotation(2, segmentation=segmentation)
    if segmentation is None:
        del bad["segmentation"]
    export.content["annotations"].append(bad)
    assert export.segments() == [(1, 0, 80)]
    assert "1 annotations are left out, the first is 2 of a.jpg" in caplog.text
    assert reason in caplog.text
    assert any(reason in fault for fault in export.faults())
    export.content["annotations"].pop(0)
    boxes = [(1, 0, 80)] if "box" in reason else []
    assert export.segments(boxes_as_masks=True) == boxes


def test_what_is_repeated_or_hidden_is_counted(export, caplog):
    larger = [[3, 3, 11, 3, 11, 9, 3, 9]]
    export.content["annotations"] = [annotation(1), annotation(2), annotation(3, 2, larger)]
    assert export.segments(stuff_names=["road"]) == [(1, 0, 80)]
    assert "1 repeat another's mask" in caplog.text and "1 masks are hidden" in caplog.text


@pytest.mark.parametrize("orientation", range(2, 9))
def test_masks_are_those_of_the_upright_image_unless_they_were_drawn_on_the_stored_pixels(
    export, caplog, orientation
):
    export.save_image(orientation=orientation)
    turned = orientation >= 5
    if turned:
        with pytest.raises(DatasetError, match=r"orientation \d.* --stored-pixels"):
            export.convert()
    drawn = np.zeros((30, 40), np.uint8)
    drawn[2:10, 2:12] = 1
    export.convert(stored_pixels=True)
    png = export.root / "out/a.png"
    with Image.open(export.root / "images/a.jpg") as photo:
        mask = Image.fromarray(drawn)
        mask.info["exif"] = photo.info["exif"]
        expected = np.asarray(ImageOps.exif_transpose(mask))
    np.testing.assert_array_equal(read_panoptic_png(png) > 0, expected)
    if turned:
        export.content["images"][0].update(width=30, height=40)
    export.convert()
    found = read_panoptic_png(png)
    assert found.shape == ((40, 30) if turned else (30, 40)) and (found[2:10, 2:12] > 0).all()
    assert "1 images are turned by their EXIF orientation" in caplog.text


def test_missing_images_are_counted_and_can_be_left_out(export):
    export.content["images"].append({"id": 2, "file_name": "b.jpg", "width": 40, "height": 30})
    with pytest.raises(DatasetError, match=r"1 of 2 image files are missing: .*'b\.jpg'; --skip"):
        export.convert()
    assert len(export.convert(skip_missing=True)["images"]) == 1
    (export.root / "images/a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"2 of 2 image files are missing"):
        export.convert(skip_missing=True)


def test_colors_may_be_written_as_on_web_pages(export):
    export.content["categories"] = [{**CATEGORIES[0], "color": "#e6194b"}, CATEGORIES[1]]
    assert export.convert()["categories"][0]["color"] == [230, 25, 75]


def test_memory_does_not_grow_with_the_number_of_instances(export):
    size = (1500, 1000)
    export.save_image(size=size)
    export.content["images"][0].update(width=size[0], height=size[1])
    corners = np.random.default_rng(0).integers(0, 900, (200, 2)).tolist()
    squares = [[[x, y, x + 50, y, x + 50, y + 50, x, y + 50]] for x, y in corners]
    peaks = []
    for count in (5, 200):
        export.content["annotations"] = [annotation(n, 1, s) for n, s in enumerate(squares[:count])]
        tracemalloc.start()
        export.convert()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 5e6  # 195 masks of a byte a pixel are 290 MB


def test_the_check_says_what_the_image_files_are_like(export):
    Image.fromarray(np.full((30, 40), 4000, np.uint16)).save(export.root / "images/deep.png")
    Image.fromarray(np.ones((30, 40), np.float32)).save(export.root / "images/float.tif")
    for n, name in enumerate(("deep.png", "float.tif"), start=2):
        export.content["images"].append({"id": n, "file_name": name, "width": 40, "height": 30})
    export.save_image("extra.jpg")
    faults = "\n".join(export.faults())
    assert "deep.png: bits: it has 16 bits per channel" in faults and "nearly black" in faults
    assert "float.tif: pixels:" in faults and "floats" in faults
    assert "1 are not in the JSON: extra.jpg" in faults
    assert "2 of 3 have no annotation" in faults


def test_the_command_line_checks_an_export_and_says_what_each_class_would_have(export, capsys):
    json_file, images = map(str, export.paths())
    assert check_dataset.main([json_file, "--images", images, "--stuff-names", "road"]) == 0
    printed = capsys.readouterr().out
    assert "warning: " in printed and "1 have no annotation: 'road'" in printed
    assert "car" in printed and "0 errors, 1 warnings" in printed
    export.content["annotations"][0]["image_id"] = "1"
    export.paths()
    assert check_dataset.main([json_file, "--images", images]) == 1
