"""The report of a training: one page made of the files in its OUTPUT_DIR."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..config import default_config, flatten
from ..evaluation.pictures import read_pictures
from ..files import read_csv
from ..metrics import TITLES, averages, by_class, find, interval, of_test_sets
from ..visualization.guard import tolerate_errors
from . import page, plots
from .records import read_losses, read_results, read_run

__all__ = ["draw_plots", "write_report_page"]

_CLASS_COLUMNS = ("PQ", "SQ", "RQ", "boundary_PQ", "IoU", "TP", "FP", "FN")
_KINDS = {
    "worst": "Predicted worst",
    "best": "Predicted best",
    "fixed": "The fixed set",
}


def write_report_page(folder: Path) -> Path:
    """Write ``report.html`` from what training and evaluation have left in a folder.

    What is not there is left out. The page needs nothing but itself.

    Args:
        folder: OUTPUT_DIR of a training.

    Returns:
        The path of the page.
    """
    run = read_run(folder)
    datasets = _datasets(folder)
    makers = {
        "summary": lambda: _summary(folder, run),
        "curves": lambda: _curves(folder),
        "evaluation": lambda: "".join(_evaluation(d, len(datasets) > 1) for d in datasets),
        "other metrics": lambda: _other_metrics(folder),
        "data": lambda: _data(folder),
        "configuration": lambda: _configuration(folder),
    }
    pieces = []
    for name, make in makers.items():
        with tolerate_errors(f"the report's part '{name}'"):
            pieces.append(make())
    pieces.append(
        page.section(
            "How to reproduce it",
            page.details("command", run.get("command", ""), is_open=True),
            page.details("environment", run.get("environment", "")),
        )
    )
    path = folder / "report.html"
    page.write_page(path, run.get("title") or folder.resolve().name, pieces)
    return path


def draw_plots(folder: Path) -> None:
    """Draw a training's plots as PNG into ``plots/``; what fails is left out with a warning."""
    target = folder / "plots"
    target.mkdir(exist_ok=True)
    made = {"losses": lambda: _loss_curves(folder), "evaluation": lambda: _metric_curves(folder)}
    datasets = _datasets(folder)
    for dataset in datasets:
        prefix = "" if len(datasets) == 1 else f"{dataset.name}_"
        for name, draw in _evaluation_plots(dataset).items():
            made[prefix + name] = draw
    for name, draw in made.items():
        with tolerate_errors(f"plots/{name}.png"):
            figure = draw()
            if figure is not None:
                plots.save_png(figure, target / f"{name}.png")


def _datasets(folder: Path) -> list[Path]:
    """Folders of evaluations."""
    return sorted(p.parent for p in (folder / "inference").glob("*/panoptic_quality.json"))


def _summary(folder: Path, run: dict[str, Any]) -> str:
    results = read_results(folder)
    values = _tiles(results[-1]) if results else []
    facts = []
    if run.get("finished"):
        facts.append(f"finished {run['finished']}")
    if run.get("iterations"):
        facts.append(f"{run['iterations']} iterations")
    if run.get("seconds"):
        facts.append(f"{datetime.timedelta(seconds=round(run['seconds']))} h")
    if run.get("seconds_per_iteration"):
        facts.append(f"{run['seconds_per_iteration']:.3f} s per iteration")
    if run.get("peak_memory_mib"):
        facts.append(f"{run['peak_memory_mib']:,.0f} MiB of {run.get('memory', 'memory')}")
    pq = [find(row, TITLES["PQ"]) for row in results]
    text = "Last evaluation, in percent."
    if results:
        text += _intervals(results[-1])
        best = int(np.argmax(np.nan_to_num(pq)))
        if pq[best] > pq[-1]:
            text += (
                f" The best PQ was {pq[best]:.1f} at iteration {results[best]['iteration']:.0f}."
            )
    ended = f"Ended early: {run['ended_early']}." if run.get("ended_early") else ""
    return page.paragraph(" · ".join(facts), soft=True) + (
        page.tiles(values) + page.paragraph(f"{text} {ended}") if values else ""
    )


def _tiles(row: dict[str, float]) -> list[tuple[str, str]]:
    """What people look at, of a row of results.csv."""
    values = {title: find(row, key) for title, key in TITLES.items()}
    return [(title, page.number(value)) for title, value in values.items() if not np.isnan(value)]


def _intervals(row: dict[str, float]) -> str:
    known = {title: interval(row, key) for title, key in TITLES.items()}
    shown = [f"{t} {low:.1f} to {high:.1f}" for t, (low, high) in known.items() if low <= high]
    return f" 95 % intervals over the images: {', '.join(shown)}." if shown else ""


