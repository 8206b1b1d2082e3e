"""UniDiffDA, Table 10: how many real and how many generated images of Caltech-101 (GIF). Not run here."""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.experiment import Sweep

SHOTS = (5, 10, 15, 20, 25)  # 20 % to 100 % of the real images
EXPANSIONS = (1, 5, 10, 20)  # generated images for each real one


def _sweep(*, epochs: bool = False) -> Sweep:
    task = protocol.caltech101()
    gif = protocol.coarse_arms(task, 4.0)["GIF"]
    sweep = protocol.compare(task, {f"1+{k}": gif | {"k": k} for k in EXPANSIONS}, epochs=epochs)
    return protocol.changed(sweep, {"space": {"dataset.shots": SHOTS}})


def caltech101() -> Sweep:
    """Caltech-101, 45,469 optimiser steps for every cell; the paper's are in caltech101_epochs."""
    return _sweep()


def caltech101_epochs() -> Sweep:
    """Caltech-101, 100 epochs.

    Paper (real only, 1+1, 1+5, 1+10, 1+20): 5 a class 14.27 21.64 34.96 41.98 49.58; 10: 24.19 31.27 54.56 61.42 66.06;
    15: 34.05 47.93 67.08 69.58 74.05; 20: 40.68 55.30 72.08 74.90 78.53; 25: 54.33 60.23 76.49 79.21 82.04.
    """
    return _sweep(epochs=True)
