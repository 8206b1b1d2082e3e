"""ScoreAug on the latents of ImageNet at 256 pixels, with SiT's shapes. Not run here."""

from __future__ import annotations

from experiments import scoreaug as paper
from synthaug.data.dataset import Dataset
from synthaug.experiment import Sweep

IMAGENET = Dataset("imagenet1k", path="data/imagenet", val_share=0)


def xl() -> Sweep:
    """SiT-XL/2, translation in latents only, without guidance. Paper: a marginal gain; its reviewers asked for smaller
    nets, for guidance and for repeats."""
    return paper.translated(paper.measured(IMAGENET, paper.dit(28, 16, 72), steps=125))


def xl_guided() -> Sweep:
    """The same with classifier-free guidance of 1.5. No numbers are known."""
    return paper.translated(paper.measured(IMAGENET, paper.dit(28, 16, 72), steps=125, guidance=1.5))


def b() -> Sweep:
    """SiT-B/2. The paper has none."""
    return paper.translated(paper.measured(IMAGENET, paper.dit(12, 12), steps=125))


def s() -> Sweep:
    """SiT-S/2. The paper has none."""
    return paper.translated(paper.measured(IMAGENET, paper.dit(12, 6), steps=125))
