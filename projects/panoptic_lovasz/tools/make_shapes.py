"""Generate the shapes data set: ``python -m panoptic_lovasz.tools.make_shapes --output FOLDER``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.tools.make_shapes",
        description="Generate a small panoptic data set in the COCO panoptic format.",
    )
    add = parser.add_argument
    add("--output", default="datasets/shapes", help="folder (%(default)s)")
    add("--num-train", type=cli.positive, default=600, help="images (%(default)s)")
    add("--num-val", type=cli.positive, default=100, help="images (%(default)s)")
    add("--size", type=int, default=128, help="height and width (%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    return cli.run(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    from ..data.shapes import make_shapes

    root = make_shapes(
        args.output,
        num_train=args.num_train,
        num_val=args.num_val,
        size=args.size,
        seed=args.seed,
    )
    print(f"{args.num_train} images to train on and {args.num_val} to test on are in {root}")


if __name__ == "__main__":
    sys.exit(main())
