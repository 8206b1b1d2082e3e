"""ScoreAug's Theorem 1: denoisers and scores of transformed data, and the least loss, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_scoreaug import always, dice, images, matrix
from torch import Tensor

from synthaug.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from synthaug.diffusion.scoreaug import Omega, apply, inverse, loss, transformed
from synthaug.diffusion.transforms import (
    Brightness,
    Cutout,
    Flip,
    Gamma,
    PixelTransform,
    Rotation,
    Translation,
)  # fmt: skip
from synthaug.settings import UserError


def mixture(size: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(3, size * size, size * size))
    return np.array([0.2, 0.5, 0.3]), rng.normal(size=(3, size * size)), roots @ roots.transpose(0, 2, 1)


@pytest.mark.parametrize("omega", [
    Omega(turns=torch.tensor([1.0])), Omega(flip=torch.tensor([[1.0, 1.0]])),
    Omega(brightness=torch.tensor([0.3], dtype=torch.float64)),
    Omega(turns=torch.tensor([3.0]), brightness=torch.tensor([-0.2], dtype=torch.float64)),
])  # fmt: skip
def test_denoisers_of_transformed_data(omega: Omega) -> None:
    """S3 and S6 (E2): T D(T^-1 y) is the posterior mean of the transformed mixture under noise of covariance
    sigma^2 T T'; for orthogonal T, and for a brightness b at noise b sigma, that is the mixture's own denoiser."""
    weights, means, covs = mixture()
    T = matrix(omega, 2)
    b = 1.0 if omega.brightness is None else math.exp(float(omega.brightness[0]))
    theirs = MixtureDenoiser(weights, means @ T.T, T @ covs @ T.T)
    y = torch.randn(5, 1, 2, 2, generator=dice(), dtype=torch.float64)
    many = Omega(*(None if part is None else part.expand(5, *part.shape[1:]) for part in omega))
    ours = transformed(MixtureDenoiser(weights, means, covs), many)(y, 0.7)
    torch.testing.assert_close(ours, theirs(y, b * 0.7), atol=1e-9, rtol=0)


def test_what_cannot_be_undone_is_refused() -> None:
    for omega, name in ((always(Cutout(), 2), "cutout"), (always(Translation(most=0.25), 2), "shift"),
                        (always(Gamma(), 2), "gamma")):  # fmt: skip
        with pytest.raises(UserError, match=f"{name} cannot be undone"):
            inverse(omega)
    x = images(2)
    for omega in (always(Rotation(), 2), always(Flip(), 2), always(Brightness(), 2)):
        torch.testing.assert_close(apply(apply(x, omega), inverse(omega)), x, atol=1e-12, rtol=0)


def test_scores_under_a_transform_that_is_not_linear() -> None:
    """S4: of y = sinh x with x ~ N(0, v), against the derivative of the density itself."""
    v, x = 1.36, torch.tensor(0.37, dtype=torch.float64)
    y = x.sinh().requires_grad_()
    log_p = -0.5 * torch.asinh(y) ** 2 / v - 0.5 * torch.log1p(y**2)  # log p(asinh y) + log |d asinh / dy|
    score = torch.autograd.grad(log_p, y)[0]
    carried = (-x / v - x.tanh()) / x.cosh()  # J^-T (score of x - the gradient of log |det J|)
    torch.testing.assert_close(score, carried, atol=1e-12, rtol=0)
    assert abs(float(score) + 0.5855128618) < 1e-9


def optimum(mu: np.ndarray, cov: np.ndarray, T: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """E[T x0 | T (x0 + sigma n) = y] = A y + c for Gaussian x0."""
    A = T @ cov @ T.T @ np.linalg.pinv(T @ (cov + sigma**2 * np.eye(len(mu))) @ T.T)
    return A, T @ mu - A @ T @ mu


def test_the_best_answer_to_a_cut_image() -> None:
    """S5: on what is left it is the denoiser of what is left, elsewhere 0; and not the cut answer to the whole."""
    rng = np.random.default_rng(1)
    root, mu, sigma = rng.normal(size=(4, 4)), rng.normal(size=4), 0.7
    cov = root @ root.T
    T = matrix(Omega(cutout=torch.tensor([[0.0, 0.0, 0.5, 0.5]])), 2)
    kept = np.diag(T) == 1
    assert kept.sum() == 3
    A, c = optimum(mu, cov, T, sigma)
    y = T @ rng.normal(size=4)
    marginal = GaussianDenoiser(mu[kept], cov[np.ix_(kept, kept)])
    np.testing.assert_allclose((A @ y + c)[kept], marginal(y[None, kept], sigma)[0], atol=1e-9)
    np.testing.assert_array_equal((A @ y + c)[~kept], 0)
    whole = GaussianDenoiser(mu, cov)(y[None], sigma)[0]
    assert np.abs(A @ y + c - T @ whole).max() > 0.01


@pytest.mark.parametrize("transform", [Rotation(), Cutout(least=0.5), Brightness(), Translation(most=0.5)])
def test_the_least_loss_is_the_closed_form(transform: PixelTransform) -> None:
    """S7 and E4: the linear denoiser with the least mean loss, under each omega, is the posterior mean."""
    rng = np.random.default_rng(2)
    root, mu, sigma, count = rng.normal(size=(4, 4)), rng.normal(size=4), 0.8, 200_000
    omega = Omega(**{transform.field: transform.values(1, 2, dice(4))})
    T = matrix(omega, 2)
    assert not np.array_equal(T, np.eye(4))
    x0 = torch.from_numpy(mu + rng.normal(size=(count, 4)) @ root.T).view(-1, 1, 2, 2)
    noise = torch.from_numpy(rng.normal(size=(count, 4))).view(-1, 1, 2, 2)
    many = Omega(*(None if part is None else part.expand(count, *part.shape[1:]) for part in omega))
    seen: dict[str, Tensor] = {}

    def net(y: Tensor, s: Any, cond: Any) -> Tensor:
        seen["y"] = y
        return torch.zeros_like(y)

    loss(net, x0, torch.tensor(sigma), many, noise)
    y, target = seen["y"].flatten(1).numpy(), apply(x0, many).flatten(1).numpy()
    fitted = np.linalg.lstsq(np.c_[y, np.ones(count)], target, rcond=None)[0]
    A, c = optimum(mu, root @ root.T, T, sigma)
    here = y[:50]
    np.testing.assert_allclose(np.c_[here, np.ones(50)] @ fitted, here @ A.T + c, atol=0.03)


def test_untold_turns_leak_and_untold_brightness_does_not() -> None:
    """E4 and S10: an untold net answers with the mixture of all that may have been done, weighted by how likely each
    is. Turns leave no trace in the noise; the noise of a brighter image is louder, which many pixels tell."""
    pixels, sigma, b = 3072, 5.0, 1.2
    rng = np.random.default_rng(0)
    # per pixel, of N(0, b^2) noise: log likelihood of b over that of 1
    each = math.log(1 / b) + 0.5 * (b**2 - 1)
    noise = rng.normal(size=(200, pixels)) * b
    found = (0.5 * noise**2 * (1 - 1 / b**2) - math.log(b)).mean()
    assert abs(found - each) < 0.005 and each * pixels > 50  # nats: brightness is known all but surely
    # of N(0, 1) noise that was not made brighter: S10's number
    other = math.log(b) + 1 / (2 * b**2) - 0.5
    still = rng.normal(size=(200, pixels))
    assert abs((0.5 * still**2 * (1 / b**2 - 1) + math.log(b)).mean() - other) < 0.002
    assert abs(other - 0.02954) < 1e-5 and other * pixels > 90
    # turns: the mean of a class and its four turns, as far apart as they are, are one to a net that sees much noise
    mu = np.zeros((2, 2))
    mu[0, 0] = 1.0
    means = np.stack([np.rot90(mu, k).ravel() for k in range(4)])
    untold = MixtureDenoiser(np.full(4, 0.25), means, np.stack([0.01 * np.eye(4)] * 4))
    told = GaussianDenoiser(mu.ravel(), 0.01 * np.eye(4))
    y = mu.ravel()[None]
    assert np.abs(untold(y, sigma) - means.mean(0)).max() < 0.05 < np.abs(told(y, sigma) - means.mean(0)).max()
