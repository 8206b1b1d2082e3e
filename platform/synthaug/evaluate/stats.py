"""Intervals and tests for a few paired seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes a second to import


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """The mean and its Student t interval; one value has no interval: (mean, nan, nan)."""
    sample = np.asarray(values, dtype=float)
    if len(sample) == 0:
        raise ValueError("mean_interval needs at least one value")
    mean = float(sample.mean())
    if len(sample) == 1:
        return mean, math.nan, math.nan
    # t quantile times the standard error; with five seeds 2.78, where a normal law would say 1.96
    quantile = stdtrit(len(sample) - 1, (1 + level) / 2)
    half = float(quantile * sample.std(ddof=1) / math.sqrt(len(sample)))
    return mean, mean - half, mean + half


def paired_test(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, float, float, float]:
    """Difference a - b, its interval and the two-sided p of the paired t test.

    p is 1 when all differences are 0, 0 when they are all the same other number; one pair says nothing (nan).
    """
    if len(a) != len(b):
        raise ValueError(f"paired_test needs pairs, got {len(a)} and {len(b)} values")
    # paired by seed, so that what a subset or a start brings to both arms falls out
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    mean, low, high = mean_interval(difference, level)
    return mean, low, high, _p_value(difference)


def _p_value(difference: np.ndarray) -> float:
    n, spread = len(difference), float(difference.std())
    if not difference.any():
        return 1.0
    if n == 1:
        return math.nan
    if spread == 0:  # t is infinite
        return 0.0
    # spread divides by n: with n - 1 below the root this is the standard error of mean_interval
    t = abs(float(difference.mean())) / (spread / math.sqrt(n - 1))
    return float(2 * stdtr(n - 1, -t))


def holm(pvalues: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm 1979), in the order given."""
    p = np.asarray(pvalues, dtype=float)
    order = np.argsort(p)
    # the i-th smallest of m times m - i (i from 0), and never below a smaller one's
    scaled = (len(p) - np.arange(len(p))) * p[order]
    stepped = np.minimum(1, np.maximum.accumulate(scaled))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return [float(value) for value in adjusted]
