"""From a photo to its panoptic result on the CPU: a slim network in several ways, and R50.

    python -m benchmarks.prediction --checkpoint output/camvid_lite0 --image photo.jpg

The image is scaled to --size x --size. Every way is the same weights:

eager            PyTorch, `PanopticPredictor` with MODEL.TIMM.CHANNELS_LAST off
channels last    the same with it on, as the slim configs have it
bfloat16         `PanopticPredictor(amp=True)`
ONNX Runtime     the exported network, and this project's merging in Python
R50              R50-FPN of COCO's size with random weights, for comparison

In turns, on --threads threads; median CPU milliseconds, the pixels whose segment is that of the
first row, and how many segments there are. Without a checkpoint the weights are random.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from panoptic_lovasz import load_config
from panoptic_lovasz.inference import PanopticPredictor
from panoptic_lovasz.inference.export import export_predictor
from panoptic_lovasz.inference.exported import load_exported, merge_outputs

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
    with tempfile.TemporaryDirectory() as folder:
        every = make_calls(args, photo, Path(folder) / "slim.onnx")
        calls = {name: every[name] for name in WAYS if name in {"eager", *args.ways}}
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


def make_calls(args: argparse.Namespace, photo: np.ndarray, file: Path) -> dict:
    """Functions that return the segment map, by name."""
    eager = slim(args, "MODEL.TIMM.CHANNELS_LAST", "False")
    predictors = {
        "eager": eager,
        "channels last": slim(args, "MODEL.TIMM.CHANNELS_LAST", "True"),
        "bfloat16": slim(args, "MODEL.TIMM.CHANNELS_LAST", "False", amp=True),
        "R50": from_config(R50, args.size),
    }
    for name in ("channels last", "bfloat16"):
        predictors[name].model.load_state_dict(eager.model.state_dict())
    calls = {
        name: lambda p=predictor: p(photo).segment_map for name, predictor in predictors.items()
    }
    export_predictor(eager, file, eager.network_input(photo).float())
    run = load_exported(file)
    description = json.loads(file.with_suffix(".json").read_text())

    def exported() -> np.ndarray:
        outputs = run(eager.network_input(photo).float())
        return merge_outputs(outputs, description, *photo.shape[:2])[0].numpy()

    return {**calls, "ONNX Runtime": exported}


def slim(args: argparse.Namespace, *opts: str, amp: bool = False) -> PanopticPredictor:
    if args.checkpoint is None:
        return from_config(SLIM, args.size, *opts, amp=amp)
    size = ["INPUT.MIN_SIZE_TEST", str(args.size), "INPUT.MAX_SIZE_TEST", str(args.size)]
    return PanopticPredictor.from_checkpoint(
        args.checkpoint, [*size, "MODEL.DEVICE", "cpu", *opts], amp=amp
    )


def from_config(file: Path, size: int, *opts: str, amp: bool = False) -> PanopticPredictor:
    size = ["INPUT.MIN_SIZE_TEST", str(size), "INPUT.MAX_SIZE_TEST", str(size)]
    weights = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
    return PanopticPredictor(load_config(file, [*size, *weights, *opts]), amp=amp)


if __name__ == "__main__":
    main()
