"""The command line of ``demo.py``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import cli

if TYPE_CHECKING:
    from ..inference.predictor import PanopticPredictor

__all__ = ["main"]

_EPILOG = """
Writes OUTPUT/NAME.png for every image and OUTPUT/NAME.mp4 for every video or camera;
--side-by-side adds OUTPUT/side_by_side/, --coco adds OUTPUT/predictions.json and
OUTPUT/predictions/.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Panoptic segmentation of images, folders, videos or a camera.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--config-file", metavar="FILE", help="config; set MODEL.WEIGHTS by --opts")
    model.add_argument(
        "--checkpoint",
        metavar="PATH|NAME",
        help="folder that training wrote, a checkpoint in it, a published .safetensors file, or a "
        "name of the model zoo",
    )
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument(
        "--input",
        nargs="+",
        metavar="INPUT",
        help="images, folders, patterns, videos, or the index of a camera (until Ctrl-C)",
    )
    inputs.add_argument(
        "--dataset",
        metavar="NAME",
        help="images of a registered data set; --side-by-side then shows the ground truth, too",
    )
    add("--output", required=True, metavar="FOLDER", type=Path)
    add("--no-overlay", action="store_true", help="do not write the overlay pictures")
    add("--side-by-side", action="store_true", help="also write input and prediction in a row")
    add("--coco", action="store_true", help="also write COCO panoptic JSON and PNGs")
    add("--confidence-threshold", type=_probability, metavar="P", help="of things, 0 to 1")
    add("--batch-size", type=cli.positive, default=1, metavar="N", help="(%(default)s)")
    add("--max-pixels", type=cli.positive, metavar="N", help="refuse larger images (89 million)")
    add("--device", help='"cpu", "cuda", ...; default: the config\'s, if it is there')
    add(
        "--backend",
        choices=("torch", "onnx"),
        default="torch",
        help="what runs the network: PyTorch, or ONNX Runtime on the CPU (%(default)s)",
    )
    add("--amp", action="store_true", help="mixed precision: float16, or bfloat16 on the CPU")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected 0 to 1")
    return value


def _run(args: argparse.Namespace) -> int:
    if args.max_pixels is not None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = args.max_pixels
    from ..inference.inputs import Inputs
    from ..inference.job import Job

    # files are looked for before the model is built: a mistyped path should not cost a minute
    inputs = Inputs.from_arguments(args.input) if args.input else None
    predictor = _build_predictor(args)
    job = Job(
        predictor,
        inputs or Inputs.from_dataset(args.dataset),
        args.output,
        overlay=not args.no_overlay,
        side_by_side=args.side_by_side,
        coco=args.coco,
    )
    start = time.perf_counter()
    job.run()
    seconds = time.perf_counter() - start
    print(
        f"{job.done} pictures in {seconds:.1f} s ({job.done / seconds:.1f} images/s), "
        f"{job.skipped} inputs skipped or incomplete; see {args.output}"
    )
    return 1 if job.skipped else 0


def _build_predictor(args: argparse.Namespace) -> PanopticPredictor:
    from ..config import load_config
    from ..inference.predictor import PanopticPredictor

    opts = list(args.opts)
    threshold = args.confidence_threshold
    if threshold is not None:
        opts += ["MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", threshold]
        opts += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", threshold]
    options = {name: getattr(args, name) for name in ("device", "batch_size", "amp", "backend")}
    if args.checkpoint:
        return PanopticPredictor.from_checkpoint(args.checkpoint, opts, **options)
    cfg = load_config(args.config_file, opts)
    if not cfg.MODEL.WEIGHTS:
        print("warning: MODEL.WEIGHTS is empty, so the network is random", file=sys.stderr)
    return PanopticPredictor(cfg, **options)


if __name__ == "__main__":
    sys.exit(main())
