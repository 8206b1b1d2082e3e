"""Noise, independent at every pixel and channel."""

from __future__ import annotations

import torch
from torch import Tensor

from synthaug.evaluate.corruptions.dice import Corruption, Dice, each


def gaussian_noise(images: Tensor, dice: Dice, sigma: float) -> Tensor:
    """Of a sensor in dim light."""
    return images + sigma * dice.normal(*images.shape[1:])


def shot_noise(images: Tensor, dice: Dice, photons: float) -> Tensor:
    """Of light itself: white is so many photons on average."""
    # N ~ Poisson(photons x), seen as N / photons: the variance x / photons goes with the brightness
    return dice.poisson(images * photons) / photons


def impulse_noise(images: Tensor, dice: Dice, share: float) -> Tensor:
    """A share of the values is lost: half of them 0, half of them 1."""
    # each channel by itself, so that lost values are coloured points
    lost, salt = (dice.uniform(*images.shape[1:]) for _ in range(2))
    return torch.where(lost < share, (salt < 0.5).to(images), images)


def speckle_noise(images: Tensor, dice: Dice, sigma: float) -> Tensor:
    """Gaussian noise that goes with the brightness."""
    return images + images * sigma * dice.normal(*images.shape[1:])


# the first table of each is CIFAR-10-C's, the second ImageNet-C's; a column is a severity
CORRUPTIONS = {
    "gaussian_noise": Corruption(gaussian_noise, each(0.04, 0.06, 0.08, 0.09, 0.1), each(0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Corruption(shot_noise, each(500, 250, 100, 75, 50), each(60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(impulse_noise, each(0.01, 0.02, 0.03, 0.05, 0.07), each(0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle_noise": Corruption(speckle_noise, each(0.06, 0.1, 0.12, 0.16, 0.2), each(0.15, 0.2, 0.35, 0.45, 0.6)),
}
