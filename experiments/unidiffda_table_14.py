"""UniDiffDA, Table 14: the generated images themselves, Birds: Frechet distance, precision, recall. Not run here.

The paper does not say which features and which real images: here the real training images, torchvision's Inception v3
and 3 neighbours, so these numbers are comparable with one another and not with the paper's. What it concludes is to be
seen all the same: they do not foretell accuracy.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from experiments import unidiffda_table_03 as accuracy
from synthaug.experiment import Sweep


def birds_5() -> Sweep:
    """Birds, 5 a class (distance, precision, recall).

    Paper: Real Guidance 6.54 0.99 0.05, GIF 16.20 0.73 0.19, DiffuseMix 28.69 0.63 0.27, DA-Fusion 17.83 0.41 0.23,
    Diff-Aug 13.27 0.46 0.29, Diff-Mix 13.04 0.43 0.36, Diff-II 14.16 0.45 0.26.
    """
    return protocol.measured(accuracy.birds_5())


def birds_10() -> Sweep:
    """Birds, 10 a class (distance, precision, recall).

    Paper: Real Guidance 4.32 0.99 0.10, GIF 15.58 0.71 0.22, DiffuseMix 28.79 0.62 0.27, DA-Fusion 15.80 0.32 0.24,
    Diff-Aug 13.05 0.44 0.26, Diff-Mix 12.90 0.41 0.33, Diff-II 13.75 0.46 0.28.
    """
    return protocol.measured(accuracy.birds_10())
