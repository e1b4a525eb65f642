import json
import os

import numpy as np
import pytest

from panoptic_lovasz.data import categories, load_coco_panoptic_json
from panoptic_lovasz.data.categories import read_categories
from panoptic_lovasz.data.coco_panoptic import read_coco_panoptic_json
from panoptic_lovasz.data.id_map import read_panoptic_png
from panoptic_lovasz.errors import DatasetError


def test_dataset_dicts_have_detectron2s_fields_and_contiguous_ids(tiny_set):
    first, second = load_coco_panoptic_json(*tiny_set.paths)
    segments = first.pop("segments_info")
    assert first == {
        "file_name": str(tiny_set.images / "a.jpg"),
        "image_id": 11,
        "height": 6,
        "width": 8,
        "pan_seg_file_name": str(tiny_set.panoptic / "a.png"),
    }
    sky = {"id": 5, "category_id": 1, "isthing": False, "iscrowd": 0}
    dog = {"id": 9, "category_id": 0, "isthing": True, "iscrowd": 0}
    grass = {"id": 70000, "category_id": 2, "isthing": False, "iscrowd": 0}
    assert segments == [
        {**sky, "area": 22, "bbox": [0, 0, 8, 4]},
        {**dog, "area": 6, "bbox": [2, 2, 3, 2]},
        {**grass, "area": 16, "bbox": [0, 4, 8, 2]},
    ]
    # The image's file name is that of "images", whatever its suffix.
    assert second["file_name"] == str(tiny_set.images / "b.png")
    assert [s["iscrowd"] for s in second["segments_info"]] == [0, 0, 1]


def test_area_box_and_iscrowd_may_be_missing(tiny_set):
    tiny_set.content["annotations"][0]["segments_info"][0] = {"id": 5, "category_id": 12}
    tiny_set.save()
    segment = load_coco_panoptic_json(*tiny_set.paths)[0]["segments_info"][0]
    assert segment == {"id": 5, "category_id": 1, "isthing": False, "iscrowd": 0}


def test_the_coco_sample_loads_and_its_segments_are_those_of_its_pngs(shared_data):
    root = shared_data / "coco_panoptic_sample"
    dicts = load_coco_panoptic_json(
        root / "panoptic_examples.json", root / "input_images", root / "panoptic_examples"
    )
    assert [d["image_id"] for d in dicts] == [142238, 439180]
    for d in dicts:
        ids = read_panoptic_png(d["pan_seg_file_name"])
        assert ids.shape == (d["height"], d["width"])
        assert set(np.unique(ids)) - {0} == {s["id"] for s in d["segments_info"]}
        for s in d["segments_info"]:
            assert (ids == s["id"]).sum() == s["area"]
    names = {s["category_id"] for d in dicts for s in d["segments_info"] if s["isthing"]}
    assert 0 in names  # person


def _set(path, value):
    def change(content):
        *parents, last = path
        target = content
        for key in parents:
            target = target[key]
        if value is KeyError:
            del target[last]
        else:
            target[last] = value

    return change


SEGMENT = ("annotations", 1, "segments_info", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(["images"], KeyError), "expected a list 'images', found nothing"),
        (_set(["annotations"], {}), "expected a list 'annotations', found dict"),
        (_set(["categories"], None), "expected a list 'categories', found NoneType"),
        (_set(["annotations"], []), "'annotations' is empty"),
        (_set(["images", 1], 3), r"images\[1\] is 3, expected an object"),
        (_set(["images", 1, "id"], KeyError), r"images\[1\] has no 'id'"),
        (_set(["images", 1, "id"], 1.5), r"images\[1\]: id is 1.5, expected int or str"),
        (_set(["images", 1, "id"], 11), "images: id 11 occurs more than once"),
        (_set(["images", 1, "file_name"], "a.jpg"), "images: file_name 'a.jpg' occurs more than"),
        (_set(["images", 1, "file_name"], ""), r"images\[1\]: file_name is ''"),
        (_set(["images", 1, "file_name"], "a\0"), r"images\[1\]: file_name is 'a\\x00'"),
        (_set(["images", 1, "height"], KeyError), r"images\[1\] has no 'height'"),
        (_set(["images", 1, "height"], 0), r"images\[1\]: height is 0"),
        (_set(["images", 1, "width"], "8"), r"images\[1\]: width is '8', expected int"),
        (_set(["annotations", 1], []), r"annotations\[1\] is \[\], expected an object"),
        (_set(["annotations", 1, "image_id"], KeyError), r"annotations\[1\] has no 'image_id'"),
        (
            _set(["annotations", 1, "image_id"], 99),
            r"annotations\[1\]: image_id 99, of type int, is not",
        ),
        (
            _set(["annotations", 1, "image_id"], 11),
            "annotations: image_id 11 occurs more than",
        ),
        (_set(["annotations", 1, "file_name"], "a.png"), "file_name 'a.png' occurs more than once"),
        (_set(["annotations", 1, "file_name"], 5), r"annotations\[1\].*: file_name is 5"),
        (_set(["annotations", 1, "segments_info"], KeyError), "has no 'segments_info'"),
        (_set(["annotations", 1, "segments_info"], {}), "segments_info is {}, expected list"),
        (_set(SEGMENT, None), r"b\.png'\): segments_info\[2\] is None, expected an object"),
        (_set([*SEGMENT, "id"], KeyError), r"b\.png'\): segments_info\[2\] has no 'id'"),
        (_set([*SEGMENT, "id"], 0), r"segments_info\[2\]: id is 0, expected 1\.\.16777215"),
        (_set([*SEGMENT, "id"], 256**3), "id is 16777216, expected"),
        (_set([*SEGMENT, "id"], -4), "id is -4, expected"),
        (_set([*SEGMENT, "id"], "3"), "id is '3', expected int"),
        (_set([*SEGMENT, "id"], 2), r"b\.png'\): segments_info: id 2 occurs more than once"),
        (
            _set([*SEGMENT, "category_id"], 8),
            r"annotations\[1\] \(image 'b\.png'\): segments_info\[2\]: segment 3 has the "
            r"category_id 8, expected one of 'categories': \[3, 7, 12, 30\]",
        ),
        (_set([*SEGMENT, "category_id"], None), "category_id is None, expected int"),
        (_set([*SEGMENT, "iscrowd"], 2), "iscrowd is 2, expected 0 or 1"),
        (_set([*SEGMENT, "iscrowd"], []), r"iscrowd is \[\], expected 0 or 1"),
        (_set([*SEGMENT, "area"], "x"), "area is 'x', expected int or float"),
        (_set([*SEGMENT, "bbox"], [1, 2, 3]), r"bbox is \[1, 2, 3\]"),
        (_set([*SEGMENT, "bbox"], [1, 2, 3, "4"]), "bbox is .*expected"),
    ],
)
def test_a_wrong_json_is_an_error_that_names_file_place_field_and_value(tiny_set, change, message):
    change(tiny_set.content)
    tiny_set.save()
    with pytest.raises(DatasetError, match=rf"panoptic\.json: .*{message}"):
        load_coco_panoptic_json(*tiny_set.paths)


