import json
import shutil

import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz.data import load_coco_panoptic_json
from panoptic_lovasz.data.converters import convert_camvid
from panoptic_lovasz.data.id_map import read_panoptic_png
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.tools import convert

ROAD, CAR, VOID = 3, 8, 11


def _release(root, labels, suffix=".jpg", split="train"):
    (root / split).mkdir(parents=True)
    (root / f"{split}annot").mkdir()
    image = np.zeros((*labels.shape, 3), np.uint8)
    Image.fromarray(image).save(root / split / f"a{suffix}")
    Image.fromarray(labels.astype(np.uint8)).save(root / f"{split}annot" / "a.png")
    return root


def _labels():
    labels = np.full((40, 60), ROAD)
    labels[5:15, 5:20] = CAR
    labels[20:35, 30:50] = CAR
    labels[2, 50:53] = CAR  # a speck
    labels[38:] = VOID
    return labels


def _load(root):
    (dataset_dict,) = load_coco_panoptic_json(
        root / "annotations/panoptic_train.json", root / "train", root / "panoptic_train"
    )
    return dataset_dict


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_connected_components_of_things_become_instances_and_specks_a_crowd(tmp_path, suffix):
    root = _release(tmp_path / "camvid", _labels(), suffix)
    assert convert_camvid(root, root, progress=False) == {"train": 1}
    dataset_dict = _load(root)
    found = {(s["isthing"], s["iscrowd"], s["area"]) for s in dataset_dict["segments_info"]}
    road = (_labels() == ROAD).sum()
    assert found == {(True, 0, 150), (True, 0, 300), (True, 1, 3), (False, 0, road)}
    ids = read_panoptic_png(dataset_dict["pan_seg_file_name"])
    np.testing.assert_array_equal(ids == 0, _labels() == VOID)


def test_another_output_folder_gets_links_to_the_images(tmp_path):
    root = _release(tmp_path / "camvid", _labels())
    convert_camvid(root, tmp_path / "out", progress=False)
    assert Image.open(_load(tmp_path / "out")["file_name"]).size == (60, 40)


def test_a_label_out_of_range_is_named_with_its_file_and_nothing_is_written(tmp_path):
    labels = _labels()
    labels[0, 0] = 42
    root = _release(tmp_path / "camvid", labels)
    with pytest.raises(DatasetError, match=r"a\.png has the label 42, expected 0\.\.10"):
        convert_camvid(root, tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").rglob("*.*"))


def test_missing_labels_are_counted_and_named(tmp_path):
    root = _release(tmp_path / "camvid", _labels())
    (root / "trainannot/a.png").unlink()
    with pytest.raises(
        DatasetError, match=r"1 of 1 label files are missing: .*/trainannot lacks 'a\.png'"
    ):
        convert_camvid(root, root, progress=False)


def test_a_label_file_of_another_size_is_named_with_both_sizes(tmp_path):
    root = _release(tmp_path / "camvid", _labels())
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(root / "trainannot/a.png")
    with pytest.raises(DatasetError, match=r"a\.png is 12 x 10 pixels.*a\.jpg is 60 x 40"):
        convert_camvid(root, root, progress=False)


def test_a_folder_without_the_layout_is_refused_with_what_was_expected(tmp_path, capsys):
    argv = ["camvid", "--input", str(tmp_path), "--output", str(tmp_path / "out")]
    assert convert.main(argv) == 1
    assert "none of the folders trainannot" in capsys.readouterr().err


def test_the_real_validation_images_convert_to_the_label_counts_of_the_release(
    shared_data, tmp_path
):
    source = tmp_path / "camvid"
    for folder in ("val", "valannot"):
        (source / folder).mkdir(parents=True)
        for file in sorted((shared_data / "camvid" / folder).iterdir())[:4]:
            shutil.copy(file, source / folder)
    assert convert_camvid(source, tmp_path / "out", progress=False) == {"val": 4}
    content = json.loads((tmp_path / "out/annotations/panoptic_val.json").read_text())
    area = np.zeros(12, int)
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            area[segment["category_id"] - 1] += segment["area"]
    labels = [np.array(Image.open(p)) for p in (source / "valannot").iterdir()]
    expected = np.bincount(np.concatenate([x.ravel() for x in labels]), minlength=12)
    np.testing.assert_array_equal(area[:11], expected[:11])


def test_the_command_line_names_every_split_that_it_wrote(tmp_path, capsys):
    root = _release(tmp_path / "camvid", _labels())
    _release(root, _labels(), split="val")
    out = tmp_path / "out"
    argv = ["camvid", "--input", str(root), "--output", str(out), "--min-instance-area", "200"]
    convert.main(argv)
    assert capsys.readouterr().out.splitlines() == [
        f"{out}/annotations/panoptic_{split}.json: 1 images" for split in ("train", "val")
    ]
    things = [s for s in _load(out)["segments_info"] if s["isthing"]]
    assert sorted((s["iscrowd"], s["area"]) for s in things) == [(0, 300), (1, 153)]
    assert convert.main(argv) == 1
    assert "panoptic_train.json exists already" in capsys.readouterr().err
    assert convert.main([*argv, "--overwrite"]) == 0


def test_an_output_that_has_something_else_in_place_of_the_images_is_left_as_it_is(tmp_path):
    root = _release(tmp_path / "camvid", _labels())
    (tmp_path / "out/train").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"out/train exists and is not .*camvid/train"):
        convert_camvid(root, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").rglob("*")) == [tmp_path / "out/train"]


def test_a_missing_or_empty_image_folder_is_named(tmp_path):
    root = _release(tmp_path / "camvid", _labels())
    (root / "train/a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"camvid/train holds no image \(\.avif"):
        convert_camvid(root, root, progress=False)
    (root / "train").rmdir()
    with pytest.raises(DatasetError, match=r"image folder .*camvid/train does not exist"):
        convert_camvid(root, root, progress=False)
