"""UniDiffDA, Table 5: medical images, ResNet-50 from scratch, full concatenation. Not run here."""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.experiment import Sweep


def _sweep(task: protocol.Task, *, epochs: bool = False) -> Sweep:
    return protocol.compare(task, protocol.without_images() | protocol.medical_arms(task), epochs=epochs)


def blood_5() -> Sweep:
    """Blood cells, 5 images a class, 750 optimiser steps for every arm; the paper's are in blood_5_epochs."""
    return _sweep(protocol.blood(5))


def blood_5_epochs() -> Sweep:
    """Blood cells, 5 images a class, 100 epochs.

    Paper: baseline 60.00, Mixup 60.33, CutMix 60.92, Real Guidance 70.67, GIF 66.58, DA-Fusion 63.91, Diff-Aug 61.73,
    Diff-Mix 58.03. Its Real Guidance and DA-Fusion say "a photo of"; here all use the data set's own prompt.
    """
    return _sweep(protocol.blood(5), epochs=True)


def blood_25() -> Sweep:
    """Blood cells, 25 images a class, 3,750 optimiser steps for every arm; the paper's are in blood_25_epochs."""
    return _sweep(protocol.blood(25))


def blood_25_epochs() -> Sweep:
    """Blood cells, 25 images a class, 100 epochs.

    Paper: baseline 77.67, Mixup 62.17, CutMix 64.58, Real Guidance 86.67, GIF 87.25, DA-Fusion 80.76, Diff-Aug 79.06,
    Diff-Mix 70.44. Its Real Guidance and DA-Fusion say "a photo of"; here all use the data set's own prompt.
    """
    return _sweep(protocol.blood(25), epochs=True)


def skin_10() -> Sweep:
    """Skin lesions, 10 images a class, 1,312 optimiser steps for every arm; the paper's are in skin_10_epochs."""
    return _sweep(protocol.skin(10))


def skin_10_epochs() -> Sweep:
    """Skin lesions, 10 images a class, 100 epochs.

    Paper: baseline 39.62, Mixup 40.67, CutMix 36.86, Real Guidance 42.29, GIF 40.95, DA-Fusion 38.71, Diff-Aug 39.03,
    Diff-Mix 37.92. Its Real Guidance and DA-Fusion say "a photo of"; here all use the data set's own prompt.
    """
    return _sweep(protocol.skin(10), epochs=True)


def skin_50() -> Sweep:
    """Skin lesions, 50 images a class, 6,562 optimiser steps for every arm; the paper's are in skin_50_epochs."""
    return _sweep(protocol.skin(50))


def skin_50_epochs() -> Sweep:
    """Skin lesions, 50 images a class, 100 epochs.

    Paper: baseline 50.48, Mixup 47.14, CutMix 49.05, Real Guidance 51.81, GIF 51.91, DA-Fusion 49.00, Diff-Aug 51.13,
    Diff-Mix 47.85. Its Real Guidance and DA-Fusion say "a photo of"; here all use the data set's own prompt.
    """
    return _sweep(protocol.skin(50), epochs=True)
