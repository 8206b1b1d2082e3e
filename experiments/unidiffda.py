"""The protocol of UniDiffDA (IJCV, arXiv 2603.08364): its tasks with their classifiers, and how each method is set and
used there. The tables are in unidiffda_table_*.py; none of them was run here, their numbers are the paper's.

Your files are named with `--set dataset.path=DIR`, ImageNet weights of a classifier with `--set recipe.weights=FILE`.
Every sweep gives all arms the same optimiser steps, those of full concatenation with five variants; functions that end
in `_epochs` give them the same epochs, as the paper does. Where strength and replacement probability are lost from the
paper's text they are those of its released configurations. Unlike the released code, the last weights or the best on
validation data are kept, never the best on test data, and prompts name the kind of thing ("bird") where the paper's
text says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from synthaug.classify.augment import CutMix, HorizontalFlip, Mixup, RandomCrop
from synthaug.classify.mixing import Concat, GlobalRandomReplace, LocalRandomReplace, Utilize
from synthaug.classify.optim import SGD
from synthaug.data.dataset import Dataset
from synthaug.data.layouts import DOMAINS
from synthaug.data.published import PUBLISHED
from synthaug.diffusion.backbone import AddedLoRA, Backbone
from synthaug.diffusion.finetune import Finetune, LoRA, TextualInversion
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.features import InceptionFeatures
from synthaug.evaluate.fidelity import Fidelity
from synthaug.experiment import Experiment, Recipe, Sweep, replace
from synthaug.methods.base import Method
from synthaug.methods.da_fusion import DAFusion
from synthaug.methods.diff_aug import DiffAug
from synthaug.methods.diff_ii import DiffII
from synthaug.methods.diff_mix import DiffMix
from synthaug.methods.diffuse_mix import DiffuseMix
from synthaug.methods.gif import GIF
from synthaug.methods.real_guidance import RealGuidance

SD15 = Backbone(model="stable-diffusion-v1-5/stable-diffusion-v1-5", precision="fp16")
PIX2PIX = Backbone(model="timbrooks/instruct-pix2pix", precision="fp16", resolution=256)
LCM = Backbone(
    model=SD15.model,
    precision="fp16",
    scheduler="LCMScheduler",
    lora=AddedLoRA(model="latent-consistency/lcm-lora-sdv1-5"),
)
HUB = "~/.cache/torch/hub/checkpoints"  # where torchvision keeps what it has downloaded
PRETRAINED = {  # IMAGENET1K_V1 of the three architectures
    "resnet50": f"{HUB}/resnet50-0676ba61.pth",
    "mobilenet_v3_large": f"{HUB}/mobilenet_v3_large-8738ca79.pth",
    "vit_b_16": f"{HUB}/vit_b_16-c867db91.pth",
}
INCEPTION = f"{HUB}/inception_v3_google-0cc3c7bd.pth"
K = 5  # generated images for each real one
FLIP_AND_CROP = (RandomCrop(padding=8, size=224), HorizontalFlip())
CONCAT = Concat()
Arm = dict[str, Any]
T = TypeVar("T")


# --- tasks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A data set, its number of real training images, its classifier, and how diffusion models are fitted to it:
    steps of textual inversion and of LoRA, and the word that learned ones begin as. In bf16, as the paper has fp16: it
    is four times as fast on a GPU, and 24 GB hold it (parts of a batch that do not fit are halved)."""

    dataset: Dataset
    images: int
    recipe: Recipe
    tuning: tuple[int, int] = (2000, 1000)
    init: str = "the"

    def inverted(self) -> tuple[Finetune, ...]:
        """What DA-Fusion does to the model."""
        return (TextualInversion(steps=self.tuning[0], init=self.init, precision="bf16"),)

    def tuned(self) -> tuple[Finetune, ...]:
        """What Diff-Aug, Diff-Mix and Diff-II do to it, with one result for the three."""
        return (*self.inverted(), LoRA(steps=self.tuning[1], precision="bf16"))


