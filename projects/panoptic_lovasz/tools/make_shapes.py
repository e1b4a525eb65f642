"""Generate the shapes data set: ``python -m panoptic_lovasz.tools.make_shapes --output FOLDER``."""

from __future__ import annotations

import argparse
import sys

from ..data.shapes import make_shapes
from ..errors import DatasetError


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Generate a small panoptic data set in the COCO panoptic format."
    )
    parser.add_argument("--output", default="datasets/shapes", help="folder (%(default)s)")
    parser.add_argument("--num-train", type=int, default=600, help="images (%(default)s)")
    parser.add_argument("--num-val", type=int, default=100, help="images (%(default)s)")
    parser.add_argument("--size", type=int, default=128, help="height and width (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args(argv)
    try:
        root = make_shapes(
            args.output,
            num_train=args.num_train,
            num_val=args.num_val,
            size=args.size,
            seed=args.seed,
        )
    except (DatasetError, OSError) as error:
        sys.exit(f"make_shapes: {error}")
    print(f"{args.num_train} images to train on and {args.num_val} to test on are in {root}")


if __name__ == "__main__":
    main()
