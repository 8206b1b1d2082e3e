"""What a model's VAE makes of each source, for diffusion nets that are trained on that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from synthaug.data.sample import Label, Sample
from synthaug.methods.base import Context, Maker, Models, Row
from synthaug.methods.diff_ii import encoded_array
from synthaug.settings import settings


@settings
class Latents(Maker):
    """Mean and standard deviation of each source's latents, in the units in which they are noised: 2 x C x h x w."""

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return dataclasses.replace(super().plan(sample, variant, context), prompt="", seed=0)  # nothing is drawn

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        import torch

        codec = models.pipeline.codec
        with torch.inference_mode():
            pairs = [codec.posterior(image, row.source) for row, image in zip(rows, images, strict=True)]
            made = [(torch.cat(pair) * codec.scale).float().cpu().numpy() for pair in pairs]
        return made, [((row.target, 1.0),) for row in rows]

    def encode(self, made: np.ndarray) -> bytes:
        return encoded_array(made)
