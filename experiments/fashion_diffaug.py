"""DiffAug on photographs, with power: Fashion-MNIST with 2,000 training images, twenty paired seeds, three denoisers.

`apt-get install dataset-fashion-mnist` brings the data. `python experiments/fashion_diffaug.py` runs `training` seed by
seed, appends what is finished to results/fashion_diffaug.jsonl, keeps the denoisers there too, goes on from there on
any machine, and prints the verdict on three end points that were fixed before anything ran.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import synthaug
from synthaug.classify.augment import RandomCrop
from synthaug.classify.views import AugMixView, DiffAugView, PlainView, SecondView
from synthaug.data.dataset import Dataset
from synthaug.diffusion.one_step import Diffusion
from synthaug.diffusion.pixel_models import PretrainedUNet, TrainedUNet
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.predict import DDA, Ensemble
from synthaug.evaluate.robustness import Robustness
from synthaug.evaluate.stats import holm, paired_test
from synthaug.experiment import Experiment, Recipe, Sweep, replace
from synthaug.settings import hash_of, keyed

SEEDS, DENOISERS = 20, 3
MANY, FEW = "test:2000", "test:500"  # what is corrupted; adapting an image costs 50 calls with gradients
VIEWS: dict[str, tuple[Any, ...]] = {
    "second look": (SecondView(),),
    "uncropped look": (PlainView(),),
    "noise": (DiffAugView(how=Diffusion(denoise=False)),),
    "DiffAug": (DiffAugView(),),
    "DiffAug, t < 0.5": (DiffAugView(how=Diffusion(high=0.5)),),
    "DiffAug, t >= 0.5": (DiffAugView(how=Diffusion(low=0.5)),),
    "AugMix + second look": (AugMixView(), SecondView()),
    "AugMix + DiffAug": (AugMixView(), DiffAugView()),
}
ONCE, DE = f"{MANY}-c/top1", f"{MANY}-c/DE/top1"
# arm and metric against arm and metric
END_POINTS = {
    "DiffAug minus second look, asked once": (("DiffAug", ONCE), ("second look", ONCE)),
    "DiffAug minus second look, both with DE": (("DiffAug", DE), ("second look", DE)),
    "DiffAug with DE minus second look with DDA-SE": (
        ("DiffAug", f"{FEW}-c/DE/top1"),
        ("second look", f"{FEW}-c/DDA-SE/top1"),
    ),
}
DENOISER = TrainedUNet(channels=(16, 32, 64), steps=4000, replicas=DENOISERS)
RESULTS = Path(__file__).parent / "results" / "fashion_diffaug.jsonl"


def base() -> Experiment:
    """2,000 training images, the same for all seeds, and denoisers that have seen exactly those."""
    worst: dict[str, Any] = {"severities": (5,)}
    return Experiment(
        dataset=Dataset("fashion", shots=200, subset_seed=0, val_share=1 / 60),
        denoiser=DENOISER,
        recipe=Recipe(steps=600, batch_size=64, transforms=(RandomCrop(padding=2),)),
        evaluations=(
            Accuracy(),
            Robustness(split=MANY, **worst),
            Robustness(split=MANY, predictor=Ensemble(), **worst),
            Robustness(split=FEW, predictor=Ensemble(), **worst),
            Robustness(split=FEW, predictor=DDA(), **worst),
            Robustness(split=FEW, predictor=DDA(self_ensemble=True), **worst),
        ),
    )


def training() -> Sweep:
    """Each way to train, asked once, with DE, with DDA and DDA-SE, under all fifteen corruptions at severity 5."""
    arms = {name: {"recipe.views": views} for name, views in VIEWS.items()}
    return Sweep(base=base(), arms=arms, baseline="second look", seeds=tuple(range(SEEDS)))


def finished() -> list[dict[str, Any]]:
    """What is in the file of results and was asked as it is asked now."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    return [row for row in rows if row["asked"] == asked()]


