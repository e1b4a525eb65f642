"""Training on a handful of small images, in processes of their own as a user starts it, or here."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from programs import Program

from panoptic_lovasz import Trainer, load_config
from panoptic_lovasz.data import make_shapes

PROJECT = Path(__file__).resolve().parents[2]


class Command:
    """Runs the project's programs on a small generated data set."""

    config = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
    quick = ("SOLVER.MAX_ITER", "3", "SOLVER.IMS_PER_BATCH", "4", "TEST.EVAL_PERIOD", "0")

    def __init__(self, datasets):
        self.datasets = datasets

    def start(self, *command, **env):
        own = {"DETECTRON2_DATASETS": str(self.datasets), "OMP_NUM_THREADS": "1"}
        return Program([*map(str, command)], PROJECT, {**os.environ, **own, **env})

    def run(self, *command):
        process = self.start(*command)
        output = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, *output)

    def train_arguments(self, output, *options, flags=()):
        train = ["--config-file", self.config, "--num-gpus", "0", *flags]
        return [*train, *self.quick, "OUTPUT_DIR", output, *options]

    def train(self, output, *options, flags=(), launcher=()):
        outcome = self.run(
            *launcher, "train_net.py", *self.train_arguments(output, *options, flags=flags)
        )
        assert outcome.returncode == 0, outcome.stderr[-3000:]
        return outcome

    def train_until(self, condition, stop, output, *options, flags=(), to_all=False):
        """Start a training, send it the signal ``stop`` once the condition holds; its exit code.

        With ``to_all`` its own processes get the signal, too.
        """
        arguments = self.train_arguments(output, *options, flags=flags)
        process = self.start("train_net.py", *arguments)
        deadline = time.monotonic() + 200
        while not condition() and process.returncode is None and time.monotonic() < deadline:
            time.sleep(0.01)
        send = process.send_signal_to_all if to_all else process.send_signal
        send(getattr(signal, stop))
        return process.wait(timeout=100)


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    make_shapes(root / "shapes", num_train=12, num_val=4, size=96, progress=False)
    return Command(root)


@pytest.fixture
def make_trainer(command, monkeypatch):
    """Function that makes a trainer in this process, for OUTPUT_DIR and some options."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(command.datasets))

    def make(output, *options, resume=False, trainer_class=Trainer):
        quick = ["SOLVER.MAX_ITER", 3, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.001]
        quick += ["INPUT.MIN_SIZE_TRAIN", (64,), "OUTPUT.PLOTS", False, "OUTPUT.NUM_PICTURES", 0]
        cfg = load_config(command.config, [*quick, "OUTPUT_DIR", str(output), *options])
        trainer = trainer_class(cfg)
        trainer.resume_or_load(resume=resume)
        return trainer

    return make


@pytest.fixture
def no_evaluation(monkeypatch):
    """Let trainers remember which model they evaluate, and no more."""
    evaluated = []
    monkeypatch.setattr(
        Trainer, "test", classmethod(lambda cls, cfg, model: evaluated.append(model))
    )
    return evaluated
