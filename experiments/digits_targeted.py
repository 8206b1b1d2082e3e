"""Targeted augmentation on handwritten digits: is it enough to make new images of what is learned slowly?

200 digits at 16 pixels; images by a class-conditional net that has seen exactly these, so that nothing from outside
helps. `python experiments/digits_targeted.py` runs all of it, keeps what is finished in results/, and goes on from
there on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.kept import finished, go_on
from synthaug.classify.augment import RandomCrop, TrivialAugment
from synthaug.classify.optim import AdamW, SharpnessAware
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import AtRandom, Early, Forgotten, HighLoss, LowMargin, Misclassified, Slow
from synthaug.data.dataset import Dataset
from synthaug.diffusion.score_models import TrainedEDM
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.faithful import Faithfulness
from synthaug.evaluate.stats import mean_interval, paired_test
from synthaug.experiment import Experiment, Sweep
from synthaug.methods.from_noise import Boomerang, FromNoise, Resample
from synthaug.methods.upsample import Upsample
from synthaug.stages.practice import ClosedLoop

SHOTS, SIZE, STEPS, SEEDS = 20, 16, 600, (0, 1, 2, 3, 4)
BATCH, EPOCHS = 32, 96  # of the 200 originals as many steps
NET = TrainedEDM(
    channels=(16, 32, 32), grey=True, labels=True, steps=1500, image_size=SIZE, lr=2e-3, replicas=len(SEEDS)
)
RECIPE = Recipe(
    steps=STEPS, batch_size=BATCH, image_size=SIZE, transforms=(RandomCrop(padding=1),), optimizer=AdamW(lr=2e-3)
)
# 8 epochs, after which the net is right about nine of ten of them; arms that train otherwise have the same slow images
EARLY = Early(recipe=RECIPE)
SLOW = Slow(early=EARLY)
ORIGINAL: dict[str, Any] = {"method": None, "subset": None}
SAM: dict[str, Any] = {"recipe.optimizer": SharpnessAware(AdamW(lr=2e-3))}
LONGER: dict[str, Any] = {"recipe.steps": None, "recipe.epochs": EPOCHS}
TRIVIAL: dict[str, Any] = {"recipe.transforms": (RandomCrop(padding=1), TrivialAugment())}
RESULTS = Path(__file__).parent / "results" / "digits_targeted.jsonl"
Arms = dict[str, dict[str, Any]]


def back(count: int, kept: int = 1) -> Resample:
    """The last `count` of a hundred steps, run as fewer: noise as it is there, and a sixth of the steps."""
    low, high = (sigma ** (1 / 7) for sigma in (0.002, 80.0))
    sigma = (low + (high - low) * count / 100) ** 7  # EDM's levels (Karras et al. 2022, equation 5)
    return Resample(sigma_max=sigma, steps=max(2, round(count * 18 / 100), kept), kept=kept)


def upsampled(times: int) -> dict[str, Any]:
    """The slow ones that often, without new images."""
    return {"method": Upsample(), "amplification": times}


def one(**fields: Any) -> Experiment:
    """New images of the slow ones once, half of the way back."""
    known: dict[str, Any] = {
        "dataset": Dataset("digits", shots=SHOTS), "denoiser": NET, "method": back(50), "k": 1, "subset": SLOW,
        "recipe": RECIPE, "evaluations": (Accuracy(), Faithfulness()),
    }  # fmt: skip
    return Experiment(**known | fields)


def main() -> Sweep:
    """What the paper claims: original, upsampled, new images of all, of any as many, of the slow ones; by AdamW and by
    SAM, at equal steps and at equal epochs, with TrivialAugment. Not measured yet."""
    plain: Arms = {
        "original": ORIGINAL, "upsampled 2": upsampled(2), "any 2": {"subset": AtRandom(early=EARLY)},
        "all 2": {"subset": None}, "slow 2": {}, "slow 5": {"amplification": 5},
    }  # fmt: skip
    arms = plain | {f"{name}, SAM": arm | SAM for name, arm in plain.items()}
    arms |= {f"{name}, equal epochs": arm | LONGER for name, arm in list(arms.items()) if "original" not in name}
    arms |= {f"{name}, TrivialAugment": plain[name] | TRIVIAL for name in ("original", "slow 2", "slow 5")}
    controls = ("upsampled 2", "any 2", "all 2")
    against: dict[str, tuple[str, ...]] = {
        name: (name.replace("slow 2", "original").replace("slow 5", "original"),)
        for name in arms
        if name.endswith("TrivialAugment") and not name.startswith("original")
    }
    return Sweep(base=one(), arms=arms, baseline="original", controls=controls, against=against, seeds=SEEDS)


def amplification() -> Sweep:
    """How often, of new images and of the same again. Not measured yet."""
    arms: Arms = {"original": ORIGINAL}
    for times in (2, 3, 5):
        arms |= {f"upsampled {times}": upsampled(times), f"slow {times}": {"amplification": times}}
    arms["slow 5, of one way back"] = {"amplification": 5, "method": back(50, kept=4)}
    # which images are used is no matter of how long: all at equal steps, and at equal epochs
    arms |= {f"{name}, equal epochs": arm | LONGER for name, arm in list(arms.items()) if name != "original"}
    return Sweep(base=one(), arms=arms, baseline="original", seeds=SEEDS)


def steps() -> Sweep:
    """How far back, at amplification 2; from nothing but noise; local sampling of all. Not measured yet."""
    arms: Arms = {"original": ORIGINAL, "upsampled 2": upsampled(2)}
    arms |= {f"{count} steps": {"method": back(count)} for count in (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)}
    arms["from noise"] = {"method": FromNoise()}
    arms["local sampling of all"] = {"method": Boomerang(steps=18), "subset": None}
    return Sweep(base=one(), arms=arms, baseline="original", controls=("upsampled 2",), seeds=SEEDS)


def selectors() -> Sweep:
    """Which images, as many of each class. Not measured yet."""
    early: dict[str, Any] = {"early": EARLY}
    chosen: dict[str, Any] = {
        "slow": SLOW, "slow by features": Slow(early=EARLY, layer="features"), "highest loss": HighLoss(**early),
        "slow of three": Slow(early=EARLY, clusters=3), "lowest margin": LowMargin(**early),
        "misclassified": Misclassified(**early), "any": AtRandom(**early),
        "forgotten": Forgotten(early=Early(epochs=50, recipe=RECIPE)),
        "slow after 2 epochs": Slow(early=Early(epochs=2, recipe=RECIPE)),
        "slow after 32 epochs": Slow(early=Early(epochs=32, recipe=RECIPE)),
    }  # fmt: skip
    arms: Arms = {"original": ORIGINAL} | {name: {"subset": subset} for name, subset in chosen.items()}
    arms["slow, going on"] = {"subset": Slow(early=EARLY, restart=False)}
    return Sweep(base=one(), arms=arms, baseline="original", controls=("any",), seeds=SEEDS)


def closed_loop() -> Sweep:
    """Four rounds of new images of a tenth of the digits: of those whose candidates the learner is least certain about,
    of those that it is least certain about themselves, of any; and the slow ones at once. Not measured yet."""
    names = ("dataset", "denoiser", "method", "k", "recipe", "evaluations")
    base = ClosedLoop(rounds=4, share=0.1, **{name: getattr(one(), name) for name in names})
    quick = Resample(sigma_max=back(50).sigma_max, steps=2)
    arms: Arms = {
        "any": {"by": "random"}, "least certain": {}, "least certain, by candidates": {"candidates": quick},
        "any, one round": {"by": "random", "rounds": 1, "share": 0.4},
        "least certain, one round": {"rounds": 1, "share": 0.4},
        "any, eight times as many": {"by": "random", "amplification": 9},
    }  # fmt: skip
    return Sweep(base=base, arms=arms, baseline="any", seeds=SEEDS)


def file_of(study: str) -> Path:
    """Where what is finished of a study is kept."""
    return RESULTS.with_stem(f"{RESULTS.stem}_{study}")


def by_faithfulness() -> str:
    """The number of steps chosen by faithfulness: for each seed the most after which the judge still takes as large a
    share of the images for their class as of the validation images. The trials are those of `steps`; the test images
    choose nothing."""
    rows = finished(steps(), file_of("steps"))
    by_seed: dict[int, dict[str, dict[str, float]]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], {})[row["arm"]] = row["metrics"]
    chosen, tops = [], {"chosen": list[float](), "original": list[float](), "50 steps": list[float]()}
    for arms in by_seed.values():
        counts = {name: arm for name, arm in arms.items() if name.endswith(" steps")}
        kept = [name for name, arm in counts.items() if arm["faithful/agreement"] >= arm["judge/val/top1"]]
        chosen.append(max(kept or counts, key=lambda name: int(name.split()[0]) * (1 if kept else -1)))
        for name, values in tops.items():
            values.append(arms[chosen[-1] if name == "chosen" else name]["test/top1"])
    said = [f"{name}: {100 * mean_interval(values)[0]:.1f}" for name, values in tops.items()]
    for other in ("original", "50 steps"):
        d, low, high, p = paired_test(tops["chosen"], tops[other])
        said.append(f"chosen against {other}: {100 * d:+.1f} ({100 * low:+.1f}, {100 * high:+.1f}), p = {p:.3f}")
    return "\n".join([f"chosen by faithfulness: {', '.join(chosen)}", *said])


if __name__ == "__main__":
    for study in (main, amplification, steps, selectors, closed_loop):
        print(go_on(study(), file_of(study.__name__), at_once=30))
    print(by_faithfulness())
