"""The operations of TrivialAugment and RandAugment on a batch, each image with an operation and a level of its own.

torchvision draws one operation for a batch; a loop over images costs 4 times as much on a CPU, and more on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms.v2 import functional as F

BINS = 31  # both papers' grid of strengths: 0 to 30


@dataclass(frozen=True)
class Reach:
    """The largest strength of each kind of operation: tangent, pixels (x, y), degrees, factor, bits.

    `smooth` moves pixels by parts of a pixel, where the nearest one would do.
    """

    shear: float
    translate: tuple[float, float]
    rotate: float
    enhance: float
    posterize: int
    smooth: bool = False


# TrivialAugment's wide space; shifts are 32 px whatever the size of the image
WIDE = Reach(shear=0.99, translate=(32, 32), rotate=135, enhance=0.99, posterize=6)


def moderate(width: int, height: int) -> Reach:
    """RandAugment's space; shifts go with the size of the image."""
    # 150 px in an image of 331, the ratio that torchvision keeps for other sizes
    return Reach(shear=0.3, translate=(150 / 331 * width, 150 / 331 * height), rotate=30, enhance=0.9, posterize=4)


def draw(level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A random operation for each image, and the level (0..1) with a random sign."""
    ops = torch.randint(len(OPERATIONS), level.shape)
    # a sign for all: operations that have no direction take the absolute value
    return ops, torch.where(torch.rand(level.shape) < 0.5, -level, level)


def apply(
    images: torch.Tensor,
    ops: torch.Tensor,
    level: torch.Tensor,
    reach: Reach,
    operations: Sequence[Callable[..., torch.Tensor]] | None = None,
) -> torch.Tensor:
    """Each image (uint8 BCHW) after its own operation; images with the same one go together."""
    out = images.clone()
    for number, operation in enumerate((operations or OPERATIONS)[1:], start=1):  # 0 is the identity
        rows = (ops == number).nonzero().squeeze(1)  # on the CPU: on a GPU each would be a wait
        if len(rows):
            chosen = rows.to(images.device)
            out[chosen] = operation(images[chosen], level[rows].to(images.device), reach)
    return out


def _warp(images: torch.Tensor, matrix: list[list[torch.Tensor]], smooth: bool) -> torch.Tensor:
    """The pixel at output coordinate -> input coordinate, `matrix` 2 x 3 in pixels from the centre; else black."""
    high, wide = images.shape[2:]
    (a, b, c), (d, e, f) = matrix
    # affine_grid works in units of half the image: x' = x / (wide / 2), y' = y / (high / 2)
    first = torch.stack([a, b * high / wide, c * 2 / wide], 1)
    second = torch.stack([d * wide / high, e, f * 2 / high], 1)
    grid = affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)  # B H W 2, x first
    if not smooth:
        return grid_sample(images.float(), grid, mode="nearest", align_corners=False).to(torch.uint8)
    inside = ((grid >= -1) & (grid < 1)).all(3)[:, None]  # no shade between the image and the black around it
    smoothed = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return (smoothed * inside).round_().byte()


def _shear_x(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
    tangent, one, zero = level * reach.shear, torch.ones_like(level), torch.zeros_like(level)
    # the upper edge stays where it is, so a row moves by its distance from there
    return _warp(images, [[one, tangent, tangent * images.shape[2] / 2], [zero, one, zero]], reach.smooth)


def _shear_y(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
    tangent, one, zero = level * reach.shear, torch.ones_like(level), torch.zeros_like(level)
    # and here the left edge
    return _warp(images, [[one, zero, zero], [tangent, one, tangent * images.shape[3] / 2]], reach.smooth)


def _translate_x(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    # whole pixels, cut towards 0 as torchvision does; minus, because the map goes from output to input
    return _warp(images, [[one, zero, -(level * reach.translate[0]).trunc()], [zero, one, zero]], reach.smooth)


def _translate_y(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(images, [[one, zero, zero], [zero, one, -(level * reach.translate[1]).trunc()]], reach.smooth)


def _rotate(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
    angle, zero = torch.deg2rad(level * reach.rotate), torch.zeros_like(level)
    sine, cosine = angle.sin(), angle.cos()
    return _warp(images, [[cosine, -sine, zero], [sine, cosine, zero]], reach.smooth)


def _enhance(degenerate: Callable[[torch.Tensor, float], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Move the image away from, or towards, what torchvision makes of it at factor 0."""

    def operation(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
        factor = (1 + level * reach.enhance)[:, None, None, None]
        # beyond factor 1 lerp extrapolates, which is what makes an image brighter or sharper than it was
        enhanced = torch.lerp(degenerate(images, 0.0).float(), images.float(), factor)
        return enhanced.clamp_(0, 255).to(torch.uint8)

    return operation


def _posterize(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
    cut = (level.abs() * reach.posterize).round().to(torch.uint8)[:, None, None, None]
    return (images >> cut) << cut


def _solarize(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
    threshold = 255 * (1 - level.abs())[:, None, None, None]
    return torch.where(images >= threshold, 255 - images, images)


# in torchvision's order, which the numbers drawn by a seed stand for
OPERATIONS: tuple[Callable[..., torch.Tensor], ...] = (
    lambda images, level, reach: images,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _rotate,
    _enhance(F.adjust_brightness),
    _enhance(F.adjust_saturation),
    _enhance(F.adjust_contrast),
    _enhance(F.adjust_sharpness),
    _posterize,
    _solarize,
    lambda images, level, reach: F.autocontrast(images),
    lambda images, level, reach: F.equalize(images),
)
