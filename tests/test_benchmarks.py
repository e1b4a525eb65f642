"""The clock of the benchmarks."""

from types import SimpleNamespace

from benchmarks import common


def test_on_a_gpu_the_calls_in_a_row_count_against_the_seconds_that_were_given(monkeypatch):
    monkeypatch.setattr(common, "_device_seconds", lambda call: 0.1)
    wall, _ = common.interleave({"loss": lambda: None}, SimpleNamespace(type="cuda"), seconds=5)
    assert len(wall["loss"]) == 6  # of ten calls of 0.1 s each: the sixth is beyond 5 s
