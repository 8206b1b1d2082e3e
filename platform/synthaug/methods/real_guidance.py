"""Real Guidance (He et al., ICLR 2023): noise a real image part of the way and denoise it under its class's prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from synthaug.data.sample import Label
from synthaug.methods.base import Models, Row
from synthaug.methods.sdedit import SDEdit
from synthaug.settings import settings

if TYPE_CHECKING:
    import numpy as np


@settings
class RealGuidance(SDEdit):
    """SDEdit with the model as it is, as the UniDiffDA benchmark runs it."""

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        return self.edit(rows, images, models), [((row.target, 1.0),) for row in rows]