def _other_metrics(folder: Path) -> str:
    """What has no place of its own, whichever evaluator it is of."""
    results = read_results(folder)
    if not results:
        return ""
    row = {k: v for k, v in results[-1].items() if k != "iteration"}
    tables = []
    for name, metrics in of_test_sets(row, [d.name for d in _datasets(folder)]).items():
        rows = [(k, v) for k, v in averages(metrics).items() if k not in TITLES]
        by_metric = {k: v for k, v in by_class(metrics).items() if k != TITLES["PQ"]}
        classes = dict.fromkeys(c for values in by_metric.values() for c in values)
        tables += [page.paragraph(name)] if name else []
        tables += [
            page.table(("metric", ""), rows),
            page.table(
                ("class", *by_metric),
                [(c, *(values.get(c) for values in by_metric.values())) for c in classes],
            ),
        ]
    return page.section("Other metrics of the last evaluation", *tables)


def _evaluation(dataset: Path, with_name: bool) -> str:
    suffix = f" on {dataset.name}" if with_name else ""
    rows = _class_rows(dataset)
    worst = sorted(rows, key=lambda r: (r["PQ"] is None, r["PQ"] or 0))
    columns = [c for c in _CLASS_COLUMNS if c in rows[0]] if rows else []
    made = [
        page.section(
            f"Classes, the worst first{suffix}",
            page.table(
                ("class", "kind", *columns),
                [
                    (r["name"], "thing" if r["isthing"] else "stuff", *(r[c] for c in columns))
                    for r in worst
                ],
            ),
            page.figures(
                [svg for draw in _evaluation_plots(dataset).values() if (svg := _svg(draw))]
            ),
        )
    ]
    pictures = read_pictures(dataset / "pictures")
    for kind, title in _KINDS.items():
        chosen = [p for p in pictures if p.kind == kind]
        embedded = []
        for p in chosen:
            with tolerate_errors("a picture in the report"):
                pq = "no segments" if p.pq is None else f"PQ of this image {p.pq:.1f}"
                embedded.append(page.picture(p.file, f"{p.image}: {pq}"))
        made.append(page.section(f"{title}{suffix}", *embedded))
    return "\n".join(made)


def _evaluation_plots(dataset: Path) -> dict[str, Callable]:
    return {
        "pq_by_class": lambda: plots.class_bars("PQ by class", _class_rows(dataset), "PQ"),
        "iou_by_class": lambda: plots.class_bars("IoU by class", _class_rows(dataset), "IoU"),
        "confusion_matrix": lambda: _confusion(dataset),
    }


def _class_rows(dataset: Path) -> list[dict[str, Any]]:
    return json.loads((dataset / "panoptic_quality.json").read_text())["per_class"]


def _confusion(dataset: Path):
    path = dataset / "confusion_matrix.csv"
    if not path.is_file():
        return None
    with open(path, newline="") as f:
        _, *values = csv.reader(f)  # a class may be called as another column is
    return plots.confusion_matrix([v[0] for v in values], np.array([v[1:] for v in values], int))


def _curves(folder: Path) -> str:
    svgs = [_svg(lambda: _metric_curves(folder)), _svg(lambda: _loss_curves(folder))]
    return page.section("Curves", page.figures([svg for svg in svgs if svg]))


def _loss_curves(folder: Path):
    losses = {k: v for k, v in read_losses(folder).items() if "loss" in k}
    return plots.curves("Losses", losses, log=True) if losses else None


def _metric_curves(folder: Path):
    results = read_results(folder)
    if not results:
        return None
    x = [row["iteration"] for row in results]
    series = {title: (x, [find(r, key) for r in results]) for title, key in TITLES.items()}
    series = {title: (x, y) for title, (x, y) in series.items() if not np.isnan(y).all()}
    return plots.curves("Evaluations, %", series, markers=True)


def _data(folder: Path) -> str:
    rows = read_csv(folder / "data_statistics.csv")
    made = []
    for name in dict.fromkeys(row["data set"] for row in rows):
        of_set = [row for row in rows if row["data set"] == name]
        of_set.sort(key=lambda r: -int(r["images"]))
        columns = [c for c in of_set[0] if c != "data set"]
        body = [[_int(row[c]) for c in columns] for row in of_set]
        made.append(page.paragraph(name) + page.table(columns, body))
    return page.section("Data", *made)


def _int(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def _configuration(folder: Path) -> str:
    file = folder / "config.yaml"
    if not file.is_file():
        return ""
    return page.section(
        "Configuration",
        page.details("what differs from the defaults", _changes(file), is_open=True),
        page.details("all of it", file.read_text()),
    )


def _changes(file: Path) -> str:
    """Lines KEY: value for each key of a config that has not its default."""
    defaults = default_config(flatten(yaml.safe_load(file.read_text())))
    cfg = defaults.clone()
    cfg.merge_from_file(str(file), allow_unsafe=False)
    default_values = flatten(defaults)
    return "\n".join(
        f"{key}: {value!r}"
        for key, value in flatten(cfg).items()
        if key not in default_values or default_values[key] != value
    )


def _svg(draw: Callable) -> str:
    with tolerate_errors("a plot in the report"):
        figure = draw()
        if figure is not None:
            return plots.to_svg(figure)
    return ""
