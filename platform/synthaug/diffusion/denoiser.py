"""The narrow waist: denoiser(x, sigma, cond) -> x0 for x = x0 + sigma * noise, and networks that fit it.

A variance-preserving model sees x_t = sqrt(abar) x0 + sqrt(1 - abar) noise, which is x / sqrt(1 + sigma^2)
with sigma = sqrt((1 - abar) / abar).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from synthaug.settings import UserError

Array = TypeVar("Array", np.ndarray, Tensor)
Sigma = float | np.ndarray | Tensor
Prediction = Literal["epsilon", "v_prediction", "sample"]


@runtime_checkable
class Denoiser(Protocol):
    """Predicts the clean image. sigma is a scalar or one number a row, in units of x; sigma = 0 returns x."""

    def __call__(self, x: Tensor, sigma: float | Tensor, cond: Any = None) -> Tensor: ...


class NetDenoiser(Denoiser, Protocol):
    """A denoiser that is a network."""

    @property
    def net(self) -> Any:
        """The network, with the device that it is on and, where it is one of diffusers, its config."""

    @property
    def rows(self) -> int:
        """How many images have gone through it."""

    @property
    def alphas_cumprod(self) -> Tensor:
        """The schedule whose noise levels it knows."""


def sigmas_of(alphas_cumprod: Tensor) -> Tensor:
    """sigma of each timestep of a variance-preserving schedule."""
    abar = torch.as_tensor(alphas_cumprod).to(torch.float64)
    return ((1 - abar) / abar).sqrt()


def per_row(sigma: Sigma, x: Tensor) -> Tensor:
    """sigma as B x 1 x 1 ..., in float32 or better."""
    dtype = torch.promote_types(x.dtype, torch.float32)  # in half precision 1 + 0.01^2 is 1
    sigma_B = torch.as_tensor(sigma, dtype=dtype, device=x.device).reshape(-1).expand(len(x))
    return sigma_B.reshape(-1, *[1] * (x.ndim - 1))


def parts_of(folder: Path) -> tuple[Path, Path]:
    """Where the unet and the schedule of a pixel model are: in unet/ and scheduler/, or both in the folder itself."""
    whole = (folder / "unet").is_dir()  # a whole DDPMPipeline, not the UNet alone with its schedule beside it
    unet, scheduler = (folder / "unet", folder / "scheduler") if whole else (folder, folder)
    config = unet / "config.json"
    known = json.loads(config.read_text()).get("_class_name") if config.is_file() else None
    if known != "UNet2DModel" or not (scheduler / "scheduler_config.json").is_file():
        needs = "config.json of a UNet2DModel and scheduler_config.json, there or in its unet/ and scheduler/"
        raise UserError(f"{str(folder)!r} holds no pixel model of diffusers; it needs {needs}")
    return unet, scheduler


def schedule_of(folder: Path) -> Any:
    """The schedule that a pixel model was trained on."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_pretrained(folder)


