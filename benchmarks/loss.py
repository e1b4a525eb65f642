"""Cross-entropy + Lovász-Softmax beside its peers: time, memory and error, forward and backward.

    python -m benchmarks.loss --device cpu
    python -m benchmarks.loss --device cuda --workloads coco --no-curves

Every loss gets the same logits at stride 4 and labels at full resolution. Time: the losses take
turns in one process, median of the repeats. Memory: peak beyond what was held before; on the CPU
resident memory in a fresh process for each loss. Errors: absolute of the values, relative norm of
the gradient of the Lovász term, against the definition in float64 (of the cross-entropy and the
sorted Lovász-Softmax); the other region losses are timed alone. Written to --output: a CSV of the
table, a CSV of the curves over pixels, classes present and bins, and a plot of these.

A peer that is not installed is listed as such: ``pip install -r requirements-bench.txt``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from panoptic_lovasz.losses import cross_entropy_lovasz

from . import common
from .loss_contestants import (
    BASELINE,
    IGNORED,
    SORTED,
    WORKLOADS,
    Workload,
    contestants,
    definition,
    has_other_region,
    kornia_row,
    relative_error,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--workloads", nargs="*", default=list(WORKLOADS), choices=WORKLOADS, help="(all)"
    )
    parser.add_argument("--losses", nargs="*", help="names, or parts of them (all)")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="per loss (%(default)s)")
    parser.add_argument("--no-curves", action="store_true", help="only the table")
    parser.add_argument(
        "--no-sorted", action="store_true", help="leave out the losses that sort: minutes on a CPU"
    )
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    stem = f"loss_{device.type}"
    print(common.describe(device))

    rows = []
    for name in args.workloads:
        print(f"\n{WORKLOADS[name]}", flush=True)
        new = measure(WORKLOADS[name], device, args)
        common.print_table([{k: v for k, v in row.items() if k != "workload"} for row in new])
        rows += new
    if rows:
        common.write_table(rows, args.output / f"{stem}.csv")
    print()
    common.print_table([kornia_row(device)])
    if not args.no_curves:
        points = list(measure_curves(device, args.seconds / 5))
        print()
        common.print_table(points)
        common.write_table(points, args.output / f"{stem}_curves.csv")
        plot_curves(points, args.output / f"{stem}_curves.png", common.describe(device))
    print(f"\nwritten to {args.output}/{stem}*")


def measure(workload: Workload, device: torch.device, args: argparse.Namespace) -> list[dict]:
    """Rows of the table for one workload; None stands for what was not measured."""
    logits, target = workload.make(device)
    losses = contestants(device, workload.scale_factor)
    if args.no_sorted:
        losses = {name: loss for name, loss in losses.items() if name not in SORTED}
    if args.losses is not None:
        losses = {
            name: loss
            for name, loss in losses.items()
            if name == BASELINE or any(part in name for part in args.losses)
        }
    calls = {
        name: functools.partial(step, loss, logits, target) for name, loss in losses.items() if loss
    }
    wall, cpu = common.interleave(calls, device, seconds=args.seconds)
    memory = {name: peak_memory(workload, name, device, args.threads) for name in calls}
    expected = definition(logits, target, workload.scale_factor)
    rows = []
    for name, loss in losses.items():
        row = {"workload": workload.name, "loss": name if loss else f"{name}: not installed"}
        values = {}
        if loss:
            values = {
                "ms": 1e3 * common.median(wall[name]),
                "/ CE": common.median(wall[name]) / common.median(wall[BASELINE]),
                "repeats": len(wall[name]),
                "peak MB": memory[name] / 1e6,
                "MB / CE": memory[name] / memory[BASELINE],
                **errors(loss, logits, target, expected, not has_other_region(name)),
            }
            if cpu[name]:
                values["CPU s"] = common.median(cpu[name])
                values["CPU s / CE"] = values["CPU s"] / common.median(cpu[BASELINE])
        columns = ("ms", "/ CE", "repeats", "CPU s", "CPU s / CE", "peak MB", "MB / CE")
        columns += ("CE error", "Lovász error", "gradient error")
        rows.append(row | {column: values.get(column) for column in columns})
    return rows


def step(loss: Callable, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Forward and backward pass; the gradient."""
    logits = logits.detach().requires_grad_()
    ce, lovasz = loss(logits, target)
    (gradient,) = torch.autograd.grad(ce if lovasz is None else ce + lovasz, logits)
    return gradient


