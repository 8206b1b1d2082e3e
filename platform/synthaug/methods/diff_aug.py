"""Diff-Aug (Wang et al., CVPR 2024): SDEdit towards the image's own class, with a model fitted to the data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from synthaug.data.sample import Label, Sample
from synthaug.diffusion.finetune import Finetune, LoRA, TextualInversion
from synthaug.methods.base import Context, Models, Row, own_class
from synthaug.methods.sdedit import SDEdit
from synthaug.settings import settings

if TYPE_CHECKING:
    import numpy as np


@settings
class DiffAug(SDEdit):
    """Textual inversion and DreamBooth-LoRA first; prompts name the kind of thing ("a bird") if the data set does."""

    finetune: ClassVar[tuple[Finetune, ...]] = (TextualInversion(), LoRA())

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        row = own_class(sample, variant, context, strength=self.strength)
        row = dataclasses.replace(row, prompt=context.text(sample.target, super_class=True))
        return self.prompts(row, context)

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        return self.edit(rows, images, models), [((row.target, 1.0),) for row in rows]
