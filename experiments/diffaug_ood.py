"""DiffAug, its table of near outliers: AUROC (%) of OpenOOD 1.5's near sets for ImageNet. Not run here.

Numbers stand in the poster's order: ASH, MSP, ReAct, SCALE and their average (of which its leaderboard's best was 84.87
by one detector). The outliers are data/ssb_hard and data/ninco; percentiles are chosen by a fifth of data/openimage_o
and by training images that are held out, five a class, so that the best weights by those are kept, not the last ones.
At most 5,000 images of each set are looked at, where OpenOOD takes all 49,000 of SSB-hard.
"""

from __future__ import annotations

import dataclasses

from experiments import diffaug as poster
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.ood import OutOfDistribution
from synthaug.evaluate.outliers import Folder
from synthaug.experiment import Sweep

HELD_OUT = dataclasses.replace(poster.IMAGENET, val_share=0.004)


def _outliers(*names: str) -> tuple[Folder, ...]:
    return tuple(Folder(path=f"{poster.DATA}/{name}", count=5000) for name in names)


def _sweep(network: poster.Network) -> Sweep:
    near = OutOfDistribution(near=_outliers("ssb_hard", "ninco"), far=(), val=_outliers("openimage_o"))
    return poster.compare(network, (Accuracy(), near), HELD_OUT)


def augmix() -> Sweep:
    """AugMix, 50,000 optimiser steps more. Not run here.

    Poster: AM 82.16 77.49 79.94 83.61 80.80; AM+DiffAug 83.62 78.35 81.29 84.81 82.02. Cost: 12,800,000 denoiser calls.
    """
    return _sweep(poster.augmix())


def resnet50() -> Sweep:
    """ResNet-50 from scratch, 450,000 optimiser steps. Not run here.

    Poster: RN50 78.17 76.02 77.38 81.36 78.23; RN50+DiffAug 79.86 76.86 78.76 82.81 79.57. Cost: 115,200,000 denoiser
    calls.
    """
    return _sweep(poster.resnet50())


def deepaugment_augmix() -> Sweep:
    """DeepAugment with AugMix, 50,000 optimiser steps more. Not run here.

    Poster: no numbers; it says that this one, the most robust (41.24 on ImageNet-C), does not detect outliers better.
    Cost: 12,800,000 denoiser calls.
    """
    return _sweep(poster.deepaugment_augmix())
