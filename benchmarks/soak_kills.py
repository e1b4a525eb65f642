"""Kill a small training at random moments, resume it, and compare the weights that it ends with."""

from __future__ import annotations

import multiprocessing
import os
import random
import runpy
import shutil
import sys
import time
from pathlib import Path

import torch

from panoptic_lovasz.data import make_shapes

PROJECT = Path(__file__).resolve().parents[1]
ITERATIONS = 10
OPTIONS = f"""
    SOLVER.MAX_ITER {ITERATIONS} SOLVER.IMS_PER_BATCH 4 SOLVER.CHECKPOINT_PERIOD 1
    TEST.EVAL_PERIOD 0 DATASETS.TEST () OUTPUT.REPORT False OUTPUT.PLOTS False
""".split()


def run_kills(kills: int, folder: Path, seed: int) -> dict:
    """Row of the table: how many killed and resumed trainings ended as the one left alone.

    Half of them are killed at a moment drawn from the whole training, half while the temporary file
    of a checkpoint is there, which has between no and all of its content then.
    """
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    make_shapes(folder / "shapes", num_train=12, num_val=1, size=96, progress=False)
    start = time.perf_counter()
    _train(folder / "alone").join()
    seconds = time.perf_counter() - start
    expected = _final_weights(folder / "alone")
    if expected is None:
        raise RuntimeError(f"the training left alone failed; see {folder}/alone/log.txt")

    rng = random.Random(seed)
    same, torn, first = 0, 0, []
    for kill in range(kills):
        output = folder / f"killed_{kill}"
        process = _train(output)
        if kill % 2:
            _wait_for_writing(process, output, rng.randrange(ITERATIONS))
            time.sleep(rng.uniform(0, 0.02))
        else:
            process.join(rng.uniform(0, seconds))
        process.kill()
        process.join()
        torn += any(output.glob(".*.[0-9]*.tmp*"))
        first.append(len(list(output.glob("model_*.pth"))))
        _train(output, "--resume").join()
        found = _final_weights(output)
        equal = found is not None and all(torch.equal(expected[k], found[k]) for k in expected)
        same += equal
        if equal:
            shutil.rmtree(output)
        print(
            f"  kill {kill + 1}/{kills}: exit code {process.exitcode}, {first[-1]} checkpoints, "
            f"{'same' if equal else 'OTHER'} weights",
            flush=True,
        )
    return {
        "check": "killed, resumed, same bits",
        "tried": kills,
        "as it should be": same,
        "not": kills - same,
        "remarks": f"{torn} killed while writing; {min(first)} to {max(first)} checkpoints saved",
    }


def _train(output: Path, *flags: str) -> multiprocessing.Process:
    """Start train_net.py in a fork of this process, which has imported everything."""
    config = PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
    command = ["--config-file", str(config), "--num-gpus", "0", *flags, *OPTIONS]
    command += ["OUTPUT_DIR", str(output)]
    process = multiprocessing.get_context("fork").Process(target=_run_train_net, args=(command,))
    process.start()
    return process


def _run_train_net(arguments: list[str]) -> None:
    with open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = ["train_net.py", *arguments]
    runpy.run_path(str(PROJECT / "train_net.py"), run_name="__main__")


def _wait_for_writing(process: multiprocessing.Process, output: Path, iteration: int) -> None:
    pattern = f".model_{iteration:07d}.[0-9]*.tmp*"  # as files.replacing names it
    while process.is_alive() and not any(output.glob(pattern)):
        time.sleep(0.001)


def _final_weights(output: Path) -> dict[str, torch.Tensor] | None:
    file = output / "model_final.pth"
    return torch.load(file, weights_only=True)["model"] if file.is_file() else None
