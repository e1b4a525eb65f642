"""Print what the model zoo has: ``python -m panoptic_lovasz.model_zoo [--zoo FOLDER|URL]``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..metrics import TITLES, find
from . import cli

if TYPE_CHECKING:
    from ..model_zoo.index import Entry


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.model_zoo", description="List the models with a name."
    )
    parser.add_argument(
        "--zoo",
        metavar="FOLDER|URL",
        help="place of an index.json (default: $PANOPTIC_LOVASZ_ZOO, else the project's own)",
    )
    return cli.run(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    from tabulate import tabulate

    from .. import model_zoo

    entries = model_zoo.read_index(args.zoo)
    trained = set(model_zoo.list(trained=True, zoo=args.zoo))
    names = model_zoo.list(zoo=args.zoo)
    columns = [title for title in TITLES if any(title in _metrics(e) for e in entries.values())]
    rows = []
    for name in names:
        entry = entries.get(name)
        weights = "published" if entry else "Detectron2's" if name in trained else ""
        metrics = _metrics(entry) if entry else {}
        dataset = entry.dataset if entry else ""
        rows.append([name, weights, dataset, *(metrics.get(title) for title in columns)])
    print(tabulate(rows, headers=["name", "weights", "data set", *columns], floatfmt=".2f"))


def _metrics(entry: Entry) -> dict[str, float]:
    """What people look at, by title, as far as it is known."""
    found = {title: find(entry.metrics, key) for title, key in TITLES.items()}
    return {title: value for title, value in found.items() if not math.isnan(value)}


if __name__ == "__main__":
    sys.exit(main())
