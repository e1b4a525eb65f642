"""The whole path on generated data: make it, train on it, evaluate, draw. Run by ``make demo``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

CONFIG = "configs/quick_schedules/panoptic_lovasz_shapes.yaml"
METRICS = {
    "PQ": "panoptic quality, all classes",
    "PQ_th": "panoptic quality, things",
    "PQ_st": "panoptic quality, stuff",
    "SQ": "segmentation quality",
    "RQ": "recognition quality",
}


def run(*command: str) -> float:
    """Run a command as a user would type it; stop if it fails. Returns its seconds."""
    # The demo's own folder of data sets, whatever the user's is.
    own = {"DETECTRON2_DATASETS": "datasets"} if "DETECTRON2_DATASETS" in os.environ else {}
    settings = "".join(f"{key}={value} " for key, value in own.items())
    print(f"\n$ {settings}{shlex.join(('python', *command))}", flush=True)
    start = time.perf_counter()
    environment = os.environ | own
    outcome = subprocess.run([sys.executable, *command], check=False, env=environment)
    if outcome.returncode:
        sys.exit(f"the command above failed with exit code {outcome.returncode}")
    return time.perf_counter() - start


def last_evaluation(metrics_file: Path) -> dict[str, float]:
    """The last line of a Detectron2 ``metrics.json`` that holds evaluation results."""
    lines = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    return [line for line in lines if "panoptic_seg/PQ" in line][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="output/demo", help="folder of the results")
    output = Path(parser.parse_args().output)

    run("-m", "panoptic_lovasz.tools.make_shapes", "--output", "datasets/shapes")
    options = ["OUTPUT_DIR", str(output)]
    seconds = run("train_net.py", "--config-file", CONFIG, "--num-gpus", "0", *options)
    weights = output / "model_final.pth"
    pictures = output / "pictures"
    command = ["demo.py", "--config-file", CONFIG, "--dataset", "shapes_val", "--side-by-side"]
    command += ["--output", str(pictures), "--opts", "MODEL.WEIGHTS", str(weights)]
    run(*command)

    results = last_evaluation(output / "metrics.json")
    print(f"\nTraining and evaluation took {seconds / 60:.1f} minutes. On the held-out split:")
    for name, meaning in METRICS.items():
        print(f"  {name:6}{results['panoptic_seg/' + name]:6.1f}  {meaning}")
    print(f"  {'mIoU':6}{results['sem_seg/mIoU']:6.1f}  of the semantic branch")
    print(f"\nPredictions drawn on the held-out images: {pictures}/")
    print(f"One page with curves, tables and pictures: {output / 'report.html'}")
    print(f"Weights: {weights}   all figures: {output / 'metrics.json'}")


if __name__ == "__main__":
    main()
