"""ScoreAug on AFHQv2 at 64 pixels. Not run here."""

from __future__ import annotations

from experiments import scoreaug as paper
from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment, Sweep

AFHQ = Dataset("afhqv2", path=paper.HOMES["afhqv2"], val_share=0)


def one() -> Experiment:
    """DDPM++, three samples a training image in 40 steps. EDM's paper: 1.96 with its augmentation, 2.29 without."""
    return paper.measured(AFHQ, paper.ddpmpp(64, dropout=0.25), steps=40, k=3)


def unconditional() -> Sweep:
    """The paper's arms. Its numbers are not known."""
    return paper.compare(one(), p=0.15)
