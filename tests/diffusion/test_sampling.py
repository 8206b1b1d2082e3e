"""Solvers against exact flows and diffusers' DDIM; diffuse_denoise against its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from scipy.linalg import sqrtm
from torch import Tensor

from synthaug.diffusion.denoiser import Denoiser, UNetDenoiser, sigmas_of
from synthaug.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from synthaug.diffusion.sampling import (
    ancestral,
    diffuse_denoise,
    euler,
    guided,
    heun,
    invert,
    karras_sigmas,
    standard_noise,
)

MU = np.array([0.5, -1.0])
COV = np.array([[1.0, 0.6], [0.6, 0.8]])
GAUSSIAN = GaussianDenoiser(MU, COV)
SIGMA = 1.5


def noisy(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clean points and the same noised to SIGMA."""
    rng = np.random.default_rng(seed)
    x0 = rng.multivariate_normal(MU, COV, rows)
    return torch.from_numpy(x0), torch.from_numpy(x0 + SIGMA * rng.normal(size=x0.shape))


def flow(x: Tensor) -> Tensor:
    """T4: the probability-flow ODE's exact end, mu + cov^1/2 (cov + sigma^2)^-1/2 (x - mu)."""
    root = np.real(sqrtm(COV) @ np.linalg.inv(sqrtm(COV + SIGMA**2 * np.eye(2))))
    return torch.from_numpy(MU + (x.numpy() - MU) @ root.T)


def levels(steps: int) -> Tensor:
    return karras_sigmas(steps, 1e-3, SIGMA)


def test_karras_levels() -> None:
    sigmas = karras_sigmas(5)
    expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)] + [0]
    np.testing.assert_allclose(sigmas, expected, rtol=1e-12)


def test_levels_of_a_schedule() -> None:
    abar = torch.tensor([0.99, 0.5, 0.1])
    np.testing.assert_allclose(sigmas_of(abar), [np.sqrt(0.01 / 0.99), 1.0, 3.0], rtol=1e-6)


def test_euler_is_of_first_order_and_heun_of_second() -> None:
    x, exact = noisy(20)[1], flow(noisy(20)[1])
    errors = {
        solve: [(solve(GAUSSIAN, x, levels(n)) - exact).abs().max().item() for n in (40, 80, 160)]
        for solve in (euler, heun)
    }
    for solve, (low, high) in {euler: (1.7, 2.3), heun: (3.4, 4.8)}.items():
        a, b, c = errors[solve]
        assert low < a / b < high and low < b / c < high, (solve.__name__, errors[solve])
    assert errors[heun][2] < 1e-3


def test_flow_and_posterior_sampling_keep_the_marginal() -> None:
    """T4 and F4: both end in N(mu, cov), the single step of DiffAug does not; how much of x0 they keep."""
    n = 200_000
    x0, x = noisy(n)
    gain = COV @ np.linalg.inv(COV + SIGMA**2 * np.eye(2))
    root = np.linalg.cholesky(GAUSSIAN.posterior_cov(x[:1], SIGMA)[0].numpy())
    drawn = GAUSSIAN(x, SIGMA).numpy() + np.random.default_rng(9).normal(size=(n, 2)) @ root.T
    solved = heun(GAUSSIAN, x, levels(40)).numpy()
    step = diffuse_denoise(x0, SIGMA, GAUSSIAN, generator=torch.Generator().manual_seed(1)).numpy()
    near = {"drawn": COV, "solved": COV, "step": gain @ COV}
    for name, sample in {"drawn": drawn, "solved": solved, "step": step}.items():
        d, cov = np.diag(COV), near[name]
        assert np.all(np.abs(sample.mean(0) - MU) < 4 * np.sqrt(d / n)), name
        assert np.all(np.abs(np.cov(sample.T) - cov) < 4 * np.sqrt((np.outer(d, d) + COV**2) / n) + 1e-3), name
    kept = (x0.numpy() - MU).T @ (drawn - MU) / n
    assert np.all(np.abs(kept - gain @ COV) < 4 * np.sqrt(2 * np.outer(np.diag(COV), np.diag(COV)) / n))


