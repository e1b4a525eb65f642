"""`make gpu-check`, rehearsed without a GPU."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from panoptic_lovasz import load_config

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", PROJECT / "dev" / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


def test_a_step_that_fails_or_takes_too_long_is_told_and_others_go_on(gpu_check, tmp_path):
    environment = gpu_check.prepare()
    missing = gpu_check.Step("one", ["-m", "there_is_no_such_module"], 60)
    lines, ok = gpu_check.run(missing, tmp_path, environment)
    assert not ok and "failed with 1" in lines[2] and "No module named" in "".join(lines)
    endless = gpu_check.Step("two", ["-c", "while True: pass"], 1)
    lines, ok = gpu_check.run(endless, tmp_path, environment)
    assert not ok and "too long" in lines[2]


def test_what_a_step_writes_becomes_a_table(gpu_check, tmp_path):
    (tmp_path / "old.csv").write_text("of,before\n1,2\n")
    code = f"open({str(tmp_path / 'new.csv')!r}, 'w').write('loss,ms\\nours | best,1.23456\\n')"
    lines, ok = gpu_check.run(
        gpu_check.Step("three", ["-c", code], 60), tmp_path, gpu_check.prepare()
    )
    assert ok
    assert lines[4:7] == ["| loss | ms |", "| --- | --- |", "| ours \\| best | 1.235 |"]
    assert "before" not in "".join(lines)
    (command,) = re.findall("`(.*)`: done", lines[2])
    assert shlex.split(command) == ["python", "-c", code]


@pytest.mark.slow
def test_the_rehearsal_takes_every_step_and_says_that_it_is_one(tmp_path):
    command = [sys.executable, "dev/gpu_check.py", "--dry", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    page = (tmp_path / "gpu.md").read_text()
    assert done.returncode == 0, page
    assert "**A rehearsal on the CPU: no figure here is of a GPU.**" in page
    steps = re.findall(r"^### (.+)\n\n`python .*`: done, \d+ s\.$", page, re.M)
    performance = ["Loss", "Loss by kernel", "Training step"]
    assert steps == ["Tests", *performance, "Data", "Shapes"]
    for row in (
        r"\| points \| fused CE \+ Lovász, numba \(ours\) \| [\d.]+ \|",
        r"\| cross-entropy \+ Lovász, fused \|",
        r"\| \+ Lovász, binned \| 1 \|",
    ):
        assert re.search(f"^{row}", page, re.M), page


def test_camvid_is_trained_on_where_it_is(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "DATASETS", tmp_path)
    assert [step.name for step in gpu_check.training("cuda", tmp_path, False)] == ["shapes"]
    (tmp_path / "camvid").mkdir()
    *_, camvid = gpu_check.training("cuda", tmp_path, False)
    assert camvid.name == "CamVid" and "ce,ce+lovasz" in camvid.arguments
    config, options = camvid.arguments[3], camvid.arguments[-6:]
    assert load_config(PROJECT / config, options).MODEL.DEVICE == "cuda"


@pytest.mark.parametrize("part", ["correctness", "performance", "training"])
def test_a_part_takes_less_than_eight_minutes(gpu_check, part, tmp_path, monkeypatch):
    (tmp_path / "camvid").mkdir()
    monkeypatch.setattr(gpu_check, "DATASETS", tmp_path)
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: f"/usr/bin/{name}")
    steps = gpu_check.PARTS[part]("cuda", tmp_path, False)
    assert sum(step.seconds for step in steps) < 8 * 60
