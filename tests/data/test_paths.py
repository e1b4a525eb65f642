"""Files that a data set names: nothing outside its folders is read, and nothing without an end."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz.data import load_coco_panoptic_json
from panoptic_lovasz.data.checking import check_coco_panoptic, repair_coco_panoptic
from panoptic_lovasz.data.converters import convert_coco_instances, convert_label_folders
from panoptic_lovasz.data.paths import Folder
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.evaluation import evaluate_submission


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root/city").mkdir(parents=True)
    (tmp_path / "root/city/a.jpg").write_bytes(b"a")
    (tmp_path / "secret.jpg").write_bytes(b"s")
    return tmp_path / "root"


def test_files_are_found_in_the_folder_and_below(root):
    assert Folder(root).find("city/a.jpg") == str(root / "city/a.jpg")
    assert Folder(root).find("city/../city/./a.jpg")
    with pytest.raises(FileNotFoundError):
        Folder(root).find("city/b.jpg")


@pytest.mark.attack
@pytest.mark.parametrize("name", ["../secret.jpg", "city/../../secret.jpg", "/etc/hostname", "/"])
@pytest.mark.parametrize("follow_links", [False, True])
def test_a_name_that_leads_out_is_refused(root, name, follow_links):
    with pytest.raises(DatasetError, match="leads out of"):
        Folder(root, follow_links).find(name)


def test_a_folder_whose_name_begins_alike_is_outside(root):
    os.mkdir(f"{root}2")
    (root.parent / "root2/a.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match="leads out of"):
        Folder(root).find("../root2/a.jpg")


def test_an_absolute_name_inside_is_fine_also_if_the_folder_is_a_link(root, tmp_path):
    os.symlink(root, tmp_path / "link")
    for folder in (root, tmp_path / "link"):
        for name in ("city/a.jpg", root / "city/a.jpg"):
            assert os.path.samefile(Folder(folder).find(str(name)), root / "city/a.jpg")
    assert Folder(tmp_path / "link").relative(str(root / "city/a.jpg")) == "city/a.jpg"


def test_links_may_lead_out_only_if_that_is_allowed(root):
    os.symlink(root.parent / "secret.jpg", root / "file.jpg")
    os.symlink(root.parent, root / "folder")
    os.symlink("city/a.jpg", root / "within.jpg")
    assert Folder(root).find("within.jpg")
    for name in ("file.jpg", "folder/secret.jpg"):
        with pytest.raises(DatasetError, match=r"link that leads out of .*--follow-links"):
            Folder(root).find(name)
        assert Folder(root, follow_links=True).find(name)


def test_pipes_devices_folders_and_dangling_links_are_refused(root):
    os.mkfifo(root / "pipe.jpg")
    os.symlink("/dev/zero", root / "zero.jpg")
    os.symlink("nowhere", root / "dangling.jpg")
    for name, kind in (
        ("pipe.jpg", "not a regular file"),
        ("zero.jpg", "not a regular file"),
        ("city", "is a folder"),
        ("dangling.jpg", "which does not exist"),
    ):
        with pytest.raises(DatasetError, match=kind):
            Folder(root, follow_links=True).find(name)


def test_names_of_windows_and_macos_are_understood(root):
    (root / "Straße é.jpg").write_bytes(b"")  # é as one character
    assert Folder(root).find("city\\a.jpg") == str(root / "city/a.jpg")
    assert Folder(root).find("Straße e\u0301.jpg") == str(root / "Straße é.jpg")


@pytest.mark.attack
@pytest.mark.parametrize("field", ["images", "annotations"])
@pytest.mark.parametrize("attack", ["parent", "absolute", "link", "pipe"])
def test_a_data_set_cannot_make_others_files_be_read(tiny_set, tmp_path, field, attack):
    secret = tmp_path / "secret.png"
    folder = tiny_set.images if field == "images" else tiny_set.panoptic
    os.rename(folder / tiny_set.content[field][1]["file_name"], secret)
    name = {"parent": "../../secret.png", "absolute": str(secret)}.get(attack, "evil.png")
    if attack == "link":
        os.symlink(secret, folder / name)
    elif attack == "pipe":
        os.mkfifo(folder / name)
    tiny_set.content[field][1]["file_name"] = name
    tiny_set.save()
    with pytest.raises(DatasetError, match=r"panoptic\.json: .*(leads out|not a regular file)"):
        load_coco_panoptic_json(*tiny_set.paths)
    report = check_coco_panoptic(*tiny_set.paths, progress=False, workers=1)
    assert any(f.field == "file_name" for f in report.errors)
    fixed = repair_coco_panoptic(report, tiny_set.json, tiny_set.panoptic)
    assert secret.exists() and fixed[0].exists()
    if attack == "link":
        assert load_coco_panoptic_json(*tiny_set.paths, follow_links=True)
        assert not check_coco_panoptic(*tiny_set.paths, progress=False, follow_links=True).errors


@pytest.mark.attack
def test_a_repair_writes_nothing_outside_for_an_absolute_name(tiny_set):
    annotation = tiny_set.content["annotations"][1]
    annotation["segments_info"].pop()
    annotation["file_name"] = str(tiny_set.panoptic / annotation["file_name"])
    tiny_set.save()
    before = (tiny_set.panoptic / "b.png").read_bytes()
    report = check_coco_panoptic(*tiny_set.paths, progress=False, workers=1)
    fixed_json, fixed_folder = repair_coco_panoptic(report, tiny_set.json, tiny_set.panoptic)
    assert (tiny_set.panoptic / "b.png").read_bytes() == before
    assert (fixed_folder / "b.png").exists()
    assert load_coco_panoptic_json(fixed_json, tiny_set.images, fixed_folder)


@pytest.mark.attack
@pytest.mark.parametrize("side", ["pred", "gt"])
def test_evaluation_reads_no_file_outside_the_folders(tiny_set, tmp_path, side):
    for name in ("pred", "gt"):
        content = json.loads(tiny_set.json.read_text())
        if name == side:
            content["annotations"][0]["file_name"] = "../../secret.png"
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=rf"{side}\.json: .* leads out"):
        evaluate_submission(
            tmp_path / "pred.json", tmp_path / "gt.json", tiny_set.panoptic, tiny_set.panoptic
        )


@pytest.mark.attack
def test_converters_read_no_file_outside_the_folders(tmp_path):
    Image.fromarray(np.ones((4, 5), np.uint8)).save(tmp_path / "secret.png")
    for folder in ("images", "semantic", "instances"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.ones((4, 5), np.uint8)).save(tmp_path / folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "../secret.png", "width": 5, "height": 4}],
        "annotations": [],
        "categories": [{"id": 1, "name": "car"}],
    }
    (tmp_path / "in.json").write_text(json.dumps(content))
    out = (tmp_path / "out.json", tmp_path / "out")
    with pytest.raises(DatasetError, match="leads out of"):
        convert_coco_instances(tmp_path / "in.json", tmp_path / "images", *out)
    for folder in ("images", "semantic", "instances"):
        (tmp_path / folder / "a.png").unlink()
        os.symlink(tmp_path / "secret.png", tmp_path / folder / "a.png")
        folders = [tmp_path / name for name in ("images", "semantic", "instances")]
        categories = [{"id": 1, "name": "car", "isthing": 1}]
        with pytest.raises(DatasetError, match="link that leads out"):
            convert_label_folders(*folders, categories, *out, progress=False)
    assert convert_label_folders(*folders, categories, *out, follow_links=True, progress=False) == 1
