"""The closed-form denoisers against textbook formulas, derivatives and samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.autograd.functional import jacobian

from synthaug.diffusion.denoiser import Denoiser
from synthaug.diffusion.oracle import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser

MU = np.array([0.3, -1.0, 0.5])
ROOT = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.3, 0.2, 0.5]])
COV = ROOT @ ROOT.T
WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[2.0, 0.0, 1.0], [-1.0, 1.0, 0.0], [0.0, -2.0, 0.5]])
COVS = np.stack([COV, 0.3 * np.eye(3), np.diag([1.0, 0.1, 0.4])])
SIGMA = 0.7
EYE = np.eye(3)


def draw(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3)) * 1.5


def normal_density(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    away = x - mean
    return float(np.exp(-0.5 * away @ np.linalg.solve(cov, away)) / np.sqrt(np.linalg.det(2 * np.pi * cov)))


def oracles() -> list[Any]:
    return [GaussianDenoiser(MU, COV), MixtureDenoiser(WEIGHTS, MEANS, COVS), EmpiricalDenoiser(MEANS)]


def test_gaussian_mean_and_covariance() -> None:
    """G1 and G2 in variance-exploding form."""
    x, total = draw(5), COV + SIGMA**2 * EYE
    expected = np.stack([MU + COV @ np.linalg.solve(total, row - MU) for row in x])
    np.testing.assert_allclose(GaussianDenoiser(MU, COV)(x, SIGMA), expected, atol=1e-12)
    cov = GaussianDenoiser(MU, COV).posterior_cov(x, SIGMA)
    np.testing.assert_allclose(cov[3], COV - COV @ np.linalg.solve(total, COV), atol=1e-12)


def test_gaussian_agrees_with_variance_preserving_form() -> None:
    """G1 at x_t = a x0 + s noise."""
    a, s = 0.6, 0.8
    x_t = draw(1)[0]
    vp = MU + a * COV @ np.linalg.solve(a * a * COV + s * s * EYE, x_t - a * MU)
    np.testing.assert_allclose(GaussianDenoiser(MU, COV)(x_t[None] / a, s / a)[0], vp, atol=1e-12)


@pytest.mark.parametrize("oracle", oracles()[:2])
def test_derivative_is_posterior_covariance(oracle: Any) -> None:
    """A1 and A2: dE[x0|x]/dx = Cov[x0|x] / sigma^2, symmetric and positive."""
    x = torch.from_numpy(draw(1))
    slope = jacobian(lambda row: oracle(row, SIGMA)[0], x)[:, 0]
    cov = oracle.posterior_cov(x, SIGMA)[0]
    torch.testing.assert_close(slope, cov / SIGMA**2, atol=1e-10, rtol=0)
    torch.testing.assert_close(cov, cov.T, atol=1e-12, rtol=0)
    assert torch.linalg.eigvalsh(cov).min() > 0


@pytest.mark.parametrize("oracle", oracles())
@pytest.mark.parametrize("a", [0.25, 0.6, 0.95])
def test_derivative_in_variance_preserving_form(oracle: Any, a: float) -> None:
    """A1 and A2 at x_t = a x0 + s noise: of the guess it is a Cov[x0|x_t] / s^2, of m = a x0 it is Cov[m|x_t] / s^2."""
    s, x_t = (1 - a * a) ** 0.5, torch.from_numpy(draw(1, seed=5))
    points = MixtureDenoiser(np.ones(3), MEANS, np.zeros((3, 3, 3)))
    known = points if isinstance(oracle, EmpiricalDenoiser) else oracle
    cov = known.posterior_cov(x_t / a, s / a)[0]
    of_x0 = jacobian(lambda row: oracle(row / a, s / a)[0], x_t)[:, 0]
    of_m = jacobian(lambda row: a * oracle(row / a, s / a)[0], x_t)[:, 0]
    torch.testing.assert_close(of_x0, a * cov / s**2, atol=1e-10, rtol=0)
    torch.testing.assert_close(of_m, (a * a * cov) / s**2, atol=1e-10, rtol=0)
    assert torch.linalg.eigvalsh(cov).min() > -1e-12


def test_derivative_by_finite_differences() -> None:
    """M3, without autograd."""
    oracle, x, h = MixtureDenoiser(WEIGHTS, MEANS, COVS), draw(1, seed=3), 1e-5
    columns = [(oracle(x + h * e, SIGMA) - oracle(x - h * e, SIGMA))[0] / (2 * h) for e in EYE]
    cov = oracle.posterior_cov(x, SIGMA)[0].numpy()
    np.testing.assert_allclose(np.stack(columns, 1), cov / SIGMA**2, atol=1e-8)


def test_mixture_by_bayes() -> None:
    """M1 and M2 from plain densities and matrix inverses."""
    oracle = MixtureDenoiser(WEIGHTS, MEANS, COVS)
    for x in draw(4):
        totals = [cov + SIGMA**2 * EYE for cov in COVS]
        w = WEIGHTS * [normal_density(x, mean, total) for mean, total in zip(MEANS, totals, strict=True)]
        w /= w.sum()
        gains = [cov @ np.linalg.inv(total) for cov, total in zip(COVS, totals, strict=True)]
        e = [mean + gain @ (x - mean) for mean, gain in zip(MEANS, gains, strict=True)]
        x0 = sum(w[k] * e[k] for k in range(3))
        second = sum(w[k] * (COVS[k] - gains[k] @ COVS[k] + np.outer(e[k], e[k])) for k in range(3))
        np.testing.assert_allclose(oracle(x[None], SIGMA)[0], x0, atol=1e-12)
        np.testing.assert_allclose(oracle.posterior_cov(x[None], SIGMA)[0], second - np.outer(x0, x0), atol=1e-12)


def test_mixture_of_one_is_gaussian_and_weights_need_no_sum() -> None:
    x = draw(4)
    one = MixtureDenoiser([3.0], MU[None], COV[None])
    np.testing.assert_allclose(one(x, SIGMA), GaussianDenoiser(MU, COV)(x, SIGMA), atol=1e-14)


def test_derivative_can_exceed_one() -> None:
    """M5: two atoms at +-1 seen from 0 give Cov[x0|x] = 1, so the slope is 1 / sigma^2."""
    atoms = MixtureDenoiser([0.5, 0.5], [[-1.0], [1.0]], np.zeros((2, 1, 1)))
    assert atoms.posterior_cov(np.zeros((1, 1)), 0.5)[0, 0, 0] == pytest.approx(1.0, abs=1e-14)
    assert (atoms(np.array([[1e-4]]), 0.5) / 1e-4).item() == pytest.approx(4.0, rel=1e-6)


def test_law_of_the_denoised_image() -> None:
    """G3 and G4 (A4): mean, covariance and error of x_hat over many draws, to four standard errors."""
    n, rng = 200_000, np.random.default_rng(0)
    gain = COV @ np.linalg.inv(COV + SIGMA**2 * EYE)
    x0 = MU + rng.normal(size=(n, 3)) @ ROOT.T
    oracle = GaussianDenoiser(MU, COV)
    given = oracle(x0[:1] + SIGMA * rng.normal(size=(n, 3)), SIGMA)
    expected = SIGMA**2 * gain @ gain.T
    assert np.all(np.abs(given.mean(0) - (MU + gain @ (x0[0] - MU))) < 4 * np.sqrt(np.diag(expected) / n))
    marginal = oracle(x0 + SIGMA * rng.normal(size=(n, 3)), SIGMA)
    for sample, cov in ((given, expected), (marginal, gain @ COV)):
        d = np.diag(cov)
        assert np.all(np.abs(np.cov(sample.T) - cov) < 4 * np.sqrt((np.outer(d, d) + cov**2) / n))
    errors = ((marginal - x0) ** 2).sum(1)
    assert abs(errors.mean() - np.trace(COV - gain @ COV)) < 4 * errors.std() / np.sqrt(n)


def test_empirical_is_a_mixture_of_points() -> None:
    data, x = draw(40, seed=1), draw(6)
    points = MixtureDenoiser(np.ones(40), data, np.zeros((40, 3, 3)))
    np.testing.assert_allclose(EmpiricalDenoiser(data)(x, SIGMA), points(x, SIGMA), atol=1e-12)


def test_empirical_limits() -> None:
    """A3: the nearest point, ties shared, at small sigma; the mean at large sigma."""
    data, x = draw(20, seed=1), draw(50)
    oracle = EmpiricalDenoiser(data)
    nearest = data[((x[:, None] - data) ** 2).sum(2).argmin(1)]
    np.testing.assert_allclose(oracle(x, 1e-6), nearest, atol=1e-8)
    np.testing.assert_allclose(oracle(x, 1e6), np.broadcast_to(data.mean(0), x.shape), atol=1e-8)
    tied = EmpiricalDenoiser([[-1.0], [1.0], [5.0]])
    np.testing.assert_allclose(tied(np.zeros((1, 1)), 1e-9), 0, atol=1e-8)


def test_empirical_guesses_lie_in_the_convex_hull() -> None:
    """A3: every guess is a weighted mean of the points, with weights that are not negative and sum to 1."""
    data = draw(20, seed=1)
    corners = np.concatenate([data.T, np.ones((1, 20))])
    for guess in EmpiricalDenoiser(data)(3 * draw(30), SIGMA):
        assert nnls(corners, np.append(guess, 1.0))[1] < 1e-8
    assert nnls(corners, np.append(data.max(0), 1.0))[1] > 0.1, "a corner of the box around them is none"


def test_empirical_counts_duplicates_and_ignores_order() -> None:
    data, x = draw(5, seed=1), draw(3)
    twice = EmpiricalDenoiser(np.concatenate([data, data[:1]]))
    weighted = MixtureDenoiser([2, 1, 1, 1, 1], data, np.zeros((5, 3, 3)))
    np.testing.assert_allclose(twice(x, SIGMA), weighted(x, SIGMA), atol=1e-12)
    np.testing.assert_allclose(
        EmpiricalDenoiser(data[::-1].copy())(x, 1.0), EmpiricalDenoiser(data)(x, 1.0), atol=1e-12
    )


@pytest.mark.parametrize("oracle", oracles())
def test_no_noise_and_nothing_but_noise(oracle: Any) -> None:
    x = draw(4)
    prior = {GaussianDenoiser: MU, MixtureDenoiser: WEIGHTS @ MEANS, EmpiricalDenoiser: MEANS.mean(0)}[type(oracle)]
    assert np.array_equal(oracle(x, 0.0), x)
    np.testing.assert_allclose(oracle(x, 1e7), np.broadcast_to(prior, x.shape), atol=1e-6)
    assert np.isfinite(oracle(x * 1e3, 1e-4)).all()  # far from all data: no 0 / 0


@pytest.mark.parametrize("oracle", oracles())
def test_one_sigma_a_row(oracle: Any) -> None:
    x, sigmas = draw(3), np.array([0.0, 0.5, 2.0])
    rows = [oracle(x[i : i + 1], float(sigmas[i]))[0] for i in range(3)]
    np.testing.assert_allclose(oracle(x, sigmas), np.stack(rows), atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_answers_in_kind(kind: Any, dtype: str) -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, 2, 2))
    for oracle in (GaussianDenoiser(np.zeros(12), np.eye(12)), EmpiricalDenoiser(images)):
        x = kind(images.astype(dtype))
        x0 = oracle(x, torch.tensor([0.0, 1.0]) if isinstance(x, Tensor) else np.array([0.0, 1.0]))
        assert type(x0) is type(x) and x0.dtype == x.dtype and x0.shape == x.shape
        assert isinstance(oracle, Denoiser)


def test_images_are_flattened_in_c_order() -> None:
    x = draw(2).reshape(2, 3, 1, 1)
    flat = GaussianDenoiser(MU, COV)(x.reshape(2, 3), SIGMA)
    np.testing.assert_array_equal(GaussianDenoiser(MU, COV)(x, SIGMA).reshape(2, 3), flat)
