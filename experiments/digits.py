"""What helps when there are five handwritten digits of each class? The demo, and single arms of it."""

from __future__ import annotations

from synthaug.classify.augment import CutMix, Mixup, TrivialAugment
from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.experiment import Experiment, Recipe, Sweep
from synthaug.methods.real_guidance import RealGuidance

NANO = Backbone(model="nano:sd")
STEPS = 300  # optimiser steps of every arm, whatever its epochs hold


def plain() -> Experiment:
    """Five real digits a class and nothing else."""
    return Experiment(dataset=Dataset("digits", shots=5), recipe=Recipe(steps=STEPS, batch_size=64))


def real_guidance() -> Experiment:
    """Real Guidance with full concatenation: five variants of each of 50 real digits."""
    method = RealGuidance(strength=0.9, steps=10)
    return Experiment(dataset=plain().dataset, recipe=plain().recipe, method=method, backbone=NANO, k=5)


def demo() -> Sweep:
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
