"""Intervals and tests against textbook numbers, other formulas and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from synthaug.evaluate.stats import holm, mean_interval, paired_test

SLEEP = ([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def test_student_1908():
    """Extra hours of sleep with two drugs, the example of the t test's first paper."""
    difference, low, high, p = paired_test(*SLEEP)
    assert difference == pytest.approx(-1.58)
    assert (low, high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-6)
    assert p == pytest.approx(0.002833, abs=1e-6)


def test_interval_with_a_table_value():
    mean, low, high = mean_interval([1, 2, 3, 4, 5])
    assert (mean, low, high) == pytest.approx(
        (3, 3 - 2.776445 * math.sqrt(0.5), 3 + 2.776445 * math.sqrt(0.5)), abs=1e-5
    )
    wide = mean_interval([1, 2, 3, 4, 5], level=0.99)
    assert wide[2] - 3 == pytest.approx(4.604095 * math.sqrt(0.5), abs=1e-5)


def test_intervals_hold_the_mean_as_often_as_they_say():
    samples = np.random.default_rng(0).normal(3, 2, (4000, 5))
    inside = sum(low <= 3 <= high for _, low, high in map(mean_interval, samples))
    assert stats.binomtest(inside, 4000, 0.95).pvalue > 1e-3


def test_p_values_are_uniform_without_a_difference():
    a, b = np.random.default_rng(1).normal(size=(2, 2000, 6))
    assert stats.kstest([paired_test(x, y)[3] for x, y in zip(a, b, strict=True)], "uniform").pvalue > 1e-3


def test_interval_and_p_agree():
    rng = np.random.default_rng(2)
    for _ in range(200):
        _, low, high, p = paired_test(rng.normal(0.5, 1, 6), rng.normal(0, 1, 6))
        assert (p < 0.05) == (low > 0 or high < 0)


def test_one_value_and_one_pair():
    mean, low, high = mean_interval([0.7])
    assert mean == 0.7 and math.isnan(low) and math.isnan(high)
    difference, low, high, p = paired_test([0.7], [0.5])
    assert difference == pytest.approx(0.2) and all(map(math.isnan, (low, high, p)))


def test_differences_without_spread():
    assert paired_test([1, 2, 3], [1, 2, 3]) == (0, 0, 0, 1)
    assert paired_test([1, 2, 3], [0, 1, 2]) == (1, 1, 1, 0)


def test_unequal_lengths_and_nothing_are_errors():
    with pytest.raises(ValueError, match="2 and 1"):
        paired_test([1, 2], [1])
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_holm_textbook_and_step_down():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    p = list(np.random.default_rng(3).uniform(0, 0.2, 9))
    for alpha in (0.01, 0.05, 0.1, 0.3):
        rejected = set()
        for rank, index in enumerate(sorted(range(9), key=p.__getitem__)):
            if p[index] > alpha / (9 - rank):
                break
            rejected.add(index)
        assert rejected == {i for i, q in enumerate(holm(p)) if q <= alpha}
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []
