"""DiffAug's images as files: each variant of a source has been at another time, noised and denoised in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from synthaug.data.sample import Label, Sample
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.one_step import Diffusion
from synthaug.methods.base import Context, Method, Models, Row
from synthaug.settings import seed_of, settings

if TYPE_CHECKING:
    from torch import Tensor

PIXELS = 2**18  # that go through the denoiser together: 256 images of 32 px, 4 of 256


@settings
class DiffuseDenoise(Method):
    """The times of an image's variants are spread evenly however many are made: each halves a widest gap (van der
    Corput's sequence), shifted by the image's own amount, so that 2, 4, 8 ... variants have an equal part of the
    interval each. A seed of the experiment has no part in it, so that runs of many seeds can share the images."""

    version: ClassVar[int] = 3
    lossless: ClassVar[bool] = True
    backbone: ClassVar[Backbone | None] = None

    how: Diffusion = Diffusion()

    @property
    def needs_denoiser(self) -> bool:
        return self.how.denoise

    @property
    def latest(self) -> float:
        return self.how.high

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        seed = seed_of("diffuse", sample.id, variant)
        start = seed_of("diffuse", sample.id) / 2**63  # seeds have 63 bits: uniform in [0, 1)
        time = self.how.low + (self.how.high - self.how.low) * ((start + halves(variant - 1)) % 1)
        return Row(sample.id, sample.target, sample.target, variant, "", time, seed)  # its strength is its time

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        made = diffused(self.how, images, [row.strength for row in rows], [row.seed for row in rows], models)
        return made, [((row.target, 1.0),) for row in rows]

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        return int(self.how.denoise)  # one guess; without it only noise is added


def halves(number: int) -> float:
    """van der Corput's sequence 0, 1/2, 1/4, 3/4, 1/8 ...: the binary digits of a number, mirrored at the point."""
    return float(sum((number >> place & 1) / (2 << place) for place in range(number.bit_length())))


def diffused(
    how: Diffusion, images: Sequence[np.ndarray], times: Sequence[float], seeds: Sequence[int], models: Models
) -> list[np.ndarray]:
    """Images (uint8 HWC of one size) after each has been at its own time, under noise from its own seed."""
    import torch

    denoiser = models.denoiser if how.denoise else None
    # without a denoiser there is no network that would say where to compute
    device = models.denoiser.net.device if how.denoise else torch.device("cpu")
    made: list[np.ndarray] = []
    for piece in pieces(len(images), images[0].shape[0] * images[0].shape[1] if images else 1):
        x = torch.from_numpy(np.stack(images[piece])).permute(0, 3, 1, 2).float().to(device) / 255
        with torch.inference_mode():
            out = how(x, torch.tensor(times[piece]), denoiser, noise_of(seeds[piece], x))
        made += list((out * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    return made


def pieces(count: int, pixels: int) -> list[slice]:
    """How many images of so many pixels go through the denoiser together."""
    rows = max(1, PIXELS // pixels)
    # Bounded by pixels, not by what is free: what is beside an image must not hang on who else uses the device.
    return [slice(first, first + rows) for first in range(0, count, rows)]


def noise_of(seeds: Sequence[int], x: Tensor) -> Tensor:
    """Unit noise like x, each row from its own seed."""
    import torch

    from synthaug.diffusion.sampling import standard_noise

    return standard_noise(x, [torch.Generator().manual_seed(seed) for seed in seeds])


def as_pixels(x: Tensor) -> list[np.ndarray]:
    """Images in about [-1, 1] as uint8 HWC."""
    import torch

    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())
