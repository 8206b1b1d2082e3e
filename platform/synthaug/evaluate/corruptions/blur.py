"""Blurs: an image of one colour comes out as it was."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from synthaug.evaluate.corruptions.dice import Corruption, Dice, each
from synthaug.evaluate.corruptions.lines import along, gaussian, zoom


def gaussian_blur(images: Tensor, dice: Dice, sigma: float) -> Tensor:
    return along(images, gaussian(sigma))


def defocus_blur(images: Tensor, dice: Dice, radius: float, alias: float) -> Tensor:
    """Every point becomes a disk."""
    return correlate(images, disk(radius, alias).to(images))


def disk(radius: float, alias: float) -> Tensor:
    """The pixels within `radius`, slightly blurred; as much wider as the blur reaches, so that nothing is lost."""
    rim = 1 if radius <= 8 else 2  # half of the published kernel: 3 px up to radius 8, 5 px beyond
    axis = torch.arange(-int(radius) - rim, int(radius) + rim + 1)
    inside = (axis.square() + axis.square()[:, None] <= radius**2).double()
    return along(inside / inside.sum(), gaussian(alias, reach=rim))


def correlate(images: Tensor, kernel: Tensor) -> Tensor:
    """Weighted neighbours; the image is mirrored about its outermost pixels."""
    reach = len(kernel) // 2
    # (B C) 1 H W: one kernel for every channel by itself
    padded = pad(images, [reach] * 4, mode="reflect").flatten(0, 1)[:, None]
    return conv2d(padded, kernel[None, None]).reshape(images.shape)


def glass_blur(images: Tensor, dice: Dice, sigma: float, reach: int, rounds: int) -> Tensor:
    """Seen through frosted glass: pixels change places with near ones, between two small blurs."""
    images = along(images, gaussian(sigma))
    for _ in range(rounds):
        images = shuffle(images, dice.integers(2, *images.shape[2:], low=-reach, high=reach), reach)
    return along(images, gaussian(sigma))


def shuffle(images: Tensor, steps: Tensor, reach: int) -> Tensor:
    """From the last pixel to the first, each takes the colour that is found at a step (B 2 H W: down, right) from it.

    The paper says that pixels are exchanged; its published images come of a loop that copies one way, as here. A
    colour may travel on, over pixels that have been painted already; instead of the loop, each pixel looks up where
    the one it copied had its colour from, and all do so with twice the stride each time.
    """
    count, _, high, wide = images.shape
    row, column = (torch.arange(size, device=images.device) for size in (high, wide))
    # the bounds of the published loop, range(high - reach, reach, -1), which are not symmetric
    inside = ((row > reach) & (row <= high - reach))[:, None] & ((column > reach) & (column <= wide - reach))
    place = (row[:, None] * wide + column).expand(count, -1, -1)  # a pixel as one number, B H W
    source = torch.where(inside, place + steps[:, 0] * wide + steps[:, 1], place).flatten(1)
    place = place.flatten(1)
    follow = torch.where((source > place) & inside.flatten()[source], source, place)  # painted before: look there
    for _ in range((high * wide).bit_length()):  # a chain has at most as many links as there are pixels
        follow = follow.gather(1, follow)
    origin = source.gather(1, follow)  # the end of the chain took its colour from a pixel as it was at first
    return images.flatten(2).gather(2, origin[:, None].expand(-1, images.shape[1], -1)).reshape(images.shape)


def motion_blur(images: Tensor, dice: Dice, radius: float, sigma: float) -> Tensor:
    """The camera moves, to the right and up to 45 degrees off."""
    return trail(images, dice.uniform(low=-45, high=45), radius, sigma)


def trail(images: Tensor, degrees: Tensor, radius: float, sigma: float) -> Tensor:
    """Half a Gaussian in a direction of its own for each image, at whole pixels; the border goes on."""
    away = torch.arange(2 * math.ceil(radius) + 1)  # the width of ImageMagick's kernel
    weights = torch.exp(-0.5 * (away / sigma).square())
    radians = torch.deg2rad(degrees.cpu().double())[:, None]
    # ImageMagick's rule for whole pixels: ceil(x - 1/2), halves go down
    down, right = ((away * part).sub(0.5).ceil().long().to(images.device) for part in (radians.sin(), radians.cos()))
    channels, high, wide = images.shape[1:]
    row, column = (torch.arange(size, device=images.device) for size in (high, wide))
    flat, total = images.flatten(2), torch.zeros_like(images)
    # one shifted copy after another: all at once would be as many times the images as the trail has pixels
    for k, weight in enumerate((weights / weights.sum()).tolist()):
        rows = (row + down[:, k, None]).clamp_(0, high - 1) * wide
        places = rows[:, :, None] + (column + right[:, k, None]).clamp_(0, wide - 1)[:, None]
        total.add_(flat.gather(2, places.flatten(1)[:, None].expand(-1, channels, -1)).view_as(total), alpha=weight)
    return total


def zoom_blur(images: Tensor, dice: Dice, stop: float, step: float) -> Tensor:
    """The mean of the image, of itself once more and of enlarged ones."""
    factors = np.arange(1, stop, step)  # its rounding decides whether `stop` is one of them, as in the published sets
    # factors begin at 1, so the image itself is in the mean twice
    return (images + sum(along(images, zoom(float(factor))) for factor in factors)) / (len(factors) + 1)


CORRUPTIONS = {
    "gaussian_blur": Corruption(gaussian_blur, each(0.4, 0.6, 0.7, 0.8, 1), each(1, 2, 3, 4, 6)),
    "defocus_blur": Corruption(
        defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Corruption(
        glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": Corruption(
        motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": Corruption(
        zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
}
