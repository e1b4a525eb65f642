"""Faults are planted in a sound data set, one at a time; each must be found and named."""

import copy
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz.data import PanopticSample, load_coco_panoptic_json, write_coco_panoptic
from panoptic_lovasz.data.checking import Statistics, check_coco_panoptic, repair_coco_panoptic
from panoptic_lovasz.data.checking.files import ImageFindings
from panoptic_lovasz.data.id_map import read_panoptic_png, write_panoptic_png
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.tools import check_dataset

CATEGORIES = [
    {"id": 1, "name": "cow", "isthing": 1},
    {"id": 2, "name": "grass", "isthing": 0},
    {"id": 3, "name": "sky", "isthing": 0},
]


def _sample(name):
    ids = np.full((24, 32), 10, np.int32)
    ids[:8] = 20
    ids[10:16, 4:14] = 30
    ids[18:22, 20:28] = 40
    ids[:, -1] = 0
    categories = {10: 2, 20: 3, 30: 1, 40: 1}
    return PanopticSample(name, ids, [{"id": i, "category_id": c} for i, c in categories.items()])


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    (root / "images").mkdir()
    names = ["a.jpg", "b.jpg", "c.jpg"]
    for name in names:
        Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(root / "images" / name)
    write_coco_panoptic(
        root / "train.json",
        root / "panoptic",
        CATEGORIES,
        map(_sample, names),
        progress=False,
    )
    return root


@pytest.fixture
def data(sound, tmp_path):
    return _Data(shutil.copytree(sound, tmp_path / "data"))


class _Data:
    """A copy of the sound data set that faults are planted in."""

    def __init__(self, root):
        self.root = root
        self.json = json.loads((root / "train.json").read_text())
        self.image = self.json["images"][1]
        self.annotation = self.json["annotations"][1]
        self.segment = self.annotation["segments_info"][2]

    def arguments(self):
        (self.root / "train.json").write_text(json.dumps(self.json))
        return self.root / "train.json", self.root / "images", self.root / "panoptic"

    def check(self):
        return check_coco_panoptic(*self.arguments(), progress=False, workers=1)

    def save_image(self, array, **options):
        Image.fromarray(array).save(self.root / "images/b.jpg", **options)

    def save_png(self, array):
        Image.fromarray(array).save(self.root / "panoptic/b.png")

    def edit_ids(self, edit):
        file = self.root / "panoptic/b.png"
        ids = read_panoptic_png(file).copy()
        edit(ids)
        write_panoptic_png(file, ids)


