"""The poster of DiffAug (Sastry et al., NeurIPS 2024, arXiv 2306.09192): its networks, its ways to ask them, and what
it asks about. The tables are in diffaug_*.py; none of them was run here, their numbers are the poster's.

Everything is looked for below the folder `data` (links will do); what lies elsewhere is named with --set, such as
dataset.path=DIR, denoiser.checkpoint=FILE, recipe.weights=FILE or evaluations.4.dataset.path=DIR. Weights are plain
state dicts: take `state_dict` out of a published checkpoint, and `module.` off its names.

Every sweep holds two controls that the poster lacks: as many more optimiser steps without DiffAug, and as many rows a
step as well, from a second crop (the baseline of the comparison). What settings cannot say, in every table:

- crops: images are squashed to 256 px and cut to 224 at random, where the authors cut a random part of random size;
- rates fall to 0 as a cosine; theirs fall tenfold twice (from scratch), or stay at what a published checkpoint holds;
- an optimiser begins without memory; theirs goes on from the checkpoint's;
- DE and DDA work on the whole 256 px, which the denoiser was trained on, before the middle is cut; theirs on 224 px.
  ImageNet-C comes in 224 px, so it is enlarged and cut here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.unidiffda import PRETRAINED
from synthaug.classify.augment import HorizontalFlip, RandomCrop
from synthaug.classify.optim import SGD, AdamW
from synthaug.classify.views import AugMixView, DiffAugView, FolderView, SecondView
from synthaug.data.dataset import Dataset
from synthaug.diffusion.pixel_models import GuidedDiffusion
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.base import Evaluation
from synthaug.evaluate.predict import DDA, Ensemble, Predictor, Single
from synthaug.evaluate.robustness import Robustness
from synthaug.experiment import Experiment, Recipe, Sweep

DATA = "data"
IMAGENET = Dataset("imagenet1k", path=f"{DATA}/imagenet", val_share=0.0)  # all its images train, the last weights stay
ADM = GuidedDiffusion(checkpoint=f"{DATA}/256x256_diffusion_uncond.pt", precision="fp16")
WAYS: tuple[Predictor, ...] = (DDA(), DDA(self_ensemble=True), Ensemble(), Single())  # the poster's columns
TWIN = DiffAugView()
Arm = dict[str, Any]


# --- networks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A row of the poster: its name, how it is trained, and which row its first weights are, if they are published."""

    name: str
    recipe: Recipe
    published: str | None = None

    def arms(self) -> dict[str, Arm]:
        """The row and its twin with DiffAug, with the controls that cost as much."""
        own = self.recipe.views
        return ({} if self.published is None else {self.published: untouched()}) | {
            f"{self.name}, same steps": {},
            f"{self.name}, second look": {"recipe.views": (*own, SecondView())},
            f"{self.name}+DiffAug": {"recipe.views": (*own, TWIN)},
        }


def untouched() -> Arm:
    """Published weights as they are."""
    return {"recipe.steps": 0, "recipe.views": ()}


def _trained(optimizer: SGD | AdamW, steps: int, model: str = "resnet50", **more: Any) -> Recipe:
    """Batches of 256; the twin is a further row of each."""
    crop = (RandomCrop(padding=0, size=224), HorizontalFlip())
    return Recipe(
        model=model, optimizer=optimizer, steps=steps, batch_size=256, transforms=crop, image_size=256,
        precision="bf16", **more,
    )  # fmt: skip


def _continued(name: str, views: tuple[Any, ...], *, nesterov: bool) -> Network:
    """A published ResNet-50, 50,000 steps more. Its rate is in its checkpoint, which was not at hand: 0.001 is ours."""
    optimizer = SGD(lr=0.001, weight_decay=1e-4, nesterov=nesterov)
    return Network(name, _trained(optimizer, 50_000, weights=f"{DATA}/{name}.pt", views=views), name)


def resnet50() -> Network:
    """From scratch, 90 epochs of 5,000 steps: torchvision's recipe, so that same steps and published are one."""
    return Network("RN50", _trained(SGD(lr=0.1, weight_decay=1e-4), 450_000))


def augmix() -> Network:
    """AugMix (AM), weights in data/AM.pt."""
    return _continued("AM", (AugMixView(),), nesterov=False)


def deepaugment() -> Network:
    """DeepAugment (DA), weights in data/DA.pt; its images of two networks, under the names of the training images, are
    the folders data/EDSR and data/CAE, each with a cross-entropy of its own."""
    return _continued("DA", _distorted(), nesterov=True)


def deepaugment_augmix() -> Network:
    """Both (DAM), weights in data/DAM.pt. The authors draw from real, EDSR and CAE images alike and mix what is drawn;
    here the real image is mixed and the others stand beside it."""
    return _continued("DAM", (AugMixView(), *_distorted()), nesterov=True)


def _distorted() -> tuple[FolderView, ...]:
    return tuple(FolderView(path=f"{DATA}/{name}") for name in ("EDSR", "CAE"))


def vit() -> Network:
    """ViT-B/16. The poster's is DeiT-III in its second stage, whose layer scale torchvision's has not and whose code is
    not out: weights (torchvision's), optimiser and 50,000 steps are ours, so its numbers say little of this one."""
    optimizer = AdamW(lr=1e-5, weight_decay=0.1)
    return Network("ViT", _trained(optimizer, 50_000, "vit_b_16", weights=PRETRAINED["vit_b_16"]), "ViT")


def synthetic() -> Network:
    """torchvision's ResNet-50, 50,000 steps more on real and generated images."""
    optimizer = AdamW(lr=1e-5, weight_decay=1e-4)
    return Network("RN50+Synth", _trained(optimizer, 50_000, weights=PRETRAINED["resnet50"]), "RN50")


# --- what is asked --------------------------------------------------------------------------------------------------


def corrupted(way: Predictor) -> Evaluation:
    """ImageNet-C at severity 5, all fifteen corruptions."""
    return Robustness(dataset=Dataset("imagenet-c", path=f"{DATA}/ImageNet-C"), severities=(5,), predictor=way)


def shifted(way: Predictor) -> tuple[Evaluation, ...]:
    """ImageNet-C, -R, -S (stylized), -Sketch, -A, and -D, whose three parts are asked apart."""
    whole = ("imagenet-r", "imagenet-s", "imagenet-sketch", "imagenet-a")
    parts = ("background", "material", "texture")
    return (
        corrupted(way),
        *(Accuracy(dataset=Dataset(name, path=f"{DATA}/{name}"), predictor=way) for name in whole),
        *(Accuracy(dataset=_imagenet_d(), split=part, predictor=way) for part in parts),
    )


def _imagenet_d() -> Dataset:
    return Dataset("imagenet-d", path=f"{DATA}/imagenet-d")


def compare(
    network: Network, looks: tuple[Evaluation, ...], dataset: Dataset = IMAGENET, arms: dict[str, Arm] | None = None
) -> Sweep:
    """A network with and without DiffAug, and its controls, on three paired seeds."""
    base = Experiment(dataset=dataset, denoiser=ADM, recipe=network.recipe, evaluations=looks)
    everything = network.arms() | (arms or {})
    return Sweep(base=base, arms=everything, baseline=f"{network.name}, second look", seeds=(0, 1, 2))
