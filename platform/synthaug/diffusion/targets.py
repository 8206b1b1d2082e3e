"""What a net may be asked to predict, and at which noise levels it is trained.

Any of them is a denoiser of x = x0 + sigma noise with coefficients of its own, and any is trained by one loss: the
weighted error of its guess at x0, where the weight makes it the plain error of what the net itself predicts.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from synthaug.diffusion.denoiser import Preconditioning, precondition, sigmas_of
from synthaug.diffusion.layout import Target

_LATEST = 1 - 1e-4  # at 1 there is nothing but noise, and sigma has no end


def coefficients(target: Target, sigma: Tensor) -> Preconditioning:
    """Of the net's denoiser; in the place of EDM's noise level it may be told a time."""
    if target == "edm":
        return precondition(sigma)
    if target == "velocity":  # x_t = (1 - t) x0 + t noise, so sigma = t / (1 - t); v = noise - x0, and x0 = x_t - t v
        t = sigma / (1 + sigma)
        # told in thousandths, as diffusers' flow matching does
        return Preconditioning(c_skip=1 - t, c_out=-t, c_in=1 - t, c_noise=1000 * t, weight=t**-2)
    c_in, one = (1 + sigma.square()).rsqrt(), torch.ones_like(sigma)
    if target == "epsilon":  # x0 = x - sigma eps
        return Preconditioning(c_skip=one, c_out=-sigma, c_in=c_in, c_noise=_ddpm_time(sigma), weight=sigma**-2)
    return Preconditioning(c_skip=0 * one, c_out=one, c_in=c_in, c_noise=_ddpm_time(sigma), weight=one)


def draw_levels(target: Target, count: int, generator: torch.Generator) -> Tensor:
    """The noise levels of a batch."""
    if target == "edm":
        return (1.2 * torch.randn(count, generator=generator) - 1.2).exp()  # table 1
    if target == "velocity":
        t = torch.rand(count, generator=generator).clamp(1 - _LATEST, _LATEST)
        return t / (1 - t)
    return _ddpm_sigmas()[torch.randint(1000, (count,), generator=generator)]


@lru_cache(maxsize=1)
def _ddpm_sigmas() -> Tensor:
    """DDPM's linear schedule, which nets that predict noise or the image itself are trained and kept with."""
    return sigmas_of((1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)).float()


def _ddpm_time(sigma: Tensor) -> Tensor:
    """Where sigma lies among the timesteps, linear in its logarithm, as `UNetDenoiser.timestep` has it."""
    grid = _ddpm_sigmas().log().to(sigma.device)
    log_sigma = sigma.float().log().clamp(grid[0], grid[-1])
    right = torch.searchsorted(grid, log_sigma.contiguous()).clamp(1, len(grid) - 1)
    t = right - 1 + (log_sigma - grid[right - 1]) / (grid[right] - grid[right - 1])
    whole = t.round()
    return torch.where((t - whole).abs() < 1e-3, whole, t).to(sigma.dtype)