def test_correlation_kept_by_flow_is_the_root_of_that_kept_by_sampling() -> None:
    """F4 in one dimension: rho_SDE = tau^2 / (tau^2 + sigma^2) and rho_ODE its square root."""
    tau, n = 0.8, 100_000
    oracle = GaussianDenoiser([0.0], [[tau**2]])
    rng = np.random.default_rng(0)
    x0 = tau * rng.normal(size=(n, 1))
    x = torch.from_numpy(x0 + SIGMA * rng.normal(size=(n, 1)))
    solved = heun(oracle, x, levels(40)).numpy()
    drawn = oracle(x, SIGMA).numpy() + np.sqrt(oracle.posterior_cov(x[:1], SIGMA).item()) * rng.normal(size=(n, 1))
    rho = tau**2 / (tau**2 + SIGMA**2)
    assert np.corrcoef(x0[:, 0], drawn[:, 0])[0, 1] == pytest.approx(rho, abs=4 / np.sqrt(n))
    assert np.corrcoef(x0[:, 0], solved[:, 0])[0, 1] == pytest.approx(np.sqrt(rho), abs=4 / np.sqrt(n))


def test_the_reverse_sde_step_by_step_is_posterior_sampling() -> None:
    """Ancestral steps: the marginal stays, and of x0 is kept what the exact posterior keeps, not what the flow does.
    Each step is the exact q(x_next | x, x0) for a known x0; in 500 of them what the guess leaves out is small."""
    n = 50_000
    x0, x = noisy(n)
    generator = torch.Generator().manual_seed(3)
    steps = karras_sigmas(500, 1e-3, SIGMA)
    made = ancestral(GAUSSIAN, x, steps, draw=lambda like: standard_noise(like, generator)).numpy()
    d = np.diag(COV)
    assert np.all(np.abs(made.mean(0) - MU) < 4 * np.sqrt(d / n))
    assert np.all(np.abs(np.cov(made.T) - COV) < 0.02)
    kept = (x0.numpy() - MU).T @ (made - MU) / n
    gain = COV @ np.linalg.inv(COV + SIGMA**2 * np.eye(2))
    assert np.all(np.abs(kept - gain @ COV) < 0.02)
    assert np.abs((x0.numpy() - MU).T @ (flow(x).numpy() - MU) / n - gain @ COV).max() > 0.2, "the flow keeps more"


def test_an_ancestral_step_is_the_posterior_of_the_next_level() -> None:
    """With the truth for a guess: q(x_t | x_s, x0) of x_s = x_t + noise, by Bayes' rule for Gaussians."""
    s, t, rows = 2.0, 0.7, 200_000
    x0 = torch.full((rows, 1), 0.3, dtype=torch.float64)
    x = torch.full((rows, 1), 1.9, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    made = ancestral(lambda x, sigma, cond: x0, x, [s, t], draw=lambda like: standard_noise(like, generator))
    precision = 1 / t**2 + 1 / (s**2 - t**2)
    mean = (0.3 / t**2 + 1.9 / (s**2 - t**2)) / precision
    assert made.mean().item() == pytest.approx(mean, abs=4 / np.sqrt(rows * precision))
    assert made.var().item() == pytest.approx(1 / precision, rel=4 * np.sqrt(2 / rows))


class EpsilonNet:
    """A smooth stand-in for a diffusers UNet that predicts the noise."""

    dtype = torch.float64

    def __call__(self, x: Tensor, t: Tensor, return_dict: bool, class_labels: Tensor | None = None) -> tuple[Tensor]:
        shift = 0.0 if class_labels is None else class_labels.reshape(-1, 1, 1, 1)
        return (torch.sin(x + t.reshape(-1, 1, 1, 1) / 300) + 0.1 * x + shift,)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_euler_is_ddim(spacing: str) -> None:
    """diffusers' DDIMScheduler at eta 0, step by step, in its own coordinates."""
    scheduler: Any = DDIMScheduler(clip_sample=False, timestep_spacing=spacing, set_alpha_to_one=True)
    scheduler.set_timesteps(20)  # divides 1000: else its last step of a stride misses the next timestep
    net = EpsilonNet()
    denoiser = UNetDenoiser(net, scheduler.alphas_cumprod)
    sigmas = [*sigmas_of(scheduler.alphas_cumprod)[scheduler.timesteps].tolist(), 0.0]
    x_t = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x_t * (1 + sigmas[0] ** 2) ** 0.5
    for i, t in enumerate(scheduler.timesteps):
        x_t = scheduler.step(net(x_t, t, return_dict=False)[0], t, x_t, eta=0.0).prev_sample
        x = euler(denoiser, x, sigmas[i : i + 2])
        torch.testing.assert_close(x / (1 + sigmas[i + 1] ** 2) ** 0.5, x_t, atol=2e-5, rtol=1e-5)


def test_inversion_goes_back() -> None:
    """Up and down again on exact denoisers, in 200 steps; corrections make up for the steps' error."""
    x0 = noisy(30)[0]
    mixture = MixtureDenoiser([0.4, 0.6], [[1.0, 1.0], [-1.0, 0.0]], np.stack([0.2 * COV, 0.3 * np.eye(2)]))
    for oracle in (GAUSSIAN, mixture):
        for corrections, near in ((0, 0.05), (1, 1e-3), (2, 1e-4)):
            up = invert(oracle, x0, levels(200), corrections=corrections)
            assert (up - x0).abs().max() > 0.3
            assert (euler(oracle, up, levels(200)) - x0).abs().max() < near, (oracle, corrections)
    many = invert(GAUSSIAN, x0, levels(4000))
    assert (flow(many) - x0).abs().max() < 2e-3  # it follows the ODE itself


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.5])
def test_guidance(weight: float) -> None:
    def shifted(x: Tensor, sigma: float | Tensor, cond: Any = None) -> Tensor:
        return x + (0.0 if cond is None else cond)

    x = torch.zeros(2, 2)
    assert isinstance(shifted, Denoiser)
    expected = -1.0 + weight * (2.0 - -1.0)
    torch.testing.assert_close(guided(shifted, weight, -1.0)(x, 1.0, 2.0), torch.full((2, 2), expected))


