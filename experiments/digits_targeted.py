"""Targeted augmentation on handwritten digits: is it enough to make new images of what is learned slowly?

200 digits at 16 pixels; images by a class-conditional net that has seen exactly these, so that nothing from outside
helps. `python -m experiments.digits_targeted` runs all of it, keeps what is finished in results/, and goes on from
there on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.kept import finished, go_on
from experiments.targeted import ORIGINAL, Arms, also, compare, longer, new, upsampled
from synthaug.classify.augment import RandomCrop, TrivialAugment
from synthaug.classify.optim import AdamW, SharpnessAware
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import AtRandom, Early, Forgotten, HighLoss, LowMargin, Misclassified, Slow, Subset
from synthaug.data.dataset import Dataset
from synthaug.diffusion.score_models import TrainedEDM
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.faithful import Faithfulness
from synthaug.evaluate.stats import mean_interval, paired_test
from synthaug.experiment import Experiment, Sweep
from synthaug.methods.from_noise import Boomerang, FromNoise, Resample
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
SAM: dict[str, Any] = {"recipe.optimizer": SharpnessAware(AdamW(lr=2e-3))}
TRIVIAL: dict[str, Any] = {"recipe.transforms": (RandomCrop(padding=1), TrivialAugment())}
RESULTS = Path(__file__).parent / "results" / "digits_targeted.jsonl"


def back(count: int, kept: int = 1) -> Resample:
    """The last `count` of a hundred steps, run as fewer: noise as it is there, and a sixth of the steps. Half of EDM's
    way, sigma 2.5 on [-1, 1], is more noise than half of Stable Diffusion's, 1.6 times what its latents vary by."""
    low, high = (sigma ** (1 / 7) for sigma in (0.002, 80.0))
    sigma = (low + (high - low) * count / 100) ** 7  # EDM's levels (Karras et al. 2022, equation 5)
    return Resample(sigma_max=sigma, steps=max(2, round(count * 18 / 100), kept), kept=kept)


def one(**fields: Any) -> Experiment:
    """New images of the slow ones once, half of the way back."""
    known: dict[str, Any] = {
        "dataset": Dataset("digits", shots=SHOTS), "denoiser": NET, "method": back(50), "k": 1, "subset": SLOW,
        "recipe": RECIPE, "evaluations": (Accuracy(), Faithfulness()),
    }  # fmt: skip
    return Experiment(**known | fields)


def main() -> Sweep:
    """What the paper claims: original, upsampled, new images of all, of any as many, of the slow ones; by AdamW and by
    SAM, at equal steps and at equal epochs, with TrivialAugment. Measured: original 97.6 %, upsampled twice 97.6, any
    97.3, all 97.6, slow 97.1, slow at 5 96.9; no way of training brings a clear difference. Two core-hours."""
    arms: Arms = {
        "original": ORIGINAL, "upsampled 2": upsampled(2), "any 2": {"subset": AtRandom(early=EARLY)},
        "all 2": {"subset": None}, "slow 2": {}, "upsampled 5": upsampled(5), "slow 5": {"amplification": 5},
    }  # fmt: skip
    arms = also(arms, "SAM", SAM)
    arms = also(arms, "equal epochs", longer(EPOCHS), new(arms))
    arms = also(arms, "TrivialAugment", TRIVIAL, ("original", "upsampled 2", "slow 2", "upsampled 5", "slow 5"))
    against = {"slow 2": ("original", "upsampled 2", "any 2", "all 2"), "slow 5": ("original", "upsampled 5")}
    return compare(one(), arms, against=against, seeds=SEEDS)


