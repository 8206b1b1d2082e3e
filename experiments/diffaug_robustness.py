"""DiffAug, its table of covariate shifts: top-1 (%) on ImageNet-C at severity 5 and on ImageNet's test images. Not run
here.

Numbers stand in the poster's order: DDA, DDA-SE, DE, default on ImageNet-C; the same four on the test images. Its
averages of each row are right. What an arm costs to train is said below; to ask, DE takes 9 denoiser calls an image
and DDA 50 with their gradients, once for all arms.
"""

from __future__ import annotations

from experiments import diffaug as poster
from synthaug.evaluate.accuracy import Accuracy
from synthaug.experiment import Sweep


def _sweep(network: poster.Network) -> Sweep:
    corrupted = tuple(poster.corrupted(way) for way in poster.WAYS)
    return poster.compare(network, (*corrupted, *(Accuracy(predictor=way) for way in poster.WAYS)))


def augmix() -> Sweep:
    """AugMix, 50,000 optimiser steps more. Not run here.

    Poster: AM 33.18 36.54 34.08 26.72, 62.23 75.98 73.80 77.53; AM+DiffAug 34.64 38.61 38.58 29.47, 63.53 76.09 75.88
    77.34. Cost: 12,800,000 denoiser calls.
    """
    return _sweep(poster.augmix())


def deepaugment() -> Sweep:
    """DeepAugment, 50,000 optimiser steps more. Not run here.

    Poster: DA 35.41 39.06 37.08 31.93, 63.63 75.39 74.28 76.65; DA+DiffAug 37.61 41.31 40.42 33.78, 65.47 75.54 75.43
    76.51. Cost: 12,800,000 denoiser calls.
    """
    return _sweep(poster.deepaugment())


def deepaugment_augmix() -> Sweep:
    """DeepAugment with AugMix, 50,000 optimiser steps more. Not run here.

    Poster: DAM 40.36 44.81 41.86 39.52, 65.54 74.41 73.54 75.81; DAM+DiffAug 41.91 46.35 44.77 41.24, 66.83 74.64
    74.39 75.66. Cost: 12,800,000 denoiser calls.
    """
    return _sweep(poster.deepaugment_augmix())


def resnet50() -> Sweep:
    """ResNet-50 from scratch, 450,000 optimiser steps; the poster's RN50 is the arm "same steps". Not run here.

    Poster: RN50 28.35 30.62 27.12 17.87, 58.09 74.38 71.43 76.15; RN50+DiffAug 31.15 33.51 32.22 20.87, 61.04 74.87
    75.07 75.95. Cost: 115,200,000 denoiser calls.
    """
    return _sweep(poster.resnet50())


def vit() -> Sweep:
    """ViT-B/16, 50,000 optimiser steps more, which the poster does not say. Not run here.

    Poster: ViT 43.60 52.90 48.25 50.75, 67.40 81.72 80.43 83.71; ViT+DiffAug 45.05 53.54 51.87 52.78, 70.05 81.85
    82.59 83.59. Cost: 12,800,000 denoiser calls.
    """
    return _sweep(poster.vit())
