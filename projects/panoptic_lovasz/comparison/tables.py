"""The table and the page of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from ..evaluation.images import COUNTS_FILE, in_pairs, intervals, read_counts
from ..files import write_csv, write_text
from ..metrics import HEADLINES, TITLES, averages, by_class, find
from ..reporting import page, plots
from ..reporting.records import read_results
from ..visualization.guard import tolerate_errors
from .runs import Run, read_result
from .statistics import Difference, Summary, paired_difference, summarize

__all__ = ["Comparison", "collect", "write_comparison"]

_Table = tuple[list[str], list[list[Any]]]  # columns and rows
_COSTS = {"s per iteration": "seconds_per_iteration", "peak memory, MiB": "peak_memory_mib"}
_OVER_IMAGES = "Differences over the images, 95 % intervals by bootstrap, seed by seed"
_NOTE = (
    "Mean ± standard deviation over the seeds, in percent. A difference is paired by seed: the "
    "runs of a pair begin with the same weights and, unless their samplers differ, see the same "
    "batches in the same order. It is called higher or lower if Student's 95 % interval of its "
    "mean excludes 0. That takes one comparison at a time: of many classes some are expected to "
    "differ by chance."
)


@dataclass
class Comparison:
    """Results of finished runs by loss and seed; the first loss is the baseline."""

    losses: list[str]
    seeds: list[int]
    results: Mapping[tuple[str, int], dict[str, Any]]
    folders: Mapping[tuple[str, int], Path]
    test_set: str  # of several the first, as in the results

    def values(self, loss: str, key: str) -> list[float]:
        """One value per seed, of a metric or of a field; NaN where it is not known."""
        found = []
        for seed in self.seeds:
            result = self.results.get((loss, seed), {})
            value = result.get("metrics", {}).get(key, result.get(key))
            found.append(math.nan if value is None else float(value))
        return found

    def summary(self, loss: str, key: str) -> Summary:
        """Mean and spread of :meth:`values`."""
        return summarize(self.values(loss, key))

    def difference(self, loss: str, key: str) -> Difference:
        """To the baseline, paired by seed."""
        return paired_difference(self.values(loss, key), self.values(self.losses[0], key))

    def metrics(self) -> dict[str, str]:
        """Key by title of every metric that is not of a single class, the known ones first."""
        return averages({key: key for key in self._metric_keys()})

    def by_class(self) -> dict[str, dict[str, str]]:
        """Key by class of every metric that has values by class."""
        return by_class({key: key for key in self._metric_keys()})

    def _metric_keys(self) -> list[str]:
        return list(dict.fromkeys(k for r in self.results.values() for k in r["metrics"]))

    def unpaired(self) -> list[int]:
        """Seeds whose runs did not begin with the same weights."""
        begun = {
            seed: {r["initial_weights"] for (_, s), r in self.results.items() if s == seed}
            for seed in self.seeds
        }
        return [seed for seed, digests in begun.items() if len(digests) > 1]


def collect(runs: Sequence[Run]) -> Comparison:
    """Read the results of the runs that are done."""
    results = {(r.loss, r.seed): result for r in runs if (result := read_result(r)) is not None}
    return Comparison(
        losses=list(dict.fromkeys(r.loss for r in runs)),
        seeds=list(dict.fromkeys(r.seed for r in runs)),
        results=results,
        folders={(r.loss, r.seed): r.folder for r in runs},
        test_set=runs[0].cfg.DATASETS.TEST[0],
    )


def write_comparison(comparison: Comparison, output: Path, command: str, config: str) -> str:
    """Write ``comparison.csv``, ``comparison.md`` and ``compare.html``.

    Args:
        comparison: what to write.
        output: folder.
        command: that makes it again.
        config: the config, as YAML.

    Returns:
        The Markdown.
    """
    _write_csv(comparison, output / "comparison.csv")
    over_images = _over_images(comparison)  # takes a bootstrap for each pair
    markdown = _markdown(comparison, over_images, command)
    write_text(output / "comparison.md", markdown)
    _write_page(comparison, over_images, output / "compare.html", command, config)
    return markdown


def _keys(c: Comparison) -> dict[str, str]:
    """Every key by the name that the CSV has for it."""
    of_classes = [key for keys in c.by_class().values() for key in keys.values()]
    return {**c.metrics(), **_COSTS, **{key: key for key in of_classes}}


def _write_csv(c: Comparison, path: Path) -> None:
    columns = ["metric", "loss", "mean", "std", "difference", "difference std"]
    columns += ["95 % interval ±", "verdict", *(f"seed {seed}" for seed in c.seeds)]
    rows = []
    for name, key in _keys(c).items():
        for loss in c.losses:
            mean, std, _ = c.summary(loss, key)
            to_baseline: list[Any] = [None] * 4
            if loss != c.losses[0]:
                d = c.difference(loss, key)
                to_baseline = [d.mean, d.std, d.half_width, d.verdict]
            rows.append([name, loss, mean, std, *to_baseline, *c.values(loss, key)])
    write_csv(path, columns, rows)


def findings(c: Comparison) -> list[str]:
    """One sentence for each loss but the baseline, whatever it says."""
    base = c.losses[0]
    sentences = []
    for loss in c.losses[1:]:
        differences = {name: c.difference(loss, TITLES[name]) for name in HEADLINES}
        parts = [
            f"{name} {_signed(d)} ({d.num_higher} of {d.num_pairs} seeds higher): {d.verdict}"
            for name, d in differences.items()
        ]
        sentences.append(f"{loss} against {base}: {'; '.join(parts)}.")
    return sentences


def _markdown(c: Comparison, over_images: _Table, command: str) -> str:
    lines = [f"{len(c.results)} of {len(c.losses) * len(c.seeds)} runs are done.", ""]
    lines += _warnings(c)
    lines += [f"- {sentence}" for sentence in findings(c)] + [""]
    columns, rows = _main_table(c)
    lines.append(_markdown_table(columns, rows))
    columns, rows = over_images
    lines += ["", f"**{_OVER_IMAGES}**", "", _markdown_table(columns, rows)] if rows else []
    for metric, keys in c.by_class().items():
        columns, rows = _class_table(c, keys)
        lines += ["", f"**{metric} by class**", "", _markdown_table(columns, rows)]
    return "\n".join([*lines, "", _NOTE, "", f"```\n{command}\n```", ""])


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[x[0] if isinstance(x, tuple) else x for x in row] for row in rows]
    align = ["left", *["right"] * (len(columns) - 1)]
    return tabulate(cells, columns, tablefmt="pipe", colalign=align, disable_numparse=True)


def _main_table(c: Comparison) -> _Table:
    """A row per metric: each loss's mean and spread, and its difference to the baseline."""
    columns = ["", *c.losses, *(f"{loss} − {c.losses[0]}" for loss in c.losses[1:])]
    rows = []
    for name, key in (c.metrics() | _COSTS).items():
        digits = 3 if key == "seconds_per_iteration" else 1
        row = [name, *(_plus_minus(*c.summary(loss, key)[:2], digits) for loss in c.losses)]
        differences = [c.difference(loss, key) for loss in c.losses[1:]]
        rows.append([*row, *(_colored(d, digits, cost=name in _COSTS) for d in differences)])
    return columns, rows


