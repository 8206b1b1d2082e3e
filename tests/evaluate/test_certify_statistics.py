"""Certificates: bounds, radii, counts, times and curves against constants and roots."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, norm

from synthaug.diffusion.denoiser import UNetDenoiser, sigmas_of
from synthaug.diffusion.oracle import GaussianDenoiser
from synthaug.evaluate.certify import (
    certified_accuracy,
    certify,
    clopper_pearson_lower,
    envelope,
    least_count,
    level_for,
    max_radius,
    predict,
    timestep_for,
)
from synthaug.settings import UserError


def alphas(schedule: str, steps: int) -> torch.Tensor:
    return DDPMScheduler(num_train_timesteps=steps, beta_schedule=schedule).alphas_cumprod


# --- the statistics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "expected"), [(99, 100, 0.9113731), (9900, 10_000, 0.9865312), (5000, 10_000, 0.4845029)]
)
def test_b2_clopper_pearson_constants(k, n, expected):
    assert clopper_pearson_lower(k, n, 0.001) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("n", "expected"), [(1000, 2.46326), (10_000, 3.19858), (100_000, 3.81146)])
def test_b2_radii_reach_so_far(n, expected):
    assert max_radius(n, 0.001, 1.0) == pytest.approx(expected, abs=1e-5)
    assert max_radius(n, 0.001, 0.5) == max_radius(n, 0.001, 1.0) / 2
    assert clopper_pearson_lower(n, n, 0.001) == 0.001 ** (1 / n) and clopper_pearson_lower(0, n, 0.001) == 0


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_d3_clopper_pearson_covers_and_is_the_root(n, alpha):
    """P(bound <= p) is a finite sum; right at a bound it is 1 - alpha, the least that it may be."""
    bounds = np.array([clopper_pearson_lower(k, n, alpha) for k in range(n + 1)])
    assert (np.diff(bounds) > 0).all()
    for p in [0.02, 0.3, 0.5, 0.77, 0.99, *bounds[1:]]:
        assert binom.pmf(np.arange(n + 1), n, p)[bounds <= p].sum() >= 1 - alpha - 1e-9
    for k in range(1, n + 1):
        root = brentq(lambda p, k=k: binom.sf(k - 1, n, p) - alpha, 0, 1, xtol=1e-14)
        assert bounds[k] == pytest.approx(root, rel=1e-7)
        assert binomtest(k, n, alternative="greater").proportion_ci(1 - alpha).low == pytest.approx(bounds[k], rel=1e-7)


@pytest.mark.parametrize(("n", "expected"), [(100, 66), (10_000, 5156), (10, 10), (9, 10)])
def test_b3_least_count(n, expected):
    assert least_count(n, 0.001) == expected


@pytest.mark.parametrize("alpha", [0.001, 0.2])
def test_fewer_votes_allow_no_more_misses(alpha):
    """So what is hopeless before all votes are in abstains on those that are."""
    allowed = [n - least_count(n, alpha) for n in range(1, 600)]
    assert (np.diff(allowed) >= 0).all() and allowed[0] == -1 and allowed[-1] > 200


def test_certify_and_least_count_agree():
    for votes in (5155, 5156):
        label, radius = certify([0, 9, 1], [0, votes, 10_000 - votes], alpha=0.001, sigma=0.5)
        assert (label, radius > 0) == ((1, True) if votes == 5156 else (None, False)) and radius >= 0


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_certify_selects_on_the_first_counts_alone(kind):
    label, radius = certify(kind([60, 40]), kind([100, 900]), alpha=0.001, sigma=0.5)
    assert (label, radius) == (None, 0.0)  # class 1 would have been certified
    label, radius = certify(kind([40, 60]), kind([100, 900]), alpha=0.001, sigma=0.5)
    assert label == 1 and type(label) is int and type(radius) is float
    assert radius == pytest.approx(0.5 * norm.ppf(clopper_pearson_lower(900, 1000, 0.001)))


def test_predict_is_the_binomial_test_of_the_two_first():
    for counts in ([60, 40, 0], [0, 75, 25], [5, 5, 5], [0, 0, 3], [100, 0, 0], [52, 1, 47], [10, 0, 0], [11, 0, 0]):
        second, first = sorted(counts)[-2:]
        sure = binomtest(first, first + second).pvalue <= 0.001
        assert predict(counts, 0.001) == (int(np.argmax(counts)) if sure else None)
        assert predict(torch.tensor(counts), 0.001) == predict(np.array(counts), 0.001) == predict(counts, 0.001)
    assert predict([10, 0], 0.001) is None and predict([11, 0], 0.001) == 0  # 2^-9 and 2^-10
    assert predict([0, 0], 0.001) is None


# --- the schedule -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        ("linear", 1000, {0.12: 70, 0.25: 145, 0.5: 259, 1.0: 396}),
        ("squaredcos_cap_v2", 4000, {0.12: 573, 0.25: 1158, 0.5: 1984, 1.0: 2809}),
        ("squaredcos_cap_v2", 1000, {0.12: 143, 0.25: 289, 0.5: 496, 1.0: 702}),
    ],
)
def test_b1_timesteps(schedule, steps, expected):
    abar = alphas(schedule, steps)
    assert {sigma: timestep_for(sigma, abar)[0] for sigma in expected} == expected
    assert timestep_for(0.25, abar.numpy()) == timestep_for(0.25, abar)


def test_d4_the_grid_is_not_below_sigma():
    abar = alphas("linear", 1000)
    found = [timestep_for(sigma, abar) for sigma in (0.12, 0.25, 0.5, 1.0)]
    assert [f"{grid:.5f}" for _, grid in found] == ["0.12069", "0.25158", "0.50239", "1.00024"]
    last = 0
    for sigma in np.linspace(0.001, 20, 200):
        t, grid = timestep_for(sigma, abar)
        assert t >= max(1, last) and grid >= sigma and timestep_for(grid, abar) == (t, grid)
        assert t == 1 or float(sigmas_of(abar)[t - 1]) / 2 < sigma
        last = t
    assert timestep_for(1e-9, abar)[0] == 1
    with pytest.raises(UserError, match="sigma=80 is beyond the denoiser's schedule, which ends at 78.7"):
        timestep_for(80, abar)


def test_the_level_is_that_of_the_denoiser():
    net = UNetDenoiser(None, alphas("linear", 1000))
    level = level_for(0.25, net)
    assert level == pytest.approx(timestep_for(0.25, alphas("linear", 1000))[1], rel=1e-12)
    assert net.timestep(2 * level) == 145
    assert level_for(0.25, GaussianDenoiser([0.0], [[1.0]])) == 0.25


# --- curves -------------------------------------------------------------------------------------------------------


def test_b5_curves():
    labels, predicted, radii = [0, 1, 2, 2, 0], [0, 1, None, 1, 0], [0.5, 1.0, 0.0, 9.0, 0.0]
    at = np.array([0.0, 1e-9, 0.5, 0.500001, 1.0, 1.1])
    one = certified_accuracy(labels, predicted, radii, at)
    assert one.tolist() == [0.6, 0.4, 0.4, 0.2, 0.2, 0.0]
    other = certified_accuracy(labels, [0, None, 2, 2, 1], [0.1, 0.0, 0.6, 0.6, 3.0], at)
    best = envelope([one, other])
    assert (np.diff(one) <= 0).all() and (np.diff(best) <= 0).all()
    assert best.tolist() == [0.6, 0.6, 0.4, 0.4, 0.2, 0.0]
    assert certified_accuracy([0, 0], [None, None], [0.0, 0.0], [0.0]).tolist() == [0.0]  # abstaining is never right
