"""Filters that act on rows and columns alike, as matrices along an axis: what happens at the border is in them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Line = Callable[[int], Tensor]  # the matrix for an axis of so many pixels


def along(images: Tensor, line: Line) -> Tensor:
    """Filter the rows and the columns of images (... H W)."""
    high, wide = images.shape[-2:]
    # separable: L_high x L_wide', the matrices in double and rounded once
    return line(high).to(images) @ (images @ line(wide).to(images).T)


def gaussian(sigma: float, truncate: float = 4, reach: int | None = None, mirrored: bool = False) -> Line:
    """A blur that ends `reach` pixels (or `truncate` sigmas) away; beyond the border the last pixel goes on, or the
    image does, mirrored."""
    reach = int(truncate * sigma + 0.5) if reach is None else reach  # as scipy rounds it
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets / max(sigma, 1e-9)).double().square())

    def line(size: int) -> Tensor:
        places = torch.arange(size)[:, None] + offsets
        around = places % (2 * size)  # however wide the blur: image, mirror image, image, ...
        places = torch.minimum(around, 2 * size - 1 - around) if mirrored else places.clamp(0, size - 1)
        spread = (weights / weights.sum()).expand(size, -1)
        # added up, because several offsets may end at one border pixel
        return torch.zeros(size, size, dtype=torch.double).scatter_add_(1, places, spread)

    return line


def zoom(factor: float) -> Line:
    """The middle of the axis enlarged to its whole length, first and last kept pixel on first and last new one."""

    def line(size: int) -> Tensor:
        kept = math.ceil(size / factor)
        made = round(kept * factor)  # may be more than needed: both ends are cut
        places = (torch.arange(size).double() + (made - size) // 2) * (kept - 1) / max(made - 1, 1) + (size - kept) // 2
        # linear interpolation: a pixel weighs 1 minus its distance
        return (1 - (places[:, None] - torch.arange(size)).abs()).clamp_(min=0)

    return line


def box(target: int) -> Line:
    """Pillow's box filter to `target` pixels: the mean of those whose centres lie below the new pixel."""

    def line(size: int) -> Tensor:
        scale = size / target
        wide = max(scale, 1.0)
        centres = (torch.arange(target, dtype=torch.double)[:, None] + 0.5) * scale
        pixels = torch.arange(size)
        # in these very steps, because pixels on an edge are in or out by how Pillow rounds
        away = (pixels - centres + 0.5) * (1 / wide)
        first, last = ((centres + side * wide * 0.5 + 0.5).long() for side in (-1, 1))
        inside = ((away > -0.5) & (away <= 0.5) & (pixels >= first) & (pixels < last)).double()
        return inside / inside.sum(1, keepdim=True)

    return line
