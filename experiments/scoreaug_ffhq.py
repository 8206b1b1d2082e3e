"""ScoreAug on FFHQ at 64 pixels. Not run here."""

from __future__ import annotations

from experiments import scoreaug as paper
from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment, Sweep

FFHQ = Dataset("ffhq", path=paper.HOMES["ffhq"], val_share=0)


def one() -> Experiment:
    """DDPM++, 50,000 samples in 40 steps, trained on the official 60,000. EDM's paper, on all 70,000: 2.39 with its
    augmentation, else 2.60."""
    return paper.measured(FFHQ, paper.ddpmpp(64, dropout=0.05), steps=40)


def unconditional() -> Sweep:
    """The paper's arms. Its numbers are not known."""
    return paper.compare(one(), p=0.15)
