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
import dataclasses
import itertools
import json
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import torch
from detectron2.config import get_cfg
from torch import Tensor

from panoptic_lovasz import add_panoptic_lovasz_config
from panoptic_lovasz.checkpoint import read_weights
from panoptic_lovasz.errors import CheckpointError
from panoptic_lovasz.losses import cross_entropy_lovasz, lovasz_softmax

from . import common
from .soak_kills import PROJECT, run_kills

for tested in ("data", "checkpoint", "losses"):
    sys.path.insert(0, str(PROJECT / "tests" / tested))

import distributed_worker as worker  # noqa: E402
import oracle  # noqa: E402
from hostile import MUTATIONS, damage, outcome, training_step  # noqa: E402
from payloads import payloads as all_payloads  # noqa: E402
from payloads import write_payload  # noqa: E402
from tiny_set import TinySet  # noqa: E402

HANG = 60  # seconds after which a data set counts as one that hangs
GRADIENT_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
NO_GRADIENT = torch.finfo(torch.float32).eps  # of saturated logits: less than the value's rounding
LOSS_SCALE = 2.0**16  # as of a GradScaler: without it gradients of float16 underflow


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
    """Losses and gradients from logits of each type.

    Values are compared with the definition in float64, gradients, of which the binned ones have
    another definition, with those of the same logits in float64.
    """
    rows = []
    cases = _precision_cases(args.seed)
    for dtype, tolerance in GRADIENT_TOLERANCES.items():
        worst = {"exact": 0.0, "binned": 0.0, "gradient": 0.0}
        others, tried = [], 0
        for (case, (logits, target)), (name, loss) in itertools.product(
            cases.items(), _LOSSES.items()
        ):
            tried += 1
            logits = logits.to(dtype)
            value, gradient = _value_and_gradient(loss.function, logits, target)
            expected = loss.definition(logits.double(), target)
            _, expected_gradient = _value_and_gradient(loss.function, logits.double(), target)
            error = ((value - expected).abs() / expected.clamp(min=1)).item()
            scale = expected_gradient.norm().clamp(min=NO_GRADIENT)
            gradient_error = ((gradient - expected_gradient).norm() / scale).item()
            kind = "exact" if name == "exact" else "binned"
            worst[kind] = max(worst[kind], error)
            worst["gradient"] = max(worst["gradient"], gradient_error)
            if not (error <= loss.tolerance and gradient_error <= tolerance):
                others.append(f"{case}, {name}: {error:.1g}, gradient {gradient_error:.1g}")
        remarks = (
            f"exact within {worst['exact']:.1g} (allowed {_EXACT:.0e}), binned within "
            f"{worst['binned']:.1g} ({_BINNED:.0e}), gradients within {worst['gradient']:.1g} "
            f"({tolerance:.0e})"
        )
        rows.append(_row(f"{str(dtype)[6:]} against float64", tried, others, remarks))
    return rows


@dataclasses.dataclass(frozen=True)
class _Loss:
    function: Callable[[Tensor, Tensor], Tensor]
    definition: Callable[[Tensor, Tensor], Tensor]
    tolerance: float  # of the value, relative if it is above 1


_EXACT, _BINNED = 1e-5, 1 / 1024
_LOSSES = {
    "fused": _Loss(
        lambda x, y: sum(cross_entropy_lovasz(x, y)),
        lambda x, y: sum(oracle.cross_entropy_lovasz(x, y)),
        _BINNED,
    ),
    "binned": _Loss(
        lambda x, y: lovasz_softmax(x, y[:, ::4, ::4]),
        lambda x, y: oracle.lovasz_softmax(x, y[:, ::4, ::4]),
        _BINNED,
    ),
    "exact": _Loss(
        lambda x, y: lovasz_softmax(x, y[:, ::4, ::4], method="exact"),
        lambda x, y: oracle.lovasz_softmax(x, y[:, ::4, ::4]),
        _EXACT,
    ),
}


def _precision_cases(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits in float64 at stride 4, and labels, of which some are ignored."""
    generator = torch.Generator().manual_seed(seed)

    def case(images, classes, height, width, scale):
        shape = (images, classes, height, width)
        logits = scale * torch.randn(shape, dtype=torch.float64, generator=generator)
        target = torch.randint(0, classes, (images, 4 * height, 4 * width), generator=generator)
        target[:, :1] = 255 if height > 1 else 0
        return logits, target

    return {
        "random": case(2, 19, 8, 12, 1),
        "confident": case(2, 19, 8, 12, 10),
        "up to 1e4": case(2, 19, 8, 12, 2.5e3),
        "all equal": case(2, 19, 8, 12, 0),
        "1024 classes": case(1, 1024, 4, 4, 1),
        "one pixel": case(1, 5, 1, 1, 1),
    }


def _value_and_gradient(loss, logits, target):
    logits = logits.detach().requires_grad_()
    value = loss(logits, target)
    (LOSS_SCALE * value).backward()
    return value.detach().double(), logits.grad.double() / LOSS_SCALE


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