def scratch(lr: float, weight_decay: float, **more: Any) -> Recipe:
    """ResNet-50 from scratch: 100 epochs of batches of 32, momentum 0.9, cosine to 0, no warm-up. The paper trains in
    fp16 with scaled gradients; this is bf16."""
    return Recipe(
        model="resnet50",
        optimizer=SGD(lr=lr, weight_decay=weight_decay),
        epochs=100,
        batch_size=32,
        transforms=FLIP_AND_CROP,
        image_size=PUBLISHED["caltech101"].size,
        precision="bf16",
        **more,
    )


def pretrained(classes: int) -> Recipe:
    """ResNet-50 with ImageNet weights, all of it trained: 128 epochs of batches of 256, with label smoothing."""
    return changed(
        scratch(0.1, 5e-4, label_smoothing=smoothing(classes)),
        {"weights": PRETRAINED["resnet50"], "epochs": 128, "batch_size": 256},
    )


def smoothing(classes: int, share: float = 0.1) -> float:
    """The paper leaves 1 - share to the class and gives share / (C - 1) to each other one; torch spreads its share over
    all C classes, so it must be told a little more."""
    return share * classes / (classes - 1)


def _shots(name: str, classes: int, shots: int, recipe: Recipe, **more: Any) -> Task:
    assert shots in PUBLISHED[name].shots
    return Task(Dataset(name, shots=shots), classes * shots, recipe, **more)


def caltech101() -> Task:
    """The paper's own split has 97 of the 101 classes; with the official archive all 101 are trained on."""
    return _shots("caltech101", 97, 25, scratch(0.01, 1e-4))


def cifar100() -> Task:
    return _shots("cifar100", 100, 100, scratch(0.1, 5e-4))


def imagenet100() -> Task:
    return _shots("imagenet100", 100, 250, scratch(0.1, 1e-4))


def imagenet1k() -> Task:
    """Weight decay and epochs are not in the paper: those of ImageNet-100."""
    return _shots("imagenet1k", 1000, 25, scratch(0.1, 1e-4))


def birds(shots: int) -> Task:
    return _shots("cub", 200, shots, pretrained(200), init="bird")


def all_birds() -> Task:
    """Every official training image, from scratch. The paper does not say how: as CIFAR-100, with label smoothing."""
    recipe = scratch(0.1, 5e-4, label_smoothing=smoothing(200))
    return Task(Dataset("cub", val_share=0.0), 5994, recipe, init="bird")


def planes(shots: int) -> Task:
    return _shots("aircraft", 100, shots, pretrained(100), init="aircraft")


def blood(shots: int) -> Task:
    return _shots("blood", 8, shots, scratch(0.01, 5e-4), tuning=(500, 500))


def skin(shots: int) -> Task:
    return _shots("skin", 7, shots, scratch(0.01, 5e-4), tuning=(500, 500))


def semi_inat(level: str, classes: int) -> Task:
    """All labelled images. The paper says label smoothing and no more: the rest is as for Birds."""
    return Task(Dataset(f"semi_inat_{level}", val_share=0.0), 9721, pretrained(classes))


def domainnet() -> Task:
    """The paper gives no recipe: as CIFAR-100. Its prompts name a domain, drawn here for each image among all six."""
    task = _shots("domainnet", 345, 20, scratch(0.1, 5e-4))
    prompts = tuple(f"a {domain} image of a {{}}" for domain in ("real", *DOMAINS))
    return dataclasses.replace(task, dataset=dataclasses.replace(task.dataset, prompt=prompts))


# --- arms -----------------------------------------------------------------------------------------------------------


def arm(method: Method, utilize: Utilize = CONCAT, finetune: tuple[Finetune, ...] = ()) -> Arm:
    """A method with its model, what is done to that first, and the use of its images."""
    backbone = PIX2PIX if isinstance(method, DiffuseMix) else SD15
    return {"method": method, "backbone": backbone, "finetune": finetune, "utilize": utilize}


def without_images() -> dict[str, Arm]:
    """The baseline and the two classic mixtures, alpha 1 in half of the batches."""
    return {
        "Baseline": {},
        "Mixup": {"recipe.transforms": (*FLIP_AND_CROP, Mixup())},
        "CutMix": {"recipe.transforms": (*FLIP_AND_CROP, CutMix())},
    }


