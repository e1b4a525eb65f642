"""A program in a process of its own that has imported the heavy packages when it starts.

Importing Detectron2 takes several seconds of every start; here one server imports it once, and each
program is a fork of that, on one thread. What is read while Python or PyTorch is loaded (-O,
settings of OpenMP and of the allocator) is the server's: where it matters, a test starts Python.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["panoptic_lovasz.engine", "panoptic_lovasz.evaluation"])


class Program:
    """A running program; what of ``subprocess.Popen`` tests use, with the output as text.

    Args:
        command: a program's file and arguments, or "-m", a module and arguments.
        cwd: where it runs.
        env: its environment.
    """

    def __init__(self, command: list[str], cwd: Path, env: Mapping[str, str]):
        self.args = command
        self._folder = tempfile.TemporaryDirectory()
        self._output = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        self._process = _SERVER.Process(target=_run, args=(command, cwd, dict(env), self._output))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; ``None`` while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.returncode is None:
            os.kill(self._process.pid, number)

    def send_signal_to_all(self, number: int) -> None:
        """To its own processes, and then to itself, as clusters do."""
        pid = self._process.pid
        if self.returncode is None:
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), number)
            os.kill(pid, number)

    def wait(self, timeout: float) -> int:
        """Its exit code; one that does not end in so many seconds is killed, and is an error."""
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What it has written to stdout and to stderr when it has ended."""
        self.wait(timeout)
        return tuple(file.read_text() for file in self._output)


def _run(command: list[str], cwd: Path, env: dict[str, str], output: list[Path]) -> None:
    for descriptor, file in enumerate(output, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    multiprocessing.set_start_method(None, force=True)  # its own processes start as by default
    torch.set_num_threads(1)
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(cwd, command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")


def workers(count: int, per_machine: int) -> list[dict[str, str]]:
    """The environments that torchrun would give so many workers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    everywhere = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(per_machine),
        "TORCHELASTIC_RUN_ID": "none",
    }
    return [
        {**everywhere, "RANK": str(rank), "LOCAL_RANK": str(rank % per_machine)}
        for rank in range(count)
    ]
