"""Train with different losses from the same seeds and initial weights, and compare.

    python -m panoptic_lovasz.tools.compare --config-file configs/... --losses ce,ce+lovasz \
        --seeds 3 --output output/compare [KEY VALUE ...]

Started again with the same arguments, it goes on where it was stopped. However it ends, its
trainings end with it, and save what they have done.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..comparison.losses import LOSSES
from . import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    command = f"python -m panoptic_lovasz.tools.compare {shlex.join(argv)}"
    return cli.run(_parser(), functools.partial(_run, command=command), argv)


def _run(args: argparse.Namespace, command: str) -> None:
    losses = _losses(args)
    from ..comparison.jobs import Progress, train_all
    from ..comparison.runs import plan_runs, read_result
    from ..comparison.tables import collect, write_comparison
    from ..config import load_config

    cfg = load_config(args.config_file, args.opts)
    runs = plan_runs(cfg, losses, range(1, args.seeds + 1), args.output)
    line = _Line()

    def name(run) -> str:
        return f"[{runs.index(run) + 1}/{len(runs)}] {run.loss}, seed {run.seed}"

    def done(run, seconds: float) -> None:
        line.print(f"{name(run)}: done in {seconds / 60:.1f} minutes")
        write_comparison(collect(runs), args.output, command, cfg.dump())

    unfinished = []
    for run in runs:
        if read_result(run) is None:
            unfinished.append(run)
        else:
            line.print(f"{name(run)}: done before")
    progress = Progress(runs)
    train_all(
        unfinished,
        args.jobs,
        started=lambda run: line.print(f"{name(run)}: training, log in {run.folder / 'train.log'}"),
        done=done,
        tick=lambda running: line.update(lambda: progress.line(running)),
    )
    markdown = write_comparison(collect(runs), args.output, command, cfg.dump())
    print(f"\n{markdown}\nPage: {args.output / 'compare.html'}")


class _Line:
    """A line of progress below what is printed: renewed in a terminal, now and then in a file."""

    def __init__(self) -> None:
        self._in_place = sys.stdout.isatty()
        self._period = 10 if self._in_place else 600
        self._next = 0.0
        self._shown = ""

    def update(self, text: Callable[[], str]) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._period
        self._shown = text()
        end = "\r" if self._in_place else "\n"
        print(self._shown, end=end, flush=True)

    def print(self, text: str) -> None:
        print(text.ljust(len(self._shown)) if self._in_place else text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_lovasz.tools.compare",
        description="Train with different losses from the same seeds, and compare.",
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="config that all runs share")
    add(
        "--losses",
        default="ce,ce+lovasz",
        metavar="A,B",
        help=f"the first is the baseline; of {', '.join(LOSSES)}, or defined by --loss",
    )
    add(
        "--loss",
        action="append",
        nargs="+",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        help="define one more: a name, and what it changes in the config",
    )
    add("--seeds", type=cli.positive, default=3, metavar="N", help="train with SEED 1..N (3)")
    add(
        "--jobs",
        type=cli.positive,
        default=1,
        metavar="N",
        help="runs side by side, each with one thread if N > 1 (1)",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="folder of runs and results")
    add("opts", nargs="*", default=[], metavar="KEY VALUE", help="changes of the config")
    return parser


def _losses(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    known = dict(LOSSES)
    for name, *changes in args.loss:
        pairs = [change.partition("=") for change in changes]
        wrong = [
            change for change, (_, equals, _) in zip(changes, pairs, strict=True) if not equals
        ]
        if wrong:
            message = f"--loss {name}: found {wrong[0]!r}, expected KEY=VALUE"
            raise argparse.ArgumentError(None, message)
        known[name] = {key: value for key, _, value in pairs}
    names = args.losses.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        message = f"--losses: {unknown[0]!r} is not one of {', '.join(known)}"
        raise argparse.ArgumentError(None, message)
    if len(set(names)) < len(names):
        raise argparse.ArgumentError(None, "--losses must differ from each other")
    return {name: known[name] for name in names}


if __name__ == "__main__":
    sys.exit(main())
