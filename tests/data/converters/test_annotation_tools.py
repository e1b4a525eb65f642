"""The commands of docs/annotation_tools.md on small files in the layouts that the tools write."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from panoptic_lovasz.data import load_coco_panoptic_json
from panoptic_lovasz.tools import check_dataset, convert

PAGE = Path(__file__).resolve().parents[3] / "docs/annotation_tools.md"
CAR, ROAD = [[2, 2, 12, 2, 12, 10, 2, 10]], [[0, 0, 40, 0, 40, 30, 0, 30]]
BRUSH = {"size": [30, 40], "counts": [62, 8, 22, 8, 22, 8, 22, 8, 1040]}


def _annotation(number, category, segmentation, **fields):
    made = {"id": number, "image_id": 1, "category_id": category, "segmentation": segmentation}
    return {**made, "iscrowd": 0, "bbox": [2.0, 2.0, 10.0, 8.0], "area": 80.0, **fields}


def _cvat():
    """Polygons as lists, brush masks as RLE of iscrowd 1; licenses and attributes."""
    attributes = {"occluded": False, "rotation": 0.0}
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "year": ""},
        "categories": [
            {"id": 1, "name": "car", "supercategory": ""},
            {"id": 2, "name": "road", "supercategory": ""},
        ],
        "images": [_image("a.jpg", license=0, flickr_url="", coco_url="", date_captured=0)],
        "annotations": [
            _annotation(1, 1, BRUSH, iscrowd=1, attributes=attributes),
            _annotation(2, 2, ROAD, attributes=attributes),
        ],
    }


def _label_studio():
    """Ids from 0, names below images/ (with backslashes on Windows), rectangles without a mask."""
    return {
        "images": [{"width": 40, "height": 30, "id": 1, "file_name": "images\\a.jpg"}],
        "categories": [{"id": 0, "name": "car"}, {"id": 1, "name": "road"}],
        "annotations": [
            _annotation(0, 0, CAR, ignore=0),
            _annotation(1, 1, ROAD, ignore=0),
            _annotation(2, 0, [], ignore=0),
        ],
        "info": {"year": 2024, "version": "1.0", "contributor": "Label Studio"},
    }


def _roboflow():
    """A root category, and names that end in a hash."""
    return {
        "info": {"year": "2024", "description": "Exported from roboflow.com"},
        "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
        "categories": [
            {"id": 0, "name": "street", "supercategory": "none"},
            {"id": 1, "name": "car", "supercategory": "street"},
            {"id": 2, "name": "road", "supercategory": "street"},
        ],
        "images": [_image("a_jpg.rf.0123456789abcdef.jpg", license=1)],
        "annotations": [_annotation(0, 1, CAR), _annotation(1, 2, ROAD)],
    }


def _supervisely():
    """Polygons of floats, an object in two parts."""
    parts = [*CAR, [20.0, 20.0, 24.0, 20.0, 24.0, 24.0, 20.0, 24.0]]
    return {
        "info": {"description": "", "url": "None", "version": "1.0"},
        "licenses": [{"url": "None", "id": 0, "name": "None"}],
        "images": [_image("a.jpg", license="None", url="None")],
        "annotations": [_annotation(1, 1, parts), _annotation(2, 2, ROAD)],
        "categories": [
            {"supercategory": "car", "id": 1, "name": "car"},
            {"supercategory": "road", "id": 2, "name": "road"},
        ],
    }


def _fiftyone():
    """Supercategories that are null, and a detection without a mask."""
    bare = _annotation(3, 0, [])
    del bare["segmentation"]
    return {
        "info": {"year": "", "version": "", "contributor": ""},
        "licenses": [],
        "categories": [
            {"id": 0, "name": "car", "supercategory": None},
            {"id": 1, "name": "road", "supercategory": None},
        ],
        "images": [_image("a.jpg", license=None, coco_url=None)],
        "annotations": [_annotation(1, 0, CAR), _annotation(2, 1, ROAD), bare],
    }


def _coco_annotator():
    """Colors as text, iscrowd as a truth value, annotations that were never drawn."""
    fields = {"isbbox": False, "color": "#3b8f2a", "metadata": {}, "width": 40, "height": 30}
    return {
        "images": [_image("a.jpg", path="/datasets/street/a.jpg", annotated=True)],
        "categories": [
            {"id": 1, "name": "car", "supercategory": "", "color": "#e6194b", "metadata": {}},
            {"id": 2, "name": "road", "supercategory": "", "color": "#3cb44b", "metadata": {}},
        ],
        "annotations": [
            _annotation(1, 1, CAR, **{**fields, "iscrowd": False}),
            _annotation(2, 2, ROAD, **{**fields, "iscrowd": False}),
            _annotation(3, 1, [], **{**fields, "iscrowd": False}),
        ],
    }


def _image(name, **fields):
    return {"id": 1, "file_name": name, "width": 40, "height": 30, **fields}


TOOLS = {  # section of the page: the JSON, where it lies, where the images lie
    "CVAT": (_cvat, "annotations/instances_default.json", "images/default"),
    "Label Studio": (_label_studio, "result.json", "."),
    "Roboflow": (_roboflow, "train/_annotations.coco.json", "train"),
    "Supervisely": (_supervisely, "ds1/annotations/instances.json", "ds1/images"),
    "FiftyOne": (_fiftyone, "labels.json", "data"),
    "COCO Annotator": (_coco_annotator, "dataset.json", "images"),
}


def _command(section):
    """The arguments of the section's command, as written."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    command = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].replace("\\\n", "")
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "panoptic_lovasz.tools.convert"]
    return words[3:]


@pytest.mark.parametrize("section", TOOLS)
def test_the_command_converts_what_the_tool_exports(section, tmp_path, monkeypatch):
    make, json_name, image_folder = TOOLS[section]
    content = make()
    export = tmp_path / "export"
    name = content["images"][0]["file_name"].replace("\\", "/")
    for file in (export / json_name, export / image_folder / name):
        file.parent.mkdir(parents=True, exist_ok=True)
    (export / json_name).write_text(json.dumps(content))
    Image.new("RGB", (40, 30), (90, 120, 60)).save(export / image_folder / name)
    monkeypatch.chdir(tmp_path)

    assert check_dataset.main([f"export/{json_name}", "--images", f"export/{image_folder}"]) == 0
    assert convert.main(_command(section)) == 0
    (record,) = load_coco_panoptic_json(
        "data/train.json", f"export/{image_folder}", "data/panoptic_train"
    )
    found = {(s["isthing"], s["iscrowd"]): s["area"] for s in record["segments_info"]}
    car = {"CVAT": 32, "Supervisely": 96}.get(section, 80)
    assert found == {(True, 0): car, (False, 0): 40 * 30 - car}
    categories = json.loads(Path("data/train.json").read_text())["categories"]
    assert [(c["name"], c["isthing"]) for c in categories] == [("car", 1), ("road", 0)]


def test_every_section_of_the_page_is_tried():
    assert re.findall(r"^## (.*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE) == list(TOOLS)