def _exif(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def _truncate(path):
    path.write_bytes(path.read_bytes()[:300])


def _set(record, **fields):
    record.update(fields)


BLANK = np.full((24, 32, 3), 90, np.uint8)
# What is planted; the file that must be named; the field; what the message says.
FAULTS = {
    "nothing annotated": (
        lambda d: d.json["annotations"].clear(),
        "train.json",
        "annotations",
        "nothing to learn",
    ),
    "no thing": (
        lambda d: [_set(c, isthing=0) for c in d.json["categories"]],
        "train.json",
        "categories",
        "none is a thing",
    ),
    "image without id": (lambda d: d.image.pop("id"), "train.json", "images[1]", "no 'id'"),
    "image without name": (
        lambda d: d.image.pop("file_name"),
        "train.json",
        "images[1]",
        "no 'file_name'",
    ),
    "image height as text": (
        lambda d: _set(d.image, height="24"),
        "train.json",
        "images[1]",
        "height is '24', expected int",
    ),
    "image of negative width": (
        lambda d: _set(d.image, width=-5),
        "train.json",
        "images[1]",
        "width is -5",
    ),
    "image that is not an object": (
        lambda d: d.json["images"].__setitem__(1, 7),
        "train.json",
        "images[1]",
        "7, expected an object",
    ),
    "image id twice": (
        lambda d: _set(d.image, id=d.json["images"][0]["id"]),
        "train.json",
        "images[1].id",
        "earlier image",
    ),
    "image name twice": (
        lambda d: _set(d.image, file_name="a.jpg"),
        "train.json",
        "images.file_name",
        "'a.jpg' occurs 2 times",
    ),
    "annotation of no image": (
        lambda d: _set(d.annotation, image_id=99),
        "train.json",
        "annotations[1].image_id",
        "99, of type int, is not the id",
    ),
    "annotation twice": (
        lambda d: d.json["annotations"].append(copy.deepcopy(d.annotation)),
        "train.json",
        "annotations[3].image_id",
        "earlier annotation",
    ),
    "annotation without segments": (
        lambda d: d.annotation.pop("segments_info"),
        "train.json",
        "annotations[1]",
        "no 'segments_info'",
    ),
    "annotation without PNG name": (
        lambda d: d.annotation.pop("file_name"),
        "train.json",
        "annotations[1]",
        "no 'file_name'",
    ),
    "PNG of another annotation": (
        lambda d: _set(d.annotation, file_name="a.png"),
        "train.json",
        "annotations[1].file_name",
        "'a.png'",
    ),
    "segment without id": (
        lambda d: d.segment.pop("id"),
        "train.json",
        "annotations[1].segments_info[2]",
        "no 'id'",
    ),
    "segment id 0": (
        lambda d: _set(d.segment, id=0),
        "train.json",
        "annotations[1].segments_info[2]",
        "id is 0",
    ),
    "segment id too large": (
        lambda d: _set(d.segment, id=256**3),
        "train.json",
        "annotations[1].segments_info[2]",
        "16777216",
    ),
    "segment id twice": (
        lambda d: _set(d.segment, id=10),
        "train.json",
        "annotations[1].segments_info[2].id",
        "earlier segment",
    ),
    "category not declared": (
        lambda d: _set(d.segment, category_id=77),
        "train.json",
        "annotations[1].segments_info[2]",
        "category_id 77",
    ),
    "iscrowd of another value": (
        lambda d: _set(d.segment, iscrowd=3),
        "train.json",
        "annotations[1].segments_info[2]",
        "iscrowd is 3",
    ),
    "box of three numbers": (
        lambda d: _set(d.segment, bbox=[1, 2, 3]),
        "train.json",
        "annotations[1].segments_info[2]",
        "bbox is [1, 2, 3]",
    ),
    "wrong area": (
        lambda d: _set(d.segment, area=61),
        "b.png",
        "area",
        "segment 30 is 61, the PNG has 60 pixels",
    ),
    "wrong box": (
        lambda d: _set(d.segment, bbox=[0, 0, 10, 6]),
        "b.png",
        "bbox",
        "segment 30 is [0, 0, 10, 6], the PNG has [4, 10, 10, 6]",
    ),
    "segment that the PNG lacks": (
        lambda d: d.edit_ids(lambda ids: np.place(ids, ids == 30, 10)),
        "b.png",
        "segments_info",
        "segment 30 has no pixel",
    ),
    "id that the JSON lacks": (
        lambda d: d.edit_ids(lambda ids: np.place(ids, ids == 0, 555)),
        "b.png",
        "pixels",
        "[555], which the JSON lacks",
    ),
    "image missing": (
        lambda d: (d.root / "images/b.jpg").unlink(),
        "b.jpg",
        "file",
        "is missing",
    ),
    "image truncated": (
        lambda d: _truncate(d.root / "images/b.jpg"),
        "b.jpg",
        "pixels",
        "cannot be read",
    ),
    "image of another size": (
        lambda d: d.save_image(BLANK[:20]),
        "b.jpg",
        "size",
        "it is 32 x 20 pixels, but its data set says 32 x 24",
    ),
    "image turned by EXIF": (
        lambda d: d.save_image(BLANK, exif=_exif(6)),
        "b.jpg",
        "EXIF",
        "turned by its EXIF orientation",
    ),
    "PNG missing": (
        lambda d: (d.root / "panoptic/b.png").unlink(),
        "b.png",
        "file",
        "is missing",
    ),
    "PNG truncated": (
        lambda d: _truncate_to(d.root / "panoptic/b.png", 60),
        "b.png",
        "pixels",
        "cannot be read",
    ),
    "PNG of one channel": (
        lambda d: d.save_png(BLANK[..., 0]),
        "b.png",
        "pixels",
        "has 8-bit gray",
    ),
    "PNG of another size": (
        lambda d: d.save_png(BLANK[:, :30]),
        "b.png",
        "size",
        "is 30 x 24 pixels, but its data set says 32 x 24",
    ),
}
WARNINGS = {
    "crowd": (
        lambda d: _set(d.segment, iscrowd=1),
        "train.json",
        "annotations[1].segments_info[2].iscrowd",
        "segment 30 is a crowd",
    ),
    "stuff as a crowd": (
        lambda d: _set(d.annotation["segments_info"][0], iscrowd=1),
        "train.json",
        "annotations[1].segments_info[0].iscrowd",
        "stuff marked as a crowd",
    ),
    "image without annotation": (
        lambda d: d.json["annotations"].pop(1),
        "train.json",
        "annotations",
        "'b.jpg' has none",
    ),
    "category that no image shows": (
        lambda d: d.json["categories"].append({"id": 9, "name": "owl", "isthing": 1}),
        "train.json",
        "categories",
        "no image shows 1 of them: owl",
    ),
    "image half turned by EXIF": (
        lambda d: d.save_image(BLANK, exif=_exif(3)),
        "b.jpg",
        "EXIF",
        "turned by its EXIF orientation",
    ),
    "image that is not listed": (
        lambda d: shutil.copy(d.root / "images/a.jpg", d.root / "images/z.jpg"),
        "images",
        "files",
        "1 are not in the JSON: z.jpg",
    ),
    "all void": (
        lambda d: (d.annotation["segments_info"].clear(), d.edit_ids(lambda ids: ids.fill(0))),
        "b.png",
        "pixels",
        "all are void",
    ),
    "thing with crowds only": (
        lambda d: [
            _set(s, iscrowd=1)
            for a in d.json["annotations"]
            for s in a["segments_info"]
            if s["category_id"] == 1
        ],
        "train.json",
        "categories",
        "the thing cow has crowds, no instance",
    ),
}


def _truncate_to(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_a_sound_data_set_has_no_fault(data):
    report = data.check()
    assert report.faults == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_error_is_found_in_its_file_and_field(data, name):
    plant, file, field, message = FAULTS[name]
    plant(data)
    errors = data.check().errors
    matching = [f for f in errors if f.file.endswith(file) and f.field == field]
    assert any(message in f.message for f in matching), [str(f) for f in errors]


@pytest.mark.parametrize("name", WARNINGS)
def test_what_training_can_live_with_is_a_warning(data, name):
    plant, file, field, message = WARNINGS[name]
    plant(data)
    report = data.check()
    assert not report.errors, [str(f) for f in report.errors]
    matching = [f for f in report.faults if f.file.endswith(file) and f.field == field]
    assert any(message in f.message for f in matching), [str(f) for f in report.faults]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content.pop("images"), "expected a list 'images', found nothing"),
        (lambda content: content["categories"].clear(), "'categories' must be a list"),
        (lambda content: content["categories"][0].pop("name"), r"categories\[0\] has no 'name'"),
    ],
)
def test_a_json_of_which_nothing_can_be_judged_is_an_error_that_names_it(data, edit, message):
    edit(data.json)
    with pytest.raises(DatasetError, match=rf"train\.json.*{message}"):
        data.check()