def coarse_arms(task: Task, constraint: float = 0.8) -> dict[str, Arm]:
    """Strength 0.9 and full concatenation for all; `constraint` is GIF's, 4 on Caltech-101."""
    return {
        "Real Guidance": arm(RealGuidance(strength=0.9)),
        "GIF": arm(GIF(strength=0.9, constraint=constraint)),
        "DiffuseMix": arm(DiffuseMix()),
        "DA-Fusion": arm(DAFusion(strength=0.9), finetune=task.inverted()),
        "Diff-Aug": arm(DiffAug(strength=0.9), finetune=task.tuned()),
        "Diff-Mix": arm(DiffMix(strength=0.9), finetune=task.tuned()),
    }


# (strength, replacement probability) for 1, 5 and 10 shots. The paper's text calls Diff-Mix's strength "high" like
# Diff-Aug's, its configurations have these; their 0.9 of GIF for 5 shots of Birds contradicts the text and is left out.
Settings = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
BIRDS: Mapping[str, Settings] = {
    "Real Guidance": ((0.1, 0.7), (0.1, 0.1), (0.1, 0.3)),
    "GIF": ((0.1, 0.5), (0.1, 0.5), (0.1, 0.5)),
    "DiffuseMix": ((1.0, 0.3), (1.0, 0.3), (1.0, 0.3)),
    "DA-Fusion": ((0.9, 0.7), (0.9, 0.5), (0.9, 0.3)),
    "Diff-Aug": ((0.9, 0.7), (0.9, 0.5), (0.9, 0.3)),
    "Diff-Mix": ((0.5, 0.7), (0.7, 0.7), (0.7, 0.3)),
    "Diff-II": ((1.0, 0.7), (1.0, 0.5), (1.0, 0.3)),
}
AIRCRAFT: Mapping[str, Settings] = {
    "Real Guidance": ((0.1, 0.3), (0.1, 0.9), (0.1, 0.3)),
    "GIF": ((0.1, 0.5), (0.1, 0.5), (0.1, 0.5)),
    "DiffuseMix": ((1.0, 0.3), (1.0, 0.3), (1.0, 0.3)),
    "DA-Fusion": ((0.1, 0.3), (0.9, 0.5), (0.9, 0.5)),
    "Diff-Aug": ((0.1, 0.3), (0.9, 0.5), (0.9, 0.5)),
    "Diff-Mix": ((0.7, 0.1), (0.7, 0.7), (0.7, 0.7)),
    "Diff-II": ((1.0, 0.3), (1.0, 0.5), (1.0, 0.5)),
}


def fine_arms(task: Task) -> dict[str, Arm]:
    """Random replacement for all: local for DA-Fusion and Diff-II (Table 1) and DiffuseMix (whose numbers in Table 3
    are those of local replacement in Table 8), global for the others."""
    table = BIRDS if task.dataset.name == "cub" else AIRCRAFT
    column = PUBLISHED[task.dataset.name].shots.index(task.dataset.shots or 0)
    s = {name: settings[column][0] for name, settings in table.items()}
    p = {name: settings[column][1] for name, settings in table.items()}
    return {
        "Real Guidance": arm(RealGuidance(strength=s["Real Guidance"]), GlobalRandomReplace(p["Real Guidance"])),
        "GIF": arm(GIF(strength=s["GIF"], constraint=0.8), GlobalRandomReplace(p["GIF"])),
        "DiffuseMix": arm(DiffuseMix(), LocalRandomReplace(p["DiffuseMix"])),
        "DA-Fusion": arm(DAFusion(strength=s["DA-Fusion"]), LocalRandomReplace(p["DA-Fusion"]), task.inverted()),
        "Diff-Aug": arm(DiffAug(strength=s["Diff-Aug"]), GlobalRandomReplace(p["Diff-Aug"]), task.tuned()),
        "Diff-Mix": arm(DiffMix(strength=s["Diff-Mix"]), GlobalRandomReplace(p["Diff-Mix"]), task.tuned()),
        "Diff-II": arm(DiffII(suffixes=suffixes(task)), LocalRandomReplace(p["Diff-II"]), task.tuned()),
    }


