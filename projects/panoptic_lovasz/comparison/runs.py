"""The runs of a comparison, and what distinguishes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from ..config import check_config, check_training, set_options
from ..errors import ConfigError
from .train import RESULT_FILE

__all__ = ["KEY_FILE", "Run", "plan_runs", "read_result"]

KEY_FILE = "key.txt"


class Run(NamedTuple):
    """One training: a loss, a seed, the config and the folder that it writes into."""

    loss: str
    seed: int
    folder: Path
    cfg: CfgNode
    key: str  # a hash of all that decides the outcome: a run of another config is not this one


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
        ConfigError: for a key or value that the config does not take, or without a test set.
    """
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty, expected the data set to compare the runs on")
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
            check_training(own)
            runs.append(Run(name, seed, folder, own, _key(own)))
    return runs


def _key(cfg: CfgNode) -> str:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = ""
    return hashlib.sha256(cfg.dump().encode()).hexdigest()[:16]


def read_result(run: Run) -> dict[str, Any] | None:
    """The result of a run if it is done, else None."""
    try:
        result = json.loads((run.folder / RESULT_FILE).read_text())
        return result if (run.folder / KEY_FILE).read_text() == run.key else None
    except (OSError, ValueError):
        return None
