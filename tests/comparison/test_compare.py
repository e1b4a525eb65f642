import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from panoptic_lovasz import load_config
from panoptic_lovasz.comparison.losses import LOSSES
from panoptic_lovasz.comparison.runs import plan_runs
from panoptic_lovasz.comparison.tables import Comparison, write_comparison
from panoptic_lovasz.data import make_shapes
from panoptic_lovasz.evaluation.panoptic_quality import PanopticQuality
from panoptic_lovasz.evaluation.report import panoptic_metrics, write_report
from panoptic_lovasz.tools import compare

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
SKY = {"id": 1, "category_id": 1}
QUICK = ["SOLVER.MAX_ITER", "4", "SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0"]


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    make_shapes(tmp_path / "datasets/shapes", num_train=4, num_val=2, size=64, progress=False)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))


def _compare(output, *arguments, losses="ce,ce+lovasz"):
    command = ["--config-file", str(CONFIG), "--losses", losses, "--output", str(output)]
    return compare.main([*command, "--seeds", "1", *arguments])


@pytest.mark.slow
def test_runs_begin_alike_end_in_a_table_and_are_not_run_again(datasets, tmp_path, capsys):
    output = tmp_path / "comparison"
    assert _compare(output, "--jobs", "2", *QUICK) == 0
    results = [json.loads(p.read_text()) for p in sorted(output.glob("*/seed_1/result.json"))]
    assert len(results) == 2
    assert results[0]["initial_weights"] == results[1]["initial_weights"]
    assert results[0]["metrics"]["panoptic_seg/mIoU"] >= 0
    with open(output / "comparison.csv") as f:
        metrics = {(row["metric"], row["loss"]): row for row in csv.DictReader(f)}
    for name in ("mIoU", "PQ", "PQ_th", "s per iteration", "peak memory, MiB", "sem_seg/IoU-sky"):
        assert metrics[name, "ce+lovasz"]["seed 1"]
    # the losses are those that were asked for
    log = {p.parent.parent.name: p.read_text() for p in output.glob("*/seed_1/metrics.json")}
    assert "loss_sem_seg_lovasz" in log["ce+lovasz"] and "loss_sem_seg_lovasz" not in log["ce"]
    run = json.loads((output / "ce" / "seed_1" / "run.json").read_text())
    assert "python -m panoptic_lovasz.comparison.train " in run["command"]

    times = {p: p.stat().st_mtime_ns for p in output.glob("*/seed_1/result.json")}
    (output / "ce" / "seed_1" / "result.json").unlink()  # as if it had been stopped at the end
    capsys.readouterr()
    assert _compare(output, "--jobs", "2", *QUICK) == 0
    printed = capsys.readouterr().out
    assert "[1/2] ce, seed 1: training" in printed
    assert "[2/2] ce+lovasz, seed 1: done before" in printed
    assert "Starting training from iteration 4" in (output / "ce/seed_1/train.log").read_text()
    kept = output / "ce+lovasz" / "seed_1" / "result.json"
    assert kept.stat().st_mtime_ns == times[kept]

    assert _compare(output, *QUICK, "SOLVER.BASE_LR", "0.5") == 1
    assert "holds a run of another config" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failing_run_is_named_with_its_log(datasets, tmp_path, capsys):
    for image in (tmp_path / "datasets/shapes/train").iterdir():
        image.unlink()
    assert _compare(tmp_path / "out", *QUICK, losses="ce") == 1
    message = capsys.readouterr().err
    assert "training ce with seed 1 failed" in message and "train.log" in message
    assert "failed with exit code 1: error: " in message and ".png" in message


