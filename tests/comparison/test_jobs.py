import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from panoptic_lovasz.comparison import jobs, processes
from panoptic_lovasz.comparison.runs import Run
from panoptic_lovasz.errors import ConfigError

# Stands in for a training: says when it begins, works a little, and leaves a result.
TRAINING = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1]).parent
(folder / "begun").write_text(f"{time.time()} {os.environ['OMP_NUM_THREADS']}")
time.sleep(0.5)
if "bad" in str(folder):
    sys.exit("nothing works")
(folder / "result.json").write_text('{"metrics": {}}')
(folder / "ended").write_text(str(time.time()))
"""

# Starts a training that would go on forever and saves when it is told to end.
PARENT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests run in background
from panoptic_lovasz.comparison.processes import start
start([sys.executable, "-c", Path(sys.argv[1]).read_text(), sys.argv[2]],
      Path(sys.argv[2]) / "log", one_thread=True)
time.sleep(600)
"""
CHILD = """
import os, signal, sys, time
from pathlib import Path
from panoptic_lovasz.comparison.processes import end_with_parent
folder = Path(sys.argv[1])
def save(*_):
    (folder / "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
end_with_parent()
(folder / "pid.tmp").write_text(f"{os.getpid()} {os.nice(0)}")
(folder / "pid.tmp").rename(folder / "pid")
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train runs of the given names; returns what was reported."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.02)
    start = processes.start
    monkeypatch.setattr(
        processes,
        "start",
        lambda command, log, **options: start(
            [sys.executable, "-c", TRAINING, command[3]], log, **options
        ),
    )

    def train(*names, jobs_at_once=2):
        cfg = get_cfg()
        runs = [Run(name, 1, tmp_path / name / "seed_1", cfg, f"key of {name}") for name in names]
        reported, most = [], []
        jobs.train_all(
            runs,
            jobs_at_once,
            started=lambda run: reported.append(f"{run.loss} started"),
            done=lambda run, seconds: reported.append(f"{run.loss} done"),
            tick=lambda running: most.append(len(running)),
        )
        return reported, max(most)

    return train


def _time(folder, what):
    return float((folder / "seed_1" / what).read_text().split()[0])


def test_runs_are_trained_side_by_side_with_one_thread_each(train, tmp_path):
    reported, most = train("a", "b", "c")
    assert reported[:2] == ["a started", "b started"] and most == 2
    assert sorted(reported[2:]) == ["a done", "b done", "c done", "c started"]
    assert _time(tmp_path / "b", "begun") < _time(tmp_path / "a", "ended")
    assert (tmp_path / "a/seed_1/begun").read_text().split()[1] == "1"
    assert (tmp_path / "a/seed_1/run.yaml").read_text() == get_cfg().dump()


def test_if_one_fails_the_others_go_on_and_the_error_names_its_log(train, tmp_path):
    with pytest.raises(ConfigError) as error:
        train("bad", "b", "c")
    assert "training bad with seed 1 failed with exit code 1: nothing works" in str(error.value)
    assert str(tmp_path / "bad/seed_1/train.log") in str(error.value)
    assert (tmp_path / "c/seed_1/result.json").is_file()


def test_a_folder_with_a_run_of_another_config_is_refused_before_anything_starts(train, tmp_path):
    (tmp_path / "b/seed_1").mkdir(parents=True)
    (tmp_path / "b/seed_1/key.txt").write_text("another")
    with pytest.raises(ConfigError, match="holds a run of another config"):
        train("a", "b")
    assert not (tmp_path / "a").exists()


def _wait_for(condition, what):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"{what} did not happen in 30 seconds")


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_training_ends_and_saves_when_the_one_who_started_it_is_killed(tmp_path, how):
    (tmp_path / "child.py").write_text(CHILD)
    command = [sys.executable, "-c", PARENT, str(tmp_path / "child.py"), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    _wait_for((tmp_path / "pid").is_file, "the training's start")
    pid, niceness = map(int, (tmp_path / "pid").read_text().split())
    assert _is_running(pid) and niceness == max(os.nice(0), 10)
    parent.send_signal(how)
    parent.wait()
    _wait_for(lambda: not _is_running(pid), "the training's end")
    assert (tmp_path / "saved").is_file()


def test_progress_tells_of_all_runs_in_one_line(tmp_path, monkeypatch):
    now = iter([0.0, 1800.0])
    monkeypatch.setattr(jobs.time, "perf_counter", lambda: next(now))
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = 100
    runs = [Run(name, 2, tmp_path / name, cfg, name) for name in ("ce", "lovasz", "both")]
    for run, iteration in zip(runs[:2], (99, 39), strict=True):
        run.folder.mkdir()
        (run.folder / "metrics.json").write_text(
            f'{json.dumps({"iteration": 19})}\n{json.dumps({"iteration": iteration})}\n{{"iter'
        )
    (runs[0].folder / "key.txt").write_text("ce")
    (runs[0].folder / "result.json").write_text("{}")
    progress = jobs.Progress(runs)
    expected = "1 of 3 runs done | lovasz 2: 40/100, both 2: 0/100 | "
    assert progress.line(runs[1:]).startswith(expected)
    (runs[1].folder / "metrics.json").write_text('{"iteration": 79}\n')
    # 40 iterations in half an hour, 120 are left
    assert progress.line(runs[1:]).endswith("lovasz 2: 80/100, both 2: 0/100 | about 1:30 h left")
