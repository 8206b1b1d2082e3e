"""Targeted augmentation on photographs of clothing, with images by a class-conditional net that has seen the training
images alone: 2,000 of them with five seeds, and all 60,000 with three.

`apt-get install dataset-fashion-mnist` brings the data. `python -m experiments.fashion_targeted` runs all of it, some
hours, keeps what is finished in results/ and goes on from there on any machine.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.digits_targeted import NET, back
from experiments.kept import go_on
from experiments.targeted import ORIGINAL, Arms, also, compare, longer, random_of_as_many, upsampled
from experiments.targeted import of_all as of_all_of_them
from synthaug.classify.augment import HorizontalFlip, RandomCrop, TrivialAugment
from synthaug.classify.optim import AdamW, SharpnessAware
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import Early, Slow
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
    images = 59_000 if shots is None else 10 * shots  # the sixtieth part chooses the weights
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
    arms = also(_arms(base, (2, 3, 5)), "SAM", SAM, ("original", "upsampled 2", "all 2", "slow 2", "slow 5"))
    arms = also(arms, "TrivialAugment", TRIVIAL, ("original", "upsampled 5", "slow 2", "slow 5"))
    arms = also(arms, "equal epochs", longer(40), ("any 2", "all 2", "slow 2", "slow 5", "upsampled 2", "upsampled 5"))
    return compare(base, arms, against=_against((2, 3, 5)), seeds=(0, 1, 2, 3, 4))


def of_all() -> Sweep:
    """All that are trained on, 59,000, 10 epochs of them. Not measured yet."""
    base = replace(one(None, 10, 3), {"evaluations": [{"kind": "Accuracy"}]})
    return compare(base, _arms(base, (2, 5)), against=_against((2, 5)), seeds=(0, 1, 2))


def _arms(base: Experiment, times: tuple[int, ...]) -> Arms:
    arms: Arms = {"original": ORIGINAL, "any 2": random_of_as_many(base), "all 2": of_all_of_them()}
    for number in times:
        arms |= {f"upsampled {number}": upsampled(number), f"slow {number}": {"amplification": number}}
    return arms


def _against(times: tuple[int, ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {f"slow {number}": ("original", f"upsampled {number}") for number in times}
    return found | {"slow 2": ("original", "upsampled 2", "any 2", "all 2")}


if __name__ == "__main__":
    for study in (of_2000, of_all):
        print(go_on(study(), RESULTS.with_stem(f"{RESULTS.stem}_{study.__name__}"), at_once=30))
