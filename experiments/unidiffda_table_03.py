"""UniDiffDA, Table 3: Birds (CUB-200-2011), ResNet-50 with ImageNet weights, random replacement. Not run here.

An epoch is as long with replaced images as without, so the paper's equal epochs are equal optimiser steps.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.experiment import Sweep


def _sweep(shots: int) -> Sweep:
    task = protocol.birds(shots)
    return protocol.compare(task, protocol.without_images() | protocol.fine_arms(task), epochs=True)


def birds_1() -> Sweep:
    """Birds (CUB-200-2011), 1 image a class; Diff-II has no second image to interpolate with.

    Paper: baseline 16.20, Mixup 13.91, CutMix 12.45, Real Guidance 17.29, GIF 17.09, DiffuseMix 16.34, DA-Fusion 19.21,
    Diff-Aug 18.37, Diff-Mix 24.03, Diff-II 20.34.
    """
    return _sweep(1)


def birds_5() -> Sweep:
    """Birds (CUB-200-2011), 5 images a class.

    Paper: baseline 52.24, Mixup 48.51, CutMix 35.47, Real Guidance 52.78, GIF 52.32, DiffuseMix 54.48, DA-Fusion 59.37,
    Diff-Aug 60.12, Diff-Mix 63.41, Diff-II 61.29.
    """
    return _sweep(5)


def birds_10() -> Sweep:
    """Birds (CUB-200-2011), 10 images a class.

    Paper: baseline 69.94, Mixup 67.40, CutMix 59.49, Real Guidance 69.94, GIF 67.76, DiffuseMix 68.44, DA-Fusion 70.91,
    Diff-Aug 71.83, Diff-Mix 73.56, Diff-II 72.96.
    """
    return _sweep(10)