def test_diffuse_denoise_is_its_formula() -> None:
    """A5: one generator, one a row, given noise."""
    x = noisy(4)[0].float()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    one = diffuse_denoise(x, SIGMA, GAUSSIAN, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one, GAUSSIAN(x + SIGMA * noise, SIGMA))
    assert torch.equal(diffuse_denoise(x, SIGMA, GAUSSIAN, noise=noise), one)
    rows = [torch.randn(2, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    each = diffuse_denoise(x, SIGMA, GAUSSIAN, generator=[torch.Generator().manual_seed(i) for i in range(4)])
    assert torch.equal(each, GAUSSIAN(x + SIGMA * torch.stack(rows), SIGMA))


def test_diffuse_denoise_rows_are_independent() -> None:
    x, sigmas, order = noisy(4)[0], torch.tensor([0.0, 0.5, 1.0, 2.0]), [2, 0, 3, 1]
    seeds = [5, 6, 7, 8]
    a = diffuse_denoise(x, sigmas, GAUSSIAN, generator=[torch.Generator().manual_seed(s) for s in seeds])
    b = diffuse_denoise(
        x[order], sigmas[order], GAUSSIAN, generator=[torch.Generator().manual_seed(seeds[i]) for i in order]
    )
    assert torch.equal(a[order], b)
    assert torch.equal(a[0], x[0]) and not torch.equal(a[1], x[1])


def test_diffuse_denoise_clamps() -> None:
    x = noisy(50)[0]
    result = diffuse_denoise(x, 0.3, GAUSSIAN, generator=torch.Generator().manual_seed(0), clamp=(-0.5, 0.5))
    free = diffuse_denoise(x, 0.3, GAUSSIAN, generator=torch.Generator().manual_seed(0))
    assert torch.equal(result, free.clamp(-0.5, 0.5)) and not torch.equal(result, free)


def test_diffuse_denoise_without_noise_is_the_identity() -> None:
    x = noisy(3)[0].numpy() * 10
    careless = lambda x, sigma, cond=None: x * 0  # noqa: E731
    assert np.array_equal(diffuse_denoise(x, 0, careless, clamp=(-1, 1)), x)
    assert np.array_equal(diffuse_denoise(x, np.zeros(3), careless), x)


def test_diffuse_denoise_passes_the_condition() -> None:
    seen: list[Any] = []

    def denoiser(x: Tensor, sigma: float | Tensor, cond: Any = None) -> Tensor:
        seen.append((sigma, cond))
        return x

    diffuse_denoise(torch.zeros(2, 1), 0.5, denoiser, cond="c")
    diffuse_denoise(torch.zeros(2, 1), torch.tensor([0.5, 1.0]), denoiser)
    assert seen[0] == (0.5, "c")
    assert torch.equal(seen[1][0], torch.tensor([0.5, 1.0])) and seen[1][1] is None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_diffuse_denoise_answers_in_kind(kind: Any, dtype: str) -> None:
    x = kind(np.zeros((2, 2), dtype))
    result = diffuse_denoise(x, 0.5, GAUSSIAN, generator=torch.Generator().manual_seed(0))
    assert type(result) is type(x) and result.dtype == x.dtype and result.shape == x.shape
    full = diffuse_denoise(torch.zeros(2, 2), 0.5, GAUSSIAN, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(np.asarray(result, "float32"), full, atol=2e-3)  # precisions share their noise


@pytest.mark.parametrize("solve", [euler, heun, invert])
def test_solvers_keep_the_dtype(solve: Any) -> None:
    x = noisy(2)[1].float()
    assert solve(GAUSSIAN, x, levels(3)).dtype == torch.float32
