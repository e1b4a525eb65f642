"""Panoptic quality of a submission in COCO's format, without a model.

python -m panoptic_lovasz.tools.evaluate PRED.json GT.json --pred-dir PNGS --gt-dir PNGS
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import DatasetError
from ..evaluation.report import format_report, write_report
from ..evaluation.submission import evaluate_submission


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print the tables, and return 0; 1 with one line on stderr for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.tools.evaluate",
        description="Panoptic quality of predictions in COCO's submission format.",
    )
    parser.add_argument("pred_json", help="predictions: JSON with a list 'annotations'")
    parser.add_argument("gt_json", help="ground truth: COCO panoptic JSON")
    parser.add_argument("--pred-dir", help="PNGs of the predictions (default: PRED without .json)")
    parser.add_argument("--gt-dir", help="PNGs of the ground truth (default: GT without .json)")
    parser.add_argument("--num-workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--output", type=Path, help="write JSON and CSV reports into this folder")
    args = parser.parse_args(argv)
    try:
        quality = evaluate_submission(
            args.pred_json,
            args.gt_json,
            args.pred_dir,
            args.gt_dir,
            num_workers=args.num_workers,
        )
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_report(quality))
    if args.output is not None:
        write_report(quality, args.output)
        print(f"reports are in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
