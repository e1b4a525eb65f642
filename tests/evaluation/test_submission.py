import json
from pathlib import Path

import numpy as np
import pytest
from panopticapi.evaluation import pq_compute
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_lovasz.errors import DatasetError
from panoptic_lovasz.evaluation import evaluate_submission
from panoptic_lovasz.evaluation.report import panoptic_metrics
from panoptic_lovasz.tools.evaluate import main

CATEGORIES = [{"id": 4, "name": "cup", "isthing": 1}, {"id": 9, "name": "table", "isthing": 0}]


@pytest.fixture
def submission(tmp_path):
    """Ground truth and imperfect predictions of six images, where panopticapi expects them."""
    rng = np.random.default_rng(1)
    annotations = {"gt": [], "pred": []}
    for kind in annotations:
        (tmp_path / kind).mkdir()
    for n in range(6):
        ids = np.full((20, 30), 9)
        ids[2:10, 3:12], ids[11:18, 15:29] = 300, 301
        ids[0] = 0
        guess = np.roll(ids, rng.integers(0, 4, 2), axis=(0, 1))
        for kind, id_map in (("gt", ids), ("pred", guess)):
            Image.fromarray(id2rgb(id_map)).save(tmp_path / kind / f"{n}.png")
            segments = [
                {
                    "id": i,
                    "category_id": 9 if i == 9 else 4,
                    "area": int((ids == i).sum()),
                    "iscrowd": 0,
                }
                for i in (9, 300, 301)
            ]
            annotations[kind].append(
                {"image_id": n, "file_name": f"{n}.png", "segments_info": segments}
            )
    gt = {"images": [], "annotations": annotations["gt"], "categories": CATEGORIES}
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    (tmp_path / "pred.json").write_text(json.dumps({"annotations": annotations["pred"]}))
    return tmp_path


def test_a_submission_scores_as_with_panopticapi(submission):
    pred, gt = submission / "pred.json", submission / "gt.json"
    theirs = pq_compute(str(gt), str(pred))
    ours = panoptic_metrics(evaluate_submission(pred, gt, progress=False))
    assert 30 < ours["PQ"] < 95
    for suffix, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        for metric in ("PQ", "SQ", "RQ"):
            expected = 100 * theirs[group][metric.lower()]
            assert ours[metric + suffix] == pytest.approx(expected, abs=1e-9)


def test_two_processes_count_as_one(submission, monkeypatch):
    files = submission / "pred.json", submission / "gt.json"
    alone = evaluate_submission(*files, num_workers=1, progress=False)
    monkeypatch.setattr("panoptic_lovasz.evaluation.submission._CHUNK", 2)
    shared = evaluate_submission(*files, num_workers=2, progress=False)
    assert panoptic_metrics(shared) == pytest.approx(panoptic_metrics(alone), nan_ok=True)
    assert shared.num_images == 6
    edit(submission / "pred.json", lambda c: c["annotations"][5]["segments_info"].pop())
    with pytest.raises(DatasetError, match=r"5.png: .*only in the map: \[301\]"):
        evaluate_submission(*files, num_workers=2, progress=False)


