"""UniDiffDA, Table 4: Aircraft by variant, ResNet-50 with ImageNet weights, random replacement. Not run here.

An epoch is as long with replaced images as without, so the paper's equal epochs are equal optimiser steps.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.experiment import Sweep


def _sweep(shots: int) -> Sweep:
    task = protocol.planes(shots)
    return protocol.compare(task, protocol.without_images() | protocol.fine_arms(task), epochs=True)


def aircraft_1() -> Sweep:
    """Aircraft by variant, 1 image a class; Diff-II has no second image to interpolate with.

    Paper: baseline 10.21, Mixup 7.57, CutMix 6.62, Real Guidance 11.23, GIF 11.79, DiffuseMix 13.03, DA-Fusion 11.24,
    Diff-Aug 11.49, Diff-Mix 12.16, Diff-II 11.28.
    """
    return _sweep(1)


def aircraft_5() -> Sweep:
    """Aircraft by variant, 5 images a class.

    Paper: baseline 32.26, Mixup 31.45, CutMix 24.00, Real Guidance 32.93, GIF 35.12, DiffuseMix 37.04, DA-Fusion 33.43,
    Diff-Aug 36.24, Diff-Mix 40.59, Diff-II 40.23.
    """
    return _sweep(5)


def aircraft_10() -> Sweep:
    """Aircraft by variant, 10 images a class.

    Paper: baseline 52.64, Mixup 54.12, CutMix 43.70, Real Guidance 53.72, GIF 56.26, DiffuseMix 57.89, DA-Fusion 52.92,
    Diff-Aug 55.34, Diff-Mix 59.37, Diff-II 59.62.
    """
    return _sweep(10)
