"""From a photo to its panoptic result on the CPU: a slim network in several ways, and R50.

    python -m benchmarks.prediction --checkpoint output/camvid_lite0 --image photo.jpg

The image is scaled to --size x --size. Every way is the same weights:

eager            PyTorch, `PanopticPredictor` with MODEL.TIMM.CHANNELS_LAST off
channels last    the same with it on, as the slim configs have it
bfloat16         `PanopticPredictor(amp=True)`
ONNX Runtime     `PanopticPredictor(backend="onnx")`
R50              R50-FPN of COCO's size with random weights, for comparison

In turns, on --threads threads; median CPU milliseconds, the pixels whose segment is that of the
first row, and how many segments there are. Without a checkpoint the weights are random.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from panoptic_lovasz import load_config
from panoptic_lovasz.inference import PanopticPredictor

from . import common

CONFIGS = Path(__file__).parents[1] / "configs"
WAYS = ("eager", "channels last", "bfloat16", "ONNX Runtime", "R50")
SLIM = CONFIGS / "CamVid-PanopticSegmentation/panoptic_lovasz_lite0.yaml"
R50 = CONFIGS / "COCO-PanopticSegmentation/panoptic_lovasz_R_50_3x.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", help="OUTPUT_DIR of a training of the slim network")
    parser.add_argument("--image", help="a photo; noise without it")
    parser.add_argument("--size", type=int, default=512, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="per row (%(default)s)")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS)
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/prediction.csv"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(common.describe(torch.device("cpu")), flush=True)
    photo = make_photo(args.image, args.size)
    calls = make_calls(args, photo)
    maps = {name: call() for name, call in calls.items()}
    wall, cpu = common.interleave(calls, torch.device("cpu"), seconds=args.seconds)
    rows = [
        {
            "": name,
            "CPU ms": 1e3 * common.median(cpu[name]),
            "ms": 1e3 * common.median(wall[name]),
            "repeats": len(cpu[name]),
            "same pixels": float((maps[name] == maps["eager"]).mean()) if name != "R50" else None,
            "segments": len(np.setdiff1d(maps[name], [0])),
        }
        for name in calls
    ]
    common.print_table(rows)
    common.write_table(rows, args.output)


def make_photo(path: str | None, size: int) -> np.ndarray:
    """RGB (size, size, 3) uint8."""
    if path is None:
        return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.BILINEAR))


def make_calls(args: argparse.Namespace, photo: np.ndarray) -> dict:
    """Functions that return the segment map, by the names of those ways that are asked for."""
    makers = {
        "eager": lambda: slim(args),
        "channels last": lambda: slim(args, channels_last=True),
        "bfloat16": lambda: slim(args, amp=True),
        "ONNX Runtime": lambda: slim(args, backend="onnx"),
        "R50": lambda: from_config(R50, sizes(args)),
    }
    predictors = {name: makers[name]() for name in WAYS if name in {"eager", *args.ways}}
    return {
        name: lambda p=predictor: p(photo).segment_map for name, predictor in predictors.items()
    }


def slim(args: argparse.Namespace, *, channels_last: bool = False, **options) -> PanopticPredictor:
    opts = [*sizes(args), "MODEL.TIMM.CHANNELS_LAST", str(channels_last)]
    if args.checkpoint is None:
        return from_config(SLIM, opts, **options)
    opts += ["MODEL.DEVICE", "cpu"]
    return PanopticPredictor.from_checkpoint(args.checkpoint, opts, **options)


def from_config(file: Path, opts: list[str], **options) -> PanopticPredictor:
    torch.manual_seed(0)  # every way has the same weights
    opts = [*opts, "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
    return PanopticPredictor(load_config(file, opts), **options)


def sizes(args: argparse.Namespace) -> list[str]:
    return ["INPUT.MIN_SIZE_TEST", str(args.size), "INPUT.MAX_SIZE_TEST", str(args.size)]


if __name__ == "__main__":
    main()
