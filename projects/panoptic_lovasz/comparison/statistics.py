"""Means with their spread, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Difference", "Summary", "paired_difference", "summarize", "t_quantile"]

# 97.5 % quantiles by degrees of freedom: a table, as SciPy would be installed for this alone.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class Summary(NamedTuple):
    """Mean and sample standard deviation; the latter is NaN for one value."""

    mean: float
    std: float
    num_values: int


class Difference(NamedTuple):
    """Of pairs: mean, standard deviation, half of the 95 % interval of the mean, pairs above 0."""

    mean: float
    std: float
    half_width: float
    num_pairs: int
    num_higher: int

    @property
    def verdict(self) -> str:
        """Whether the 95 % interval is above 0 ("higher"), below ("lower"), or has it."""
        if math.isnan(self.mean):
            return "not measured"
        if math.isnan(self.half_width):
            return "one seed: no spread"
        if self.mean - self.half_width > 0:
            return "higher"
        return "lower" if self.mean + self.half_width < 0 else "no clear difference"


def summarize(values: Sequence[float]) -> Summary:
    """Mean and spread of the values that are not NaN."""
    known = np.asarray([v for v in values if not math.isnan(v)], dtype=float)
    mean = float(known.mean()) if len(known) else math.nan
    std = float(known.std(ddof=1)) if len(known) > 1 else math.nan
    return Summary(mean, std, len(known))


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Values minus baseline, pair by pair; the interval is Student's.

    Args:
        values, baseline: one value per seed, in the same order; pairs with a NaN are left out.
    """
    differences = [v - b for v, b in zip(values, baseline, strict=True)]
    mean, std, count = summarize(differences)
    half = t_quantile(count - 1) * std / math.sqrt(count) if count > 1 else math.nan
    return Difference(mean, std, half, count, sum(d > 0 for d in differences))


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's distribution, to 0.003."""
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = 1.959964  # Cornish-Fisher expansion around the normal quantile
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
