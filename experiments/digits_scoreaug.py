"""ScoreAug on handwritten digits: does transforming noisy images keep a diffusion net from learning them by heart,
beyond augmentation of clean ones that costs the same, and what must it be told?

Digits are shown at 16 pixels (they were written at 8), without colour. Flips are left out: a mirrored digit is none.
`python experiments/digits_scoreaug.py` runs all of it, some hours, keeps what is finished in results/ and goes on from
there on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.kept import go_on
from synthaug.classify.detector import TransformDetector
from synthaug.classify.recipe import Recipe
from synthaug.data.dataset import Dataset
from synthaug.diffusion.score_models import OnClean, ScoreAug, TrainedEDM
from synthaug.diffusion.transforms import PAPER, Clip, Contrast, EDMPipe, Gamma, Jpeg, OneOrNone
from synthaug.evaluate.denoising import Answers, DenoisingLoss
from synthaug.evaluate.features import OwnFeatures
from synthaug.evaluate.fidelity import Fidelity
from synthaug.evaluate.memorised import Memorised
from synthaug.evaluate.transformed import Transformed
from synthaug.experiment import Experiment, Sweep, replace
from synthaug.methods.from_noise import FromNoise

SIZE, STEPS, WIDTH = 16, 1500, (16, 32, 32)
SEEDS = (0, 1, 2)
PIPE = EDMPipe(flips=False)
NET = TrainedEDM(
    channels=WIDTH, grey=True, steps=STEPS, image_size=SIZE, lr=2e-3, replicas=len(SEEDS)
)  # a net of its own for each seed, whatever images it has
OWN = OwnFeatures(Recipe(steps=1000, batch_size=64, evaluations=1))
NONE: dict[str, Any] = {}
CLEAN: dict[str, Any] = {"denoiser.clean": OnClean(PIPE)}
SCORE: dict[str, Any] = {"denoiser.scoreaug": ScoreAug()}
BENT = OneOrNone((Gamma(), Contrast(), Clip(), Jpeg()))
RESULTS = Path(__file__).parent / "results" / "digits_scoreaug.jsonl"


def score(**fields: Any) -> dict[str, Any]:
    """An arm with ScoreAug, told and done as said."""
    return {"denoiser.scoreaug": ScoreAug(**fields)}


MAIN: dict[str, dict[str, Any]] = {"none": NONE, "non-leaky": CLEAN, "ScoreAug": SCORE}
TOLD: dict[str, dict[str, Any]] = {
    "non-leaky, untold": {"denoiser.clean": OnClean(PIPE, told=False)},
    "ScoreAug, untold": score(told="nothing"),
    "ScoreAug, told another's": score(told="another's"),
    "ScoreAug, told the next one": score(told="the next one"),
    "ScoreAug by channels": score(by="channels"),
    "ScoreAug by scale and shift": score(by="scale and shift"),
    "both": CLEAN | SCORE,
    "one or the other": CLEAN | SCORE | {"denoiser.mixture": True},
}
ALONE: dict[str, dict[str, Any]] = {
    **{
        f"{type(transform).__name__.lower()}{how}": score(how=OneOrNone((transform,)), told=told)
        for transform in PAPER
        for how, told in (("", "truth"), (", untold", "nothing"))
    },
    "without brightness": score(how=OneOrNone(PAPER[1:])),
}
BENDING: dict[str, dict[str, Any]] = {
    f"not linear, reading {reading}": score(how=BENT, reading=reading) for reading in ("I", "II", "III")
}
OTHERS: dict[str, dict[str, Any]] = {
    "narrow": {"denoiser.channels": (8, 16, 16)},
    "wide": {"denoiser.channels": (32, 64, 64)},
    "twice as long": {"denoiser.steps": 2 * STEPS},
    "with classes": {"denoiser.labels": True},
}
SHAPES: dict[str, dict[str, Any]] = {
    f"{arm}, {shape}": fields | more
    for shape, more in OTHERS.items()
    for arm, fields in {"none": NONE, "ScoreAug": SCORE}.items()
}


def one(shots: int | None = 26, k: int = 4) -> Experiment:
    """A net on 260 digits, a thousand samples of it, and what they are like."""
    return Experiment(
        dataset=Dataset("digits", shots=shots), denoiser=NET, method=FromNoise(), k=k,
        evaluations=(
            Fidelity(extractor=OWN, also=("subset",), sets=4), Memorised(),
            Transformed(TransformDetector(steps=1000)), DenoisingLoss(),
        ),
    )  # fmt: skip


def arms() -> Sweep:
    """All arms at 260 training images. Not measured yet: some 7 core-hours."""
    every = MAIN | TOLD | ALONE | BENDING | SHAPES
    # a shape is compared with the same shape without augmentation
    against: dict[str, tuple[str, ...]] = {
        arm: (arm.replace("ScoreAug", "none"),) for arm in SHAPES if arm.startswith("ScoreAug")
    }
    return Sweep(base=one(), arms=every, baseline="none", against=against, seeds=SEEDS)


def few() -> Sweep:
    """60 training images. Not measured yet: 40 core-minutes."""
    return Sweep(base=one(6, 17), arms=MAIN, baseline="none", seeds=SEEDS)


def all_of_them() -> Sweep:
    """700 training images. Not measured yet: 40 core-minutes."""
    return Sweep(base=one(None, 2), arms=MAIN, baseline="none", seeds=SEEDS)


def figure_1() -> Experiment:
    """What the net answers under each transform, as the paper's figure 1."""
    told: Experiment = replace(one(), SCORE | {"evaluations": (Answers(),), "method": None})
    return told


if __name__ == "__main__":
    for study in (few, all_of_them, arms):
        print(go_on(study(), RESULTS.with_stem(f"{RESULTS.stem}_{study.__name__}")))
