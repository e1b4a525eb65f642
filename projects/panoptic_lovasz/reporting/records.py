"""The files in OUTPUT_DIR that a report is made of, read and written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_csv, write_csv, write_text

__all__ = [
    "add_result",
    "last_iteration",
    "read_losses",
    "read_results",
    "read_run",
    "remove_results",
    "write_run",
]

_RUN = "run.json"
_RESULTS = "results.csv"
_METRICS = "metrics.json"


def write_run(folder: Path, record: Mapping[str, Any]) -> None:
    """Write what is known of a run besides its metrics (``run.json``)."""
    write_text(folder / _RUN, json.dumps(record, indent=1))


def read_run(folder: Path) -> dict[str, Any]:
    """What :func:`write_run` wrote; {} if there is nothing readable."""
    try:
        return json.loads((folder / _RUN).read_text())
    except (OSError, ValueError):
        return {}


def add_result(folder: Path, iteration: int, metrics: Mapping[str, float]) -> None:
    """Add an evaluation to ``results.csv``.

    Rows of this iteration and of later ones go: they are of a run that has since been resumed from
    an earlier checkpoint, or started anew.

    Args:
        folder: OUTPUT_DIR.
        iteration: the number of iterations done.
        metrics: by name; NaN becomes an empty field.
    """
    rows = [row for row in read_results(folder) if row["iteration"] < iteration]
    rows.append({"iteration": iteration, **metrics})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(folder / _RESULTS, columns, [[row.get(key) for key in columns] for row in rows])


def remove_results(folder: Path) -> None:
    """Remove ``results.csv``, if it is there."""
    (folder / _RESULTS).unlink(missing_ok=True)


def read_results(folder: Path) -> list[dict[str, float]]:
    """Rows of ``results.csv`` by iteration; NaN where a field is empty, [] without the file."""
    return [
        {key: float(value) if value else math.nan for key, value in row.items()}
        for row in read_csv(folder / _RESULTS)
    ]


def read_losses(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Iterations and values of each loss and of ``lr`` and ``time`` in ``metrics.json``.

    A line that goes back to an earlier iteration begins a run that was resumed or started anew: it
    replaces what was written from there on.
    """
    path = folder / _METRICS
    lines: list[dict[str, Any]] = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:  # half a line, of a process that was killed
            continue
        if "total_loss" not in line:
            continue
        while lines and lines[-1]["iteration"] >= line["iteration"]:
            lines.pop()
        lines.append(line)
    names = dict.fromkeys(key for line in lines for key in line)
    series = {}
    for name in (n for n in names if "loss" in n or n in ("lr", "time")):
        with_it = [line for line in lines if name in line]
        series[name] = [x["iteration"] + 1 for x in with_it], [x[name] for x in with_it]
    return series


def last_iteration(folder: Path) -> int:
    """Iterations done by the last line of ``metrics.json``, without reading all of it."""
    path = folder / _METRICS
    if not path.is_file():
        return 0
    with open(path, "rb") as f:
        f.seek(max(path.stat().st_size - 2**16, 0))
        for line in reversed(f.read().splitlines()):
            try:
                return json.loads(line)["iteration"] + 1
            except (ValueError, KeyError, TypeError):  # half a line
                continue
    return 0
