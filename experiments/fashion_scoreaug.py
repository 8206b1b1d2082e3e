"""ScoreAug on photographs of clothing: 300, 3,000 and 60,000 of them, beside flips, which many baselines lack.

`apt-get install dataset-fashion-mnist` brings the data. `python -m experiments.fashion_scoreaug` runs all of it, some
hours, keeps what is finished in results/ and goes on from there on any machine.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.digits_scoreaug import NET, OWN
from experiments.kept import go_on
from synthaug.classify.detector import TransformDetector
from synthaug.data.dataset import Dataset
from synthaug.diffusion.score_models import OnClean, ScoreAug
from synthaug.diffusion.transforms import EDMPipe, Flips, OneOrNone
from synthaug.evaluate.denoising import DenoisingLoss
from synthaug.evaluate.fidelity import Fidelity
from synthaug.evaluate.memorised import Memorised
from synthaug.evaluate.transformed import Transformed
from synthaug.experiment import Experiment, Sweep
from synthaug.methods.from_noise import FromNoise

STEPS, SEEDS, WIDTH = 1500, (0, 1, 2), (16, 32, 32)
FLIPS: dict[str, Any] = {"denoiser.clean": OnClean(Flips(), told=False)}
SCORE: dict[str, Any] = {"denoiser.scoreaug": ScoreAug()}
ARMS: dict[str, dict[str, Any]] = {
    "none": {},
    "flips": FLIPS,
    "non-leaky": {"denoiser.clean": OnClean(EDMPipe())},
    "the same on clean images": {"denoiser.clean": OnClean(OneOrNone())},
    "ScoreAug": SCORE,
    "flips + ScoreAug": FLIPS | SCORE,
}
CONTROLS = ("non-leaky", "the same on clean images")
RESULTS = Path(__file__).parent / "results" / "fashion_scoreaug.jsonl"


def one(shots: int | None, k: int) -> Experiment:
    """A net, samples of it, and what they are like beside 10,000 held-out images."""
    net = dataclasses.replace(NET, channels=WIDTH, image_size=None, steps=STEPS)
    looks = (Fidelity(extractor=OWN, sets=4), Memorised(), Transformed(TransformDetector(steps=1000)))
    return Experiment(
        dataset=Dataset("fashion", shots=shots, val_share=0), method=FromNoise(most=1000), k=k,
        denoiser=net, evaluations=(*looks, DenoisingLoss()),
    )  # fmt: skip


def of_300() -> Sweep:
    """30 a class. Not measured yet: 2.5 core-hours."""
    return Sweep(
        base=one(30, 4), arms=ARMS, baseline="flips", controls=CONTROLS, metric="denoising/heldout", seeds=SEEDS
    )


def of_3000() -> Sweep:
    """300 a class. Not measured yet: 2.5 core-hours."""
    return Sweep(
        base=one(300, 1), arms=ARMS, baseline="flips", controls=CONTROLS, metric="denoising/heldout", seeds=SEEDS
    )


def of_all() -> Sweep:
    """All 60,000, each of which a net sees 1.6 times. Not measured yet: 2.5 core-hours."""
    return Sweep(
        base=one(None, 1), arms=ARMS, baseline="flips", controls=CONTROLS, metric="denoising/heldout", seeds=SEEDS
    )


if __name__ == "__main__":
    for study in (of_300, of_3000, of_all):
        print(go_on(study(), RESULTS.with_stem(f"{RESULTS.stem}_{study.__name__}")))
