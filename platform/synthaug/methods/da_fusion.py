"""DA-Fusion (Trabucco et al., ICLR 2024): SDEdit with a word learned for each class."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

from pydantic import Field

from synthaug.data.sample import Sample
from synthaug.diffusion.finetune import Finetune, TextualInversion
from synthaug.methods.base import Context, Row, own_class, pick
from synthaug.methods.sdedit import SDEdit
from synthaug.settings import settings


@settings
class DAFusion(SDEdit):
    """`stack` draws the strength of each image from a list instead (the original: 0.25, 0.5, 0.75, 1)."""

    version: ClassVar[int] = 2
    finetune: ClassVar[tuple[Finetune, ...]] = (TextualInversion(),)

    stack: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()

    @classmethod
    def as_published(cls) -> DAFusion:
        """The authors' own setting: 50 steps and a stack of four strengths."""
        return cls(steps=50, stack=(0.25, 0.5, 0.75, 1.0))

    @property
    def costs_differ(self) -> bool:
        return len(set(self.stack)) > 1

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        row = own_class(sample, variant, context, strength=self.strength)
        # what the word was learned under: one prompt for both, as the authors have it
        row = dataclasses.replace(row, prompt=context.text(sample.target, row.seed, super_class=True))
        row = self.prompts(row, context)
        if not self.stack:
            return row
        # For each image, as the authors do it; UniDiffDA's code draws once for all variants of a source.
        return dataclasses.replace(row, strength=pick(self.stack, row.seed, "strength"))
