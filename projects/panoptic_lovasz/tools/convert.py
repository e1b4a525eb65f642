"""Convert a data set to the COCO panoptic format.

    python -m panoptic_lovasz.tools.convert camvid --input CamVid --output datasets/camvid
    python -m panoptic_lovasz.tools.convert labels --images DIR --semantic DIR --instances DIR \
        --categories categories.json --json out/train.json --panoptic out/panoptic_train

``python -m panoptic_lovasz.tools.convert -h`` lists the layouts that can be read.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from . import cli

# Published data sets, a folder in, a folder with all its splits out: description, and integers to
# choose with their defaults. The function is convert_NAME of data/converters/NAME.py.
RELEASES: dict[str, tuple[str, dict[str, int]]] = {
    "camvid": ("CamVid as SegNet published it, 11 classes", {"min_instance_area": 20}),
    "cityscapes": ("Cityscapes, from gtFine and leftImg8bit", {}),
}
_VOID = "ids of pixels without a class, in place of the default (%(default)s)"


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
    layouts = parser.add_subparsers(required=True, metavar="LAYOUT", dest="layout")
    for name, (text, options) in RELEASES.items():
        release = _add_layout(layouts, name, _release, text)
        release.add_argument("--input", required=True, metavar="FOLDER", help="unpacked release")
        release.add_argument("--output", required=True, metavar="FOLDER", help="folder to write")
        _add_follow_links(release)
        for option, default in options.items():
            flag = f"--{option.replace('_', '-')}"
            release.add_argument(flag, type=int, default=default, metavar="N", help="(%(default)s)")
    labels = _add_folders(layouts, "labels", _labels, "a semantic and an instance PNG per image")
    labels.add_argument("--semantic", required=True, metavar="FOLDER", help="PNGs of category ids")
    labels.add_argument(
        "--instances", required=True, metavar="FOLDER", help="PNGs of instance numbers"
    )
    labels.add_argument("--categories", required=True, metavar="JSON", help="id, name, isthing")
    labels.add_argument("--void", type=int, nargs="*", default=[255], help=_VOID)
    _add_follow_links(labels)
    coco = _add_folders(layouts, "coco", _coco, "COCO instances, with stuff as polygons or PNGs")
    coco.add_argument("--instances-json", required=True, metavar="JSON", help="polygons or RLE")
    add_instance_choices(coco)
    _add_follow_links(coco)
    coco.add_argument("--stuff", metavar="FOLDER", help="PNGs of stuff ids")
    coco.add_argument("--stuff-categories", metavar="JSON", help="their categories: id, name")
    coco.add_argument("--void", type=int, nargs="*", default=[0, 255], help=_VOID)
    return parser


def _add_folders(layouts, name: str, convert, text: str) -> argparse.ArgumentParser:
    """Folders of one split in, a JSON and a folder out."""
    parser = _add_layout(layouts, name, convert, text)
    parser.add_argument("--images", required=True, metavar="FOLDER")
    parser.add_argument("--json", required=True, metavar="FILE", help="panoptic JSON to write")
    parser.add_argument("--panoptic", required=True, metavar="FOLDER", help="id PNGs to write")
    return parser


def _add_layout(layouts, name: str, convert, text: str) -> argparse.ArgumentParser:
    parser = layouts.add_parser(name, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion")
    parser.set_defaults(convert=convert)
    return parser


def _add_follow_links(parser: argparse.ArgumentParser) -> None:
    text = "let symbolic links lead out of the folders"
    parser.add_argument("--follow-links", action="store_true", help=text)


def add_instance_choices(parser: argparse._ActionsContainer) -> None:
    """Options for what annotation tools write: the fields of ``InstanceChoices``."""
    add = parser.add_argument
    add("--stuff-names", nargs="+", default=[], metavar="NAME", help="categories that are stuff")
    add("--crowds-as-objects", action="store_true", help="take iscrowd 1 (CVAT's masks) as objects")
    add("--boxes-as-masks", action="store_true", help="fill the boxes of those without a mask")
    add("--keep-root", action="store_true", help="keep the supercategory of all as a class")
    add("--skip-missing", action="store_true", help="leave out images whose file is missing")
    add(
        "--stored-pixels",
        action="store_true",
        help="masks are of the pixels as stored, not as EXIF turns them",
    )


def instance_choices(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of ``InstanceChoices`` that the options give."""
    from ..data.coco_instances import InstanceChoices

    return {f.name: getattr(args, f.name) for f in dataclasses.fields(InstanceChoices)}


def _release(args: argparse.Namespace) -> dict[str, int]:
    name = args.layout
    module = importlib.import_module(f"..data.converters.{name}", __package__)
    counts = getattr(module, f"convert_{name}")(
        args.input,
        args.output,
        overwrite=args.overwrite,
        follow_links=args.follow_links,
        **{option: getattr(args, option) for option in RELEASES[name][1]},
    )
    return {f"{args.output}/annotations/panoptic_{split}.json": n for split, n in counts.items()}


def _labels(args: argparse.Namespace) -> dict[str, int]:
    from ..data.categories import read_categories
    from ..data.converters.label_folders import convert_label_folders

    count = convert_label_folders(
        args.images,
        args.semantic,
        args.instances,
        read_categories(args.categories),
        args.json,
        args.panoptic,
        void_labels=args.void,
        overwrite=args.overwrite,
        follow_links=args.follow_links,
    )
    return {args.json: count}


def _coco(args: argparse.Namespace) -> dict[str, int]:
    if bool(args.stuff) != bool(args.stuff_categories):
        raise argparse.ArgumentError(None, "--stuff and --stuff-categories go together")
    from ..data.categories import read_categories
    from ..data.converters.coco_instances import convert_coco_instances

    count = convert_coco_instances(
        args.instances_json,
        args.images,
        args.json,
        args.panoptic,
        stuff_pngs=args.stuff,
        stuff_categories=read_categories(args.stuff_categories) if args.stuff_categories else (),
        void_labels=args.void,
        overwrite=args.overwrite,
        **instance_choices(args),
    )
    return {args.json: count}


if __name__ == "__main__":
    sys.exit(main())
