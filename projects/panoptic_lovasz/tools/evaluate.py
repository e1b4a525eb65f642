"""Panoptic quality of a submission in COCO's format, without a model.

python -m panoptic_lovasz.tools.evaluate PRED.json GT.json --pred-dir PNGS --gt-dir PNGS
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.tools.evaluate",
        description="Panoptic quality of predictions in COCO's submission format.",
    )
    add = parser.add_argument
    add("pred_json", help="predictions: JSON with a list 'annotations'")
    add("gt_json", help="ground truth: COCO panoptic JSON")
    add("--pred-dir", help="PNGs of the predictions (default: PRED without .json)")
    add("--gt-dir", help="PNGs of the ground truth (default: GT without .json)")
    add("--boundaries", action="store_true", help="Boundary PQ, and mIoU away from boundaries")
    add("--against", type=Path, metavar="FOLDER", help="compare with what --output wrote there")
    add("--follow-links", action="store_true", help="let links lead out of the two folders")
    add("--num-workers", type=cli.positive, help="processes (default: one per core)")
    add("--output", type=Path, help="write JSON and CSV reports into this folder")
    return cli.run(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    from ..evaluation.images import COUNTS_FILE, read_counts
    from ..evaluation.report import format_difference, format_report, panoptic_metrics, write_report
    from ..evaluation.submission import evaluate_submission

    other = None if args.against is None else read_counts(args.against / COUNTS_FILE)
    quality = evaluate_submission(
        args.pred_json,
        args.gt_json,
        args.pred_dir,
        args.gt_dir,
        boundaries=args.boundaries,
        follow_links=args.follow_links,
        num_workers=args.num_workers,
    )
    metrics = panoptic_metrics(quality)
    print(format_report(quality, metrics))
    if other is not None:
        print(f"\n{format_difference(quality.images, other)}")
    if args.output is not None:
        write_report(quality, metrics, args.output)
        print(f"reports are in {args.output}")


if __name__ == "__main__":
    sys.exit(main())
