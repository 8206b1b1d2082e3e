"""The 19 corruptions of ImageNet-C (Hendrycks & Dietterich 2019), each in five severities.

Written anew on batches from the definitions; the strengths are the two published tables, that of CIFAR-10-C (32 px) for
images up to 84 px and that of ImageNet-C (224 px) above. What differs from the published images: results are rounded,
not cut, to whole levels; motion blur follows ImageMagick's rule without its code; frost is drawn (its photographs are
not ours to ship), and the edges of water drops are found without Canny's hysteresis. Numbers on frost do not compare
with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from synthaug.settings import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
SEVERITIES = (1, 2, 3, 4, 5)
_CHUNK = 2**16  # pixels that are worked on at once


def corrupt(images: Tensor, name: str, severity: int, seeds: Sequence[int]) -> Tensor:
    """Corrupted copies of RGB images (uint8 BCHW); what is random in one comes from its own seed."""
    import torch

    from synthaug.evaluate.corruptions import blur, digital, noise, weather
    from synthaug.evaluate.corruptions.dice import Dice

    names = [name for family in FAMILIES.values() for name in family]
    if name not in names:
        raise UserError(f"no corruption is called {name!r}{did_you_mean(name, names)}")
    if severity not in SEVERITIES:
        raise UserError(f"{name} has no severity {severity!r}{did_you_mean(str(severity), list(map(str, SEVERITIES)))}")
    assert len(seeds) == len(images)
    kinds = noise.CORRUPTIONS | blur.CORRUPTIONS | weather.CORRUPTIONS | digital.CORRUPTIONS
    high, wide = images.shape[2:]
    strength = kinds[name].strength(max(high, wide), severity)
    out = torch.empty_like(images)
    step = max(1, _CHUNK // (high * wide))  # 64 images of 32 px; a large image goes alone
    for first in range(0, len(images), step):
        rows = slice(first, first + step)
        changed = kinds[name].apply(images[rows] / 255, Dice(seeds[rows], images.device), *strength)
        # rounded, where the published sets were cut: half a level darker on average
        out[rows] = (changed * 255).round_().clamp_(0, 255).to(torch.uint8)
    return out
