"""Classifier guidance: an unconditional denoiser, steered towards a class by a classifier of noisy images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from synthaug.data.sample import Label, Sample
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.guide import Guide
from synthaug.diffusion.one_step import sigma_at
from synthaug.methods.base import Context, Method, Models, Row, unprompted
from synthaug.methods.diffuse_denoise import as_pixels, noise_of, pieces
from synthaug.settings import settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class ClassifierGuided(Method):
    """New images of the classes of the sources, from noise; nothing of the sources themselves goes in.

    `total` differentiates the classifier through the denoiser too, which costs as much as the denoiser again; it makes
    a difference only to a guide that looks at the denoiser's guess. Images are as large as those the guide has seen.
    """

    backbone: ClassVar[Backbone | None] = None

    guide: Guide = Guide()
    scale: Annotated[float, Field(ge=0)] = 1.0
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    total: bool = True

    @property
    def needs_denoiser(self) -> bool:
        return True

    @property
    def guided_by(self) -> Guide:
        return self.guide

    @property
    def latest(self) -> float:
        return 1.0  # it begins with pure noise

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return unprompted(sample, variant, context)

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        made: list[np.ndarray] = []
        for piece in pieces(len(rows), int(models.guide.size) ** 2):
            # of the guide's size, and not of the source's, which takes no part
            made += as_pixels(self.sample(rows[piece], models))
        return made, [((row.target, 1.0),) for row in rows]

    def sample(self, rows: Sequence[Row], models: Models) -> Tensor:
        """Images in about [-1, 1], down levels that are evenly spread in time."""
        import torch

        from synthaug.diffusion.sampling import euler, steered

        guide, device = models.guide, models.denoiser.net.device
        size, total = int(guide.size), self.total and self.guide.needs_denoiser  # else they are equal, and one is cheap
        # even in DiffAug's time; then 0, where euler gives the last guess itself
        sigmas = [*sigma_at(torch.linspace(1, 0, self.steps + 1)[:-1]).tolist(), 0.0]
        noise = noise_of([row.seed for row in rows], torch.empty(len(rows), 3, size, size, device=device))
        labels = torch.tensor([row.target for row in rows], device=device)
        with torch.no_grad():
            # Dhariwal and Nichol 2021, algorithm 2, for any solver: the score of p(x | label) in place of that of p(x)
            leaning = steered(models.denoiser, guide.log_p, self.scale, total=total)
            return euler(leaning, sigmas[0] * noise, sigmas, labels)

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        return self.steps  # one guess a level, which the classifier is shown as well
