"""Processes that work in the background and never outlive the one that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["end_all", "end_with_parent", "start"]

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
_NICENESS = 10


def start(command: Sequence[str], log: Path, *, one_thread: bool) -> subprocess.Popen:
    """Start a process that calls :func:`end_with_parent`.

    Args:
        command: program and arguments.
        log: file to which its output is added.
        one_thread: let it compute with one thread, unless the environment says how many.
    """
    with open(log, "ab") as f:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # the system closes it with this process, however that ends
            stdout=f,
            stderr=f,
            env={**(_ONE_THREAD if one_thread else {}), **os.environ},
            start_new_session=True,  # Ctrl-C is for this process, which then ends the other
        )


def end_with_parent() -> None:
    """Give way to other processes, and end as by SIGTERM once standard input is closed.

    A training that receives SIGTERM saves a checkpoint first.
    """
    os.nice(max(_NICENESS - os.nice(0), 0))

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would be held when Python ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def end_all(processes: Iterable[subprocess.Popen]) -> None:
    """End processes that :func:`start` started, and wait until they have."""
    processes = list(processes)
    for process in processes:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
    for process in processes:
        process.wait()
