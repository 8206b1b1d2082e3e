"""Targeted augmentation's own experiments (Nguyen et al., ICLR 2026, arXiv:2505.21574): what they share. Not run here.

Its figures are bars without numbers; what is known of them stands in the docstrings. The paper generates with GLIDE,
guidance 3, 100 steps of which the last 50 are run; Stable Diffusion 1.5 stands in for it here with these numbers, which
in its schedule is noise of 1.6 times the latents' spread (GLIDE's schedule is another). How long the net is trained
before it tells slow from fast, rho and the rates are not in what is published: 8 epochs, and what is said of USEFUL, on
which the paper builds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synthaug.classify.augment import HorizontalFlip, RandomCrop, TrivialAugment
from synthaug.classify.optim import SGD, SharpnessAware, Steps
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import AtRandom, Early, Slow
from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment, Sweep
from synthaug.methods.base import Method
from synthaug.methods.sdedit import FromPrompt, SDEdit, SeveralStrengths
from synthaug.methods.upsample import Upsample

Arms = dict[str, dict[str, Any]]
EPOCHS, BATCH, SEEDS = 200, 128, (0, 1, 2)
OPTIMIZER = SGD(lr=0.1)
RHO = {"cifar10": 0.05, "cifar100": 0.1, "tiny-imagenet": 0.2}
# images that are trained on: a fiftieth of the official ones chooses the weights
VAL_SHARE = 0.02
IMAGES = {"cifar10": 49_000, "cifar100": 49_000, "tiny-imagenet": 98_000}
FAITHFUL = SDEdit(strength=0.5, steps=100, guidance=3.0)
# "images saved at different step counts": each variant begins elsewhere
FROM_SEVERAL = SeveralStrengths(strengths=(0.5, 0.4, 0.6, 0.3), steps=100, guidance=3.0)
FROM_NOISE = FromPrompt(steps=100, guidance=3.0)
ORIGINAL: dict[str, Any] = {"method": None, "subset": None}


def task(dataset: str, model: str = "cifar_resnet18", method: Method = FAITHFUL) -> Experiment:
    """The paper trains on all images and does not say which weights it tests. Steps are 200 epochs of the originals."""
    size = 64 if dataset == "tiny-imagenet" else 32
    recipe = Recipe(
        model=model, optimizer=OPTIMIZER, schedule=Steps(), steps=round(EPOCHS * IMAGES[dataset] / BATCH),
        batch_size=BATCH, transforms=(RandomCrop(padding=size // 8), HorizontalFlip()), precision="bf16",
        evaluations=20,
    )  # fmt: skip
    data = Dataset(dataset, path=f"data/{dataset}", val_share=VAL_SHARE)
    # by this recipe whatever an arm trains by, so that all arms have the same slow images
    return Experiment(dataset=data, method=method, subset=Slow(early=Early(recipe=recipe)), k=1, recipe=recipe)


def upsampled(amplification: int = 2) -> dict[str, Any]:
    """The slow images once more, or more often."""
    return {"method": Upsample(), "amplification": amplification}


def random_of_as_many(base: Experiment, amplification: int = 2) -> dict[str, Any]:
    """Syn-rand: new images of as many of each class as are slow, any of them."""
    assert base.subset is not None, "nothing is chosen"
    return {"subset": AtRandom(early=base.subset.early), "amplification": amplification}


def of_all(amplification: int = 2) -> dict[str, Any]:
    """Syn-all."""
    return {"subset": None, "amplification": amplification}


def targeted(amplification: int) -> dict[str, Any]:
    """Ours: new images of the slow ones."""
    return {"amplification": amplification}


def sharp(rho: float) -> dict[str, Any]:
    """Trained with SAM, at twice the passes a step."""
    return {"recipe.optimizer": SharpnessAware(OPTIMIZER, rho=rho)}


def trivial(size: int) -> dict[str, Any]:
    """Trained with TrivialAugment."""
    return {"recipe.transforms": (RandomCrop(padding=size // 8), HorizontalFlip(), TrivialAugment())}


def longer(epochs: int = EPOCHS) -> dict[str, Any]:
    """Equal epochs, so that larger sets are trained on for longer."""
    return {"recipe.steps": None, "recipe.epochs": epochs}


def also(arms: Arms, how: str, fields: Mapping[str, Any], names: Sequence[str] | None = None) -> Arms:
    """The arms, and some of them (all, if none is named) in another way as well."""
    return arms | {f"{name}, {how}": {**arms[name], **fields} for name in (arms if names is None else names)}


def new(arms: Arms) -> list[str]:
    """The arms that are not the originals alone."""
    return [name for name, arm in arms.items() if arm.get("method", FAITHFUL) is not None]


def compare(
    base: Experiment, arms: Arms, controls: Sequence[str] = (), against: Mapping[str, Sequence[str]] | None = None,
    seeds: tuple[int, ...] = SEEDS,
) -> Sweep:  # fmt: skip
    """Each arm beside the original that is trained in the same way, and the controls that are. `against` says otherwise
    for some arms, in whatever way they are trained."""
    found: dict[str, tuple[str, ...]] = {}
    for name in arms:
        kind, *ways = name.split(", ")
        if kind == "original":
            continue
        told = () if against is None else tuple(against.get(kind, ()))
        wanted = told or ("original", *(() if kind in controls else controls))
        found[name] = tuple(alike for other in wanted if (alike := _alike(other, ways, arms)))
    # SAM and TrivialAugment themselves stand beside what is trained without
    found |= {name: ("original",) for name in arms if name.startswith("original, ")}
    return Sweep(base=base, arms=arms, baseline="original", against=found, seeds=seeds)


def _alike(other: str, ways: Sequence[str], arms: Arms) -> str:
    """An arm that is trained in the same ways, if there is one; the originals at equal epochs are at equal steps."""
    shared = [way for way in ways if other != "original" or way != "equal epochs"]
    name = ", ".join((other, *shared))
    return name if name in arms else ""
