"""The Triton kernels compile for GPUs that are not there, without the interpreter's help."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

PROJECT = Path(__file__).resolve().parents[2]
KERNELS = ["softmax_kernel", "count_kernel", "weights_kernel", "losses_kernel"]
KERNELS += ["mean_slope_kernel", "gradient_kernel"]


def compile_kernels(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.triton_kernels", "--output", str(folder)]
    done = subprocess.run(
        [*command, *arguments], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with open(folder / "triton_kernels.csv") as f:
        return list(csv.DictReader(f))


def check(rows, limit):
    """Registers that there are, and as many instructions per pixel and class as can be."""
    for row in rows:
        assert 0 < int(row["registers"]) <= 255
        if row["instructions, least"]:
            least, most = float(row["instructions, least"]), float(row["instructions, most"])
            assert 4 < least <= most < limit


def test_the_kernels_compile_for_an_h100(tmp_path):
    rows = compile_kernels(tmp_path, "--workloads", "coco", "--sm", "90")
    assert [row["kernel"] for row in rows] == KERNELS
    assert all(int(row["stack, bytes"]) <= 128 for row in rows)  # what is spilled, before loops
    check(rows, 60)


@pytest.mark.slow
def test_the_kernels_compile_for_every_option_and_type_for_an_a100(tmp_path):
    rows = compile_kernels(tmp_path, "--sm", "80")
    assert {row["sm"] for row in rows} == {"80"} and len({row["workload"] for row in rows}) == 10
    check(rows, 150)  # of points, whose cells have one pixel each, it is up to 121
