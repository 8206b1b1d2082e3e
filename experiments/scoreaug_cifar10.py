"""ScoreAug on CIFAR-10 (its tables 1, 2, 4 and 5). Not run here: a net is 2 days of eight V100 in EDM's paper."""

from __future__ import annotations

from typing import Any

from experiments import scoreaug as paper
from synthaug.data.dataset import Dataset
from synthaug.diffusion.score_models import ScoreAug
from synthaug.diffusion.transforms import PAPER, OneOrNone
from synthaug.experiment import Experiment, Sweep

CIFAR10 = Dataset("cifar10", path=paper.HOMES["cifar10"], val_share=0)


def one(*, labels: bool = False) -> Experiment:
    """DDPM++, 50,000 samples in 18 steps. EDM's paper, with its augmentation: 1.97 unconditional, 1.79 conditional."""
    return paper.measured(CIFAR10, paper.ddpmpp(32, dropout=0.13, labels=labels), steps=18)


def unconditional() -> Sweep:
    """Paper, first version: none 4.05, non-leaky 2.07, ScoreAug 2.35, both 2.05; later 2.27 to 2.06 for the same."""
    return paper.compare(one(), p=0.12)


def conditional() -> Sweep:
    """The same with classes. No numbers of the paper are known."""
    return paper.compare(one(labels=True), p=0.12)


def each_alone() -> Sweep:
    """Each transform told and untold. Paper: rotation 22.90 untold, 2.21 told; the others work untold."""
    arms: dict[str, dict[str, Any]] = {"none": {}}
    for transform in PAPER:
        for how, told in (("", "truth"), (", untold", "nothing")):
            score = ScoreAug(OneOrNone((transform,)), told=told)  # type: ignore[arg-type]
            arms[f"{type(transform).__name__.lower()}{how}"] = {"denoiser.scoreaug": score}
    return Sweep(base=one(), arms=arms, baseline="none", seeds=(0, 1, 2))


def overfitting() -> Sweep:
    """None and ScoreAug at a tenth, a half and all of the images, and at half and twice the width (its figure 2:
    without ScoreAug the distance rises again as training goes on; no numbers are known)."""
    shots, widths = (500, 2500, 5000), ((128,) * 3, (512,) * 3)
    sizes: dict[str, dict[str, Any]] = {f"{10 * n:,} images": {"dataset.shots": n, "k": 5000 // n} for n in shots}
    sizes |= {f"{width[0]} wide": {"denoiser.channels": width} for width in widths}
    arms = {
        f"{name}, {size}": fields | more
        for size, more in sizes.items()
        for name, fields in {"none": {}, "ScoreAug": {"denoiser.scoreaug": ScoreAug()}}.items()
    }
    against: dict[str, tuple[str, ...]] = {f"ScoreAug, {size}": (f"none, {size}",) for size in sizes}
    return Sweep(base=one(), arms=arms, against=against, seeds=(0, 1, 2))
