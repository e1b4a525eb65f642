"""Print what the model zoo has: ``python -m panoptic_lovasz.model_zoo [--zoo FOLDER|URL]``."""

from __future__ import annotations

import argparse
import sys

from tabulate import tabulate

from ..errors import ConfigError
from . import list as list_names
from .index import ZOO_VARIABLE, read_index

_COLUMNS = {
    "PQ": "panoptic_seg/PQ",
    "SQ": "panoptic_seg/SQ",
    "RQ": "panoptic_seg/RQ",
    "mIoU": "sem_seg/mIoU",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.model_zoo", description="List the models with a name."
    )
    parser.add_argument(
        "--zoo", metavar="FOLDER|URL", help=f"place of an index.json (default: ${ZOO_VARIABLE})"
    )
    args = parser.parse_args(argv)
    try:
        entries = read_index(args.zoo)
        trained = set(list_names(trained=True, zoo=args.zoo))
        names = list_names(zoo=args.zoo)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = []
    for name in names:
        entry = entries.get(name)
        weights = "published" if entry else "Detectron2's" if name in trained else ""
        metrics = [entry.metrics.get(m) if entry else None for m in _COLUMNS.values()]
        rows.append([name, weights, entry.dataset if entry else "", *metrics])
    print(tabulate(rows, headers=["name", "weights", "data set", *_COLUMNS], floatfmt=".2f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
