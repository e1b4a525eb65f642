import json
import os

import numpy as np
import pytest
from PIL import Image

from panoptic_lovasz.data import load_coco_panoptic_json, make_shapes
from panoptic_lovasz.data import shapes as shapes_module
from panoptic_lovasz.data.id_map import read_panoptic_png
from panoptic_lovasz.data.scene import SHAPES_CATEGORIES, draw_scene
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.tools.make_shapes import main

FEW = {"num_train": 2, "num_val": 1, "size": 64, "progress": False}


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*.*")}


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_set_is_in_the_coco_panoptic_format(shapes, split):
    dicts = load_coco_panoptic_json(
        shapes / f"annotations/{split}.json", shapes / split, shapes / f"panoptic_{split}"
    )
    assert len(dicts) == {"train": 12, "val": 3}[split]
    for d in dicts:
        ids = read_panoptic_png(d["pan_seg_file_name"])
        assert ids.shape == (96, 96)
        assert np.asarray(Image.open(d["file_name"])).shape == (96, 96, 3)
        assert set(np.unique(ids)) - {0} == {s["id"] for s in d["segments_info"]}


def test_a_class_of_stuff_is_one_segment_and_every_thing_is_one():
    for seed in range(30):
        _, ids, segments = draw_scene(np.random.default_rng(seed))
        stuff = [s["category_id"] for s in segments if s["category_id"] > 10]
        assert len(stuff) == len(set(stuff))
        assert {11, 12} <= set(stuff)  # sky and grass are always there
        assert len(segments) - len(stuff) >= 2
        assert len({s["id"] for s in segments}) == len(segments)
        assert ids.dtype == np.int32


def test_all_classes_crowds_void_thin_and_hidden_things_occur():
    scenes = [draw_scene(np.random.default_rng(seed)) for seed in range(60)]
    segments = [s for scene in scenes for s in scene[2]]
    assert {s["category_id"] for s in segments} == {c["id"] for c in SHAPES_CATEGORIES}
    assert any(s["iscrowd"] for s in segments)
    assert any((scene[1] == 0).any() for scene in scenes)
    # A disc has an area of pi/4 of its box; one that is hidden in part has less.
    fill = []
    for _, ids, scene_segments in scenes:
        for s in scene_segments:
            if s["category_id"] == 1 and not s["iscrowd"]:
                y, x = np.nonzero(ids == s["id"])
                fill.append(len(y) / ((np.ptp(y) + 1) * (np.ptp(x) + 1)))
    assert min(fill) < 0.6 < np.pi / 4 - 0.05 < max(fill)


def test_things_are_as_large_as_the_smallest_anchors_and_mostly_visible():
    for seed in range(30):
        _, ids, segments = draw_scene(np.random.default_rng(seed))
        areas = [
            (ids == s["id"]).sum() for s in segments if s["category_id"] < 10 and not s["iscrowd"]
        ]
        assert np.median(areas) > 200


def test_the_same_arguments_give_the_same_files_and_another_seed_others(tmp_path):
    first = make_shapes(tmp_path / "a", **FEW)
    second = make_shapes(tmp_path / "b", **FEW)
    third = make_shapes(tmp_path / "c", **FEW, seed=1)
    assert contents(first) == contents(second)
    a, c = contents(first), contents(third)
    assert a.keys() == c.keys()
    assert all(a[k] != c[k] for k in a if k.suffix == ".png")


def test_the_held_out_split_has_other_images(shapes):
    train = {p.read_bytes() for p in (shapes / "train").iterdir()}
    val = {p.read_bytes() for p in (shapes / "val").iterdir()}
    assert not train & val


def test_a_longer_set_begins_with_the_images_of_a_shorter_one(tmp_path):
    short = make_shapes(tmp_path / "short", **FEW)
    long = make_shapes(tmp_path / "long", **{**FEW, "num_train": 4})
    for name in ("train/000001.png", "panoptic_train/000001.png", "val/000000.png"):
        assert (short / name).read_bytes() == (long / name).read_bytes()


def test_a_complete_set_is_left_alone(tmp_path, monkeypatch):
    root = make_shapes(tmp_path / "shapes", **FEW)
    monkeypatch.setattr(shapes_module, "draw_scene", pytest.fail)
    assert make_shapes(root, **FEW) == root


def test_an_interruption_leaves_nothing_and_the_next_run_succeeds(tmp_path, monkeypatch):
    def interrupt(rng, size):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shapes_module, "draw_scene", interrupt)
        make_shapes(tmp_path / "shapes", **FEW)
    assert list(tmp_path.iterdir()) == []
    assert make_shapes(tmp_path / "shapes", **FEW).is_dir()


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    root = tmp_path / "shapes"
    draw = shapes_module.draw_scene

    def be_overtaken(rng, size):
        monkeypatch.setattr(shapes_module, "draw_scene", draw)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        make_shapes(root, **FEW)
        return draw(rng, size)

    monkeypatch.setattr(shapes_module, "draw_scene", be_overtaken)
    make_shapes(root, **FEW)
    assert len(list((root / "train").iterdir())) == 2


def test_a_set_made_with_other_arguments_is_not_overwritten(tmp_path):
    root = make_shapes(tmp_path / "shapes", **FEW)
    with pytest.raises(DatasetError, match=r"holds shapes made with .*'seed': 0.*'seed': 5"):
        make_shapes(root, **FEW, seed=5)


def test_a_damaged_marker_is_an_error_that_names_it(tmp_path):
    root = make_shapes(tmp_path / "shapes", **FEW)
    (root / "shapes.json").write_text("{")
    with pytest.raises(DatasetError, match=r"shapes\.json cannot be read"):
        make_shapes(root, **FEW)


def test_a_folder_of_other_things_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DatasetError, match="is not an empty folder and holds no shapes"):
        make_shapes(tmp_path, **FEW)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_size_too_small_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="size is 32"):
        make_shapes(tmp_path / "shapes", **{**FEW, "size": 32})


def test_the_command_makes_the_set_and_tells_where(tmp_path, capsys):
    main(["--output", str(tmp_path / "s"), "--num-train=1", "--num-val=1", "--size=64"])
    assert str(tmp_path / "s") in capsys.readouterr().out
    info = json.loads((tmp_path / "s/annotations/train.json").read_text())["info"]
    assert info["description"] == "shapes"


def test_the_command_ends_with_one_line_on_an_error(tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert main(["--output", str(tmp_path)]) == 1
    assert f"error: {tmp_path} is not an empty folder" in capsys.readouterr().err
