"""Plots of a training as matplotlib figures; PNG, or SVG that takes a page's colors."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import write_atomically
from ..visualization.fonts import figure_fonts
from ..visualization.text import plot_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..data.checking import Statistics

__all__ = [
    "class_bars",
    "confusion_matrix",
    "curves",
    "data_bars",
    "difference_bars",
    "save_png",
    "to_svg",
]

THING, STUFF = "#e8833a", "#3d85c6"
_INK = "#1f2329"  # text and lines; in an SVG it becomes the color of the text around it
_COLORS = ("#3d85c6", "#e8833a", "#3aa76d", "#c94f7c", "#8e6bbf", "#b08b2e", "#4bb3b3", "#888888")
_LINES = ("-", "--", ":")  # once all colors are taken
_WIDTH = 5.0  # inches; figures beside each other, or one on a phone
_MAX_POINTS = 400  # of a curve

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def curves(title: str, series: Series, *, markers: bool = False, log: bool = False) -> Figure:
    """Lines over iterations.

    Args:
        title: above the plot.
        series: (iterations, values) by name; NaN is left out.
        markers: show the points.
        log: logarithmic values.
    """
    figure, axes = _figure(3.4)
    for n, (name, (x, y)) in enumerate(series.items()):
        xs, ys = np.asarray(x, float), np.asarray(y, float)
        step = max(1, len(xs) // _MAX_POINTS)
        style: dict[str, Any] = {"marker": "o", "markersize": 4} if markers else {}
        style["color"] = _COLORS[n % len(_COLORS)]
        style["linestyle"] = _LINES[n // len(_COLORS) % len(_LINES)]
        axes.plot(xs[::step], ys[::step], label=plot_text(name), linewidth=1.6, **style)
    if log and all(np.nanmax(np.asarray(y, float), initial=0) > 0 for _, y in series.values()):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(plot_text(title), loc="left", fontsize=12, color=_INK)
    axes.set_xlabel("iterations")
    axes.grid(alpha=0.25)
    if series:
        figure.legend(
            loc="outside lower center",
            ncols=3 if max(map(len, series)) < 10 else 2,
            fontsize=9,
            frameon=False,
            labelcolor=_INK,
        )
    return figure


def class_bars(title: str, rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Horizontal bars by class in percent, the worst on top; orange things, blue stuff.

    Args:
        title: above the plot.
        rows: with ``name``, ``isthing`` and the metric; those without a value are left out.
        metric: key of the value.
    """
    shown = sorted((r for r in rows if _has(r, metric)), key=lambda r: -r[metric])
    figure, axes = _figure(_bars_height(shown))
    _bars(axes, [(r["name"], r["isthing"], r[metric]) for r in shown], " {:.1f}")
    axes.set_xlim(0, 110)
    axes.set_xticks(range(0, 101, 20))
    # Of the whole figure: beside long class names the axes are too narrow for it.
    title = f"{title} (orange: things, blue: stuff)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=_INK)
    return figure


def data_bars(statistics: Statistics) -> Figure:
    """Share of the pixels and number of instances by class, on logarithmic axes, side by side."""
    shown = [r for r in statistics.rows() if r.pixels]
    shares = [(r.name, r.isthing, 100 * r.pixels / statistics.num_pixels) for r in shown]
    instances = [(r.name, True, r.instances) for r in shown if r.instances]
    figure, (left, right) = _figure(_bars_height(shown), width=2.2 * _WIDTH, columns=2)
    for axes, rows, label, text in (
        (left, shares, "pixels, %", " {:,.3g}"),
        (right, instances, "instances", " {:,}"),
    ):
        _bars(axes, sorted(rows, key=lambda row: row[2]), text)
        axes.set_xscale("log")
        if rows:
            axes.set_xlim(left=min(value for *_, value in rows) / 3)  # or the shortest vanishes
        axes.set_xlabel(f"{label} (orange: things, blue: stuff)")
    return figure


def _bars_height(rows: Sequence[Any]) -> float:
    return 1.2 + 0.27 * max(len(rows), 3)