def test_all_faults_are_found_in_one_pass(data):
    for name in ("wrong area", "image missing", "image turned by EXIF"):
        if name == "image missing":
            (data.root / "images/c.jpg").unlink()
        else:
            FAULTS[name][0](data)
    fields = {(f.file.rpartition("/")[2], f.field) for f in data.check().errors}
    assert {("b.png", "area"), ("c.jpg", "file"), ("b.jpg", "EXIF")} <= fields


def test_statistics_count_pixels_instances_and_images_by_class(data):
    _set(data.segment, iscrowd=1)
    statistics = data.check().statistics
    rows = {row.name: row for row in statistics.rows()}
    assert (rows["cow"].pixels, rows["cow"].instances, rows["cow"].images) == (3 * 92, 5, 3)
    assert rows["sky"].pixels == 3 * 8 * 31
    assert statistics.void_pixels == 3 * 24
    assert statistics.sizes == {(32, 24): 3}
    assert "cow" in statistics.table() and "32x24 (3)" in statistics.table()


def test_the_repaired_copy_is_sound_and_the_original_is_untouched(data):
    FAULTS["wrong area"][0](data)
    FAULTS["wrong box"][0](data)
    FAULTS["id that the JSON lacks"][0](data)
    data.edit_ids(lambda ids: np.place(ids, ids == 40, 10))
    json_file, images, panoptic = data.arguments()
    before = {p: p.read_bytes() for p in data.root.rglob("*") if p.is_file()}
    fixed_json, fixed_panoptic = repair_coco_panoptic(data.check(), json_file, panoptic)
    assert {p: p.read_bytes() for p in before} == before
    report = check_coco_panoptic(fixed_json, images, fixed_panoptic, progress=False)
    assert report.faults == []
    assert len(load_coco_panoptic_json(fixed_json, images, fixed_panoptic)) == 3