def asked() -> str:
    """What the rows are results of: the settings of all arms but their seeds."""
    return hash_of(keyed(replace(training(), {"seeds": (0,)})))[:12]


def waiting() -> list[int]:
    """Seeds without results; those of one denoiser follow one another, so that a new machine trains it once."""
    done = {row["seed"] for row in finished()}
    return [seed for seed in sorted(range(SEEDS), key=lambda s: (s % DENOISERS, s)) if seed not in done]


def verdict() -> str:
    """The three end points, p-values corrected by Holm over the three. Seeds vary training alone: what is said is of
    these three denoisers, this training subset and these test images, so each denoiser's own mean stands beside it."""
    found = {(row["arm"], row["seed"]): row["metrics"] for row in finished()}
    seeds = sorted({seed for _, seed in found})
    if len(seeds) < 2:
        return f"{len(seeds)} seeds are finished: a verdict takes two or more"

    def values(arm: str, metric: str) -> list[float]:
        return [found[arm, seed][metric] for seed in seeds]

    sides = {name: (values(*ours), values(*theirs)) for name, (ours, theirs) in END_POINTS.items()}
    tests = {name: paired_test(*both) for name, both in sides.items()}
    lines = [f"{len(seeds)} seeds"]
    for (name, (d, low, high, _)), p in zip(tests.items(), holm([test[3] for test in tests.values()]), strict=True):
        each: dict[int, list[float]] = {}
        for seed, ours, theirs in zip(seeds, *sides[name], strict=True):
            each.setdefault(seed % DENOISERS, []).append(100 * (ours - theirs))
        by_denoiser = ", ".join(f"{fmean(values):+.2f}" for _, values in sorted(each.items()))
        interval = f"({100 * low:+.2f}, {100 * high:+.2f})"
        lines.append(f"{name}: {100 * d:+.2f} {interval}, p = {p:.4f}; by denoiser {by_denoiser}")
    return "\n".join(lines)


def folder_of(number: int) -> Path:
    """Where a denoiser is kept as long as seeds wait for it."""
    return RESULTS.parent / f"fashion_ddpm_{number}"


def kept(number: int) -> PretrainedUNet:
    """One of the denoisers, trained if it is not there yet: 40 minutes of a core."""
    folder = folder_of(number)
    if not folder.is_dir():
        net = dataclasses.replace(DENOISER, seed=number, replicas=1)
        one = (Accuracy(split="test:1", predictor=Ensemble(times=(0.5,))),)  # the least that asks for it
        least = replace(base(), {"denoiser": net, "recipe.steps": 0, "evaluations": one})
        made = synthaug.run(least, name="fashion")["stages"]["denoiser"]["path"]
        shutil.copytree(Path(made) / "denoiser", half := folder.with_suffix(".half"), dirs_exist_ok=True)
        half.rename(folder)  # what is there is whole
    return PretrainedUNet(str(folder))


def main() -> None:
    """Run what is missing, one seed after another, and keep it."""
    RESULTS.parent.mkdir(exist_ok=True)
    for seed in waiting():
        sweep = replace(training(), {"seeds": (seed,), "base.denoiser": kept(seed % DENOISERS)})
        answer = synthaug.run(sweep, name="fashion")
        told = [{"asked": asked()} | {name: t[name] for name in ("arm", "seed", "metrics")} for t in answer["trials"]]
        before = RESULTS.read_text() if RESULTS.is_file() else ""
        half = RESULTS.with_suffix(".half")
        half.write_text(before + "".join(json.dumps(row) + "\n" for row in told))
        half.rename(RESULTS)  # a whole seed at once: pairs are never torn
        if all(other % DENOISERS != seed % DENOISERS for other in waiting()):
            shutil.rmtree(folder_of(seed % DENOISERS))  # no seed needs it any more
    print(verdict())


if __name__ == "__main__":
    main()
