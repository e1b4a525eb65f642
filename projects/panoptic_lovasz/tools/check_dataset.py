"""Check a data set in the COCO panoptic format, or one to be converted to it, and describe it.

    python -m panoptic_lovasz.tools.check_dataset JSON --images DIR --panoptic DIR
    python -m panoptic_lovasz.tools.check_dataset NAME --config-file my_config.yaml
    python -m panoptic_lovasz.tools.check_dataset INSTANCES_JSON --images DIR

The last says what ``tools.convert coco`` would make of what an annotation tool exported.

Exit code: 0 if it can be used, 1 if there are errors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DatasetError
from . import cli
from .convert import add_instance_choices, instance_choices

if TYPE_CHECKING:
    from ..data.checking import CheckReport


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.tools.check_dataset",
        description="Check a data set in the COCO panoptic format and describe it.",
    )
    add = parser.add_argument
    add("dataset", metavar="JSON|NAME", help="panoptic JSON, or the name of a registered data set")
    add("--images", metavar="DIR", help="folder of the images")
    add("--panoptic", metavar="DIR", help="folder of the id PNGs; none for COCO instances")
    add("--config-file", metavar="FILE", help="config whose DATASETS.PANOPTIC has the name")
    add("--plot", metavar="PNG", type=Path, help="draw pixels and instances by class")
    add("--fix", action="store_true", help="write a repaired copy beside the original")
    add("--follow-links", action="store_true", help="let links lead out of the two folders")
    add("--workers", type=cli.positive, metavar="N", help="threads (default: one per core)")
    add("--all", action="store_true", help="print every fault, not the first 50")
    add_instance_choices(parser.add_argument_group("of a COCO instances JSON"))
    return parser


def _run(args: argparse.Namespace) -> int:
    from ..data.checking import check_coco_instances, check_coco_panoptic, repair_coco_panoptic

    json_file, images, panoptic = _locate(args)
    links = args.follow_links
    if panoptic is None:
        report = check_coco_instances(json_file, images, **instance_choices(args))
    else:
        report = check_coco_panoptic(
            json_file, images, panoptic, workers=args.workers, follow_links=links
        )
    _print(report, None if args.all else 50)
    if args.plot:
        from ..reporting.plots import data_bars, save_png

        save_png(data_bars(report.statistics), args.plot)
        print(f"Plot: {args.plot}")
    if args.fix and panoptic is not None:
        fixed_json, fixed_panoptic = repair_coco_panoptic(
            report, json_file, panoptic, follow_links=links
        )
        print(f"Repaired copy: {fixed_json}, with the PNGs in {fixed_panoptic}")
    return 1 if report.errors else 0


def _locate(args: argparse.Namespace) -> tuple[str, str, str | None]:
    """JSON and the folders of images and PNGs, which an instances JSON does not have."""
    if args.panoptic and not args.images:
        raise argparse.ArgumentError(None, "--panoptic needs --images")
    if args.fix and args.images and not args.panoptic:
        raise argparse.ArgumentError(None, "--fix repairs panoptic data sets: give --panoptic")
    if args.images:
        return args.dataset, args.images, args.panoptic
    from detectron2.data import DatasetCatalog, MetadataCatalog

    if args.config_file:
        from ..config import load_config

        args.follow_links |= load_config(args.config_file).DATASETS.FOLLOW_LINKS
    if args.dataset not in DatasetCatalog.list():
        raise DatasetError(
            f"'{args.dataset}' is not a registered data set: give --config-file with the config "
            "that names it, or a JSON with --images and --panoptic"
        )
    metadata = MetadataCatalog.get(args.dataset)
    if metadata.get("panoptic_json") is None:
        raise DatasetError(f"data set '{args.dataset}' is not in the COCO panoptic format")
    if metadata.get("evaluator_type") == "cityscapes_panoptic_seg":
        raise DatasetError(
            f"data set '{args.dataset}' is Detectron2's, which finds images by other names than "
            "those in its JSON: check what tools.convert cityscapes makes of it"
        )
    return metadata.panoptic_json, metadata.image_root, metadata.panoptic_root


def _print(report: CheckReport, limit: int | None) -> None:
    for fault in report.faults[:limit]:
        print(fault)
    if limit is not None and len(report.faults) > limit:
        print(f"... and {len(report.faults) - limit} more; --all prints them")
    print(f"\n{report.statistics.table()}\n")
    warnings = len(report.faults) - len(report.errors)
    print(f"{len(report.errors)} errors, {warnings} warnings")


if __name__ == "__main__":
    sys.exit(main())
