"""Check, measure and train on a machine with a GPU and no network; one page says what came out.

    make gpu-check ARGS="--parts correctness"       # or performance, or training; without, all

Each part takes less than 8 minutes, and a step that fails or takes too long is told in the page and
keeps nobody else from running. The page has device, versions, date, commands and tables, and may
become docs/gpu.md as it is. What the machine lacks is taken from the wheels in .gpu/wheels, where
`make gpu-wheels` puts them. --dry rehearses on the CPU, with sizes that say nothing about speed.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[1]
DATASETS = Path(os.environ.get("DETECTRON2_DATASETS", PROJECT / "datasets"))
SITE = PROJECT / ".gpu" / "site"
PACKAGES = ["torch", "torchvision", "triton", "numpy", "detectron2", "panoptic_lovasz"]
TAIL = 15  # lines of a step's output that go into the page


class Step(NamedTuple):
    """A command, by the arguments of Python, the seconds that it may take, and its tables."""

    name: str
    arguments: list[str]
    seconds: int
    tables: str = "*.csv"  # in the output folder; those that are new go into the page


def correctness(device: str, out: Path, dry: bool) -> list[Step]:
    """The kernels against PyTorch and float64, on the device; errors of memory."""
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    if dry:
        return [Step("tests", [*pytest, "tests/losses/test_loss_labels.py"], 120)]
    losses = ["on_a_gpu", "fused_triton", "launches", "loss_labels"]
    tests = [f"tests/losses/test_{name}.py" for name in losses]
    tests += ["tests/merging", "tests/evaluation/test_panoptic_evaluation.py"]
    if importlib.util.find_spec("xdist"):
        tests += ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal"]
    steps = [Step("tests", [*pytest, *tests], 340)]
    if shutil.which("compute-sanitizer"):
        test = "tests/losses/test_fused_triton.py::test_both_passes_are_those_in_plain_pytorch"
        steps.append(Step("sanitizer", ["compute-sanitizer", *pytest, test], 120))
    return steps


def performance(device: str, out: Path, dry: bool) -> list[Step]:
    """Loss, inference and a training step beside PyTorch and Detectron2."""
    common = ["--device", device, "--output", str(out)]
    timed = [*common, "--seconds", "0" if dry else "0.3"]
    workload = ["--workloads", "points"] if dry else []
    ours = ["--losses", "fused CE + Lovász, numba"] if dry else []
    size = ["--images", "1" if dry else "2"]
    if not dry:
        config = "configs/COCO-PanopticSegmentation/panoptic_lovasz_R_50_3x.yaml"
        size += ["--height", "800", "--width", "1216", "--config-file", config]
    steps = [
        Step("loss", ["-m", "benchmarks.loss", "--no-curves", *workload, *ours, *timed], 120),
        Step("loss by kernel", ["-m", "benchmarks.loss_profile", *workload, *common], 80),
        Step("training step", ["-m", "benchmarks.training_step", *size, *timed], 80),
    ]
    if not dry:  # it has no small size
        steps.append(Step("inference", ["-m", "benchmarks.inference", *timed], 100))
    return steps


def training(device: str, out: Path, dry: bool) -> list[Step]:
    """Cross-entropy and + Lovász on generated shapes, also in mixed precision, and on CamVid."""
    amount = ["--iterations", "1" if dry else "250", "--seeds", "1"]
    if dry:
        amount += ["--variants", "+ Lovász, binned"]
    common = ["--device", device, "--output", str(out)]
    steps = []
    if dry:
        few = f"make_shapes({str(out / 'shapes')!r}, num_train=8, num_val=2, size=96)"
        steps.append(
            Step("data", ["-c", f"from panoptic_lovasz.data import make_shapes; {few}"], 60)
        )
    steps.append(Step("shapes", ["-m", "benchmarks.convergence", *amount, *common], 280))
    if not dry and (DATASETS / "camvid").is_dir():
        config = "configs/CamVid-PanopticSegmentation/panoptic_lovasz_lite0.yaml"
        compare = ["-m", "panoptic_lovasz.tools.compare", "--config-file", config, "--jobs", "2"]
        compare += ["--losses", "ce,ce+lovasz", "--seeds", "1", "--output", str(out / "camvid")]
        # The config is one for a CPU.
        options = ["MODEL.DEVICE", device, "DATALOADER.NUM_WORKERS", "4", "SOLVER.MAX_ITER", "400"]
        steps.append(Step("CamVid", [*compare, *options], 190, "camvid/comparison.csv"))
    return steps


PARTS = {"correctness": correctness, "performance": performance, "training": training}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="(all)")
    parser.add_argument("--dry", action="store_true", help="rehearse on the CPU")
    parser.add_argument("--output", type=Path, default=Path("output/gpu"))
    args = parser.parse_args()
    out = args.output.resolve()
    out.mkdir(parents=True, exist_ok=True)
    environment = prepare()
    if args.dry:
        environment["DETECTRON2_DATASETS"] = str(out)
    device = "cpu" if args.dry else "cuda"
    page = list(heading(environment, args.dry))
    failed = 0
    for part in args.parts:
        page += [f"## {part.capitalize()}", ""]
        for step in PARTS[part](device, out, args.dry):
            patience = 4 if args.dry else 1  # a rehearsal may be on a busy machine
            step = step._replace(seconds=step.seconds * patience)
            lines, ok = run(step, out, environment)
            page += lines
            failed += not ok
            (out / "gpu.md").write_text("\n".join(page))  # whatever stops the next step
    print(f"{out / 'gpu.md'}: {failed} steps failed" if failed else f"{out / 'gpu.md'}: all done")
    return min(failed, 1)


def prepare() -> dict[str, str]:
    """Install the wheels that were brought along, and return the environment that finds them."""
    wheels = sorted((PROJECT / ".gpu" / "wheels").glob("*.whl"))
    if wheels and not SITE.exists() and importlib.util.find_spec("detectron2") is None:
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
        subprocess.run([*install, "--target", SITE, *wheels], check=True)
    paths = [str(PROJECT / "projects"), str(PROJECT)] + [str(SITE)] * SITE.exists()
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "Agg"}


def heading(environment: dict[str, str], dry: bool) -> Iterator[str]:
    yield "# On a GPU"
    yield ""
    if dry:
        yield "**A rehearsal on the CPU: no figure here is of a GPU.**"
        yield ""
    code = "import torch.cuda as c; print(c.get_device_name() if c.is_available() else 'no GPU')"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    yield f"{found.stdout.strip()}; Python {platform.python_version()}, {versions}; "
    yield f"{datetime.date.today()}; by `make gpu-check`."
    yield ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(no package)"


def run(step: Step, out: Path, environment: dict[str, str]) -> tuple[list[str], bool]:
    """Run a step; its lines in the page, and whether it went well."""
    before = {path: path.stat().st_mtime_ns for path in out.glob(step.tables)}
    program = [] if step.arguments[0].startswith("-") else [step.arguments[0]]
    arguments = step.arguments[len(program) :]
    start = time.monotonic()
    log = out / f"{step.name.replace(' ', '_')}.log"
    with open(log, "w") as f:
        try:
            code = subprocess.run(
                [*program, sys.executable, *arguments], cwd=PROJECT, env=environment,
                stdout=f, stderr=subprocess.STDOUT, timeout=step.seconds,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = None
    took = f"{time.monotonic() - start:.0f} s"
    outcome = "too long" if code is None else "done" if code == 0 else f"failed with {code}"
    print(f"{step.name}: {outcome}, {took}", flush=True)
    lines = [f"### {step.name[0].upper()}{step.name[1:]}", ""]
    lines += [f"`{shlex.join([*program, 'python', *arguments])}`: {outcome}, {took}.", ""]
    tables = [path for path in sorted(out.glob(step.tables)) if _is_new(path, before)]
    for path in tables:
        lines += [*markdown(path), ""]
    if not tables or code != 0:
        lines += ["```", *log.read_text(errors="replace").splitlines()[-TAIL:], "```", ""]
    return lines, code == 0


def _is_new(path: Path, before: dict[Path, int]) -> bool:
    return path.stat().st_mtime_ns != before.get(path)


def markdown(path: Path) -> Iterator[str]:
    """A CSV as a table."""
    with open(path, newline="") as f:
        head, *rows = csv.reader(f)
    yield "| " + " | ".join(head) + " |"
    yield "| --- " * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(_rounded(cell) for cell in row) + " |"


def _rounded(cell: str) -> str:
    try:
        return cell if cell.isdigit() else f"{float(cell):.4g}"
    except ValueError:
        return cell.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
