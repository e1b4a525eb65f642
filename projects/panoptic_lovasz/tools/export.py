"""Export a network: ``python -m panoptic_lovasz.tools.export --checkpoint DIR --output X.onnx``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import cli

_DESCRIPTION = """
Writes the network, up to the merge, as TorchScript (.ts) or ONNX (.onnx), and a .json file of the
same name that says how to feed it and what it returns. Then compares its outputs with the
network's own on images of two sizes.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.tools.export", description=_DESCRIPTION
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--config-file", metavar="FILE", help="config; set MODEL.WEIGHTS by --opts")
    text = "folder that training wrote, a checkpoint in it, or a published file or name"
    model.add_argument("--checkpoint", metavar="PATH|NAME", help=text)
    parser.add_argument("--output", required=True, metavar="FILE", help="X.ts or X.onnx")
    parser.add_argument(
        "--image", metavar="FILE", help="an image with objects to trace with; default: noise"
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return cli.run(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    from ..config import load_config
    from ..inference import PanopticPredictor
    from ..inference.export import check_export, example_image, export_predictor

    if args.checkpoint:
        predictor = PanopticPredictor.from_checkpoint(args.checkpoint, args.opts, device="cpu")
    else:
        cfg = load_config(args.config_file, args.opts)
        predictor = PanopticPredictor(cfg, device="cpu")
    if args.image:
        image = predictor.network_input(args.image).float()
    else:
        image = example_image(predictor.cfg)
    export_predictor(predictor, args.output, image)
    other = image[:, : image.shape[1] * 3 // 4].flip(2).contiguous()
    worst = check_export(predictor, args.output, [image, other])
    print(f"{args.output}: largest difference from the network's own outputs, at two sizes:")
    for name, difference in worst.items():
        print(f"  {name:10} {difference:.2g}")


if __name__ == "__main__":
    sys.exit(main())
