"""UniDiffDA, Table 2: coarse classes, ResNet-50 from scratch, full concatenation. Not run here."""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.experiment import Sweep


def _sweep(task: protocol.Task, constraint: float = 0.8, *, epochs: bool = False) -> Sweep:
    arms = protocol.without_images() | protocol.coarse_arms(task, constraint)
    return protocol.compare(task, arms, epochs=epochs)


def caltech101() -> Sweep:
    """Caltech-101, 25 images a class, 45,469 optimiser steps for every arm; the paper's are in caltech101_epochs."""
    return _sweep(protocol.caltech101(), 4.0)


def caltech101_epochs() -> Sweep:
    """Caltech-101, 25 images a class, 100 epochs of whatever an arm trains on.

    Paper: baseline 49.95, Mixup 51.75, CutMix 47.65, Real Guidance 67.20, GIF 76.11, DiffuseMix 62.74, DA-Fusion
    67.65, Diff-Aug 72.35, Diff-Mix 75.80 (standard deviations 0.3 to 3.9). Cost there: Table 17.
    """
    return _sweep(protocol.caltech101(), 4.0, epochs=True)


def cifar100() -> Sweep:
    """CIFAR-100, 100 images a class, 187,500 optimiser steps for every arm; the paper's are in cifar100_epochs."""
    return _sweep(protocol.cifar100())


def cifar100_epochs() -> Sweep:
    """CIFAR-100, 100 images a class, 100 epochs.

    Paper: baseline 55.22, Mixup 58.06, CutMix 56.08, Real Guidance 66.69, GIF 68.23, DiffuseMix 58.63, DA-Fusion 66.74,
    Diff-Aug 68.82, Diff-Mix 71.37. Cost there: Table 17.
    """
    return _sweep(protocol.cifar100(), epochs=True)


def imagenet100() -> Sweep:
    """ImageNet-100, 250 images a class, 468,750 optimiser steps for all arms; the paper's are in imagenet100_epochs."""
    return _sweep(protocol.imagenet100())


def imagenet100_epochs() -> Sweep:
    """ImageNet-100, 250 images a class, 100 epochs.

    Paper: baseline 65.28, Mixup 67.45, CutMix 68.40, Real Guidance 76.83, GIF 78.63, DiffuseMix 73.96, DA-Fusion 76.71,
    Diff-Aug 77.24, Diff-Mix 78.29. Cost there: Table 17.
    """
    return _sweep(protocol.imagenet100(), epochs=True)


def imagenet1k() -> Sweep:
    """ImageNet-1K, 25 images a class, 468,750 optimiser steps for every arm; the paper's are in imagenet1k_epochs."""
    return _sweep(protocol.imagenet1k())


def imagenet1k_epochs() -> Sweep:
    """ImageNet-1K, 25 images a class, 100 epochs (the paper does not give their number).

    Paper: baseline 22.37, Mixup 23.54, CutMix 24.08, Real Guidance 39.07, GIF 39.52, DiffuseMix 37.35, DA-Fusion 38.87,
    Diff-Aug 39.45, Diff-Mix 39.93.
    """
    return _sweep(protocol.imagenet1k(), epochs=True)
