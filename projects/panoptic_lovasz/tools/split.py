"""Divide a data set in the COCO panoptic format into one to train and one to evaluate with.

    python -m panoptic_lovasz.tools.split all.json --train train.json --val val.json

``--group "^[^_]+"`` keeps images together whose names begin alike, up to the first underscore:
crops of one photo, or frames of one drive. With ``--stretch`` the middle of each drive is held out.
Only JSONs are written: both sides share the folders of images and PNGs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from . import cli

_SHARE, _SEED = 0.2, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.tools.split",
        description="Divide a data set into one to train and one to evaluate with.",
    )
    add = parser.add_argument
    add("json", type=Path, metavar="JSON", help="panoptic JSON of the whole")
    add("--train", required=True, type=Path, metavar="FILE", help="JSON to write")
    add("--val", required=True, type=Path, metavar="FILE", help="JSON to write")
    text = "part for evaluation (%(default)s)"
    add("--share", type=_share, default=_SHARE, metavar="S", help=text)
    text = "images in whose names this finds the same text stay together (none: each for itself)"
    add("--group", default="", metavar="REGEX", help=text)
    text = "of the drawing of groups (%(default)s)"
    add("--seed", type=int, default=_SEED, metavar="N", help=text)
    text = "hold out the middle of each group, by file name (no group: of all), not whole groups"
    add("--stretch", action="store_true", help=text)
    text = "images on each side of a stretch that are left out of both (%(default)s)"
    add("--gap", type=int, default=0, metavar="N", help=text)
    add("--val-names", metavar="FILE", help="file names for evaluation, one a line, instead")
    add("--overwrite", action="store_true", help="replace the files")
    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number between 0 and 1")
    return value


def _run(args: argparse.Namespace) -> None:
    _check(args)
    from ..data.splitting import classes_of, split_coco_panoptic
    from ..errors import DatasetError

    for file in (args.train, args.val):
        if file.is_dir():
            raise DatasetError(f"{file} is a folder, expected the name of a JSON to write")
        if file.exists() and not args.overwrite:
            raise DatasetError(f"{file} exists already: --overwrite replaces it")
    parts = split_coco_panoptic(args.json, lambda names: _choose(names, args))
    _write(args.train, parts[0], args.val, parts[1])
    total = sum(len(part["images"]) for part in parts)
    for file, part in zip((args.train, args.val), parts, strict=True):
        count = len(part["images"])
        print(f"{file}: {count} images, {count / total:.0%}")
    train, val = map(classes_of, parts)
    for only, use in ((val - train, "evaluate"), (train - val, "train")):
        if only:
            print(f"only to {use} with: {', '.join(sorted(only))}")


def _check(args: argparse.Namespace) -> None:
    if args.gap < 0 or (args.gap and not args.stretch):
        raise argparse.ArgumentError(None, "--gap is a number from 0 on, and needs --stretch")
    draws = (args.share, args.seed) != (_SHARE, _SEED)
    if args.val_names is not None and (draws or args.group or args.stretch):
        text = "--val-names goes without --share, --seed, --group and --stretch"
        raise argparse.ArgumentError(None, text)
    if args.stretch and args.seed != _SEED:
        raise argparse.ArgumentError(None, "--stretch draws nothing: it goes without --seed")
    if len({file.resolve() for file in (args.json, args.train, args.val)}) < 3:
        raise argparse.ArgumentError(None, "JSON, --train and --val must be three files")


def _write(train_file: Path, train: dict, val_file: Path, val: dict) -> None:
    """Write both files or none: never one beside an older other, with images in common."""
    from ..files import replacing

    for file in (train_file, val_file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(val_file) as new_val, replacing(train_file) as new_train:
        new_train.write_text(json.dumps(train))
        new_val.write_text(json.dumps(val))
        val_file.unlink(missing_ok=True)


def _choose(
    names: Sequence[str], args: argparse.Namespace
) -> tuple[Collection[str], Collection[str]]:
    """Names to evaluate with, and those for neither side."""
    from ..data.splitting import group_names, hold_out_groups, hold_out_stretches, read_names

    if args.val_names is not None:
        return read_names(args.val_names, names), ()
    if args.stretch:
        return hold_out_stretches(group_names(names, args.group), args.share, args.gap)
    groups = group_names(names, args.group or ".+")
    if args.group:
        print(f"{len(groups)} groups of images")
    return hold_out_groups(groups, args.share, args.seed), ()


if __name__ == "__main__":
    sys.exit(main())
