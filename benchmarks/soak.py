"""What the project survives: kills, damaged data, payloads, attacks, processes, precision.

    python -m benchmarks.soak
    python -m benchmarks.soak --only data precision --data-sets 3000 --seed 1

Prints one table, written to --output as CSV, too; the exit code is 1 if anything in it is not as it
should be. The tests try the same in a shorter form; damage and payloads are theirs.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import torch
from detectron2.config import get_cfg

from panoptic_lovasz import add_panoptic_lovasz_config
from panoptic_lovasz.checkpoint import read_weights
from panoptic_lovasz.errors import CheckpointError

from . import common
from .soak_kills import PROJECT, run_kills
from .soak_precision import run_precision

for tested in ("data", "checkpoint", "losses"):
    sys.path.insert(0, str(PROJECT / "tests" / tested))

import distributed_worker as worker  # noqa: E402
from hostile import MUTATIONS, damage, outcome, training_step  # noqa: E402
from payloads import payloads as all_payloads  # noqa: E402
from payloads import write_payload  # noqa: E402
from tiny_set import TinySet  # noqa: E402

HANG = 60  # seconds after which a data set counts as one that hangs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=PARTS, help="(all)")
    parser.add_argument("--kills", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--data-sets", type=int, default=1500, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and damage (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    rows = []
    for part in args.only:
        print(f"{part} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            rows += PARTS[part](args, Path(folder))
    print()
    common.print_table(rows)
    common.write_table(rows, args.output / "soak.csv")
    return int(any(row["not"] for row in rows))


def kills(args: argparse.Namespace, folder: Path) -> list[dict]:
    return [run_kills(args.kills, folder, args.seed)]


def data(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Damaged data sets through check, registration, mapper and a training step."""
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.merge_from_file(str(PROJECT / "configs/quick_schedules/panoptic_lovasz_shapes.yaml"))
    train = training_step(cfg)
    sound = TinySet(folder / "sound")
    sound.write_all()
    rows = []
    for name, mutation in MUTATIONS.items():
        tried = args.data_sets // len(MUTATIONS)
        clear, others = 0, []
        for seed in range(args.seed * tried, (args.seed + 1) * tried):
            damaged = damage(sound, folder / "damaged", name, seed)
            try:
                with _alarm(HANG):
                    message = outcome(damaged, train)
            except Exception as error:  # what must not happen is counted
                others.append(f"seed {seed}: {type(error).__name__}")
            else:
                clear += message is not None
                if message is not None and str(damaged.root) not in message:
                    others.append(f"seed {seed}: no file is named")
            shutil.rmtree(damaged.root)
        remarks = f"{clear} clear errors, {tried - clear - len(others)} used; {mutation.__doc__}"
        rows.append(_row(f"damaged data: {name}", tried, others, remarks))
    return rows


@contextlib.contextmanager
def _alarm(seconds: int):
    def ring(signum, frame):
        raise TimeoutError(f"took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def payloads(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Weights that run code when they are unpickled."""
    tried, others = 0, []
    for name, suffix in itertools.product(all_payloads(folder), (".pkl", ".pth", ".pt")):
        file, marker = folder / f"evil{suffix}", folder / "ran"
        write_payload(file, name, marker)
        tried += 1
        try:
            read_weights(file)
            others.append(f"{name}{suffix}: loaded")
        except CheckpointError:
            if any(folder.glob("ran*")):
                others.append(f"{name}{suffix}: ran")
        except Exception as error:  # any type but ours is what this counts
            others.append(f"{name}{suffix}: {type(error).__name__}")
    return [_row("payloads refused", tried, others, "pickles, and PyTorch's format")]


def attacks(args: argparse.Namespace, folder: Path) -> list[dict]:
    """The attacks of docs/security.md, by the tests that try them and look for what they leave."""
    report = folder / "attacks.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "attack", f"--junitxml={report}"]
    subprocess.run(command, cwd=PROJECT, stdout=subprocess.DEVNULL, check=False, timeout=3600)
    tried, others = collections.Counter(), collections.defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.get("classname", "").rpartition(".")[2].removeprefix("test_")
        if case.find("skipped") is None:
            tried[module] += 1
        if case.find("failure") is not None or case.find("error") is not None:
            others[module].append(case.get("name", ""))
    return [_row(f"attacks: {m}", n, others[m], "docs/security.md") for m, n in tried.items()]


def processes(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Loss and gradients of several processes on parts of a batch, and of one on the whole."""
    splits = {
        1: [[0, 1, 2, 3, 4, 5, 6, 7]],
        2: [[0, 1, 2, 3, 4, 5], [6, 7]],  # the last two images have no label
        4: [[0], [1, 2], [3, 4, 5], [6, 7]],
    }
    folders = {count: folder / str(count) for count in splits}
    for made in folders.values():
        made.mkdir()
    argument = json.dumps({str(folders[count]): split for count, split in splits.items()})
    subprocess.run([sys.executable, worker.__file__, argument], check=True, timeout=600)
    features, target = worker.make_batch()
    rows = []
    for count in splits:
        results = [torch.load(folders[count] / f"{rank}.pt") for rank in range(count)]
        worst, others = 0.0, []
        for name, function in worker.cases(None).items():
            loss, gradients = worker.step(worker.make_model(), function, features, target)
            mean = torch.stack([result[name][0] for result in results]).mean()
            errors = [(mean - loss).abs()]
            for result in results:
                errors += [
                    (g - h).abs().max() for g, h in zip(result[name][1], gradients, strict=True)
                ]
            error = torch.stack(errors).max().item()
            worst = max(worst, error)
            if not error <= 1e-6:
                others.append(f"{name}: {error:.1g}")
        remarks = f"losses; largest difference of value or gradient {worst:.1g}, allowed 1e-6"
        rows.append(_row(f"{count} process(es) against 1", len(results[0]), others, remarks))
    return rows


def precision(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Losses and gradients from logits of each type, against float64."""
    return [_row(*found) for found in run_precision(args.seed)]


def _row(check: str, tried: int, others: list[str], remarks: str) -> dict:
    for other in others:
        print(f"  {check}: {other}")
    return {
        "check": check,
        "tried": tried,
        "as it should be": tried - len(others),
        "not": len(others),
        "remarks": remarks,
    }


PARTS = {
    "kills": kills,
    "data": data,
    "payloads": payloads,
    "attacks": attacks,
    "processes": processes,
    "precision": precision,
}

if __name__ == "__main__":
    sys.exit(main())
