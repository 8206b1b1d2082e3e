"""Weather: what falls or lies between the camera and the scene."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad
from torchvision.transforms.v2 import functional as F

from synthaug.evaluate.corruptions.blur import correlate, trail
from synthaug.evaluate.corruptions.dice import Corruption, Dice
from synthaug.evaluate.corruptions.lines import along, gaussian, zoom

_GREY = (0.299, 0.587, 0.114)  # the luma of BT.601
_ICE = (0.88, 0.95, 1.0)
_WATER = (175 / 255, 238 / 255, 238 / 255)
_MUD = (63 / 255, 42 / 255, 20 / 255)
_DEEP = 20  # so many pixels from its edge, a drop looks the same everywhere


def _colour(rgb: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(rgb, device=like.device)[:, None, None]


def fog(images: Tensor, dice: Dice, depth: float, decay: float) -> Tensor:
    """Uneven light is added, and the whole made darker so that what was brightest stays within reach."""
    high, wide = images.shape[2:]
    cloud = plasma(dice, max(high, wide), decay)[:, None, :high, :wide]  # B 1 H W
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + depth * cloud) * brightest / (brightest + depth)


def plasma(dice: Dice, size: int, decay: float) -> Tensor:
    """Fractal heights in [0, 1] by diamonds and squares, on a torus whose side is the power of 2 that holds `size`.

    Each step doubles the side: a new point is the mean of its four neighbours and a random part, which is `decay`
    squared times smaller with every step.
    """
    land, rough = torch.zeros(len(dice.generators), 1, 1, device=dice.device), 1.0
    while land.shape[1] < size:
        wobble = rough * dice.uniform(3, *land.shape[1:], low=-1)
        # rolled, so that the last row's neighbour is the first: a torus has no border to treat apart
        east, south = land.roll(-1, 2), land.roll(-1, 1)
        middle = (land + east + south + east.roll(-1, 1)) / 4 + wobble[:, 0]
        # squares: the mean of two old points and of the two new middles on either side
        between = (land + east + middle + middle.roll(1, 1)) / 4 + wobble[:, 1]
        below = (land + south + middle + middle.roll(1, 2)) / 4 + wobble[:, 2]
        # old and new points woven together: B H 2 W 2 as B 2H 2W
        pairs = torch.stack([torch.stack([land, between], 3), torch.stack([below, middle], 3)], 2)
        land = pairs.flatten(3).flatten(1, 2)
        rough = rough / decay**2
    land = land - land.amin((1, 2), keepdim=True)
    return land / land.amax((1, 2), keepdim=True)


def snow(images: Tensor, dice: Dice, *strength: float) -> Tensor:
    """Flakes fall from above and, turned round, from below, before a scene that has grown pale."""
    mean, spread, size, least, radius, sigma, keep = strength
    flakes = along(mean + spread * dice.normal(1, *images.shape[2:]), zoom(size))
    flakes = torch.where(flakes < least, 0, flakes).clamp(0, 1)
    # blurred to streaks, at most 45 degrees off the vertical
    flakes = trail(flakes, dice.uniform(low=-135, high=-45), radius, sigma)
    grey = (images * _colour(_GREY, images)).sum(1, keepdim=True)
    pale = torch.lerp(torch.maximum(images, grey * 1.5 + 0.5), images, keep)
    return pale + flakes + flakes.flip(2, 3)


def frost(images: Tensor, dice: Dice, scene: float, ice: float) -> Tensor:
    """A scene behind a frozen window. The original lays photographs over it; here the ice is drawn."""
    high, wide = images.shape[2:]
    haze = plasma(dice, max(high, wide), 1.5)[:, :high, :wide]
    # some ice everywhere, uneven, and needles that stand out
    layer = (0.2 + 0.4 * haze + 0.6 * crystals(dice, high, wide)).clamp(max=1)
    return scene * images + ice * layer[:, None] * _colour(_ICE, images)


def crystals(dice: Dice, high: int, wide: int, stems: int = 10, pairs: int = 6) -> Tensor:
    """Stems anywhere, in any direction, with branches at 60 degrees that shorten towards the tip: B H W in [0, 1]."""
    random, size = dice.uniform(stems, 5), max(high, wide)  # of a stem: foot (2), direction, length, brightness
    width = 0.5 + 0.004 * size
    ice = torch.zeros(len(random), high, wide, device=dice.device)
    # stem by stem: the distances to all lines at once would be the largest tensor by far
    for stem in random.unbind(1):
        feet, arms = branches(stem, pairs)
        near = torch.exp(-squared_distance(feet * size, arms * size, high, wide).amin(1) / width**2)
        ice = torch.maximum(ice, near * (0.5 + 0.5 * stem[:, 4, None, None]))
    return ice


def branches(random: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """A stem and its branches: where each begins and how it goes on from there (B S 2, down and right)."""
    ones = torch.ones(pairs, device=random.device)
    # the stem itself, branches on one side, branches on the other
    turn = torch.cat([0 * ones[:1], ones, -ones]) * math.pi / 3
    climb = torch.cat([0 * ones[:1], (ones.cumsum(0) / (pairs + 1)).repeat(2)])  # where on the stem
    shrink = torch.cat([ones[:1], 0.4 * (1 - climb[1:])])
    angle = 2 * math.pi * random[:, 2, None] + turn
    length = 0.3 + 0.5 * random[:, 3, None, None]
    way = torch.stack([angle.sin(), angle.cos()], 2) * length
    return random[:, None, :2] + climb[:, None] * way[:, :1], shrink[:, None] * way


def squared_distance(feet: Tensor, arms: Tensor, high: int, wide: int) -> Tensor:
    """Of every pixel from each line that begins at a foot and goes as far as its arm (B S 2, in pixels): B S H W."""
    down = torch.arange(high, device=feet.device)[:, None] - feet[..., 0, None, None]
    right = torch.arange(wide, device=feet.device) - feet[..., 1, None, None]
    arm_down, arm_right = (arms[..., axis, None, None] for axis in (0, 1))
    length = arm_down.square() + arm_right.square()
    along_arm = down * arm_down + right * arm_right
    share = (along_arm / length).clamp_(0, 1)  # where on the line the nearest point is, 0 at its foot and 1 at its end
    # |x - share arm|^2, multiplied out: half the passes over the largest tensor here
    return torch.addcmul(down.square() + right.square(), share, share * length - 2 * along_arm)


def spatter(images: Tensor, dice: Dice, *strength: float) -> Tensor:
    """Drops of water that glint, or of mud, on the lens."""
    mean, spread, sigma, least, last, mud = strength
    layer = along(mean + spread * dice.normal(1, *images.shape[2:]), gaussian(sigma))
    if mud:
        cover = along((layer > least).to(images), gaussian(last))
        return torch.lerp(images, _colour(_MUD, images), torch.where(cover < 0.8, 0, cover))
    # a drop is where the smoothed noise is high, and brightens by that noise times how its edge is lit
    wet = layer >= least
    light = torch.where(wet, layer, 0) * glints(wet)
    return images + last * light / light.amax((1, 2, 3), keepdim=True).clamp(min=1e-6) * _colour(_WATER, images)


def glints(wet: Tensor) -> Tensor:
    """How much light drops (B 1 H W, true where wet) throw: by the distance from their edges, lit from one side."""
    edge = wet & (max_pool2d((~wet).float(), 3, 1, 1) > 0)  # wet, with a dry pixel among the eight around
    mean = torch.full((3, 3), 1 / 9, device=wet.device)
    deep = (correlate(distance(edge), mean) + 1e-3).to(torch.uint8)  # whole numbers are not cut by their rounding
    # an emboss filter along one diagonal
    lit = torch.tensor([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]], device=wet.device)
    return correlate(correlate(F.equalize(deep).float(), lit).clamp(0, 255), mean)


def distance(edge: Tensor) -> Tensor:
    """Of every pixel from the nearest one that is true, at most `_DEEP`: the best along columns, then along rows."""
    steps = torch.arange(-_DEEP, _DEEP + 1, device=edge.device).square()
    # squares add up over the axes, so the minimum over a plane is one over columns and then one over rows
    away = torch.where(edge, 0.0, _DEEP**2)
    for axis, sides in ((2, [0, 0, _DEEP, _DEEP]), (3, [_DEEP, _DEEP, 0, 0])):
        away = (pad(away, sides, value=_DEEP**2).unfold(axis, len(steps), 1) + steps).amin(-1)
    return away.sqrt()


CORRUPTIONS = {
    "snow": Corruption(
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Corruption(
        frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": Corruption(
        fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "spatter": Corruption(
        spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    ),
}
