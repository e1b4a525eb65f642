"""Print what the model zoo has: ``python -m panoptic_lovasz.model_zoo [--zoo FOLDER|URL]``."""

from __future__ import annotations

import argparse
import math
import sys

from tabulate import tabulate

from ..errors import ConfigError
from ..metrics import TITLES, find
from . import list as list_names
from .index import ZOO_VARIABLE, Entry, read_index


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
    columns = [title for title in TITLES if any(title in _metrics(e) for e in entries.values())]
    rows = []
    for name in names:
        entry = entries.get(name)
        weights = "published" if entry else "Detectron2's" if name in trained else ""
        metrics = _metrics(entry) if entry else {}
        dataset = entry.dataset if entry else ""
        rows.append([name, weights, dataset, *(metrics.get(title) for title in columns)])
    print(tabulate(rows, headers=["name", "weights", "data set", *columns], floatfmt=".2f"))
    return 0


def _metrics(entry: Entry) -> dict[str, float]:
    """What people look at, by title, as far as it is known."""
    found = {title: find(entry.metrics, key) for title, key in TITLES.items()}
    return {title: value for title, value in found.items() if not math.isnan(value)}


if __name__ == "__main__":
    sys.exit(main())
