"""A data set is divided so that images that look alike stay on one side."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_lovasz.data.splitting import (
    group_names,
    hold_out_groups,
    hold_out_stretches,
    split_coco_panoptic,
)
from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.tools import split

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "sky", "isthing": 0},
    {"id": 3, "name": "grass", "isthing": 0},
]
# Two drives of ten frames; grass is in the middle of the second alone.
NAMES = [f"{drive}_{n:02}.jpg" for drive in ("a", "b") for n in range(10)]


def annotation(n, name):
    category = 3 if name in ("b_04.jpg", "b_05.jpg") else 1 + n % 2
    segments = [{"id": 1, "category_id": category}]
    return {"image_id": n, "file_name": f"{name[:-4]}.png", "segments_info": segments}


@pytest.fixture
def whole(tmp_path):
    content = {
        "info": {"version": "7"},
        "images": [
            {"id": n, "file_name": name, "height": 4, "width": 5} for n, name in enumerate(NAMES)
        ],
        "annotations": [annotation(n, name) for n, name in enumerate(NAMES)],
        "categories": CATEGORIES,
    }
    file = tmp_path / "all.json"
    file.write_text(json.dumps(content))
    return file


def _files(whole):
    return [whole.parent / side / f"{side}.json" for side in ("train", "val")]


def _arguments(whole, *more):
    train, val = map(str, _files(whole))
    return [str(whole), "--train", train, "--val", val, *more]


def names_in(file):
    if not file.exists():
        return None
    return [image["file_name"] for image in json.loads(file.read_text())["images"]]


def run(whole, *arguments):
    """Run the command line; returns its exit code and the names on each side."""
    return split.main(_arguments(whole, *arguments)), *map(names_in, _files(whole))


def fails(whole, capsys, *arguments):
    code, train, val = run(whole, *arguments)
    assert (code, train, val) == (1, None, None)
    return capsys.readouterr().err


def test_each_image_is_on_one_side_with_its_annotation_and_the_rest_on_both(whole):
    train, val = split_coco_panoptic(whole, lambda names: (names[3:5], names[:1]))
    assert [i["file_name"] for i in val["images"]] == NAMES[3:5]
    assert [a["image_id"] for a in val["annotations"]] == [3, 4]
    assert [i["file_name"] for i in train["images"]] == NAMES[1:3] + NAMES[5:]
    assert [a["image_id"] for a in train["annotations"]] == [1, 2, *range(5, 20)]
    for side in (train, val):
        assert side["info"] == {"version": "7"} and side["categories"] == CATEGORIES


def test_by_default_a_fifth_of_the_images_is_drawn_anew_for_each_seed(whole):
    code, train, val = run(whole)
    assert code == 0 and len(val) == 4 and sorted(train + val) == NAMES
    assert run(whole, "--overwrite")[2] == val
    assert run(whole, "--overwrite", "--seed", "2")[2] != val


def test_groups_are_not_divided(whole):
    _, train, val = run(whole, "--group", "^[^_]+", "--share", "0.5")
    assert len({name[0] for name in train}) == len({name[0] for name in val}) == 1
    assert sorted(train + val) == NAMES


def test_a_stretch_is_the_middle_of_each_group_and_its_neighbors_are_left_out(whole):
    _, train, val = run(whole, "--group", "^[^_]+", "--stretch", "--gap", "2")
    assert val == ["a_04.jpg", "a_05.jpg", "b_04.jpg", "b_05.jpg"]
    beside = ["02", "03", "06", "07"]
    assert train == [n for n in NAMES if n not in val and n[2:4] not in beside]


def test_frames_are_in_the_order_of_their_numbers():
    names = [f"frame_{n}.jpg" for n in range(30)]
    assert group_names(sorted(names), "") == [names]


def test_a_file_that_cannot_be_replaced_leaves_both_as_they_were(whole, capsys, monkeypatch):
    _, train, val = run(whole)

    def refuse(path, missing_ok=False):
        raise PermissionError(f"not permitted: {path}")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert split.main(_arguments(whole, "--overwrite", "--seed", "2")) == 1
    assert "not permitted" in capsys.readouterr().err
    assert [names_in(file) for file in _files(whole)] == [train, val]


def test_without_groups_the_stretch_is_the_middle_of_all(whole):
    assert run(whole, "--stretch")[2] == NAMES[8:12]


def test_names_from_a_file_are_taken_as_they_are(whole, tmp_path):
    names = tmp_path / "val.txt"
    names.write_text("b_01.jpg\n\na_09.jpg\r\n")
    assert run(whole, "--val-names", str(names))[2] == ["a_09.jpg", "b_01.jpg"]


def test_classes_that_one_side_lacks_are_told(whole, capsys):
    run(whole, "--group", "^[^_]+", "--stretch")
    assert "only to evaluate with: grass\n" in capsys.readouterr().out


def test_what_cannot_be_divided_is_an_error_and_nothing_is_written(whole, capsys, tmp_path):
    names = tmp_path / "val.txt"
    names.write_text("c.jpg\n")
    assert "smallest of 2 groups has 10 of 20 images, expected at most 4" in fails(
        whole, capsys, "--group", "^[^_]+"
    )
    assert "'^a' finds nothing in 'b_00.jpg'" in fails(whole, capsys, "--group", "^a")
    assert "'(' is not a regular expression" in fails(whole, capsys, "--group", "(")
    assert "1 of 1 belong to no annotated image, such as 'c.jpg'; 'a_00.jpg' would" in fails(
        whole, capsys, "--val-names", str(names)
    )
    names.write_text("\n")
    assert "none is left to evaluate with" in fails(whole, capsys, "--val-names", str(names))
    assert "none is left to train with" in fails(whole, capsys, "--stretch", "--gap", "20")


def test_a_faulty_annotation_is_an_error_that_names_it(whole, capsys):
    content = json.loads(whole.read_text())
    content["annotations"][2]["image_id"] = 99
    whole.write_text(json.dumps(content))
    assert f"{whole}: annotations[2]: image_id 99" in fails(whole, capsys)


def test_files_that_exist_are_not_replaced(whole, capsys):
    (whole.parent / "val").mkdir()
    (whole.parent / "val/val.json").write_text('{"images": [{"file_name": "mine"}]}')
    assert run(whole) == (1, None, ["mine"])
    assert "val.json exists already: --overwrite replaces it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gap", "2"], "--gap is a number from 0 on, and needs --stretch"),
        (["--val-names", "x", "--stretch"], "--val-names goes without --share"),
        (["--val-names", "x", "--share", "0.5"], "--val-names goes without --share"),
        (["--val-names", "x", "--seed", "0"], "--val-names goes without --share"),
        (["--stretch", "--seed", "0"], "--stretch draws nothing: it goes without --seed"),
        (["--share", "1"], "argument --share: found 1, expected a number between 0 and 1"),
        (["--val-names", "", "--group", "a"], "--val-names goes without --share"),
        (["--val", "all.json"], "JSON, --train and --val must be three files"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    arguments, message, whole, capsys, monkeypatch
):
    monkeypatch.chdir(whole.parent)
    with pytest.raises(SystemExit, match="2"):
        run(whole, *arguments)
    assert message in capsys.readouterr().err


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 9),
)
def test_what_is_drawn_is_whole_groups_and_never_more_than_the_share(sizes, share, seed):
    names = [f"{group}_{n}" for group, size in enumerate(sizes) for n in range(size)]
    groups = group_names(names, "^[^_]+")
    assert Counter(map(len, groups)) == Counter(sizes)
    try:
        held_out = hold_out_groups(groups, share, seed)
    except DatasetError:
        assert min(sizes) > round(share * len(names))
        return
    assert 0 < len(held_out) <= round(share * len(names))
    assert all(held_out.issuperset(g) or held_out.isdisjoint(g) for g in groups)


@given(size=st.integers(1, 50), share=st.floats(0.05, 0.95), gap=st.integers(0, 5))
def test_a_stretch_is_unbroken_and_the_gaps_lie_on_both_sides(size, share, gap):
    names = [f"{n:03}" for n in range(size)]
    held_out, left_out = hold_out_stretches([names], share, gap)
    assert abs(len(held_out) - share * size) <= 1
    positions = sorted(map(int, held_out))
    assert all(b - a == 1 for a, b in pairwise(positions))
    near = {n for p in positions for n in range(p - gap, p + gap + 1) if 0 <= n < size}
    assert left_out == {f"{n:03}" for n in near} - held_out
