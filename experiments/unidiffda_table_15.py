"""UniDiffDA, Table 15: the generated images themselves, Aircraft: Frechet distance, precision, recall. Not run here.

The paper does not say which features and which real images: here the real training images, torchvision's Inception v3
and 3 neighbours, so these numbers are comparable with one another and not with the paper's. What it concludes is to be
seen all the same: they do not foretell accuracy.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from experiments import unidiffda_table_04 as accuracy
from synthaug.experiment import Sweep


def aircraft_5() -> Sweep:
    """Aircraft, 5 a class (distance, precision, recall).

    Paper: Real Guidance 5.95 0.99 0.04, GIF 23.14 0.39 0.20, DiffuseMix 49.52 0.31 0.19, DA-Fusion 14.30 0.33 0.50,
    Diff-Aug 7.91 0.37 0.44, Diff-Mix 7.93 0.35 0.48, Diff-II 12.02 0.35 0.40.
    """
    return protocol.measured(accuracy.aircraft_5())


def aircraft_10() -> Sweep:
    """Aircraft, 10 a class (distance, precision, recall).

    Paper: Real Guidance 3.42 0.99 0.07, GIF 22.15 0.38 0.22, DiffuseMix 49.90 0.33 0.37, DA-Fusion 15.62 0.37 0.27,
    Diff-Aug 7.15 0.38 0.42, Diff-Mix 7.01 0.37 0.45, Diff-II 11.84 0.34 0.44.
    """
    return protocol.measured(accuracy.aircraft_10())
