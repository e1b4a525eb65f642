"""A training that cannot go on ends in one clear error in every process, and does not hang."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from detectron2.engine.hooks import CallbackHook
from programs import workers

from panoptic_lovasz.engine.launch import _sigterm_for_workers
from panoptic_lovasz.errors import NonFiniteLossError

PROGRAM = Path(__file__).with_name("other_on_one_rank.py")
RUN = ("DATASETS.TEST", "()")


def _errors(stderr):
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


def test_sigterm_to_the_launcher_reaches_its_workers():
    handler = signal.getsignal(signal.SIGTERM)
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(100,))
    with _sigterm_for_workers():
        worker.start()
        os.kill(os.getpid(), signal.SIGTERM)
        worker.join(60)
    assert worker.exitcode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_launcher_in_another_thread_than_the_main_one_does_without_the_signal():
    handler = signal.getsignal(signal.SIGTERM)

    def launch():
        with _sigterm_for_workers():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor() as pool:
        assert pool.submit(launch).result() is handler


def test_a_handler_that_python_does_not_know_becomes_the_default_one(monkeypatch):
    set_to = []
    monkeypatch.setattr(signal, "signal", lambda _, handler: set_to.append(handler))
    with _sigterm_for_workers():
        pass
    assert set_to[-1] is signal.SIG_DFL


def test_sigterm_in_the_last_iteration_leaves_the_evaluation_to_the_next_start(
    make_trainer, no_evaluation, tmp_path
):
    def stop_in_the_last(trainer):
        if trainer.iter + 1 == trainer.max_iter:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer = make_trainer(tmp_path)
    trainer.register_hooks([CallbackHook(before_step=stop_in_the_last)])
    with pytest.raises(SystemExit) as stopped:
        trainer.train()
    assert stopped.value.code == 0 and no_evaluation == []
    make_trainer(tmp_path).train()
    assert len(no_evaluation) == 1


def test_a_loss_that_is_not_finite_in_the_last_iteration_is_not_evaluated(
    make_trainer, no_evaluation, tmp_path
):
    trainer = make_trainer(tmp_path, "SOLVER.MAX_ITER", 1, "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 1e39)
    with pytest.raises(NonFiniteLossError, match="iteration 0"):
        trainer.train()
    assert no_evaluation == []


def test_a_training_in_another_thread_than_the_main_one_does_without_the_signal(
    make_trainer, no_evaluation, tmp_path
):
    with ThreadPoolExecutor() as pool:
        pool.submit(make_trainer(tmp_path, "SOLVER.MAX_ITER", 1).train).result()
    assert (tmp_path / "model_final.pth").is_file()


def test_an_infinite_loss_is_reported_with_iteration_loss_and_images_and_the_batch_is_written(
    command, tmp_path
):
    infinite = ("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", "1e39")
    outcome = command.run("train_net.py", *command.train_arguments(tmp_path, *RUN, *infinite))
    assert outcome.returncode == 1
    (error,) = _errors(outcome.stderr)
    assert "iteration 0, rank 0: loss_sem_seg_ce is inf, loss_sem_seg_lovasz is inf;" in error
    assert not list(tmp_path.glob("*.pth"))
    (file,) = (tmp_path / "non_finite").iterdir()
    assert str(file) in error
    dump = torch.load(file, weights_only=False)
    assert len(dump["batch"]) == 4
    assert all(item["file_name"] in error for item in dump["batch"])


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("loss is NaN", "rank 1: loss_mask is nan"),
        ("features are NaN", "rank 1: the network's output is NaN"),
    ],
)
def test_what_one_process_finds_stops_all(command, tmp_path, how, what):
    options = (*RUN, "OUTPUT.DUMP_NON_FINITE", "False")
    arguments = command.train_arguments(tmp_path, *options)
    processes = [command.start(PROGRAM, how, *arguments, **env) for env in workers(2, 2)]
    outputs = [process.communicate() for process in processes]  # within a time limit
    assert [process.returncode for process in processes] == [1, 1]
    errors = [error for _, stderr in outputs for error in _errors(stderr)]
    assert any(what in error for error in errors)
    if how == "loss is NaN":
        assert all(what in error and "rank 0" not in error for error in errors)
    assert not list(tmp_path.glob("*.pth")) and not (tmp_path / "non_finite").exists()
