"""The runs of a comparison that are not done, several side by side."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from ..errors import ConfigError
from ..files import write_text
from ..reporting.records import last_iteration
from . import processes
from .runs import KEY_FILE, Run, read_result

__all__ = ["Progress", "train_all"]

_POLL_SECONDS = 1.0


def train_all(
    runs: Sequence[Run],
    jobs: int,
    *,
    started: Callable[[Run], None],
    done: Callable[[Run, float], None],
    tick: Callable[[Sequence[Run]], None],
) -> None:
    """Train, ``jobs`` at once, each in a process of its own; ``train.log`` has its output.

    What was begun is resumed. If a run fails, the others go on. However this process ends, the
    others end, too, with a checkpoint.

    Args:
        runs: to train, in this order.
        jobs: number of processes; of several each computes with one thread.
        started: called when a run is started.
        done: called when a run is done, with the seconds that it took.
        tick: called now and then with the runs that are being trained.

    Raises:
        ConfigError: if a folder holds a run of another config (nothing was started), or when all
            others are done, if a run failed.
    """
    for run in runs:
        _check_folder(run)
    waiting, failures = list(runs), []
    running: dict[subprocess.Popen, tuple[Run, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                started(run)
                running[_start(run, one_thread=jobs > 1)] = run, time.perf_counter()
            time.sleep(_POLL_SECONDS)
            tick([run for run, _ in running.values()])
            for process in [p for p in running if p.poll() is not None]:
                run, begun = running.pop(process)
                if process.returncode or read_result(run) is None:
                    failures.append(_failure(run, process.returncode))
                else:
                    done(run, time.perf_counter() - begun)
    finally:
        processes.end_all(running)
    if failures:
        raise ConfigError("\n".join(failures))


class Progress:
    """How far all runs are, in one line."""

    def __init__(self, runs: Sequence[Run]):
        """Take all runs of the comparison, done or not."""
        self._runs = runs
        self._start = time.perf_counter()
        self._done_at_start = self._iterations()

    def line(self, running: Sequence[Run]) -> str:
        """Runs done, iterations of those that are being trained, and the time that is left."""
        parts = [
            f"{run.loss} {run.seed}: {_done(run)}/{run.cfg.SOLVER.MAX_ITER}" for run in running
        ]
        finished = sum(read_result(run) is not None for run in self._runs)
        return f"{finished} of {len(self._runs)} runs done | {', '.join(parts)} | {self._left()}"

    def _iterations(self) -> int:
        return sum(map(_done, self._runs))

    def _left(self) -> str:
        done = self._iterations()
        if done <= self._done_at_start:
            return "time left not known yet"
        seconds_each = (time.perf_counter() - self._start) / (done - self._done_at_start)
        total = sum(run.cfg.SOLVER.MAX_ITER for run in self._runs)
        minutes = round((total - done) * seconds_each / 60)
        return f"about {minutes // 60}:{minutes % 60:02d} h left"


def _done(run: Run) -> int:
    maximum = run.cfg.SOLVER.MAX_ITER
    return maximum if read_result(run) is not None else min(last_iteration(run.folder), maximum)


def _check_folder(run: Run) -> None:
    file = run.folder / KEY_FILE
    if file.is_file() and file.read_text() != run.key:
        raise ConfigError(
            f"{run.folder} holds a run of another config: choose another --output, or delete it"
        )


def _start(run: Run, *, one_thread: bool) -> subprocess.Popen:
    config_file = run.folder / "run.yaml"
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.folder / KEY_FILE, run.key)
    write_text(config_file, run.cfg.dump())
    command = [sys.executable, "-m", "panoptic_lovasz.comparison.train", str(config_file)]
    command.append("--end-with-parent")
    return processes.start(command, run.folder / "train.log", one_thread=one_thread)


def _failure(run: Run, exit_code: int) -> str:
    log = run.folder / "train.log"
    last = " ".join(log.read_text(errors="replace").splitlines()[-1:])
    what = f"failed with exit code {exit_code}" if exit_code else "was stopped before its end"
    return f"training {run.loss} with seed {run.seed} {what}: {last}; all of it is in {log}"
