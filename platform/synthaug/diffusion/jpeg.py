"""The loss of JPEG as a function of any numbers: a cosine transform of blocks, rounded to the standard table."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

# ITU T.81, table K.1: the steps for brightness, in units of 255 levels
_STEPS = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


def quantised(x: Tensor, step: Tensor) -> Tensor:
    """Each image (B C H W in units of [-1, 1]) with its blocks rounded to `step` (B) times the table, all channels
    alike. A step of 0 leaves an image as it is."""
    height, width = x.shape[2:]
    padded = functional.pad(x, [0, -width % 8, 0, -height % 8], mode="replicate")
    blocks = padded.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # B C rows columns 8 8
    waves, table = _waves(x.dtype, x.device)
    sizes = table * step.view(-1, 1, 1, 1, 1, 1)
    found = waves @ blocks @ waves.T
    rounded = (found / sizes).round() * sizes
    back = (waves.T @ rounded @ waves).transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
    # rows that stay are left alone, so that nothing is done to them exactly
    return torch.where(step.view(-1, 1, 1, 1) == 0, x, back)


@lru_cache(maxsize=4)
def _waves(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine transform of eight numbers, and the table in units of [-1, 1]."""
    n = torch.arange(8, dtype=torch.float64)
    waves = 0.5 * torch.cos(math.pi / 8 * (n + 0.5) * n[:, None])
    waves[0] /= math.sqrt(2)
    table = torch.tensor(_STEPS, dtype=torch.float64).view(8, 8) * (2 / 255)
    return waves.to(device, dtype), table.to(device, dtype)
