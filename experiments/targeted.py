"""Targeted augmentation's own experiments (Nguyen et al., ICLR 2026, arXiv:2505.21574): what they share. Not run here.

Its figures are bars without numbers; what is known of them stands in the docstrings. The paper generates with GLIDE,
guidance 3, 100 steps of which the last 50 are run; Stable Diffusion 1.5 stands in for it here, with the same numbers.
How long the net is trained before it tells slow from fast, rho and the rates are not in what is published: 8 epochs,
and what USEFUL, on which the paper builds, has.
"""

from __future__ import annotations

from typing import Any

from synthaug.classify.augment import HorizontalFlip, RandomCrop, TrivialAugment
from synthaug.classify.optim import SGD, SharpnessAware, Steps
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import AtRandom, Early, Slow
from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment, Sweep
from synthaug.methods.base import Method
from synthaug.methods.sdedit import SDEdit, SeveralStrengths
from synthaug.methods.upsample import Upsample

Arms = dict[str, dict[str, Any]]
EPOCHS, BATCH, SEEDS = 200, 128, (0, 1, 2)
OPTIMIZER = SGD(lr=0.1)
# rho and the images of a training set, by data set
RHO = {"cifar10": 0.05, "cifar100": 0.1, "tiny-imagenet": 0.2}
IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "tiny-imagenet": 100_000}
FAITHFUL = SDEdit(strength=0.5, steps=100, guidance=3.0)
# "images saved at different step counts": each variant begins elsewhere
FROM_SEVERAL = SeveralStrengths(strengths=(0.5, 0.4, 0.6, 0.3), steps=100, guidance=3.0)
FROM_NOISE = SDEdit(strength=1.0, steps=100, guidance=3.0)
ORIGINAL: dict[str, Any] = {"method": None, "subset": None}


def steps_of(dataset: str, batch: int = BATCH) -> int:
    """The optimiser steps of 200 epochs of the originals."""
    return EPOCHS * IMAGES[dataset] // batch


def task(dataset: str, model: str = "cifar_resnet18", method: Method = FAITHFUL) -> Experiment:
    """The paper trains on all images and does not say which weights it tests; here a fiftieth chooses them."""
    size = 64 if dataset == "tiny-imagenet" else 32
    recipe = Recipe(
        model=model, optimizer=OPTIMIZER, schedule=Steps(), steps=steps_of(dataset), batch_size=BATCH,
        transforms=(RandomCrop(padding=size // 8), HorizontalFlip()), precision="bf16", evaluations=20,
    )  # fmt: skip
    data = Dataset(dataset, path=f"data/{dataset}", val_share=0.02)
    # by this recipe whatever an arm trains by, so that all arms have the same slow images
    return Experiment(dataset=data, method=method, subset=Slow(early=Early(recipe=recipe)), k=1, recipe=recipe)


def upsampled(amplification: int = 2) -> dict[str, Any]:
    """The slow images once more, or more often."""
    return {"method": Upsample(), "amplification": amplification}


def random_of_as_many(base: Experiment, amplification: int = 2) -> dict[str, Any]:
    """Syn-rand: new images of as many of each class as are slow, any of them."""
    assert base.subset is not None, "nothing is chosen"
    return {"subset": AtRandom(early=base.subset.early), "amplification": amplification}


def of_all(amplification: int = 2) -> dict[str, Any]:
    """Syn-all."""
    return {"subset": None, "amplification": amplification}


def targeted(amplification: int) -> dict[str, Any]:
    """Ours: new images of the slow ones."""
    return {"amplification": amplification}


def sharp(arm: dict[str, Any], rho: float) -> dict[str, Any]:
    """An arm trained with SAM."""
    return arm | {"recipe.optimizer": SharpnessAware(OPTIMIZER, rho=rho)}


def with_sam(arms: Arms, rho: float) -> Arms:
    """Each arm by SGD and by SAM."""
    return arms | {f"{name}, SAM": sharp(arm, rho) for name, arm in arms.items()}


def trivial(arm: dict[str, Any], size: int) -> dict[str, Any]:
    """An arm with TrivialAugment in training."""
    transforms = (RandomCrop(padding=size // 8), HorizontalFlip(), TrivialAugment())
    return arm | {"recipe.transforms": transforms}


def both_lengths(arms: Arms, epochs: int) -> Arms:
    """Each arm at equal steps, and at equal epochs, where larger sets are trained on for longer."""
    longer = {"recipe.steps": None, "recipe.epochs": epochs}
    larger = {name: arm for name, arm in arms.items() if arm.get("method", FAITHFUL) is not None}
    return arms | {f"{name}, equal epochs": arm | longer for name, arm in larger.items()}


def compare(base: Experiment, arms: Arms, *, baseline: str = "original", controls: tuple[str, ...] = ()) -> Sweep:
    """Arms with three paired seeds, as in the paper."""
    return Sweep(base=base, arms=arms, baseline=baseline, controls=controls, seeds=SEEDS)
