"""Diff-Aug (Wang et al., CVPR 2024): SDEdit towards the image's own class, with a model fitted to the data set."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from synthaug.data.sample import Sample
from synthaug.diffusion.finetune import Finetune, LoRA, TextualInversion
from synthaug.methods.base import Context, Row, own_class
from synthaug.methods.sdedit import SDEdit
from synthaug.settings import settings


@settings
class DiffAug(SDEdit):
    """Textual inversion and DreamBooth-LoRA first; prompts name the kind of thing ("a bird") if the data set does."""

    finetune: ClassVar[tuple[Finetune, ...]] = (TextualInversion(), LoRA())

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        row = own_class(sample, variant, context, strength=self.strength)
        # The kind of thing is in the paper's prompts; UniDiffDA's code loses it (its Subset copies class names only).
        row = dataclasses.replace(row, prompt=context.text(sample.target, row.seed, super_class=True))
        return self.prompts(row, context)