def test_the_command_prints_tables_and_writes_reports(submission, capsys):
    out = submission / "report"
    files = [str(submission / "pred.json"), str(submission / "gt.json")]
    folders = ["--pred-dir", str(submission / "pred"), "--gt-dir", str(submission / "gt")]
    assert main([*files, *folders, "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| Things" in printed.replace("|  Things", "| Things")
    assert "cup" in printed
    assert json.loads((out / "panoptic_quality.json").read_text())["num_images"] == 6


def test_the_command_tells_two_models_apart_by_their_images(submission, capsys):
    files = [str(submission / "pred.json"), str(submission / "gt.json")]
    out = str(submission / "report")
    assert main([*files, "--output", out, "--boundaries"]) == 0
    assert "boundary_PQ" in capsys.readouterr().out
    perfect = [files[1], files[1], "--against", out]
    assert main(perfect) == 0
    rows = capsys.readouterr().out.split("Difference to the other evaluation")[1].splitlines()
    (pq,) = [row.strip("| ").split("|") for row in rows if "PQ" in row]
    _, difference, low, high = (pq[0], *map(float, pq[1:]))
    assert 0 < low < difference < high
    edit(submission / "gt.json", lambda c: c["annotations"].pop())
    assert main(perfect) == 1
    assert "on the same images only" in capsys.readouterr().err


def test_submissions_of_which_one_has_its_pngs_in_folders_are_compared(submission, capsys):
    files = [str(submission / "pred.json"), str(submission / "gt.json")]
    assert main([*files, "--output", str(submission / "flat")]) == 0
    names = [a["file_name"] for a in json.loads(Path(files[0]).read_text())["annotations"]]
    for n, name in enumerate(names):
        nested = submission / "pred" / f"city_{n}" / name
        nested.parent.mkdir()
        (submission / "pred" / name).rename(nested)

    def move(content):
        for n, annotation in enumerate(content["annotations"]):
            annotation["file_name"] = f"city_{n}/{annotation['file_name']}"

    edit(submission / "pred.json", move)
    capsys.readouterr()
    assert main([*files, "--against", str(submission / "flat")]) == 0
    assert "Difference to the other evaluation" in capsys.readouterr().out


def test_links_that_lead_out_are_followed_if_asked_for(submission, tmp_path, capsys):
    (submission / "gt" / "0.png").rename(submission / "elsewhere.png")
    (submission / "gt" / "0.png").symlink_to(submission / "elsewhere.png")
    files = [str(submission / "pred.json"), str(submission / "gt.json")]
    assert main(files) == 1
    assert "is a link that leads out" in capsys.readouterr().err
    assert main([*files, "--follow-links"]) == 0


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"].pop(3), "1 of 6 images have no prediction.*image_id 3"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "0 is annotated more than once"),
        (lambda c: c["annotations"][2].pop("file_name"), r"annotations\[2\] has no 'file_name'"),
        (lambda c: c.pop("annotations"), "expected an object with a list 'annotations'"),
        (
            lambda c: c["annotations"][1]["segments_info"].pop(),
            r"1.png: .*only in the map: \[301\]",
        ),
        (
            lambda c: c["annotations"][1]["segments_info"][0].update(category_id=5),
            "1.png: prediction: segment 9 has category_id 5",
        ),
        (
            lambda c: c["annotations"][1]["segments_info"][0].pop("category_id"),
            "1.png: prediction: .*'category_id'",
        ),
        (lambda c: c["annotations"][4].update(file_name="x.png"), "x.png does not exist"),
        (
            lambda c: c["annotations"][4].update(segments_info=None),
            r"annotations\[4\]: segments_info is None, expected list",
        ),
        (
            lambda c: c["annotations"][4].update(image_id=[4]),
            r"annotations\[4\]: image_id is \[4\], expected int or str",
        ),
        (
            lambda c: c["annotations"][4]["segments_info"][0].update(id=10**20),
            "4.png: prediction: a segment needs integers 'id' and 'category_id'; found",
        ),
    ],
)
def test_a_faulty_submission_is_one_error_that_names_the_file(submission, change, message, capsys):
    edit(submission / "pred.json", change)
    with pytest.raises(DatasetError, match=message):
        evaluate_submission(submission / "pred.json", submission / "gt.json", progress=False)
    assert main([str(submission / "pred.json"), str(submission / "gt.json")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_category_that_is_there_twice_is_named_with_its_file(submission):
    edit(submission / "gt.json", lambda c: c["categories"].append(c["categories"][0]))
    with pytest.raises(DatasetError, match=r"gt\.json: categories\[\d\]: id \d+ is taken by"):
        evaluate_submission(submission / "pred.json", submission / "gt.json", progress=False)


def test_missing_files_are_errors(submission):
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        evaluate_submission(submission / "pred.json", submission / "gt.json", gt_dir="nowhere")
    (submission / "pred.json").write_text("{")
    with pytest.raises(DatasetError, match=r"pred.json cannot be read"):
        evaluate_submission(submission / "pred.json", submission / "gt.json")
