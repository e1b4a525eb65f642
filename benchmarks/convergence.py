"""Training with the binned, fused loss reaches what training with the exact, sorted one does.

    python -m benchmarks.convergence --iterations 400

Trains the demo's model on generated shapes, from the same seeds with the same batches: with
cross-entropy alone, with the exact Lovász-Softmax (a sort for each class, from upsampled logits),
with the binned one, and with that in mixed precision (float16 on CUDA, bfloat16 on the CPU).
Reports mIoU of the semantic branch and PQ on the held-out images, in percent, per seed and as mean
and standard deviation over the seeds. Written to --output as CSV.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from pathlib import Path

import torch
from detectron2.utils.env import seed_all_rng

from panoptic_lovasz import Trainer, load_config
from panoptic_lovasz.data import make_shapes

from . import common

CONFIG = Path(__file__).parents[1] / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
LOSS = "MODEL.SEM_SEG_HEAD.LOSS"
VARIANTS = {
    "cross-entropy": [f"{LOSS}.NAME", "CrossEntropyLoss"],
    "+ Lovász, exact": [f"{LOSS}.METHOD", "exact"],
    "+ Lovász, binned": [f"{LOSS}.METHOD", "binned"],
    "+ Lovász, binned, mixed precision": [f"{LOSS}.METHOD", "binned"],
}


class MixedPrecisionTrainer(Trainer):
    """As Detectron2's mixed precision, which needs CUDA, on the CPU."""

    def run_step(self) -> None:
        """One iteration under autocast."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            super().run_step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), help="(all)")
    parser.add_argument("--iterations", type=int, default=400, help="(%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="(1 2 3)")
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.INFO)
    data = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"), "shapes")
    if not data.exists():
        make_shapes(data)
    print(common.describe(torch.device(args.device)))
    rows = []
    for seed in args.seeds:
        for name in args.variants:
            row = train(name, seed, args)
            print(row, flush=True)
            rows.append(row)
    common.write_table(rows, args.output / "convergence.csv")
    print()
    common.print_table(rows)
    print()
    common.print_table(summary(rows))


def train(name: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one variant from scratch and evaluate it."""
    folder = args.output / "convergence" / f"{list(VARIANTS).index(name)}_{seed}"
    options = ["SEED", seed, "OUTPUT_DIR", str(folder), "MODEL.DEVICE", args.device]
    options += ["SOLVER.MAX_ITER", args.iterations, "TEST.EVAL_PERIOD", 0]
    options += ["SOLVER.CHECKPOINT_PERIOD", args.iterations]
    mixed, on_cpu = "mixed precision" in name, args.device == "cpu"
    options += ["SOLVER.AMP.ENABLED", mixed and not on_cpu]
    cfg = load_config(CONFIG, options + VARIANTS[name])
    folder.mkdir(parents=True, exist_ok=True)
    seed_all_rng(seed)
    start = time.perf_counter()
    trainer = MixedPrecisionTrainer(cfg) if mixed and on_cpu else Trainer(cfg)
    trainer.train()
    seconds = time.perf_counter() - start
    results = trainer._last_eval_results  # of the evaluation after the last iteration
    return {
        "loss": name,
        "seed": seed,
        "mIoU": float(results["sem_seg"]["mIoU"]),
        "PQ": float(results["panoptic_seg"]["PQ"]),
        "seconds": seconds,
    }


def summary(rows: list[dict]) -> list[dict]:
    """Mean and standard deviation over the seeds."""
    table = []
    for name in dict.fromkeys(row["loss"] for row in rows):
        line = {"loss": name}
        for metric in ("mIoU", "PQ"):
            values = [row[metric] for row in rows if row["loss"] == name]
            line[f"{metric} mean"] = statistics.mean(values)
            line[f"{metric} std"] = statistics.stdev(values) if len(values) > 1 else 0.0
        table.append(line)
    return table


if __name__ == "__main__":
    main()
