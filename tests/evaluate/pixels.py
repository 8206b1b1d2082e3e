"""An extractor without a network, for the tests of evaluations that take one."""

from __future__ import annotations

import numpy as np
import torch

from synthaug.evaluate.features import Embed, Extractor
from synthaug.settings import settings


@settings
class Pixels(Extractor):
    """Every pixel is a feature."""

    def load(self) -> Embed:
        return lambda images: torch.from_numpy(images.reshape(len(images), -1) / 255)

    def about(self) -> dict[str, str]:
        return {"name": "pixels", "digest": "none"}


def images(count: int, seed: int, size: int = 4) -> np.ndarray:
    """Independent random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
