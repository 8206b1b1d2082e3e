"""New images from the experiment's own denoiser: from nothing but noise, or from a real image that was noised."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from synthaug.data.listing import Entry
from synthaug.data.sample import Label, Sample, resize_image
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.pixel_models import DenoiserModel
from synthaug.methods.base import Context, Method, Models, Row, unprompted
from synthaug.methods.diffuse_denoise import as_pixels, pieces
from synthaug.settings import Count, UserError, seed_of, settings

if TYPE_CHECKING:
    from torch import Tensor

    from synthaug.diffusion.denoiser import Denoiser


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
        if self.asks_without and model.labels and getattr(model, "unlabelled", None) == 0:
            said = f"{type(self).__name__} asks without a class, and the denoiser was never trained so"
            raise UserError(f"{said}; train it with denoiser.unlabelled=0.1", ("denoiser", "unlabelled"))

    @property
    def asks_without(self) -> bool:
        """Whether a denoiser that knows classes is asked for none, too."""
        return self.guidance != 1

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return unprompted(sample, variant, context)

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        import torch

        shape, leading = models.sample_shape, len(rows) // self.together
        made: list[list[np.ndarray]] = [[] for _ in range(self.together)]
        # of variants that are made together the first leads: rows go variant by variant
        for piece in pieces(leading, shape[1] * shape[2]):
            led = rows[:leading][piece]
            noise = Noise([row.seed for row in led])
            with torch.inference_mode():
                like = torch.empty(len(led), *shape, device=models.denoiser.net.device)
                x = self.start(led, images[:leading][piece], noise(like), models)
                for kept, z in zip(made, self.sample(x, led, models, noise), strict=True):
                    kept += as_pixels(z if models.in_pixels else models.pipeline.codec.decode(z) * 2 - 1)
        return [image for kept in made for image in kept], [((row.target, 1.0),) for row in rows]

    def start(self, rows: Sequence[Row], images: Sequence[np.ndarray], noise: Tensor, models: Models) -> Tensor:
        """What the sampler begins with."""
        return self.sigma_max * noise

    def sample(self, x: Tensor, rows: Sequence[Row], models: Models, noise: Noise) -> list[Tensor]:
        """Down EDM's noise levels, of which the first is `sigma_max`."""
        from synthaug.diffusion.sampling import heun

        return [heun(*self.asked(x, rows, models))]

    def asked(self, x: Tensor, rows: Sequence[Row], models: Models) -> tuple[Denoiser, Tensor, Tensor, Tensor | None]:
        """What a sampler is given: the denoiser, where it begins, the levels, and the classes if it knows any."""
        import torch

        from synthaug.diffusion.sampling import guided, karras_sigmas

        labels = models.asks_labels
        wanted = torch.tensor([row.target for row in rows], device=x.device) if labels else None
        denoiser = guided(models.denoiser, self.guidance) if labels else models.denoiser
        return denoiser, x, karras_sigmas(self.steps, sigma_max=self.sigma_max), wanted

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        return (2 * self.steps - 1) * self.each  # two a step, at the last level one

    @property
    def each(self) -> int:
        """Rows through the denoiser for one answer."""
        return 1 if self.guidance == 1 else 2


@settings
class Resample(FromNoise):
    """SDEdit (Meng et al. 2022) by the experiment's own denoiser: the source, noised to `sigma_max`, is sampled again
    under its class. With `kept` that many variants come of one way back: the guesses at what the image is after equal
    parts of its steps, the last one being where it leads."""

    sigma_max: Annotated[float, Field(gt=0.002, le=80)] = 2.0
    kept: Count = 1

    @model_validator(mode="after")
    def _parts(self) -> Resample:
        if self.kept > self.steps:
            raise UserError(f"of {self.steps} steps no {self.kept} parts can be kept", ("kept",))
        return self

    @property
    def together(self) -> int:
        return self.kept

    def start(self, rows: Sequence[Row], images: Sequence[np.ndarray], noise: Tensor, models: Models) -> Tensor:
        return shown(rows, images, noise, models) + self.sigma_max * noise

    def sample(self, x: Tensor, rows: Sequence[Row], models: Models, noise: Noise) -> list[Tensor]:
        from synthaug.diffusion.sampling import heun

        denoiser, x, levels, wanted = self.asked(x, rows, models)
        ends = [round(part * self.steps / self.kept) for part in range(self.kept + 1)]
        made = []
        for first, last in pairwise(ends):
            x = heun(denoiser, x, levels[first : last + 1], wanted)
            # at 0 what is there is the guess itself
            made.append(x if last == self.steps else denoiser(x, float(levels[last]), wanted))
        return made

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        if (row.variant - 1) % self.kept:  # it came along with the first
            return 0
        return super().calls(row, backbone) + (self.kept - 1) * self.each


@settings
class Boomerang(FromNoise):
    """Local sampling (Luzi et al. 2024): the source, noised to `sigma_max`, comes back by the reverse SDE, under no
    class. In many steps the images as a whole stay distributed as they were, each the farther from its source the more
    noise there was; in 18 their spread is a fifth smaller. The level is that of 40 of 100 steps of the linear
    schedule."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 100
    guidance: Annotated[float, Field(ge=1, le=1)] = 1.0
    sigma_max: Annotated[float, Field(gt=0.002, le=80)] = 2.0

    @property
    def asks_without(self) -> bool:
        return True

    def start(self, rows: Sequence[Row], images: Sequence[np.ndarray], noise: Tensor, models: Models) -> Tensor:
        return shown(rows, images, noise, models) + self.sigma_max * noise

    def sample(self, x: Tensor, rows: Sequence[Row], models: Models, noise: Noise) -> list[Tensor]:
        from synthaug.diffusion.sampling import ancestral, karras_sigmas

        return [ancestral(models.denoiser, x, karras_sigmas(self.steps, sigma_max=self.sigma_max), draw=noise)]

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        return self.steps


def shown(rows: Sequence[Row], images: Sequence[np.ndarray], like: Tensor, models: Models) -> Tensor:
    """The sources as the denoiser knows them: in [-1, 1], or the means of their latents."""
    import torch

    if models.in_pixels:
        small = np.stack([resize_image(image, like.shape[2]) for image in images])
        return torch.from_numpy(small).permute(0, 3, 1, 2).to(like.device).float() / 127.5 - 1
    codec = models.pipeline.codec
    means = [codec.posterior(image, row.source)[0] for row, image in zip(rows, images, strict=True)]
    return torch.cat(means).float() * codec.scale


class Noise:
    """Unit noise for rows, each from its own seed; whoever draws again gets what comes next."""

    def __init__(self, seeds: Sequence[int]) -> None:
        import torch

        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, x: Tensor) -> Tensor:
        from synthaug.diffusion.sampling import standard_noise

        return standard_noise(x, self.generators)
