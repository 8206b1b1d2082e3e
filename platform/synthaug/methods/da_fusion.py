"""DA-Fusion (Trabucco et al., ICLR 2024): SDEdit with a word learned for each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from synthaug.data.sample import Label, Sample
from synthaug.diffusion.finetune import Finetune, TextualInversion
from synthaug.methods.base import Context, Models, Row
from synthaug.methods.prompts import pick
from synthaug.methods.sdedit import SDEdit
from synthaug.settings import settings

if TYPE_CHECKING:
    import numpy as np


@settings
class DAFusion(SDEdit):
    """`stack` draws the strength of each image from a list instead (the original: 0.25, 0.5, 0.75, 1)."""

    finetune: ClassVar[tuple[Finetune, ...]] = (TextualInversion(),)

    stack: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()

    @classmethod
    def as_published(cls) -> DAFusion:
        """The authors' own setting: 50 steps and a stack of four strengths."""
        return cls(steps=50, stack=(0.25, 0.5, 0.75, 1.0))

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        row = super().plan(sample, variant, context)
        return dataclasses.replace(row, strength=pick(self.stack, row.seed, "strength")) if self.stack else row

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        return self.edit(rows, images, models), [((row.target, 1.0),) for row in rows]
