import math

import numpy as np
import pytest

from panoptic_lovasz.comparison.statistics import paired_difference, summarize, t_quantile


def test_quantiles_are_those_of_students_distribution():
    table = {1: 12.706, 2: 4.303, 5: 2.571, 10: 2.228, 11: 2.201, 15: 2.131, 30: 2.042, 120: 1.980}
    assert {n: t_quantile(n) for n in table} == pytest.approx(table, abs=3e-3)


def test_the_interval_covers_the_true_mean_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(4000):
        d = paired_difference(rng.normal(1, 2, 3), np.zeros(3))
        covered += abs(d.mean - 1) <= d.half_width
    assert covered / 4000 == pytest.approx(0.95, abs=0.01)


def test_differences_are_paired_by_seed():
    d = paired_difference([51.0, 61.1, 40.9], [50.0, 60.0, 40.0])
    assert d.mean == pytest.approx(1.0) and d.std == pytest.approx(0.1)
    assert d.verdict == "higher" and d.num_higher == 3
    assert paired_difference([50.0, 60.0, 40.0], [51.0, 61.1, 40.9]).verdict == "lower"


def test_a_difference_within_the_spread_is_called_no_clear_one():
    assert paired_difference([51.0, 59.0, 43.0], [50.0, 60.0, 41.0]).verdict == (
        "no clear difference"
    )


def test_one_seed_has_no_spread_and_pairs_without_a_value_are_left_out():
    assert paired_difference([2.0], [1.0]).verdict == "one seed: no spread"
    d = paired_difference([2.0, math.nan, 3.0], [1.0, 1.0, 2.0])
    assert (d.mean, d.num_pairs) == (1.0, 2)
    assert paired_difference([math.nan], [1.0]).verdict == "not measured"
    assert math.isnan(summarize([]).mean)