def errors(
    loss: Callable,
    logits: torch.Tensor,
    target: torch.Tensor,
    expected: tuple,
    is_lovasz: bool = True,
) -> dict:
    """Difference from the definition."""
    logits = logits.detach().requires_grad_()
    ce, lovasz = loss(logits, target)
    result = {"CE error": (ce.double() - expected[0]).abs().item()}
    if lovasz is not None and is_lovasz:
        (gradient,) = torch.autograd.grad(lovasz, logits)
        result["Lovász error"] = (lovasz.double() - expected[1]).abs().item()
        result["gradient error"] = relative_error(gradient, expected[2])
    return result


def peak_memory(workload: Workload, name: str, device: torch.device, threads: int) -> int:
    """Bytes at the peak of a step; on the CPU in a fresh process."""
    if device.type == "cuda":
        return peak_memory_here(workload, name, device, threads)
    return common.in_fresh_process(peak_memory_here, workload, name, device, threads)


def peak_memory_here(workload: Workload, name: str, device: torch.device, threads: int) -> int:
    torch.set_num_threads(threads)
    loss = contestants(device, workload.scale_factor)[name]
    step(loss, *dataclasses.replace(workload, images=1, height=8, width=8).make(device))
    logits, target = workload.make(device)
    return common.peak_extra_memory(functools.partial(step, loss, logits, target), device)


def measure_curves(device: torch.device, seconds: float) -> Iterator[dict]:
    """Points of three curves: time over pixels and classes present; time and error over bins."""
    shrink = 1 if device.type == "cuda" else 2
    base = Workload("curve", 1, 54, 200 // shrink, 304 // shrink)
    # The losses that the curves are about: cross-entropy, the field's and the compiled one.
    everything = contestants(device)
    losses = {name: loss for i, (name, loss) in enumerate(everything.items()) if i in (0, 1, 4)}
    sweeps = {
        "pixels": [
            dataclasses.replace(base, height=base.height * k // 8, width=base.width * k // 8)
            for k in (1, 2, 4, 8, 16)
        ],
        "classes present": [
            dataclasses.replace(base, present=present) for present in (1, 2, 4, 8, 16, 32, 54)
        ],
    }
    for curve, workloads in sweeps.items():
        for workload in workloads:
            logits, target = workload.make(device)
            calls = {
                name: functools.partial(step, loss, logits, target)
                for name, loss in losses.items()
                if loss
            }
            wall, _ = common.interleave(calls, device, seconds=seconds)
            x = target.numel() if curve == "pixels" else workload.present
            for name in calls:
                yield point(curve, x, name, wall[name])
    logits, target = base.make(device)
    expected = definition(logits, target, base.scale_factor)
    for num_bins in (16, 64, 256, 1024, 4096, 16384):
        loss = functools.partial(cross_entropy_lovasz, ignore_index=IGNORED, num_bins=num_bins)
        call = functools.partial(step, loss, logits, target)
        wall, _ = common.interleave({"": call}, device, seconds=seconds)
        difference = errors(loss, logits, target, expected)
        yield point("bins", num_bins, list(everything)[4], wall[""], difference)


def point(curve: str, x: int, name: str, times: list[float], difference: dict = {}) -> dict:  # noqa: B006
    return {
        "curve": curve,
        "x": x,
        "loss": name,
        "ms": 1e3 * common.median(times),
        "Lovász error": difference.get("Lovász error"),
        "gradient error": difference.get("gradient error"),
    }


def plot_curves(points: list[dict], path: Path, title: str) -> None:
    """Draw the three curves and the error over bins."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    for axis, curve in zip(axes, ("pixels", "classes present", "bins"), strict=False):
        selected = [p for p in points if p["curve"] == curve]
        for name in dict.fromkeys(p["loss"] for p in selected):
            line = [(p["x"], p["ms"]) for p in selected if p["loss"] == name]
            axis.plot(*zip(*line, strict=True), "o-", label=name)
        axis.set(xlabel=curve, ylabel="ms, forward + backward", xscale="log", yscale="log")
        axis.legend(fontsize=8)
    bins = [p for p in points if p["curve"] == "bins"]
    x = [p["x"] for p in bins]
    for error in ("Lovász error", "gradient error"):
        axes[3].plot(x, [p[error] for p in bins], "o-", label=error)
    axes[3].plot(x, [1 / k for k in x], "k--", label="proven bound of the loss, 1 / bins")
    axes[3].set(xlabel="bins", ylabel="error against float64", xscale="log", yscale="log")
    axes[3].legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.suptitle(f"Cross-entropy + Lovász-Softmax on {title}")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
