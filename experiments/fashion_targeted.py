"""Targeted augmentation on photographs of clothing, with images by a class-conditional net that has seen the training
images alone: 2,000 of them with five seeds, and all 60,000 with three.

`apt-get install dataset-fashion-mnist` brings the data. `python experiments/fashion_targeted.py` runs all of it, some
hours, keeps what is finished in results/ and goes on from there on any machine.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.digits_targeted import NET, ORIGINAL, Arms, back, upsampled
from experiments.kept import go_on
from synthaug.classify.augment import HorizontalFlip, RandomCrop, TrivialAugment
from synthaug.classify.optim import AdamW, SharpnessAware
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import AtRandom, Early, Slow
from synthaug.data.dataset import Dataset
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.faithful import Faithfulness
from synthaug.experiment import Experiment, Sweep, replace

CROPS = (RandomCrop(padding=2), HorizontalFlip())
RESULTS = Path(__file__).parent / "results" / "fashion_targeted.jsonl"
SAM: dict[str, Any] = {"recipe.optimizer": SharpnessAware(AdamW(lr=2e-3))}
TRIVIAL: dict[str, Any] = {"recipe.transforms": (*CROPS, TrivialAugment())}


def one(shots: int | None, epochs: int, seeds: int) -> Experiment:
    """New images of the slow ones once, half of the way back; as many steps for every arm as the originals take."""
    images = 60_000 if shots is None else 10 * shots
    batch = 64 if shots else 128
    recipe = Recipe(steps=epochs * images // batch, batch_size=batch, transforms=CROPS, optimizer=AdamW(lr=2e-3))
    return Experiment(
        dataset=Dataset("fashion", shots=shots, val_share=1 / 60), method=back(50), k=1, recipe=recipe,
        subset=Slow(early=Early(recipe=recipe)), evaluations=(Accuracy(), Faithfulness()),
        denoiser=dataclasses.replace(NET, image_size=None, replicas=seeds),
    )  # fmt: skip


def of_2000() -> Sweep:
    """200 a class, 40 epochs of them. Not measured yet."""
    base = one(200, 40, 5)
    arms = _arms(base, (2, 3, 5))
    arms |= {f"{name}, SAM": arms[name] | SAM for name in ("original", "upsampled 2", "all 2", "slow 2", "slow 5")}
    arms |= {f"{name}, TrivialAugment": arms[name] | TRIVIAL for name in ("original", "slow 2", "slow 5")}
    longer = {"recipe.steps": None, "recipe.epochs": 40}
    arms |= {f"{n}, equal epochs": arms[n] | longer for n in ("any 2", "all 2", "slow 2", "slow 5", "upsampled 5")}
    against: dict[str, tuple[str, ...]] = {
        f"{name}, TrivialAugment": ("original, TrivialAugment",) for name in ("slow 2", "slow 5")
    }
    return Sweep(
        base=base, arms=arms, baseline="original", controls=("upsampled 2", "any 2"), against=against,
        seeds=(0, 1, 2, 3, 4),
    )  # fmt: skip


def of_all() -> Sweep:
    """All 60,000, 10 epochs of them. Not measured yet."""
    base = replace(one(None, 10, 3), {"evaluations": [{"kind": "Accuracy"}]})
    arms = _arms(base, (2, 5))
    return Sweep(base=base, arms=arms, baseline="original", controls=("upsampled 2", "any 2"), seeds=(0, 1, 2))


def _arms(base: Experiment, times: tuple[int, ...]) -> Arms:
    assert base.subset is not None, "nothing is chosen"
    arms: Arms = {
        "original": ORIGINAL,
        "any 2": {"subset": AtRandom(early=base.subset.early)},
        "all 2": {"subset": None},
    }
    for number in times:
        arms |= {f"upsampled {number}": upsampled(number), f"slow {number}": {"amplification": number}}
    return arms


if __name__ == "__main__":
    for study in (of_2000, of_all):
        print(go_on(study(), RESULTS.with_stem(f"{RESULTS.stem}_{study.__name__}"), at_once=30))
