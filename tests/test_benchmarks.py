"""The clock of the benchmarks."""

from types import SimpleNamespace

import pytest

from benchmarks import common


@pytest.mark.parametrize(("seconds_a_call", "repeats"), [(0.01, 6), (0.1, 6), (1, 2)])
def test_on_a_gpu_short_calls_in_a_row_count_against_the_seconds_that_were_given(
    seconds_a_call, repeats, monkeypatch
):
    # Ten calls of 0.01 s each are one repeat: the sixth is beyond 0.5 s.
    monkeypatch.setattr(common, "_device_seconds", lambda call, in_a_row: seconds_a_call)
    wall, _ = common.interleave({"": lambda: None}, SimpleNamespace(type="cuda"), seconds=0.5)
    assert len(wall[""]) == repeats
