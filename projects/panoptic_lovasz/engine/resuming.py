"""Hooks that make a run repeatable from any checkpoint, and end it well when it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

__all__ = ["SaveOnSignal", "SeedEachIteration", "interrupted_marker"]

logger = logging.getLogger(__name__)


def interrupted_marker(output_dir: str | os.PathLike) -> Path:
    """The file that tells the next start in this folder to resume."""
    return Path(output_dir) / "interrupted"


class SeedEachIteration(HookBase):
    """Make the random numbers of an iteration depend on the seed, the rank and the iteration alone.

    The model draws proposals at random. So an iteration after a resume draws what it would have
    drawn in a run that was never stopped, and no random state has to be saved, for any number of
    processes.
    """

    def __init__(self, seed: int):
        """Take the value of SEED, not negative."""
        self._seed = seed

    def before_step(self) -> None:
        """Seed the random sources of this process."""
        entropy = np.random.SeedSequence((self._seed, comm.get_rank(), self.trainer.iter))
        seed_all_rng(int(entropy.generate_state(1)[0]))


class SaveOnSignal(HookBase):
    """On SIGTERM, with which clusters announce pre-emption: finish the iteration, save, exit.

    The checkpoint is that of the iteration, and a marker file makes the next training in the same
    OUTPUT_DIR resume without being told. The exit code is 0.
    """

    def __init__(self, checkpointer: DetectionCheckpointer):
        """Save by this checkpointer."""
        self._checkpointer = checkpointer
        self._received = False
        self._previous: Any = None

    def before_train(self) -> None:
        """Listen for the signal."""
        self._previous = signal.signal(signal.SIGTERM, self._receive)

    def after_train(self) -> None:
        """Give the signal back."""
        signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)

    def after_step(self) -> None:
        """Save and exit if any process has received the signal."""
        received = self._received
        if comm.get_world_size() > 1:
            received = any(comm.all_gather(received))
        if not received:
            return
        iteration = self.trainer.iter
        self._checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        if comm.is_main_process():
            interrupted_marker(self._checkpointer.save_dir).touch()
        comm.synchronize()
        logger.info(f"Stopped by SIGTERM after iteration {iteration}, which is saved.")
        sys.exit(0)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self._received = True