def _over_images(c: Comparison) -> _Table:
    """A row per seed and loss: how far apart its evaluation is from the baseline's."""
    rows = []
    for loss, seed in ((loss, seed) for loss in c.losses[1:] for seed in c.seeds):
        keys = ((loss, seed), (c.losses[0], seed))
        files = [c.folders[key] / "inference" / c.test_set / COUNTS_FILE for key in keys]
        if not all(key in c.results for key in keys) or not all(file.is_file() for file in files):
            continue  # not done, or not panoptic
        with tolerate_errors(_OVER_IMAGES):
            pair = in_pairs(*map(read_counts, files))
            ends = intervals(*pair).values()
            texts = [f"{100 * low:+.1f} to {100 * high:+.1f}" for low, high in ends]
            rows.append([f"{loss} − {c.losses[0]}", f"seed {seed}", *texts])
    return ["", "", "PQ", "mIoU"], rows


def _class_table(c: Comparison, keys: Mapping[str, str]) -> _Table:
    """A row per class, the worst of the baseline first."""
    columns = ["class", c.losses[0], *(f"{loss} − {c.losses[0]}" for loss in c.losses[1:])]
    base = {name: c.summary(c.losses[0], key) for name, key in keys.items()}
    order = sorted(keys, key=lambda n: np.nan_to_num(base[n].mean, nan=1e9))
    rows = [
        [
            name,
            _plus_minus(*base[name][:2]),
            *(_colored(c.difference(loss, keys[name])) for loss in c.losses[1:]),
        ]
        for name in order
    ]
    return columns, rows


