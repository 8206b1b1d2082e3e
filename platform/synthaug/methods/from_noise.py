"""New images from the experiment's own denoiser: from nothing but noise, or from a real image that was noised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from synthaug.data.listing import Entry
from synthaug.data.sample import Label, Sample, resize_image
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.pixel_models import DenoiserModel
from synthaug.methods.base import Context, Method, Models, Row, unprompted
from synthaug.methods.diffuse_denoise import as_pixels, noise_of, pieces
from synthaug.settings import Count, UserError, seed_of, settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class FromNoise(Method):
    """Images of the classes of the sources, by EDM's sampler; nothing of the sources themselves goes in.

    A denoiser that was trained with labels is asked for the source's class, with `guidance` for that much more than
    without one; another gives images of any class. They are as large as those that it was trained on.
    """

    backbone: ClassVar[Backbone | None] = None
    in_latents: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1, le=1000)] = 18
    guidance: Annotated[float, Field(ge=0)] = 1.0
    sigma_max: Annotated[float, Field(gt=0.002, le=80)] = 80.0
    most: Count | None = None  # sources that get samples, any of them: to look at a net, it need not be all

    def sources(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        if self.most is None:
            return entries
        chosen = set(sorted(entries, key=lambda entry: seed_of("from noise", entry.id))[: self.most])
        return tuple(entry for entry in entries if entry in chosen)

    @property
    def needs_denoiser(self) -> bool:
        return True

    def check_denoiser(self, model: DenoiserModel) -> None:
        if self.guidance != 1 and not model.labels:
            way = "train it with denoiser.labels=true, or leave guidance at 1"
            raise UserError(f"guidance {self.guidance:g} needs a denoiser that knows classes; {way}", ("method",))

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return unprompted(sample, variant, context)

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        import torch

        shape, made = models.sample_shape, list[np.ndarray]()
        for piece in pieces(len(rows), shape[1] * shape[2]):
            x = torch.empty(len(rows[piece]), *shape, device=models.denoiser.net.device)
            noise = noise_of([row.seed for row in rows[piece]], x)
            with torch.inference_mode():
                x = self.sample(self.start(rows[piece], images[piece], noise, models), rows[piece], models)
                made += as_pixels(x if models.in_pixels else models.pipeline.codec.decode(x) * 2 - 1)
        return made, [((row.target, 1.0),) for row in rows]

    def start(self, rows: Sequence[Row], images: Sequence[np.ndarray], noise: Tensor, models: Models) -> Tensor:
        """What the sampler begins with."""
        return self.sigma_max * noise

    def sample(self, x: Tensor, rows: Sequence[Row], models: Models) -> Tensor:
        """Down EDM's noise levels, of which the first is `sigma_max`."""
        import torch

        from synthaug.diffusion.sampling import guided, heun, karras_sigmas

        labels = models.asks_labels
        wanted = torch.tensor([row.target for row in rows], device=x.device) if labels else None
        denoiser = guided(models.denoiser, self.guidance) if labels else models.denoiser
        return heun(denoiser, x, karras_sigmas(self.steps, sigma_max=self.sigma_max), wanted)

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        return (2 * self.steps - 1) * (1 if self.guidance == 1 else 2)  # two a step, at the last level one


@settings
class Resample(FromNoise):
    """SDEdit (Meng et al. 2022) by the experiment's own denoiser: the source, noised to `sigma_max`, is sampled again
    under its class."""

    sigma_max: Annotated[float, Field(gt=0.002, le=80)] = 2.0

    def start(self, rows: Sequence[Row], images: Sequence[np.ndarray], noise: Tensor, models: Models) -> Tensor:
        import torch

        if models.in_pixels:
            shown = np.stack([resize_image(image, noise.shape[2]) for image in images])
            x0 = torch.from_numpy(shown).permute(0, 3, 1, 2).to(noise.device).float() / 127.5 - 1
        else:
            codec = models.pipeline.codec
            means = [codec.posterior(image, row.source)[0] for row, image in zip(rows, images, strict=True)]
            x0 = torch.cat(means).float() * codec.scale
        return x0 + self.sigma_max * noise
