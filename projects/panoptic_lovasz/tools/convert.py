"""Convert a data set to the COCO panoptic format.

    python -m panoptic_lovasz.tools.convert camvid --input CamVid --output datasets/camvid

``python -m panoptic_lovasz.tools.convert -h`` lists the layouts that can be read.
"""

from __future__ import annotations

import argparse
import sys

from ..data.converters import convert_camvid
from ..errors import DatasetError


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = _parser().parse_args(argv)
    try:
        counts = args.convert(args)
    except (DatasetError, OSError) as error:
        sys.exit(f"convert: {error}")
    for split, count in counts.items():
        print(f"{split}: {count} images, described in {args.output}/annotations")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Convert a data set to the COCO panoptic format: a JSON and id PNGs."
    )
    layouts = parser.add_subparsers(required=True, metavar="LAYOUT")
    _add_camvid(layouts)
    return parser


def _add_camvid(layouts) -> None:
    parser = layouts.add_parser("camvid", help="CamVid as SegNet published it, 11 classes")
    _add_common(parser, "folder with train/, trainannot/, val/, valannot/ ...")
    parser.add_argument(
        "--min-instance-area", type=int, default=20, metavar="PIXELS", help="(%(default)s)"
    )
    parser.set_defaults(
        convert=lambda args: convert_camvid(
            args.input,
            args.output,
            min_instance_area=args.min_instance_area,
            overwrite=args.overwrite,
        )
    )


def _add_common(parser: argparse.ArgumentParser, input_help: str) -> None:
    parser.add_argument("--input", required=True, metavar="FOLDER", help=input_help)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion")


if __name__ == "__main__":
    main()
