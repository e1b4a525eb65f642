"""One run of a comparison, in a process of its own: ``python -m panoptic_lovasz.comparison.train``.

Trains by a config file, resuming what was begun, and writes ``result.json`` into its OUTPUT_DIR
when, and only when, it is done; of its checkpoints the best and the last then remain.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from detectron2.engine import default_setup
from detectron2.utils.logger import setup_logger
from torch import nn

from ..config import load_config
from ..engine import Trainer
from ..engine.writers import peak_memory_mib
from ..errors import ConfigError, DatasetError
from ..files import write_text
from ..metrics import of_test_sets
from ..reporting.records import read_losses, read_results
from .processes import end_with_parent

__all__ = ["RESULT_FILE"]

RESULT_FILE = "result.json"
_WEIGHTS_FILE = "initial_weights.txt"


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code."""
    parser = argparse.ArgumentParser(description="One run of panoptic_lovasz.tools.compare.")
    parser.add_argument("config_file", help="config, complete with OUTPUT_DIR and SEED")
    parser.add_argument("--end-with-parent", action="store_true", help="when stdin is closed")
    args = parser.parse_args(argv)
    args.eval_only = False
    if args.end_with_parent:
        end_with_parent()
    try:
        cfg = load_config(args.config_file)
        cfg.freeze()
        lock = _lock(Path(cfg.OUTPUT_DIR))  # noqa: F841  # held until this process ends
        if Path(cfg.OUTPUT_DIR, RESULT_FILE).is_file():
            return 0
        default_setup(cfg, args)
        setup_logger(cfg.OUTPUT_DIR, name="panoptic_lovasz")
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=True)
        folder = Path(cfg.OUTPUT_DIR)
        if trainer.start_iter == 0:
            write_text(folder / _WEIGHTS_FILE, weights_digest(trainer.model))
        trainer.train()
        _write_result(trainer, folder)
        for checkpoint in folder.glob("model_[0-9]*.pth"):
            checkpoint.unlink()
    except (ConfigError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _lock(folder: Path) -> TextIO:
    """Wait until no other process trains in this folder: one may still be saving what it did."""
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / "lock", "w")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def weights_digest(model: nn.Module) -> str:
    """A hash of all weights: runs that begin alike have the same."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


def _write_result(trainer: Trainer, folder: Path) -> None:
    tests = trainer.cfg.DATASETS.TEST
    last = read_results(folder)[-1]
    last.pop("iteration")
    found = of_test_sets(last, tests)
    metrics = found.get(tests[0]) or found[""]  # of several test sets the first counts
    seconds = read_losses(folder).get("time", ([], []))[1]
    memory, kind = peak_memory_mib()
    weights = folder / _WEIGHTS_FILE
    record = {
        "metrics": {k: None if np.isnan(v) else v for k, v in metrics.items()},
        "iterations": trainer.early_end.iterations if trainer.early_end else trainer.max_iter,
        "seconds_per_iteration": float(np.median(seconds)) if seconds else None,
        "peak_memory_mib": memory,
        "memory": kind,
        "initial_weights": weights.read_text() if weights.is_file() else None,
    }
    write_text(folder / RESULT_FILE, json.dumps(record, indent=1), durable=True)


if __name__ == "__main__":
    sys.exit(main())