def test_a_loss_with_a_key_that_the_config_lacks_is_refused(datasets, tmp_path, capsys):
    arguments = ["--loss", "mine", "NO.SUCH_KEY=1"]
    assert _compare(tmp_path / "out", *arguments, losses="ce,mine") == 1
    assert re.search("NO.SUCH_KEY|loss 'mine'", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_every_named_loss_is_a_valid_config_that_changes_what_it_says(datasets, tmp_path):
    cfg = load_config(CONFIG, ["SOLVER.MAX_ITER", 100])
    runs = plan_runs(cfg, LOSSES, [1, 2], tmp_path)
    assert len({run.key for run in runs}) == len(runs)  # no two are the same training
    loss = {run.loss: run.cfg.MODEL.SEM_SEG_HEAD.LOSS for run in runs}
    assert loss["ce-then-lovasz"].LOVASZ_START_ITER == 50
    assert loss["ce+lovasz-per-image"].PER_IMAGE and not loss["ce+lovasz"].PER_IMAGE
    assert loss["ce"].NAME == "CrossEntropyLoss"


def _result(pq, weights="a"):
    metrics = {"panoptic_seg/PQ": pq, "panoptic_seg/mIoU": pq + 5, "panoptic_seg/PQ-sky": pq}
    metrics["depth/error"] = 100 - pq
    record = {"metrics": metrics, "seconds_per_iteration": 0.5, "peak_memory_mib": 900}
    return {**record, "initial_weights": weights}


def _comparison(tmp_path, first, second, weights="a"):
    results = {("ce", i): _result(v) for i, v in enumerate(first)}
    results |= {("ce+lovasz", i): _result(v, weights) for i, v in enumerate(second)}
    folders = {key: tmp_path / "none" for key in results}
    return Comparison(["ce", "ce+lovasz"], list(range(len(first))), results, folders, "val")


def test_a_negative_result_is_printed_as_such(tmp_path):
    comparison = _comparison(tmp_path, [50.0, 52.0, 51.0], [48.0, 49.9, 49.1])
    markdown = write_comparison(comparison, tmp_path, "the command", "SEED: 1")
    assert "ce+lovasz against ce: PQ −2.0 ± 0.1 (0 of 3 seeds higher): lower" in markdown
    assert "mIoU −2.0 ± 0.1 (0 of 3 seeds higher): lower" in markdown
    assert "depth/error" in markdown  # of an evaluator of a user's own
    assert "| PQ | 51.0 ± 1.0 | 49.0 ± 1.0 | −2.0 ± 0.1 |" in " ".join(markdown.split())
    assert "the command" in markdown
    page = (tmp_path / "compare.html").read_text()
    assert "higher): lower" in page and "class=bad>−2.0" in page
    with open(tmp_path / "comparison.csv") as f:
        row = next(r for r in csv.DictReader(f) if (r["metric"], r["loss"]) == ("PQ", "ce+lovasz"))
    assert float(row["difference"]) == pytest.approx(-2) and row["verdict"] == "lower"


def test_runs_that_did_not_begin_alike_are_not_called_paired(tmp_path):
    comparison = _comparison(tmp_path, [50.0], [48.0], weights="b")
    assert "Not paired" in write_comparison(comparison, tmp_path, "", "")


def test_unfinished_runs_leave_gaps_and_not_zeros(tmp_path):
    comparison = _comparison(tmp_path, [50.0, 52.0, math.nan], [51.0, 53.5, 60.0])
    del comparison.results["ce", 2]
    markdown = write_comparison(comparison, tmp_path, "", "")
    assert "5 of 6 runs are done" in markdown
    assert "(2 of 2 seeds higher)" in markdown


@pytest.fixture
def evaluated(tmp_path):
    """A comparison of two runs, of which the second finds the sky of a fifth more of the images."""
    comparison = _comparison(tmp_path, [50.0], [60.0])
    for n, (loss, share) in enumerate((("ce", 3), ("ce+lovasz", 4))):
        comparison.folders[loss, 0] = tmp_path / str(n)
        _evaluate(tmp_path / str(n) / "inference" / "val", share)
    return comparison


def _evaluate(folder, share, name="images/{}/0.png"):
    quality = PanopticQuality([{"id": 1, "name": "sky", "isthing": 0}], boundaries=False)
    gt = np.ones((4, 4), dtype=int)
    for i in range(30):
        pred = gt * (i % 5 < share)  # nothing is predicted in some of the images
        quality.add(gt, [SKY], pred, [SKY] * bool(pred.any()), name=name.format(i))
    write_report(quality, panoptic_metrics(quality), folder)


def _over_images(comparison, tmp_path):
    markdown = " ".join(write_comparison(comparison, tmp_path, "", "").split())
    found = re.search(r"ce\+lovasz − ce \| seed 0 \| ([+−-][\d.]+) to ([+−-][\d.]+)", markdown)
    return found and tuple(map(float, found.groups()))


def test_two_evaluations_of_the_same_images_are_told_apart_by_an_interval_over_them(
    evaluated, tmp_path
):
    low, high = _over_images(evaluated, tmp_path)
    assert 0 < low < 20 < high


def test_of_several_test_sets_the_first_is_that_of_the_interval_over_images(evaluated, tmp_path):
    before = _over_images(evaluated, tmp_path)
    for n in range(2):
        _evaluate(tmp_path / str(n) / "inference" / "a_second", share=5)
    assert _over_images(evaluated, tmp_path) == before


def test_a_run_that_is_not_done_has_no_interval_over_images(evaluated, tmp_path):
    del evaluated.results["ce+lovasz", 0]
    assert _over_images(evaluated, tmp_path) is None


def test_images_that_cannot_be_told_apart_cost_the_interval_and_nothing_else(evaluated, tmp_path):
    for n in range(2):
        _evaluate(tmp_path / str(n) / "inference" / "val", 4, name="the same")
    assert _over_images(evaluated, tmp_path) is None
    assert "ce+lovasz against ce" in (tmp_path / "comparison.md").read_text()
