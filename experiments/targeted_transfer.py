"""Targeted augmentation, transfer: fine-grained sets from ImageNet's ResNet-18, DiffuseMix of all images and of the
slow ones alone. Not run here. Of its recipe nothing is published: that of UniDiffDA's fine-grained sets."""

from __future__ import annotations

from experiments import targeted as protocol
from synthaug.classify.augment import HorizontalFlip, RandomCrop
from synthaug.classify.optim import SGD
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import Early, Slow
from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment, Sweep
from synthaug.methods.diffuse_mix import DiffuseMix

WEIGHTS = "~/.cache/torch/hub/checkpoints/resnet18-f37072fd.pth"
EPOCHS = 100


def flowers() -> Sweep:
    """Flowers-102, test error. Paper: 8.55, DiffuseMix 8.92, of the slow ones 8.08."""
    return _compared(Dataset("flowers102", path="data/flowers102"), 1020)


def aircraft() -> Sweep:
    """Aircraft, test error. Paper: 26.02, DiffuseMix 25.65, of the slow ones 25.12."""
    return _compared(Dataset("aircraft", path="data/aircraft"), 3334)


def cars() -> Sweep:
    """Cars, test error. Paper: 15.45, DiffuseMix 15.19, of the slow ones 14.96. A tenth chooses the weights."""
    return _compared(Dataset("cars", path="data/cars", val_share=0.1), 7330)


def _compared(dataset: Dataset, images: int) -> Sweep:
    """`images` are those that are trained on, about."""
    recipe = Recipe(
        model="resnet18", weights=WEIGHTS, optimizer=SGD(lr=0.01), steps=EPOCHS * images // 32, batch_size=32,
        image_size=256, transforms=(RandomCrop(size=224), HorizontalFlip()), precision="bf16", label_smoothing=0.1,
    )  # fmt: skip
    base = Experiment(dataset=dataset, method=DiffuseMix(), subset=Slow(early=Early(recipe=recipe)), k=1, recipe=recipe)
    arms = {
        "original": protocol.ORIGINAL, "of all": protocol.of_all(), "of the slow ones": protocol.targeted(2),
        "any as many": protocol.random_of_as_many(base), "upsampled": protocol.upsampled(),
    }  # fmt: skip
    arms = protocol.also(arms, "equal epochs", protocol.longer(EPOCHS), protocol.new(arms))
    against = {"of all": ("original",), "of the slow ones": ("original", "upsampled", "any as many", "of all")}
    return protocol.compare(base, arms, ("upsampled",), against)
