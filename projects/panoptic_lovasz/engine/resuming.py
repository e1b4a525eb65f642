"""A hook that makes a run repeatable from any checkpoint."""

from __future__ import annotations

import numpy as np
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

__all__ = ["SeedEachIteration"]


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