class UNetDenoiser:
    """A diffusers UNet2DModel, class-conditional or not, trained on a variance-preserving schedule. `rows` counts what
    has gone through it."""

    def __init__(self, net: Any, alphas_cumprod: Tensor, prediction: Prediction = "epsilon") -> None:
        self.net, self.prediction = net, prediction
        self.alphas_cumprod, self.rows = torch.as_tensor(alphas_cumprod), 0
        self.log_sigmas = sigmas_of(alphas_cumprod).log().numpy()

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> UNetDenoiser:
        """The unet and the schedule of a DDPMPipeline's folder."""
        from diffusers import UNet2DModel

        unet, scheduler = parts_of(folder)
        schedule = schedule_of(scheduler)
        net: Any = UNet2DModel.from_pretrained(unet, torch_dtype=dtype)
        return cls(net.to(device).eval(), schedule.alphas_cumprod, schedule.config.prediction_type)

    def timestep(self, sigma: Sigma) -> Tensor:
        """Where sigma lies among the timesteps, linear in log sigma; a grid point gives a whole number, and what
        lies beyond the grid its end."""
        levels = torch.as_tensor(sigma).detach().cpu().double().numpy()
        log_sigma = np.log(np.maximum(levels, 1e-30))
        # The logarithm, because sigma runs over four decades (0.01 to 157 in the linear schedule).
        t = np.interp(log_sigma, self.log_sigmas, np.arange(len(self.log_sigmas)))
        # A sigma of the grid that came through float32 is put back on it: the net learned whole times.
        whole = np.round(t)
        return torch.from_numpy(np.where(np.abs(t - whole) < 1e-3, whole, t)).float()

    def __call__(self, x: Tensor, sigma: Sigma, cond: Tensor | None = None) -> Tensor:
        s = per_row(sigma, x)
        a = (1 + s.square()).rsqrt()  # sqrt(abar); s * a is the standard deviation of the noise in x_t
        t = self.timestep(s.flatten()).to(x.device)
        named = {} if cond is None else {"class_labels": cond}
        self.rows += len(x)
        out = self.net((a * x).to(self.net.dtype), t, return_dict=False, **named)[0]
        out = out[:, : x.shape[1]]  # others would tell the variance (learn_sigma)
        if self.prediction == "epsilon":
            x0 = x - s * out  # (x_t - sqrt(1 - abar) eps) / sqrt(abar), with x_t = a x and sqrt(1 - abar) = s a
        elif self.prediction == "v_prediction":
            x0 = a * (a * x) - s * a * out  # sqrt(abar) x_t - sqrt(1 - abar) v: no error is magnified
        else:
            x0 = out
        return torch.where(s == 0, x, x0).to(x.dtype)


class Preconditioning(NamedTuple):
    """The coefficients of EDM (Karras et al. 2022, table 1) and the weight of its loss."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor
    weight: Tensor


def precondition(sigma: Tensor, sigma_data: float = 0.5) -> Preconditioning:
    """With these, the net's input and its target both have variance 1."""
    total = sigma.square() + sigma_data**2  # the variance of x
    c_out = sigma * sigma_data * total.rsqrt()
    return Preconditioning(
        c_skip=sigma_data**2 / total,  # of all choices it makes c_out smallest, so the net's errors count least
        c_out=c_out,
        c_in=total.rsqrt(),  # c_in^2 (sigma^2 + sigma_data^2) = 1
        c_noise=sigma.log() / 4,
        weight=c_out.square().reciprocal(),  # lambda c_out^2 = 1: every noise level weighs the same
    )


def levels(count: int = 1000, low: float = 0.002, high: float = 80.0) -> Tensor:
    """The noise levels between which EDM samples, as the alphas_cumprod of a schedule that has them."""
    sigma = torch.logspace(math.log10(low), math.log10(high), count, dtype=torch.float64)
    return (1 + sigma.square()).reciprocal()


class Preconditioned:
    """c_skip x + c_out net(c_in x, c_noise, cond): EDM's denoiser, or that of other coefficients. `rows` counts what
    has gone through it."""

    def __init__(
        self, net: Callable[[Tensor, Tensor, Any], Tensor],
        coefficients: Callable[[Tensor], Preconditioning] = precondition,
    ) -> None:  # fmt: skip
        self.net: Any = net
        self.coefficients, self.alphas_cumprod, self.rows = coefficients, levels(), 0

    def __call__(self, x: Tensor, sigma: Sigma, cond: Any = None) -> Tensor:
        s = per_row(sigma, x)
        c = self.coefficients(torch.where(s == 0, 1.0, s))  # c_noise = log 0 is no input
        self.rows += len(x)
        out = self.net((c.c_in * x).to(x.dtype), c.c_noise.flatten(), cond)
        return torch.where(s == 0, x, c.c_skip * x + c.c_out * out).to(x.dtype)
