"""The UniDiffDA protocol on handwritten digits: seven methods, the baselines and four ways to use the images, at 1, 5
and 10 shots. Everything is made by the embedded models, which were trained on printed glyphs only."""

from __future__ import annotations

import dataclasses
from typing import Any

from synthaug.classify.augment import CutMix, Mixup, TrivialAugment
from synthaug.classify.mixing import GlobalRandomReplace, LocalRandomReplace, Replace
from synthaug.clip import Clip
from synthaug.data.dataset import Dataset
from synthaug.data.suffixes import DIGITS
from synthaug.diffusion.backbone import AddedLoRA, Backbone
from synthaug.diffusion.finetune import LoRA, TextualInversion
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.features import ClipFeatures
from synthaug.evaluate.fidelity import Fidelity
from synthaug.evaluate.filter import BaseProb, ClipBinary, ClipMulti
from synthaug.evaluate.leak import Leak
from synthaug.experiment import Experiment, Recipe, Sweep
from synthaug.methods.da_fusion import DAFusion
from synthaug.methods.diff_aug import DiffAug
from synthaug.methods.diff_ii import DiffII
from synthaug.methods.diff_mix import DiffMix
from synthaug.methods.diffuse_mix import DiffuseMix
from synthaug.methods.gif import GIF
from synthaug.methods.prompts import SuffixDream, SuffixExchange
from synthaug.methods.real_guidance import RealGuidance
from synthaug.methods.retrieval import Retrieval

STEPS = 300  # optimiser steps of every arm, whatever its epochs hold
SD, PIX2PIX, CLIP = Backbone("nano:sd"), Backbone("nano:pix2pix"), Clip("nano:clip")
LCM = Backbone("nano:sd", scheduler="LCMScheduler", lora=AddedLoRA("nano:lcm"))
WORDS = TextualInversion(steps=100, batch_size=16, init="name")
LORA = LoRA(steps=100, batch_size=16)
LOOK = (Fidelity(extractor=ClipFeatures(CLIP)), Leak(extractor=ClipFeatures(CLIP)))
USES = {"replace": Replace(), "local": LocalRandomReplace(), "global": GlobalRandomReplace()}
METHODS: dict[str, dict[str, Any]] = {
    "Real Guidance": {"method": RealGuidance(steps=10), "backbone": SD},
    "GIF": {"method": GIF(steps=10, clip=CLIP), "backbone": SD},
    "DiffuseMix": {"method": DiffuseMix(steps=25), "backbone": PIX2PIX},
    "DA-Fusion": {"method": DAFusion(steps=10), "backbone": SD, "finetune": (WORDS,)},
    "Diff-Aug": {"method": DiffAug(steps=10), "backbone": SD, "finetune": (WORDS, LORA)},
    "Diff-Mix": {"method": DiffMix(steps=10), "backbone": SD, "finetune": (WORDS, LORA)},
    "Diff-II": {"method": DiffII(steps=10, inversion_steps=50), "backbone": SD, "finetune": (WORDS, LORA)},
}
# the embedded models' own upstream data: glyphs that they have not seen, of the fonts that they have
RETRIEVAL: dict[str, dict[str, Any]] = {"retrieval": {"method": Retrieval(Dataset("glyphs"), clip=CLIP)}}
AUGMENTED = " + TrivialAugment"
BASELINES: dict[str, dict[str, Any]] = {
    "plain": {},
    "TrivialAugment": {"recipe.transforms": (TrivialAugment(),)},
    "Mixup": {"recipe.transforms": (Mixup(),)},
    "CutMix": {"recipe.transforms": (CutMix(),)},
}


def plain(shots: int = 5) -> Experiment:
    """Some real digits a class and nothing else."""
    return Experiment(
        dataset=Dataset("digits", shots=shots), recipe=Recipe(steps=STEPS, batch_size=64), k=5,
        evaluations=(Accuracy(), *LOOK),
    )  # fmt: skip


def _every_use(shots: int) -> Sweep:
    """A gain must be one over plain and over what costs as much or less: TrivialAugment, and as many printed glyphs,
    used in the same way; with TrivialAugment over TrivialAugment alone, and over glyphs with it."""
    arms, against = dict(BASELINES), dict[str, tuple[str, ...]]()
    for name, made in (RETRIEVAL | METHODS).items():
        for use, how in {"": {}, **{f", {use}": {"utilize": how} for use, how in USES.items()}}.items():
            arms[f"{name}{use}"] = made | how
            against[f"{name}{use}"] = ("plain", "TrivialAugment", f"retrieval{use}")
        arms[f"{name}, local{AUGMENTED}"] = made | {"utilize": USES["local"]} | BASELINES["TrivialAugment"]
        against[f"{name}, local{AUGMENTED}"] = ("TrivialAugment", f"retrieval, local{AUGMENTED}")
    # a control is compared with the others
    against = {arm: tuple(other for other in others if other != arm) for arm, others in against.items()}
    return Sweep(base=plain(shots), arms=arms, baseline="plain", against=against)


def one_shot() -> Sweep:
    """Seven methods and retrieval x four uses, each also with TrivialAugment, and the baselines; one digit a class,
    five paired seeds, 300 steps each."""
    return _every_use(1)


def five_shots() -> Sweep:
    """The same with five digits a class."""
    return _every_use(5)


def ten_shots() -> Sweep:
    """The same with ten digits a class."""
    return _every_use(10)


def equal_epochs() -> Sweep:
    """As the paper trains: the same number of epochs for all, so that full concatenation gets six times the steps.
    "x 6" are the controls that cost as much: the same steps on the real images alone."""
    epochs = {"recipe.steps": None, "recipe.epochs": STEPS * 64 // 50}
    arms = {name: fields | epochs for name, fields in (BASELINES | METHODS).items()}
    arms |= {f"{name} x 6": BASELINES[name] | {"recipe.steps": 6 * STEPS} for name in ("plain", "TrivialAugment")}
    return Sweep(base=plain(5), arms=arms, baseline="plain")


def explorations() -> Sweep:
    """Prompts, few steps, guidance interval and filters on Diff-Aug with five digits a class (paper: tables 18, 19)."""
    base = METHODS["Diff-Aug"]
    told = tuple(dataclasses.replace(part, suffixes=str(DIGITS)) for part in (WORDS, LORA))

    def method(**fields: Any) -> dict[str, Any]:
        return base | {"method": DiffAug(**{"steps": 10} | fields)}

    arms = {
        "plain": {},
        "Diff-Aug": base,
        "suffix-enrich": base | {"finetune": told},
        "suffix-dream": method(prompts=SuffixDream()),
        "suffix-exchange": method(prompts=SuffixExchange()),
        "25 steps": method(steps=25),
        "5 steps": method(steps=5),
        "3 steps": method(steps=3),
        "LCM, 5 steps": method(steps=5, guidance=1.0) | {"backbone": LCM},
        "LCM, 3 steps": method(steps=3, guidance=1.0) | {"backbone": LCM},
        "guidance 2": method(guidance=2.0),
        "guidance off": method(guidance=1.0),
        "guided in the middle": method(guided=(0.2, 0.7)),
        "Base-Prob": base | {"filter": BaseProb(drop=0.2)},
        "CLIP-Multi": base | {"filter": ClipMulti(drop=0.2, clip=CLIP)},
        "CLIP-Binary": base | {"filter": ClipBinary(drop=0.2, clip=CLIP)},
    }
    return Sweep(base=plain(5), arms=arms, baseline="plain")