def test_the_repaired_folder_has_every_png_also_of_what_cannot_be_repaired(data):
    FAULTS["id that the JSON lacks"][0](data)
    _set(data.json["images"][0], width=99)
    json_file, _, panoptic = data.arguments()
    _, fixed_panoptic = repair_coco_panoptic(data.check(), json_file, panoptic)
    assert sorted(p.name for p in fixed_panoptic.iterdir()) == ["a.png", "b.png", "c.png"]
    assert (fixed_panoptic / "a.png").read_bytes() == (panoptic / "a.png").read_bytes()


def test_without_unknown_ids_the_png_folder_needs_no_copy(data):
    FAULTS["wrong area"][0](data)
    json_file, _, panoptic = data.arguments()
    _, fixed_panoptic = repair_coco_panoptic(data.check(), json_file, panoptic)
    assert fixed_panoptic == panoptic
    with pytest.raises(DatasetError, match=r"train\.fixed\.json exists already"):
        repair_coco_panoptic(data.check(), json_file, panoptic)


def test_the_exit_code_tells_whether_there_are_errors(data, capsys):
    def run(*options):
        json_file, images, panoptic = map(str, data.arguments())
        return check_dataset.main([json_file, "--images", images, "--panoptic", panoptic, *options])

    assert run() == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    _set(data.segment, area=1)
    assert run("--fix", "--plot", str(data.root / "plot.png")) == 1
    out = capsys.readouterr().out
    assert "panoptic/b.png: area: of segment 30 is 1, the PNG has 60 pixels" in out
    assert (data.root / "train.fixed.json").is_file() and (data.root / "plot.png").is_file()


def test_an_unknown_name_says_how_to_name_a_data_set(capsys):
    assert check_dataset.main(["no_such_data"]) == 1
    assert "--config-file" in capsys.readouterr().err


def test_the_real_coco_sample_is_sound(shared_data):
    sample = shared_data / "coco_panoptic_sample"
    report = check_coco_panoptic(
        sample / "panoptic_examples.json",
        sample / "input_images",
        sample / "panoptic_examples",
        progress=False,
    )
    assert report.errors == []
    assert report.statistics.num_images == 2


def test_a_class_that_hardly_an_image_shows_is_called_rare():
    statistics = Statistics(CATEGORIES)
    for n in range(101):
        segments = [{"id": 5, "category_id": 2}]
        segments += [{"id": 6, "category_id": 1}] if n == 7 else []
        areas = {s["id"]: 10 for s in segments}
        statistics.add(ImageFindings(size=(8, 8), areas=areas, segments=segments))
    assert statistics.table().endswith("rare, in less than 1% of the images: cow (1)")


def test_a_registered_data_set_is_checked_by_its_name_and_only_some_faults_are_printed(
    data, capsys
):
    for annotation in data.json["annotations"]:
        annotation["segments_info"] += [{"id": n, "category_id": 1} for n in range(100, 120)]
    json_file, images, panoptic = map(str, data.arguments())
    entry = {"name": "checked", "json": json_file, "images": images, "panoptic": panoptic}
    config = data.root / "config.yaml"
    config.write_text(f"DATASETS: {{PANOPTIC: [{json.dumps(entry)}]}}")
    argv = ["checked", "--config-file", str(config)]
    assert check_dataset.main(argv) == 1
    some = capsys.readouterr().out
    assert check_dataset.main([*argv, "--all"]) == 1
    every = capsys.readouterr().out
    count = sum(line.startswith("error: ") for line in every.splitlines())
    assert (count, "more; --all" in every) == (60, False)
    assert "... and 10 more; --all prints them" in some


def test_detectron2s_cityscapes_whose_json_has_other_names_cannot_be_checked(capsys):
    assert check_dataset.main(["cityscapes_fine_panoptic_val"]) == 1
    assert "check what tools.convert cityscapes makes of it" in capsys.readouterr().err


def test_a_data_set_of_another_format_cannot_be_checked(capsys):
    assert check_dataset.main(["coco_2017_val"]) == 1
    assert "'coco_2017_val' is not in the COCO panoptic format" in capsys.readouterr().err