def _plus_minus(mean: float, std: float, digits: int = 1) -> str:
    spread = "" if math.isnan(std) else f" ± {page.number(std, digits)}"
    return page.number(mean, digits) + spread


def _signed(d: Difference, digits: int = 1) -> str:
    sign = "+" if d.mean >= 0 else "−" if d.mean < 0 else ""
    return sign + _plus_minus(abs(d.mean), d.std, digits)


def _colored(d: Difference, digits: int = 1, cost: bool = False) -> tuple[str, str]:
    """Text and color; colored only where the difference is clear."""
    kinds = {"higher": "bad" if cost else "good", "lower": "good" if cost else "bad"}
    return _signed(d, digits), kinds.get(d.verdict, "")


def _warnings(c: Comparison) -> list[str]:
    if not c.unpaired():
        return []
    seeds = ", ".join(map(str, c.unpaired()))
    return [f"Not paired: the runs of seed {seeds} began with different weights.", ""]


def _write_page(c: Comparison, over_images: _Table, path: Path, command: str, config: str) -> None:
    body = [page.paragraph(f"{len(c.results)} of {len(c.losses) * len(c.seeds)} runs are done.")]
    body += [page.paragraph(text) for text in (*_warnings(c), *findings(c)) if text]
    body.append(page.section("Results", page.table(*_main_table(c)), page.paragraph(_NOTE, True)))
    body.append(page.section("Over the training", page.figures(_curves(c))))
    body.append(page.section(_OVER_IMAGES, page.table(*over_images)))
    for metric, keys in c.by_class().items():
        plots_of_it = page.figures(_class_plots(c, keys))
        table = page.table(*_class_table(c, keys))
        body.append(page.section(f"{metric} by class", plots_of_it, table))
    body.append(
        page.section(
            "How to reproduce it",
            page.details("command", command, is_open=True),
            page.details("config that all runs have in common", config),
        )
    )
    page.write_page(path, "Comparison: " + ", ".join(c.losses), body)


def _curves(c: Comparison) -> list[str]:
    svgs = []
    for name in HEADLINES:
        series = {}
        for loss in c.losses:
            tables = [read_results(c.folders[loss, seed]) for seed in c.seeds]
            by_iteration: dict[float, list[float]] = {}
            for row in (row for table in tables for row in table):
                by_iteration.setdefault(row["iteration"], []).append(find(row, TITLES[name]))
            x = sorted(by_iteration)
            series[loss] = x, [summarize(by_iteration[i]).mean for i in x]
        if any(x for x, _ in series.values()):
            title = f"{name}, mean over the seeds, %"
            svgs.append(plots.to_svg(plots.curves(title, series, markers=True)))
    return svgs


def _class_plots(c: Comparison, keys: Mapping[str, str]) -> list[str]:
    svgs = []
    for loss in c.losses[1:]:
        differences = [c.difference(loss, key) for key in keys.values()]
        means, spreads = [d.mean for d in differences], [d.std for d in differences]
        title = f"{loss} − {c.losses[0]}: mean, standard deviation"
        svgs.append(plots.to_svg(plots.difference_bars(title, list(keys), means, spreads)))
    return svgs