def _bars(axes, rows: Sequence[tuple[str, bool, float]], text: str) -> None:
    """Horizontal bars of (name, isthing, value), each with its value as ``text`` formats it."""
    names, are_things, values = zip(*rows, strict=True) if rows else ((), (), ())
    axes.barh(range(len(rows)), values, color=[THING if t else STUFF for t in are_things])
    axes.set_yticks(range(len(rows)), [plot_text(name) for name in names])
    for y, value in enumerate(values):
        axes.text(value, y, text.format(value), va="center", fontsize=9, color=_INK)
    axes.margins(y=0.02)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def difference_bars(
    title: str, names: Sequence[str], means: Sequence[float], spreads: Sequence[float]
) -> Figure:
    """Horizontal bars of differences with their spread; green gains, red losses."""
    order = np.argsort(np.nan_to_num(np.asarray(means, float)))[::-1]
    figure, axes = _figure(_bars_height(names))
    widths = np.asarray(means, float)[order]
    colors = ["#3aa76d" if width > 0 else "#cc4b4b" for width in widths]
    error = np.nan_to_num(np.asarray(spreads, float))[order]
    axes.barh(range(len(order)), widths, xerr=error, color=colors, ecolor=_INK, capsize=2)
    axes.set_yticks(range(len(order)), [plot_text(names[i]) for i in order])
    axes.axvline(0, color=_INK, linewidth=0.8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_title(plot_text(title), loc="left", fontsize=12, color=_INK)
    return figure


def confusion_matrix(names: Sequence[str], pixels: np.ndarray) -> Figure:
    """Shares of each ground-truth class's pixels by predicted class, with numbers if few classes.

    Args:
        names: (C + 1) names, the last for void.
        pixels: (C + 1, C + 1) counts; rows are the ground truth, columns the prediction.
    """
    from matplotlib.colors import LinearSegmentedColormap

    rows = np.flatnonzero(pixels[:-1].sum(axis=1))
    share = pixels[rows] / pixels[rows].sum(axis=1, keepdims=True)
    side = max(3.6, 1.6 + 0.34 * len(names))
    figure, axes = _figure(side, width=max(_WIDTH, side + 0.6))
    # From nothing to blue, so that it lies on a light and on a dark page.
    blue = LinearSegmentedColormap.from_list("blue", [(0.24, 0.52, 0.78, a) for a in (0, 1)])
    axes.imshow(share, cmap=blue, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(names)), [*map(plot_text, names)], rotation=90)
    axes.set_yticks(range(len(rows)), [plot_text(names[i]) for i in rows.tolist()])
    axes.set_xlabel("prediction")
    axes.set_ylabel("ground truth")
    axes.set_title("Share of each class's pixels, %", loc="left", fontsize=12, color=_INK)
    if len(names) <= 20:
        for y, x in zip(*np.nonzero(share >= 0.005), strict=True):
            text = f"{100 * share[y, x]:.0f}"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=_INK)
    return figure


def save_png(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG on white, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    options: dict[str, Any] = {"format": "png", "dpi": 120, "facecolor": "white"}
    with figure_fonts(figure):
        write_atomically(path, lambda f: figure.savefig(f, **options))


def to_svg(figure: Figure) -> str:
    """A figure as an ``<svg>`` element without a background, its ink being ``currentColor``."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.image_inline": True}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    head, rest = svg.split(">", 1)
    head = re.sub(r' (height|width)="[^"]*"', "", head)  # the page scales it by its viewBox
    return f"{head}>{rest}".replace("\n", " ")


def _figure(height: float, width: float = _WIDTH, columns: int = 1):
    """A figure and its axes, or the sequence of them if there are several columns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    found = figure.subplots(1, columns)
    for axes in np.ravel(found):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK)
        for part in (axes.xaxis.label, axes.yaxis.label, axes.title):
            part.set_color(_INK)
        axes.spines[:].set_color(_INK)
    return figure, found


def _has(row: Mapping[str, Any], key: str) -> bool:
    return row.get(key) is not None and not np.isnan(row[key])
