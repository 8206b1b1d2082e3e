"""Noise levels, the probability-flow ODE down and up, and DiffAug's single step; functions of any denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthaug.diffusion.denoiser import Array, Denoiser, Sigma, per_row

Generators = torch.Generator | Sequence[torch.Generator] | None
LogP = Callable[[Tensor, float | Tensor, Tensor, Any], Tensor]  # x, sigma, the guess x0, cond: a number for each row


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """`steps` falling noise levels and a 0 (Karras et al. 2022, equation 5)."""
    # Even steps of sigma^(1/rho): with rho = 7 most of them lie at low noise, where steps must be short.
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def euler(denoiser: Denoiser, x: Tensor, sigmas: Iterable[float], cond: Any = None) -> Tensor:
    """The probability-flow ODE dx/dsigma = (x - D) / sigma along falling sigmas: DDIM at eta 0."""
    for s, s_next in pairwise(map(float, sigmas)):
        x0 = denoiser(x, s, cond)
        x = x0 + (s_next / s) * (x - x0)  # = x + (s_next - s) (x - x0) / s, and x0 itself at the end
    return x


def heun(denoiser: Denoiser, x: Tensor, sigmas: Iterable[float], cond: Any = None) -> Tensor:
    """The same ODE to second order (Karras et al. 2022, algorithm 1 without noise)."""
    for s, s_next in pairwise(map(float, sigmas)):
        slope = (x - denoiser(x, s, cond)) / s
        ahead = x + (s_next - s) * slope
        if s_next > 0:  # at 0 there is no slope to correct with
            slope = (slope + (ahead - denoiser(ahead, s_next, cond)) / s_next) / 2
        x = x + (s_next - s) * slope
    return x


def ancestral(
    denoiser: Denoiser, x: Tensor, sigmas: Iterable[float], cond: Any = None, *, draw: Callable[[Tensor], Tensor]
) -> Tensor:  # fmt: skip
    """The reverse SDE: at each level x is drawn anew given the guess, from q(x_next | x, x0) (Ho et al. 2020, equation
    6, without their shrinking of x). `draw` gives unit noise like what it is given."""
    for s, s_next in pairwise(map(float, sigmas)):
        x0, share = denoiser(x, s, cond), (s_next / s) ** 2
        x = x0 + share * (x - x0)
        if s_next > 0:
            x = x + s_next * (1 - share) ** 0.5 * draw(x)
    return x


def invert(
    denoiser: Denoiser, x: Tensor, sigmas: Iterable[float], cond: Any = None, *, corrections: int = 0
) -> Tensor:  # fmt: skip
    """DDIM inversion: the ODE up the levels that `euler` goes down, from the clean image to the noise. Each
    correction, a fixed-point step for an evaluation more, brings `euler` back closer to x."""
    for s, s_next in pairwise(map(float, reversed(list(sigmas)))):
        # Euler upwards takes the slope at s; euler downwards will take it at s_next. DDIM's inversion ignores that.
        y = x + (s_next - s) * (x - denoiser(x, s, cond)) / s if s > 0 else x  # at sigma = 0 the slope is 0
        for _ in range(corrections):
            # towards the y from which euler's step from s_next leads to x
            y = x + (s_next - s) * (y - denoiser(y, s_next, cond)) / s_next
        x = y
    return x


def guided(denoiser: Denoiser, weight: float, negative: Any = None) -> Denoiser:
    """Classifier-free guidance: uncond + weight (cond - uncond)."""

    def guide(x: Tensor, sigma: float | Tensor, cond: Any = None) -> Tensor:
        x0 = denoiser(x, sigma, cond)
        if weight == 1:  # the same, for half the calls
            return x0
        uncond = denoiser(x, sigma, negative)
        return uncond + weight * (x0 - uncond)

    return guide


def steered(denoiser: Denoiser, log_p: LogP, scale: float, *, total: bool = True) -> Denoiser:
    """Classifier guidance: x0 + sigma^2 scale d log p / dx, the guess under a score that leans towards `cond`, which
    only log_p is told.

    `total` differentiates through the guess as well, which pulls the classifier's wish onto what images look like;
    without it the guess counts as given.
    """

    def steer(x: Tensor, sigma: float | Tensor, cond: Any = None) -> Tensor:
        s = per_row(sigma, x)
        with torch.enable_grad():  # whoever samples may be inside no_grad
            x_ = x.detach().requires_grad_()
            with torch.set_grad_enabled(total):
                x0 = denoiser(x_, sigma)
            # The total derivative d log p / dx + J^T d log p / dx0, where log_p looks at the guess.
            slope = torch.autograd.grad(log_p(x_, sigma, x0, cond).sum(), x_)[0]
        # Tweedie: E[x0 | x] = x + sigma^2 score, so what is added to the score counts sigma^2.
        leaning = x0.detach() + s.square() * scale * slope
        return torch.where(s == 0, x, leaning).to(x.dtype)

    return steer


def standard_noise(x: Tensor, generator: Generators = None) -> Tensor:
    """Unit noise like x: from one generator, or each row from its own. Half precision gets rounded float32 noise."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if generator is None or isinstance(generator, torch.Generator):
        device = x.device if generator is None else generator.device
        noise = torch.randn(x.shape, generator=generator, dtype=dtype, device=device)
    else:
        assert len(generator) == len(x), f"{len(generator)} generators for {len(x)} rows"
        # a row at a time, so that its noise does not hang on the rows beside it
        noise = torch.stack([torch.randn(x.shape[1:], generator=g, dtype=dtype, device=g.device) for g in generator])
    return noise.to(x)


def diffuse_denoise(
    x: Array, sigma: Sigma, denoiser: Denoiser, *, generator: Generators = None, noise: Array | None = None,
    cond: Any = None, clamp: tuple[float, float] | None = None,
) -> Array:  # fmt: skip
    """DiffAug (Sastry et al. 2024): noise x, then take the denoiser's single guess at what it was."""
    x_ = torch.as_tensor(x)
    noise_ = standard_noise(x_, generator) if noise is None else torch.as_tensor(noise).to(x_)
    s = per_row(sigma, x_)
    level = float(sigma) if isinstance(sigma, int | float) else s.flatten()
    x_hat = torch.as_tensor(denoiser((x_ + s * noise_).to(x_.dtype), level, cond))
    if clamp is not None:
        x_hat = x_hat.clamp(*clamp)
    x_hat = torch.where(s == 0, x_, x_hat).to(x_.dtype)  # x at sigma = 0, not even clamped
    return x_hat.numpy() if isinstance(x, np.ndarray) else x_hat
