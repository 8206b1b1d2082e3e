"""Denoisers in closed form, for data that is Gaussian, a mixture of Gaussians, or a finite set.

All compute E[x0 | x] in float64 for x = x0 + sigma * noise and answer in the kind, shape and dtype of x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthaug.diffusion.denoiser import Array, Sigma


def _tensor(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _flat(x: Array, sigma: Sigma) -> tuple[Tensor, Tensor]:
    """x as B x D and sigma as B x 1, in float64."""
    x_BD = torch.as_tensor(x).to(torch.float64).flatten(1)
    sigma_B = torch.as_tensor(sigma, dtype=torch.float64, device=x_BD.device)
    return x_BD, sigma_B.reshape(-1).expand(len(x_BD))[:, None]


def _like(x: Array, result_BD: Tensor) -> Array:
    if isinstance(x, np.ndarray):
        return result_BD.numpy().reshape(x.shape).astype(x.dtype)
    return result_BD.reshape(x.shape).to(x.dtype)


class MixtureDenoiser:
    """The posterior mean under sum_k weights_k N(means_k, covs_k)."""

    def __init__(self, weights: Any, means: Any, covs: Any) -> None:
        self.means_KD = _tensor(means)
        # Along its own axes cov + sigma^2 I is diagonal: one decomposition serves every sigma.
        values, self.basis_KDD = torch.linalg.eigh(_tensor(covs))
        self.values_KD = values.clamp(min=0)  # a singular cov may have eigenvalues of -1e-17
        self.log_weights_K = _tensor(weights).log().log_softmax(0)

    def __call__(self, x: Array, sigma: Sigma, cond: object = None) -> Array:
        x_BD, sigma_B1 = _flat(x, sigma)
        w_BK, e_BKD, _ = self._components(x_BD, sigma_B1)
        # E[x0 | x] = sum_k w_k e_k
        return _like(x, torch.where(sigma_B1 == 0, x_BD, torch.einsum("bk,bkd->bd", w_BK, e_BKD)))

    def posterior_cov(self, x: Array, sigma: Sigma) -> Tensor:
        """Cov[x0 | x], B x D x D: within the components plus between them."""
        w_BK, e_BKD, shrunk_BKD = self._components(*_flat(x, sigma))
        basis = self.basis_KDD.to(e_BKD.device)
        # sum_k w_k (P_k + (e_k - x0) (e_k - x0)^T), with P_k turned back from the axes
        within = torch.einsum("bk,kij,bkj,klj->bil", w_BK, basis, shrunk_BKD, basis)
        away_BKD = e_BKD - torch.einsum("bk,bkd->bd", w_BK, e_BKD)[:, None]
        return within + torch.einsum("bk,bki,bkj->bij", w_BK, away_BKD, away_BKD)

    def _components(self, x_BD: Tensor, sigma_B1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each component's posterior weight, mean, and variances along its axes."""
        means, basis, values = (t.to(x_BD.device) for t in (self.means_KD, self.basis_KDD, self.values_KD))
        noise_B11 = torch.where(sigma_B1 == 0, 1.0, sigma_B1).square()[..., None]  # sigma = 0 is the caller's
        total_BKD = values + noise_B11  # S_k = C_k + sigma^2 I, of which x is drawn
        along_BKD = torch.einsum("bkd,kdj->bkj", x_BD[:, None] - means, basis)
        # log pi_k N(x; m_k, S_k) but for a constant; the softmax of logarithms does not underflow far from all means
        log_BK = self.log_weights_K.to(x_BD.device) - 0.5 * (along_BKD.square() / total_BKD + total_BKD.log()).sum(2)
        # e_k = m_k + C_k S_k^-1 (x - m_k)
        e_BKD = means + torch.einsum("bkj,kdj->bkd", along_BKD * values / total_BKD, basis)
        # P_k = C_k - C_k S_k^-1 C_k, which along an axis is c sigma^2 / (c + sigma^2): no difference, no cancellation
        return log_BK.softmax(1), e_BKD, values * noise_B11 / total_BKD


class GaussianDenoiser(MixtureDenoiser):
    """The posterior mean under N(mu, cov): mu + cov (cov + sigma^2)^-1 (x - mu)."""

    def __init__(self, mu: Any, cov: Any) -> None:
        super().__init__([1.0], _tensor(mu).reshape(1, -1), _tensor(cov)[None])


class EmpiricalDenoiser:
    """The posterior mean under a finite set: the average of its points, those near x counting most."""

    def __init__(self, data: Any) -> None:
        self.data_ND = _tensor(data).flatten(1)

    def __call__(self, x: Array, sigma: Sigma, cond: object = None) -> Array:
        x_BD, sigma_B1 = _flat(x, sigma)
        data_ND = self.data_ND.to(x_BD.device)
        safe_B1 = torch.where(sigma_B1 == 0, 1.0, sigma_B1)
        # No |x|^2 - 2 x.y + |y|^2 here: it cancels where sigma is small.
        away_BN = torch.cdist(x_BD, data_ND, compute_mode="donot_use_mm_for_euclid_dist") / safe_B1
        # w_i = softmax_i(-|x - x_i|^2 / (2 sigma^2)): the nearest point as sigma falls, their mean as it rises
        x0_BD = (-0.5 * away_BN.square()).softmax(1) @ data_ND
        return _like(x, torch.where(sigma_B1 == 0, x_BD, x0_BD))
