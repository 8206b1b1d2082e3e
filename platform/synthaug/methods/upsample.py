"""Upsample: no new images, the sources once more; the control of whoever makes new ones of some (USEFUL, Nguyen et al.
2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from synthaug.data.sample import Label, Sample
from synthaug.diffusion.backbone import Backbone
from synthaug.methods.base import Context, Method, Models, Row, unprompted
from synthaug.settings import settings

if TYPE_CHECKING:
    import numpy as np


@settings
class Upsample(Method):
    """Each variant is its source, to the last pixel."""

    lossless: ClassVar[bool] = True
    backbone: ClassVar[Backbone | None] = None

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return unprompted(sample, variant, context)

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        return list(images), [((row.target, 1.0),) for row in rows]
