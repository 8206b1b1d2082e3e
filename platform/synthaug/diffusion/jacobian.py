"""The derivative of a denoiser, which is a posterior covariance: J = Cov[x0 | x] / sigma^2, symmetric and positive."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from synthaug.diffusion.denoiser import Denoiser

# DiffAug's theorem 1, in variance-exploding coordinates. Its eigenvalues may exceed 1 between the modes of the data, so
# nothing here assumes J <= I. Give denoisers without clamping: a clamped pixel would be a row of zeros.


def jvp(denoiser: Denoiser, x: Tensor, sigma: float, v: Tensor) -> Tensor:
    """J v, row by row, by forward differentiation."""
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward derivative
        tangent = forward_ad.unpack_dual(denoiser(forward_ad.make_dual(x.detach(), v), sigma)).tangent
    return torch.zeros_like(x) if tangent is None else tangent


def vjp(denoiser: Denoiser, x: Tensor, sigma: float, v: Tensor) -> Tensor:
    """J^T v, row by row."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(denoiser(x, sigma), x, v)[0]


def asymmetry(denoiser: Denoiser, x: Tensor, sigma: float, v: Tensor) -> Tensor:
    """|(J - J^T) v| as a share of |(J + J^T) v|, for each row: 0 for the posterior mean of any data; for random v about
    1 where the entries of J know nothing of one another."""
    # Not <u, Jv> against <v, Ju>: in thousands of dimensions both are small for any matrix.
    jv, jtv = jvp(denoiser, x, sigma, v), vjp(denoiser, x, sigma, v)
    gap_B = (jv - jtv).flatten(1).norm(dim=1)
    size_B = (jv + jtv).flatten(1).norm(dim=1)
    share: Tensor = gap_B / size_B.clamp_min(1e-30)
    return share


def curvature(denoiser: Denoiser, x: Tensor, sigma: float, v: Tensor) -> Tensor:
    """<v, J v> / <v, v> for each row: the posterior variance along v over sigma^2, never negative for a true one."""
    jv = vjp(denoiser, x, sigma, v)  # <v, J^T v> = <v, J v>, and backward runs with fused attention
    return (v * jv).flatten(1).sum(1) / v.flatten(1).square().sum(1)


def class_gradient(
    log_p: Callable[[Tensor], Tensor], denoiser: Denoiser, x: Tensor, sigma: float, *, total: bool = True
) -> tuple[Tensor, Tensor]:
    """The gradient at noisy x of `log_p` (a number for each row) of what the denoiser makes of it, and its guess.

    `total` goes through the denoiser, which multiplies by its derivative: a projection onto what images look like.
    Without it the guess is taken for the variable itself.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0 = denoiser(x, sigma)
        if not total:
            x0 = x0.detach().requires_grad_()
        # The sum is for autograd only: a row's log_p hangs on that row, so each gets its own gradient.
        slope = torch.autograd.grad(log_p(x0).sum(), x if total else x0)[0]
    return slope, x0.detach()
