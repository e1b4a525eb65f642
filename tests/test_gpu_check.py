"""`make gpu-check`, rehearsed without a GPU."""

import importlib.util
import sys
from pathlib import Path

import pytest

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
