"""Whether a run can be resumed, and a hook that makes it repeatable from any checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ..checkpoint import check_same_classes
from ..data.register import get_panoptic_classes

__all__ = ["SeedEachIteration", "check_resumable"]


def check_resumable(cfg: CfgNode) -> None:
    """Check that what OUTPUT_DIR holds, if anything, was trained on the classes of the data.

    Called before anything is written there.

    Raises:
        CheckpointError: if not; names the classes of both.
    """
    if Path(cfg.OUTPUT_DIR, "last_checkpoint").is_file():
        check_same_classes(cfg.OUTPUT_DIR, get_panoptic_classes(cfg.DATASETS.TRAIN))


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
