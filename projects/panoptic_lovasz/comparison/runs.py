"""The runs of a comparison: what distinguishes them, and running those that are not done."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from ..config import check_config, set_options
from ..errors import ConfigError
from ..files import write_atomically
from .train import RESULT_FILE

__all__ = ["Run", "plan_runs", "read_result", "train"]


class Run(NamedTuple):
    """One training: a loss, a seed, the config and the folder that it writes into."""

    loss: str
    seed: int
    folder: Path
    cfg: CfgNode

    @property
    def key(self) -> str:
        """A hash of all that decides the outcome: a run of another config is not this one."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = ""
        return hashlib.sha256(cfg.dump().encode()).hexdigest()[:16]


def plan_runs(
    cfg: CfgNode, losses: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], output: Path
) -> list[Run]:
    """All runs, seed by seed, so that an unfinished comparison has pairs.

    Args:
        cfg: the config that all have in common.
        losses: changes by key, by name.
        seeds: values of SEED.
        output: folder of the comparison; a run has ``<loss>/seed_<n>`` in it.

    Raises:
        ConfigError: for a key or value that the config does not take.
    """
    runs = []
    for seed in seeds:
        for name, changes in losses.items():
            own = cfg.clone()
            own.defrost()
            folder = output / name / f"seed_{seed}"
            values = {
                **{k: cfg.SOLVER.MAX_ITER // 2 if v is None else v for k, v in changes.items()},
                "SEED": seed,
                "OUTPUT_DIR": str(folder),
            }
            where = f"loss '{name}' ({', '.join(changes)})"
            set_options(own, [x for pair in values.items() for x in pair], where)
            check_config(own)
            runs.append(Run(name, seed, folder, own))
    return runs


def read_result(run: Run) -> dict[str, Any] | None:
    """The result of a run if it is done, else None."""
    try:
        result = json.loads((run.folder / RESULT_FILE).read_text())
        return result if (run.folder / "key.txt").read_text() == run.key else None
    except (OSError, ValueError):
        return None


def train(run: Run) -> None:
    """Train in a process of its own, resuming what was begun; ``train.log`` has its output.

    Raises:
        ConfigError: the process failed, or the folder holds a run of another config.
    """
    key_file, config_file = run.folder / "key.txt", run.folder / "run.yaml"
    run.folder.mkdir(parents=True, exist_ok=True)
    if key_file.is_file() and key_file.read_text() != run.key:
        raise ConfigError(
            f"{run.folder} holds a run of another config: choose another --output, or delete it"
        )
    write_atomically(key_file, lambda f: f.write(run.key.encode()))
    write_atomically(config_file, lambda f: f.write(run.cfg.dump().encode()))
    log = run.folder / "train.log"
    command = [sys.executable, "-m", "panoptic_lovasz.comparison.train", str(config_file)]
    with open(log, "a") as f:
        outcome = subprocess.run(command, stdout=f, stderr=f, env=os.environ.copy(), check=False)
    if outcome.returncode or read_result(run) is None:
        last = log.read_text(errors="replace").splitlines()[-1:]
        raise ConfigError(
            f"training {run.loss} with seed {run.seed} failed with exit code "
            f"{outcome.returncode}: {' '.join(last)}; all of it is in {log}"
        )
