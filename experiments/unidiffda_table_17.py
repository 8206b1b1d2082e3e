"""UniDiffDA, Table 17: what each method costs, which reports show beside accuracy. Not run here.

The paper's numbers are hours of an RTX 4090D (fine-tuning: of two), 22 of 25 steps at 512 px for five images of each
real one: 1.7 to 1.8 images a second, GIF 1.5, DiffuseMix (100 steps at 256 px) 1.3.
"""

from __future__ import annotations

from experiments import unidiffda_table_02 as accuracy
from synthaug.experiment import Sweep


def caltech101() -> Sweep:
    """Caltech-101, 2,425 real images.

    Paper (fine-tuning + generation + classifier): baseline 0 + 0 + 0.18, Real Guidance 0 + 1.91 + 0.68, GIF 0 + 2.26 +
    0.68, DiffuseMix 0 + 2.56 + 0.68, DA-Fusion 1.98 + 1.92 + 0.68, Diff-Aug 3.26 + 1.94 + 0.68, Diff-Mix 3.26 + 1.95 +
    0.68.
    """
    return accuracy.caltech101_epochs()


def cifar100() -> Sweep:
    """CIFAR-100, 10,000 real images.

    Paper (fine-tuning + generation + classifier): baseline 0 + 0 + 0.54, Real Guidance 0 + 7.70 + 2.26, GIF 0 + 9.21 +
    2.26, DiffuseMix 0 + 10.53 + 2.26, DA-Fusion 1.98 + 7.71 + 2.26, Diff-Aug 3.26 + 7.73 + 2.26, Diff-Mix 3.26 + 7.72 +
    2.26.
    """
    return accuracy.cifar100_epochs()


def imagenet100() -> Sweep:
    """ImageNet-100, 25,000 real images.

    Paper (fine-tuning + generation + classifier): baseline 0 + 0 + 1.02, Real Guidance 0 + 20.07 + 5.11, GIF 0 + 22.59
    + 5.11, DiffuseMix 0 + 26.28 + 5.11, DA-Fusion 1.98 + 20.17 + 5.11, Diff-Aug 3.26 + 20.19 + 5.11, Diff-Mix 3.26 +
    20.23 + 5.11.
    """
    return accuracy.imagenet100_epochs()
