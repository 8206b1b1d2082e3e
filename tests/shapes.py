"""Small things that several tests use: a method without a model, images, experiments that take a second."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from synthaug.classify.augment import Transform
from synthaug.data.dataset import Dataset
from synthaug.data.sample import Label, soft_label
from synthaug.diffusion.backbone import Backbone
from synthaug.experiment import Experiment, Recipe
from synthaug.methods.base import Method, Models, Row
from synthaug.settings import settings

NANO = Backbone(model="nano:sd")


@settings
class Noise(Method):
    """The source image with noise of its own seed; needs no model."""

    backbone: ClassVar[Backbone | None] = None
    amount: Annotated[int, Field(ge=1, le=200)] = 20

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        made = []
        for row, image in zip(rows, images, strict=True):
            noise = np.random.default_rng(row.seed).integers(0, self.amount, image.shape)
            made.append(np.clip(image + noise, 0, 255).astype(np.uint8))
        return made, [soft_label([(row.target, 1.0)]) for row in rows]


@settings
class OtherNoise(Noise):
    """Equal fields, another class."""


@settings
class Fragile(Noise):
    """Takes its process down once, at the second variant."""

    marker: str = ""

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        if rows[0].variant == 2 and not Path(self.marker).exists():
            Path(self.marker).write_text("here")
            os.kill(os.getpid(), signal.SIGKILL)
        return Noise(amount=self.amount).generate(rows, images, models)


def tiny(shots: int = 2, steps: int = 8, **fields: object) -> Experiment:
    """An experiment on digits that trains for a second or two."""
    recipe = fields.pop("recipe", Recipe(steps=steps, batch_size=16, evaluations=4))
    return Experiment(dataset=Dataset("digits", shots=shots), recipe=recipe, **fields)


def paint(path: Path, seed: int, size: int = 8) -> None:
    """A file with random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


def class_folders(root: Path, classes: Sequence[str], count: int, first: int = 0) -> Path:
    """A folder of class folders of random images."""
    for number, name in enumerate(classes):
        for i in range(count):
            paint(root / name / f"{i}.png", first + number * count + i)
    return root


@settings
class FailsInTheSecond(Transform):
    """Raises in the second of the processes that share a training, and in no other."""

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            raise KeyError("only here")
        return images, labels


@settings
class Deadly(Transform):
    """Ends the process that trains with it."""

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        os._exit(7)
