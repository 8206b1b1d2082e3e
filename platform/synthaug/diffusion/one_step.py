"""DiffAug (Sastry et al. 2024): noise an image to a random level and take the denoiser's single guess at what it was.

Time is a share of DDPM's linear schedule of 1,000 steps, whatever schedule the denoiser was trained on: 0.3 is t = 300.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from synthaug.settings import Share, UserError, settings

if TYPE_CHECKING:
    import torch

    from synthaug.diffusion.denoiser import Denoiser

STEPS = 1000


def sigma_at(share: torch.Tensor) -> torch.Tensor:
    """The noise level at a share of the schedule, in units of images in [-1, 1]; at 0 it is 0.01, not 0."""
    import torch

    betas = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    abar = (1 - betas).cumprod(0)
    # a share in float32 may be a little less than it was written, and t = 299 is not t = 300
    t = (share.double() * STEPS + 1e-4).long().clamp(0, STEPS - 1)
    return ((1 - abar) / abar).sqrt().to(share.device)[t]


def check_time(latest: float, alphas_cumprod: torch.Tensor) -> None:
    """Refuse a time at which there is more noise than a denoiser of this schedule has seen."""
    import torch

    from synthaug.diffusion.denoiser import sigmas_of

    end = float(sigmas_of(alphas_cumprod).max())
    levels = sigma_at(torch.arange(STEPS).double() / STEPS)
    # A thousandth for rounding: schedules come in float32, and must hold their own last time.
    if float(sigma_at(torch.tensor(latest))) > end * 1.001:
        last = int((levels <= end * 1.001).sum() - 1) / STEPS
        raise UserError(f"time {latest:g} is beyond the denoiser's schedule, which ends at {last:g} (sigma={end:.4g})")


@settings(key="synthaug.diffusion.diffaug:Diffusion")
class Diffusion:
    """What is done to an image at a time between `low` and `high`.

    `space` is where the guess lives: x0, the image itself, or m, the image scaled down as the schedule does (the
    paper's equation; the two are one for variance-exploding models). Without `denoise` the noised image itself is
    returned: the control that tells denoising from noise. Either is clamped to what pixels can be.
    """

    low: Share = 0.0
    high: Share = 1.0
    space: Literal["x0", "m"] = "x0"
    denoise: bool = True

    @model_validator(mode="after")
    def _interval(self) -> Diffusion:
        if self.low > self.high:
            raise UserError(f"({self.low}, {self.high}) is no interval: low must be the smaller one", ("low",))
        return self

    def times(self, u: torch.Tensor) -> torch.Tensor:
        """Shares of the schedule from uniform numbers in [0, 1)."""
        return self.low + (self.high - self.low) * u

    def __call__(
        self, images: torch.Tensor, times: torch.Tensor, denoiser: Denoiser | None, noise: torch.Tensor
    ) -> torch.Tensor:
        """The images (B C H W in [0, 1]) after each has been at its own time under its own noise."""
        import torch

        if not images.is_floating_point():
            raise UserError(f"images in [0, 1] are expected, not {images.dtype}: divide them by 255")
        if len(images) == 0:
            return images  # attention cannot take no rows
        from synthaug.diffusion.denoiser import per_row
        from synthaug.diffusion.sampling import diffuse_denoise

        x, sigma = images * 2 - 1, sigma_at(times).to(images.device)
        # Noise goes on in variance-exploding coordinates; what a variance-preserving model would show is `scale` of it.
        scale = (1 + per_row(sigma, x).square()).rsqrt()  # a: what the schedule shrinks an image by
        if self.denoise:
            assert denoiser is not None, "Diffusion with denoise=True needs a denoiser"
            # clip_denoised of the published code: without it, guesses from late times leave the range of pixels
            out = diffuse_denoise(x, sigma, denoiser, noise=noise, clamp=(-1, 1))
            out = out * scale if self.space == "m" else out  # m = E[a x0 | x] (equation 3); the code feeds x0
        else:
            # x_t = a (x + sigma noise): scaled, or the late ones would be nothing but saturated pixels
            out = (scale * (x + per_row(sigma, x) * noise)).clamp(-1, 1)
        return torch.add(out, 1).div(2)