def medical_arms(task: Task) -> dict[str, Arm]:
    """Low strengths, full concatenation; GIF with the fine-tuned model, a narrow bound and the data set's prompt."""
    gif = GIF(strength=0.3, constraint=0.1)
    return {
        "Real Guidance": arm(RealGuidance(strength=0.3)),
        "GIF": arm(gif, finetune=task.tuned()),
        "DA-Fusion": arm(DAFusion(strength=0.3), finetune=task.inverted()),
        "Diff-Aug": arm(DiffAug(strength=0.3), finetune=task.tuned()),
        "Diff-Mix": arm(DiffMix(strength=0.7), finetune=task.tuned()),
    }


def suffixes(task: Task) -> str:
    """The table of suffixes of a data set. Those for Birds and Aircraft (Diff-II) are here; others are yours to make,
    with a language model that imagines phrases for each class and one that describes each training image."""
    return str(Path(__file__).parent / "suffixes" / f"{task.dataset.name}.json")


# --- comparisons ----------------------------------------------------------------------------------------------------


def plain(task: Task) -> Experiment:
    """The real images alone, the paper's epochs."""
    return Experiment(dataset=task.dataset, recipe=task.recipe)


def compare(task: Task, arms: Mapping[str, Arm], *, epochs: bool = False, **more: Any) -> Sweep:
    """Arms with three paired seeds, after the baseline: equal optimiser steps, or equal `epochs`, whose steps are
    counted as the paper's loader does: 100 images in batches of 256 are a step an epoch, and not a third of one."""
    length = {"recipe.keeps_last": True} if epochs else equal_steps(task)
    base = changed(plain(task), length)
    everything = {"Baseline": {}, **arms}
    return Sweep(base=base, arms=everything, baseline="Baseline", seeds=(0, 1, 2), **more)


def measured(sweep: Sweep) -> Sweep:
    """With Frechet distance, precision and recall of the images, against the real training images."""
    quality = Fidelity(reference="subset", extractor=InceptionFeatures(weights=INCEPTION))
    return changed(sweep, {"base.evaluations": (Accuracy(), quality)})


def equal_steps(task: Task, k: int = K) -> Arm:
    """As many optimiser steps as the paper's epochs have with the real images and k generated ones for each."""
    steps = task.recipe.total_steps(task.images * (1 + k))
    return {"recipe.epochs": None, "recipe.steps": steps}


def one(task: Task, chosen: Arm, **more: Any) -> Experiment:
    """A single arm with the paper's epochs."""
    return changed(plain(task), {"recipe.keeps_last": True} | chosen | more)


def changed(value: T, fields: Mapping[str, Any]) -> T:
    """The same value with some of its fields, at dotted paths, replaced."""
    new: T = replace(value, fields)
    return new


def as_released(experiment: Experiment) -> Experiment:
    """An experiment as the paper's released code would run it, where that differs and can be said in settings.

    Prompts never name the kind of thing. On sets of class folders the learned words never occur: prompts hold the
    class's name in angle brackets, so nothing but LoRA is learned. Diff-II may take an image as its own partner. What
    is not offered: choosing the epoch by test accuracy, and labels of Diff-Mix that do not sum to one or that name the
    class of a replaced image.
    """
    fields: dict[str, Any] = {"dataset.super_class": ""}
    if isinstance(experiment.method, DiffII):
        fields["method.alone"] = True
    learned = [part for part in experiment.tuning if not isinstance(part, TextualInversion)]
    if experiment.dataset.name not in ("cub", "aircraft") and len(learned) < len(experiment.tuning):
        prompts = tuple(template.replace("{}", "<{}>") for template in experiment.dataset.templates)
        fields |= {"finetune": learned, "dataset.prompt": prompts[0] if len(prompts) == 1 else prompts}
    return changed(experiment, fields)
