"""ScoreAug on handwritten digits: does transforming noisy images keep a diffusion net from learning them by heart,
beyond augmentation of clean ones that costs the same, and what must it be told?

Digits are shown at the 8 pixels that they were written at, without colour. Flips are left out: a mirrored digit is
none. A net sees each of 260 images a thousand times, which is what it takes to learn them by heart.
`python -m experiments.digits_scoreaug` runs all of it, some hours, keeps what is finished in results/ and goes on from
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

SIZE, STEPS, WIDTH = 8, 4000, (16, 32)
SEEDS = (0, 1, 2)
PIPE = EDMPipe(flips=False)
NET = TrainedEDM(
    channels=WIDTH, grey=True, steps=STEPS, image_size=SIZE, lr=2e-3, replicas=5
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


TWIN: dict[str, Any] = {"denoiser.clean": OnClean(OneOrNone())}  # the same transforms, told as well, before noise
# what the paper claims is decided by these four; all other arms look further
MAIN: dict[str, dict[str, Any]] = {
    "none": NONE,
    "the same on clean images": TWIN,
    "non-leaky": CLEAN,
    "ScoreAug": SCORE,
}
CONTROLS = ("the same on clean images", "non-leaky")
TOLD: dict[str, dict[str, Any]] = {
    "non-leaky, untold": {"denoiser.clean": OnClean(PIPE, told=False)},
    "ScoreAug, untold": score(told="nothing"),
    "ScoreAug, told another's": score(told="another's"),
    "ScoreAug, told the next one": score(told="the next one"),
    "ScoreAug by channels": score(by="channels"),
    "ScoreAug by scale and shift": score(by="scale and shift"),
    "ScoreAug of the pipe": score(how=PIPE),
    "both": CLEAN | SCORE,
    "one or the other": CLEAN | SCORE | {"denoiser.mixture": True},
}
ALONE: dict[str, dict[str, Any]] = {
    **{
        f"{type(transform).__name__.lower()}{how}": score(how=OneOrNone((transform,)), told=told)
        for transform in PAPER
        for how, told in (("", "truth"), (", untold", "nothing"))
    },
    **{
        f"{type(transform).__name__.lower()} on clean images": {"denoiser.clean": OnClean(OneOrNone((transform,)))}
        for transform in PAPER
    },
    "without brightness": score(how=OneOrNone(PAPER[1:])),
}
BENDING: dict[str, dict[str, Any]] = {
    f"not linear, reading {reading}": score(how=BENT, reading=reading) for reading in ("I", "II", "III")
}
OTHERS: dict[str, dict[str, Any]] = {
    "narrow": {"denoiser.channels": (8, 16)},
    "wide": {"denoiser.channels": (32, 64)},
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


def main() -> Sweep:
    """260 training images, five seeds: does ScoreAug know new digits better than no augmentation, and than both kinds
    of augmentation of clean images that cost as much? Than none by far, than the same on clean images hardly."""
    return _decided(one(), 5)


def few() -> Sweep:
    """The same with 60 training images: less overfitting again, and no gain over the same on clean images."""
    return _decided(one(6, 17), 5)


def all_of_them() -> Sweep:
    """The same with 700 training images. Not measured yet: 2 core-hours."""
    return _decided(one(None, 2), 5)


def _decided(base: Experiment, seeds: int) -> Sweep:
    return Sweep(
        base=base, arms=MAIN, baseline="none", controls=CONTROLS, metric="denoising/heldout", seeds=tuple(range(seeds))
    )


def arms() -> Sweep:
    """All arms at 260 training images, to look further: three seeds of 37 arms decide nothing once they are corrected
    for one another. Not measured yet: some 8 core-hours."""
    every = MAIN | TOLD | ALONE | BENDING | SHAPES
    # each with what differs from it in one thing
    against: dict[str, tuple[str, ...]] = {
        arm: (arm.replace("ScoreAug", "none"),) for arm in SHAPES if arm.startswith("ScoreAug")
    }
    against |= {name: (f"{name} on clean images",) for name in OneOrNone().names}
    against |= {"ScoreAug of the pipe": ("non-leaky",), "both": ("non-leaky",), "one or the other": ("non-leaky",)}
    return Sweep(base=one(), arms=every, baseline="none", against=against, metric="denoising/heldout", seeds=SEEDS)


def figure_1() -> Experiment:
    """What the net answers under each transform, as the paper's figure 1."""
    told: Experiment = replace(one(), SCORE | {"evaluations": (Answers(),), "method": None})
    return told


if __name__ == "__main__":
    for study in (main, few, all_of_them, arms):
        print(go_on(study(), RESULTS.with_stem(f"{RESULTS.stem}_{study.__name__}")))
