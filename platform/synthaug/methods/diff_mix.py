"""Diff-Mix (Wang et al., CVPR 2024): SDEdit towards any class, labelled as a mixture of source and target."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from synthaug.data.sample import Label, Sample, soft_label
from synthaug.diffusion.finetune import Finetune, LoRA, TextualInversion
from synthaug.methods.base import Context, Models, Row, own_class
from synthaug.methods.sdedit import SDEdit
from synthaug.settings import seed_of, settings

if TYPE_CHECKING:
    import numpy as np


@settings
class DiffMix(SDEdit):
    """The target is any class, the source's own among them; its share of the label is strength ** gamma."""

    finetune: ClassVar[tuple[Finetune, ...]] = (TextualInversion(), LoRA())

    gamma: Annotated[float, Field(gt=0)] = 0.5  # UniDiffDA's; the authors' script has 0.8

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        row = own_class(sample, variant, context, strength=self.strength)
        # Uniform over all classes. From the row's seed: the same targets whatever the strength.
        target = seed_of(row.seed, "target") % len(context.words)
        row = dataclasses.replace(row, target=target, prompt=context.text(target, row.seed, super_class=True))
        return self.prompts(row, context)

    def label(self, row: Row) -> Label:
        """(1 - s^gamma) of the source and s^gamma of the target, added up where they are one class."""
        share = row.strength**self.gamma  # gamma < 1: an edit shows more than in proportion to its strength
        # UniDiffDA's code assigns instead of adding, so that its labels sum to s^gamma where the two are one.
        return soft_label([(row.source_class, 1 - share), (row.target, share)])

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        return self.edit(rows, images, models), [self.label(row) for row in rows]
