"""UniDiffDA, Table 13: the generated images themselves, coarse classes: Frechet distance, precision, recall. Not run
here.

The paper does not say which features and which real images: here the real training images, torchvision's Inception v3
and 3 neighbours, so these numbers are comparable with one another and not with the paper's. What it concludes is to be
seen all the same: they do not foretell accuracy.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from experiments import unidiffda_table_02 as accuracy
from synthaug.experiment import Sweep


def caltech101_epochs() -> Sweep:
    """Caltech-101 (distance, precision, recall).

    Paper: Real Guidance 42.79 0.38 0.28, GIF 54.81 0.40 0.33, DiffuseMix 41.22 0.82 0.87, DA-Fusion 41.99 0.38
    0.29, Diff-Aug 25.71 0.75 0.32, Diff-Mix 27.45 0.60 0.43.
    """
    return protocol.measured(accuracy.caltech101_epochs())


def cifar100_epochs() -> Sweep:
    """CIFAR-100 (distance, precision, recall).

    Paper: Real Guidance 84.45 0.03 0.17, GIF 113.22 0.01 0.10, DiffuseMix 149.97 0.01 0.09, DA-Fusion 83.54 0.03
    0.18, Diff-Aug 23.90 0.46 0.51, Diff-Mix 20.03 0.37 0.58.
    """
    return protocol.measured(accuracy.cifar100_epochs())
