"""Real Guidance (He et al., ICLR 2023): noise a real image part of the way and denoise it under its class's prompt."""

from __future__ import annotations

from synthaug.methods.sdedit import SDEdit
from synthaug.settings import settings


@settings
class RealGuidance(SDEdit):
    """SDEdit with the model as it is, as the UniDiffDA benchmark runs it."""
