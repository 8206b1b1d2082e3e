"""Images and dice for the tests of corruptions."""

import torch
from torch.nn.functional import interpolate

from synthaug.evaluate.corruptions.dice import Dice

CPU = torch.device("cpu")


def dice(count=1, first=0):
    return Dice(range(first, first + count), CPU)


def pixels(count=2, high=32, wide=32, seed=0):
    return torch.rand(count, 3, high, wide, generator=torch.Generator().manual_seed(seed))


def scenes(count=2, high=100, wide=90, seed=0):
    """Coarse coloured patches."""
    coarse = interpolate(pixels(count, 9, 8, seed), size=(high, wide), mode="bilinear")
    return (coarse * 255).round().to(torch.uint8)


def off(one, other):
    return int((one.int() - other.int()).abs().max())
