"""What helps when there are one or five handwritten digits of each class? The demo's searches, a comparison, single
arms."""

from __future__ import annotations

import dataclasses

from synthaug.classify.augment import CutMix, Mixup, TrivialAugment
from synthaug.classify.mixing import LocalRandomReplace
from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.experiment import Experiment, Recipe, Sweep
from synthaug.methods.real_guidance import RealGuidance
from synthaug.search.race import Race
from synthaug.search.space import Choice

NANO = Backbone(model="nano:sd")
STEPS = 300  # optimiser steps of every arm, whatever its epochs hold


def plain() -> Experiment:
    """Five real digits a class and nothing else."""
    return Experiment(dataset=Dataset("digits", shots=5), recipe=Recipe(steps=STEPS, batch_size=64))


def real_guidance() -> Experiment:
    """Real Guidance with full concatenation: five variants of each of 50 real digits."""
    method = RealGuidance(strength=0.9, steps=10)
    return Experiment(dataset=plain().dataset, recipe=plain().recipe, method=method, backbone=NANO, k=5)


def _search(shots: int) -> Sweep:
    """Strength, share of replaced images and number of variants, beside what costs the same steps."""
    short = Recipe(steps=150, batch_size=32, evaluations=5)
    made = {"method": RealGuidance(steps=10), "backbone": NANO, "utilize": LocalRandomReplace()}
    return Sweep(
        base=dataclasses.replace(plain(), dataset=Dataset("digits", shots=shots), recipe=short),
        arms={"plain": {}, "TrivialAugment": {"recipe.transforms": (TrivialAugment(),)}, "Real Guidance": made},
        baseline="plain",
        controls=("TrivialAugment",),
        space={"method.strength": Choice((0.3, 0.9)), "utilize.p": Choice((0.3, 0.7)), "k": Choice((1, 4))},
        scheduler=Race(),
        seeds=tuple(range(4)),
    )


def one_shot() -> Sweep:
    """The demo: which strength, share and number of variants help with one digit a class? Raced over paired seeds."""
    return _search(1)


def five_shots() -> Sweep:
    """The demo's second search: the same with five digits a class."""
    return _search(5)


def compare() -> Sweep:
    """Five ways to train on five digits a class, five paired seeds, the same optimiser steps for every arm."""
    generated = real_guidance()
    return Sweep(
        base=plain(),
        arms={
            "plain": {},
            "TrivialAugment": {"recipe.transforms": (TrivialAugment(),)},
            "CutMix": {"recipe.transforms": (CutMix(),)},
            "Mixup": {"recipe.transforms": (Mixup(),)},
            "Real Guidance": {"method": generated.method, "backbone": generated.backbone, "k": generated.k},
        },
        baseline="plain",
    )
