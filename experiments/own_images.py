"""Your own images: `synthaug run experiments/own_images.py:real_guidance --set dataset.path=DIR`."""

from __future__ import annotations

from synthaug.classify.augment import HorizontalFlip, RandomCrop
from synthaug.classify.optim import SGD
from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.finetune import LoRA, TextualInversion
from synthaug.experiment import Experiment, Recipe, Sweep
from synthaug.methods.diff_aug import DiffAug
from synthaug.methods.real_guidance import RealGuidance


def plain() -> Experiment:
    """ResNet-50 from scratch on your images alone: class folders, or train/ and test/ with class folders."""
    recipe = Recipe(
        model="resnet50",
        optimizer=SGD(lr=0.01, weight_decay=1e-4),
        epochs=100,
        batch_size=32,
        transforms=(RandomCrop(padding=8, size=224), HorizontalFlip()),
        image_size=256,
    )
    return Experiment(dataset=Dataset("folder"), recipe=recipe)


def real_guidance() -> Experiment:
    """Five variants of each image by Stable Diffusion 1.5, added to the real ones."""
    return Experiment(dataset=Dataset("folder"), recipe=plain().recipe, method=RealGuidance(strength=0.9), k=5)


def diff_aug() -> Experiment:
    """The same after Stable Diffusion 1.5 was fitted to your images (textual inversion, then LoRA): for a GPU, on which
    bf16 is four times as fast; what does not fit is learned in smaller parts."""
    fitted = (TextualInversion(precision="bf16"), LoRA(precision="bf16"))
    made = DiffAug(strength=0.7)
    model = Backbone("stable-diffusion-v1-5/stable-diffusion-v1-5", precision="bf16")
    return Experiment(
        dataset=Dataset("folder"), recipe=plain().recipe, backbone=model, method=made, finetune=fitted, k=5
    )  # fmt: skip


def compare() -> Sweep:
    """With and without generated images, five paired seeds, the same optimiser steps."""
    steps = {"recipe.epochs": None, "recipe.steps": 3000}
    return Sweep(
        base=plain(),
        arms={"plain": steps, "Real Guidance": steps | {"method": real_guidance().method}},
        baseline="plain",
    )
