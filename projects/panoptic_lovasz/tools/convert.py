"""Convert a data set to the COCO panoptic format.

    python -m panoptic_lovasz.tools.convert camvid --input CamVid --output datasets/camvid
    python -m panoptic_lovasz.tools.convert labels --images DIR --semantic DIR --instances DIR \
        --categories categories.json --json out/train.json --panoptic out/panoptic_train

``python -m panoptic_lovasz.tools.convert -h`` lists the layouts that can be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_parser(), _run, argv)


def _run(args: argparse.Namespace) -> None:
    for json_file, count in args.convert(args).items():
        print(f"{json_file}: {count} images")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.tools.convert",
        description="Convert a data set to the COCO panoptic format: a JSON and id PNGs.",
    )
    layouts = parser.add_subparsers(required=True, metavar="LAYOUT")
    camvid = _add_release(layouts, "camvid", _camvid, "CamVid as SegNet published it, 11 classes")
    camvid.add_argument(
        "--min-instance-area", type=int, default=20, metavar="PIXELS", help="(%(default)s)"
    )
    _add_release(layouts, "cityscapes", _cityscapes, "Cityscapes, from gtFine and leftImg8bit")
    labels = _add_folders(layouts, "labels", _labels, "a semantic and an instance PNG per image")
    labels.add_argument("--semantic", required=True, metavar="FOLDER", help="PNGs of category ids")
    labels.add_argument("--instances", required=True, metavar="FOLDER", help="PNGs of numbers")
    labels.add_argument("--categories", required=True, metavar="JSON", help="id, name, isthing")
    labels.add_argument("--void", type=int, nargs="*", default=[255], help="labels (%(default)s)")
    coco = _add_folders(layouts, "coco", _coco, "COCO instances, with stuff as polygons or PNGs")
    coco.add_argument("--instances-json", required=True, metavar="JSON", help="polygons or RLE")
    coco.add_argument(
        "--stuff-names", nargs="+", default=[], metavar="NAME", help="its categories that are stuff"
    )
    coco.add_argument("--stuff", metavar="FOLDER", help="PNGs of stuff ids")
    coco.add_argument("--stuff-categories", metavar="JSON", help="their categories: id, name")
    coco.add_argument("--void", type=int, nargs="*", default=[0, 255], help="labels (%(default)s)")
    return parser


def _add_release(layouts, name: str, convert, text: str) -> argparse.ArgumentParser:
    """A published data set: a folder in, a folder with all its splits out."""
    parser = layouts.add_parser(name, help=text)
    parser.add_argument("--input", required=True, metavar="FOLDER", help="the unpacked release")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion")
    parser.set_defaults(convert=convert)
    return parser


def _add_folders(layouts, name: str, convert, text: str) -> argparse.ArgumentParser:
    """Folders of one split in, a JSON and a folder out."""
    parser = layouts.add_parser(name, help=text)
    parser.add_argument("--images", required=True, metavar="FOLDER")
    parser.add_argument("--json", required=True, metavar="FILE", help="panoptic JSON to write")
    parser.add_argument("--panoptic", required=True, metavar="FOLDER", help="id PNGs to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion")
    parser.set_defaults(convert=convert)
    return parser


def _camvid(args: argparse.Namespace) -> dict[str, int]:
    from ..data.converters.camvid import convert_camvid

    counts = convert_camvid(
        args.input,
        args.output,
        min_instance_area=args.min_instance_area,
        overwrite=args.overwrite,
    )
    return _by_file(args.output, counts)


def _cityscapes(args: argparse.Namespace) -> dict[str, int]:
    from ..data.converters.cityscapes import convert_cityscapes

    counts = convert_cityscapes(args.input, args.output, overwrite=args.overwrite)
    return _by_file(args.output, counts)


def _by_file(output: str, counts: dict[str, int]) -> dict[str, int]:
    return {f"{output}/annotations/panoptic_{split}.json": n for split, n in counts.items()}


def _labels(args: argparse.Namespace) -> dict[str, int]:
    from ..data.converters.label_folders import convert_label_folders, read_categories

    count = convert_label_folders(
        args.images,
        args.semantic,
        args.instances,
        read_categories(args.categories),
        args.json,
        args.panoptic,
        void_labels=args.void,
        overwrite=args.overwrite,
    )
    return {args.json: count}


def _coco(args: argparse.Namespace) -> dict[str, int]:
    if bool(args.stuff) != bool(args.stuff_categories):
        raise argparse.ArgumentError(None, "--stuff and --stuff-categories go together")
    from ..data.converters.coco_instances import convert_coco_instances
    from ..data.converters.label_folders import read_categories

    count = convert_coco_instances(
        args.instances_json,
        args.images,
        args.json,
        args.panoptic,
        stuff_names=args.stuff_names,
        stuff_pngs=args.stuff,
        stuff_categories=read_categories(args.stuff_categories) if args.stuff_categories else (),
        void_labels=args.void,
        overwrite=args.overwrite,
    )
    return {args.json: count}


if __name__ == "__main__":
    sys.exit(main())