@pytest.mark.attack
@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"[1", b"[" * 100_000])
def test_a_file_that_is_no_json_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "bad.json").write_bytes(text)
    with pytest.raises(DatasetError, match=r"panoptic JSON .*bad\.json cannot be read"):
        read_coco_panoptic_json(tmp_path / "bad.json")


@pytest.mark.attack
def test_a_key_told_twice_is_an_error_that_names_it(tiny_set):
    text = tiny_set.json.read_text().replace('"annotations"', '"annotations": [], "annotations"')
    tiny_set.json.write_text(text)
    with pytest.raises(DatasetError, match=r"cannot be read: the key 'annotations' is there more"):
        load_coco_panoptic_json(*tiny_set.paths)


@pytest.mark.parametrize("path", ["nowhere.json", "."])
def test_a_missing_json_and_a_folder_in_its_place_are_errors(tmp_path, path):
    with pytest.raises(DatasetError, match=r"panoptic JSON .*(does not exist|cannot be read)"):
        read_coco_panoptic_json(tmp_path / path)


def test_json_with_a_byte_order_mark_is_read(tiny_set):
    tiny_set.json.write_bytes(b"\xef\xbb\xbf" + tiny_set.json.read_bytes())
    assert len(load_coco_panoptic_json(*tiny_set.paths)) == 2


def test_missing_files_are_counted_listed_and_searched_in_a_named_folder(tiny_set):
    os.remove(tiny_set.panoptic / "b.png")
    with pytest.raises(
        DatasetError, match=rf"1 of 2 panoptic PNG files are missing: {tiny_set.panoptic} lacks 'b"
    ):
        load_coco_panoptic_json(*tiny_set.paths)
    with pytest.raises(DatasetError, match=r"2 of 2 image files .*: /nowhere is not a folder"):
        load_coco_panoptic_json(tiny_set.json, "/nowhere", tiny_set.panoptic)


def test_files_in_subfolders_are_found(tiny_set):
    (tiny_set.images / "city").mkdir()
    os.rename(tiny_set.images / "a.jpg", tiny_set.images / "city/a.jpg")
    tiny_set.content["images"][0]["file_name"] = "city/a.jpg"
    tiny_set.save()
    first = load_coco_panoptic_json(*tiny_set.paths)[0]
    assert os.path.isfile(first["file_name"])


def test_images_without_annotation_are_left_out_with_a_warning(tiny_set, caplog):
    tiny_set.content["images"].append({"id": 13, "file_name": "c.jpg", "height": 6, "width": 8})
    tiny_set.save()
    assert len(load_coco_panoptic_json(*tiny_set.paths)) == 2
    assert "1 of 3 images have no annotation" in caplog.text


def test_categories_are_read_without_the_rest_of_the_file(tiny_set, monkeypatch):
    expected = tiny_set.content["categories"]
    monkeypatch.setattr(categories, "read_json", pytest.fail)
    assert read_categories(tiny_set.json) == expected
    tiny_set.json.write_text(json.dumps({"categories": expected, "annotations": []}, indent=3))
    assert read_categories(tiny_set.json) == expected


@pytest.mark.parametrize("decoy", ["categories", ["categories"], {"categories": [1]}])
def test_the_word_categories_elsewhere_in_the_file_does_not_mislead(tiny_set, decoy):
    tiny_set.content["info"] = decoy
    tiny_set.save()
    assert read_categories(tiny_set.json) == tiny_set.content["categories"]


def test_categories_of_a_broken_file_are_an_error(tmp_path):
    (tmp_path / "bad.json").write_text('{"categories": [{"id": ')
    with pytest.raises(DatasetError, match=r"bad\.json cannot be read"):
        read_categories(tmp_path / "bad.json")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"images"'])
def test_a_json_that_is_no_object_is_an_error_that_says_what_it_is(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(DatasetError, match=r"bad\.json: expected an object, found a \w+"):
        read_coco_panoptic_json(tmp_path / "bad.json")
