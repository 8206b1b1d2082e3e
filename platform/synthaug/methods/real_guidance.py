"""Real Guidance (He et al., ICLR 2023): noise a real image part of the way and denoise it under its class's prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from synthaug.methods.base import Context, Method, Models, Row, own_class
from synthaug.sample import Label, Sample
from synthaug.settings import settings

if TYPE_CHECKING:
    import numpy as np


@settings
class RealGuidance(Method):
    """SDEdit as the UniDiffDA benchmark runs it: DPM-Solver++ with `steps` steps, of which strength x steps are run."""

    strength: Annotated[float, Field(gt=0, le=1)] = 0.9
    steps: Annotated[int, Field(ge=1)] = 25
    guidance: Annotated[float, Field(ge=0)] = 7.5

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return own_class(sample, variant, context, strength=self.strength)

    def calls(self) -> int:
        return max(1, int(self.steps * self.strength)) * (2 if self.guidance > 1 else 1)

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        made = models.pipeline.img2img(
            images,
            [row.prompt for row in rows],
            [row.seed for row in rows],
            strength=[row.strength for row in rows],
            steps=self.steps,
            guidance=self.guidance,
        )
        return made, [((row.target, 1.0),) for row in rows]