def amplification() -> Sweep:
    """How often, of new images and of the same again. Measured: at 2, 3, 5 97.1, 96.7, 96.9 new, 97.6, 97.4, 96.9 the
    same; half a core-hour after `main`."""
    arms: Arms = {"original": ORIGINAL}
    for times in (2, 3, 5):
        arms |= {f"upsampled {times}": upsampled(times), f"slow {times}": {"amplification": times}}
    arms["slow 5 of one way back"] = {"amplification": 5, "method": back(50, kept=4)}
    arms = also(arms, "equal epochs", longer(EPOCHS), new(arms))
    against: dict[str, tuple[str, ...]] = {f"slow {n}": ("original", f"upsampled {n}") for n in (2, 3, 5)}
    against["slow 5 of one way back"] = ("original", "upsampled 5", "slow 5")
    return compare(one(), arms, against=against, seeds=SEEDS)


def steps() -> Sweep:
    """How far back, at amplification 2; from nothing but noise; local sampling of all. Measured: 97.1 to 97.7 whatever
    the number of steps (original 97.6), from noise 97.3, local sampling 95.6; half a core-hour after `main`."""
    arms: Arms = {"original": ORIGINAL, "upsampled 2": upsampled(2)}
    arms |= {f"{count} steps": {"method": back(count)} for count in (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)}
    arms["from noise"] = {"method": FromNoise()}
    arms["local sampling of all"] = {"method": Boomerang(), "subset": None}
    return compare(one(), arms, ("upsampled 2",), {"local sampling of all": ("original",)}, SEEDS)


def selectors() -> Sweep:
    """Which images, each choice beside as many of each class of any; of what is misclassified there are as many as
    there are. Measured: 97.1 (slow) to 97.9, any as many 97.3 to 97.6, original 97.6: no choice is told from chance."""
    late, soon, later = (Early(epochs=epochs, recipe=RECIPE) for epochs in (50, 2, 32))
    chosen: dict[str, Subset] = {
        "slow": SLOW, "highest loss": HighLoss(early=EARLY), "lowest margin": LowMargin(early=EARLY),
        "any": AtRandom(early=EARLY), "misclassified": Misclassified(early=EARLY),
        "slow going on": Slow(early=EARLY, restart=False), "forgotten": Forgotten(early=late),
    }  # fmt: skip
    others = {
        "slow by features": Slow(early=EARLY, layer="features"), "slow of three": Slow(early=EARLY, clusters=3),
        "slow after 2 epochs": Slow(early=soon), "slow after 32 epochs": Slow(early=later),
    }  # fmt: skip
    alike: dict[str, Subset] = {
        f"any as {name}": AtRandom(early=s.early, layer=s.layer, clusters=s.clusters) for name, s in others.items()
    }
    alike["any as forgotten"] = AtRandom(early=late)
    every: dict[str, Subset] = {**chosen, **others, **alike}
    arms: Arms = {"original": ORIGINAL} | {name: {"subset": subset} for name, subset in every.items()}
    against = {name.removeprefix("any as "): ("original", name) for name in alike} | {
        name: ("original",) for name in alike
    }
    return compare(one(), arms, ("any",), against, SEEDS)


def closed_loop() -> Sweep:
    """Four rounds of new images of a tenth of the digits: of those whose candidates the learner is least certain about,
    of those that it is least certain about themselves, of any; and as many in one round. Measured: least certain 97.8,
    by candidates 97.6, any 97.5, eight times as many 97.1, original 97.6."""
    names = ("dataset", "denoiser", "method", "k", "recipe", "evaluations")
    base = ClosedLoop(rounds=4, share=0.1, **{name: getattr(one(), name) for name in names})
    quick = Resample(sigma_max=back(50).sigma_max, steps=2)
    once: dict[str, Any] = {"rounds": 1, "share": 0.4}
    arms: Arms = {
        "original": {"method": None}, "any": {"by": "random"}, "least certain": {},
        "least certain by candidates": {"candidates": quick}, "any of one round": once | {"by": "random"},
        "least certain of one round": once, "any eight times as many": {"by": "random", "amplification": 9},
    }  # fmt: skip
    against = {
        "any": ("original",), "any of one round": ("original",), "least certain of one round": ("any of one round",),
        "least certain": ("any",), "least certain by candidates": ("any", "least certain"),
        "any eight times as many": ("any", "least certain"),
    }  # fmt: skip
    return compare(base, arms, against=against, seeds=SEEDS)


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
