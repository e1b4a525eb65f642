"""Trainings whose evaluations are made up, on a small network in this process."""

import math
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from panoptic_lovasz import Trainer
from panoptic_lovasz.engine import early_stopping
from panoptic_lovasz.engine.early_stopping import (
    EarlyStopping,
    EndOfTraining,
    build_early_stopping,
    count_stale,
)
from panoptic_lovasz.errors import ConfigError
from panoptic_lovasz.reporting.records import read_results, read_run

ENABLED = ["TEST.EARLY_STOPPING.ENABLED", True, "TEST.EVAL_PERIOD", 1, "SOLVER.MAX_ITER", 30]
PATIENCE_2 = [*ENABLED, "TEST.EARLY_STOPPING.PATIENCE", 2]


@pytest.fixture
def evaluate_as(monkeypatch):
    """Function that sets the values of PQ that the next evaluations find; returns what is left."""

    def set_values(*values, metric="PQ"):
        left = list(values)

        def test(cls, cfg, model, evaluators=None):
            return {"panoptic_seg": {metric: left.pop(0)}}

        monkeypatch.setattr(Trainer, "test", classmethod(test))
        return left

    return set_values


def _saved(output, name):
    return torch.load(output / f"{name}.pth", weights_only=True)["iteration"]


@pytest.mark.parametrize(
    ("values", "min_gain", "stale"),
    [
        ([], 0, 0),
        ([5], 0, 0),
        ([5, 5], 0, 1),
        ([5, 5.5, 6], 1, 2),  # small steps count from the last gain
        ([5, 5.5, 6, 6.1], 1, 0),
        ([math.nan, math.nan], 0, 2),
        ([math.nan, 5, math.nan, 6], 0, 0),
        ([7, 1, 2, 3], 0, 3),
    ],
)
def test_stale_evaluations_are_those_since_the_last_gain(values, min_gain, stale):
    assert count_stale(values, min_gain) == stale


def test_a_training_ends_when_patience_does_and_keeps_the_best_model_and_says_why(
    make_trainer, evaluate_as, tmp_path
):
    left = evaluate_as(10.0, 20.0, 20.05, 19.0, 99.0)
    trainer = make_trainer(tmp_path, *PATIENCE_2, "TEST.EARLY_STOPPING.MIN_GAIN", 0.1)
    assert trainer.train() is None
    assert left == [99.0]  # none was made after the end
    assert [row["panoptic_seg/PQ"] for row in read_results(tmp_path)] == [10.0, 20.0, 20.05, 19.0]
    assert _saved(tmp_path, "model_final") == 3
    assert _saved(tmp_path, "model_best") == 2
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    run = read_run(tmp_path)
    assert run["iterations"] == 4
    reason = "panoptic_seg/PQ has not risen by more than 0.1 in 2 evaluations"
    assert run["ended_early"].startswith(reason)
    page = (tmp_path / "report.html").read_text()
    assert f"Ended early: {reason}; its best is 20.05, after 3 iterations" in page


def test_a_resumed_run_goes_on_counting_and_one_that_has_ended_ends_at_once(
    make_trainer, evaluate_as, tmp_path
):
    evaluate_as(20.0, 10.0, 10.0)
    patience = [*ENABLED, "TEST.EARLY_STOPPING.PATIENCE", 3]
    make_trainer(tmp_path, *patience, "SOLVER.MAX_ITER", 3).train()
    assert read_run(tmp_path)["ended_early"] == ""
    left = evaluate_as(10.0, 10.0)
    make_trainer(tmp_path, *patience, resume=True).train()
    assert left == [10.0]
    assert _saved(tmp_path, "model_final") == 3
    assert "in 3 evaluations; its best is 20, after 1 iter" in read_run(tmp_path)["ended_early"]
    trainer = make_trainer(tmp_path, *patience, resume=True)
    trainer.train()
    assert left == [10.0]
    assert trainer.early_end.iterations == 4
    assert _saved(tmp_path, "model_final") == 3


def test_a_run_that_starts_anew_does_not_count_what_was_there_before(
    make_trainer, evaluate_as, tmp_path
):
    for _ in range(2):
        left = evaluate_as(20.0, 10.0, 10.0, 99.0)
        make_trainer(tmp_path, *PATIENCE_2).train()
        assert left == [99.0]


def test_the_best_model_is_kept_by_the_metric_that_is_watched(make_trainer, evaluate_as, tmp_path):
    evaluate_as(20.0, 30.0, 10.0, 10.0, metric="mIoU")
    options = ("TEST.EARLY_STOPPING.METRIC", "panoptic_seg/mIoU")
    make_trainer(tmp_path, *PATIENCE_2, *options).train()
    assert _saved(tmp_path, "model_best") == 1


def test_a_metric_that_no_evaluation_gives_is_named_with_those_that_there_are(
    make_trainer, evaluate_as, tmp_path
):
    evaluate_as(20.0)
    trainer = make_trainer(tmp_path, *PATIENCE_2, "TEST.EARLY_STOPPING.METRIC", "panoptic_seg/QP")
    with pytest.raises(ConfigError, match=r"gives panoptic_seg/QP; there is .*panoptic_seg/PQ"):
        trainer.train()


def test_it_takes_what_is_expected_of_the_results(make_trainer, evaluate_as, tmp_path):
    expected = ["TEST.EXPECTED_RESULTS", [["panoptic_seg", "PQ", 10.0, 0.1]]]
    evaluate_as(20.0, 10.0, 10.0)
    results = make_trainer(tmp_path, *PATIENCE_2, *expected).train()
    assert results == {"panoptic_seg": {"PQ": 10.0}}
    evaluate_as(20.0, 11.0, 11.0)
    with pytest.raises(SystemExit):
        make_trainer(tmp_path, *PATIENCE_2, *expected).train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["TEST.EARLY_STOPPING.PATIENCE", 0], "PATIENCE is 0, expected at least 1 evaluation"),
        (["TEST.EARLY_STOPPING.MIN_GAIN", -0.5], "MIN_GAIN is -0.5, expected a number not below"),
        (["OUTPUT.BEST_METRIC", ""], "METRIC is '', expected a metric"),
        (["TEST.EVAL_PERIOD", 0], "EVAL_PERIOD is 0, expected a period, for TEST.EARLY_STOPPING"),
        (["DATASETS.TEST", ()], r"DATASETS\.TEST is \(\), expected a data set"),
    ],
)
def test_values_that_cannot_be_are_refused(slim_cfg, options, message):
    cfg = slim_cfg.clone()
    cfg.merge_from_list([*PATIENCE_2, *options])
    with pytest.raises(ConfigError, match=message):
        build_early_stopping(cfg, None)


def test_a_process_that_knows_no_results_ends_with_the_main_one(tmp_path, monkeypatch):
    saved = []
    checkpointer = SimpleNamespace(save=lambda name, iteration: saved.append((name, iteration)))
    hook = EarlyStopping(10, tmp_path, checkpointer, "panoptic_seg/PQ", patience=2)
    hook.trainer = SimpleNamespace(iter=19, max_iter=100, start_iter=0)
    verdicts = [["", None], ["it is enough", None], [ConfigError("no such metric"), None]]
    monkeypatch.setattr(early_stopping.comm, "all_gather", lambda own: verdicts.pop(0))
    with EventStorage() as hook.trainer.storage:
        hook.before_train()
        hook.after_step()
        assert not saved
        with pytest.raises(EndOfTraining):
            hook.after_step()
        assert saved == [("model_final", 19)]
        assert hook.trainer.early_end == (20, "it is enough")
        with pytest.raises(ConfigError, match="no such metric"):
            hook.after_step()
