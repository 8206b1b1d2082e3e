"""A classifier that tells what was done to an image."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from synthaug.diffusion.transforms import PAPER, OneOrNone, Transforms
from synthaug.settings import Count, settings


@settings
class TransformDetector:
    """A classifier that is trained to tell which of the transforms was done to an image, or none; each as often. It is
    a stage of its own, trained on all training images of the data set, one for every arm and seed."""

    version: ClassVar[int] = 1

    transforms: Transforms = PAPER
    model: str = "small"
    steps: Count = 1000
    batch_size: Count = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Count = 1

    @property
    def kinds(self) -> tuple[str, ...]:
        return (*OneOrNone(transforms=self.transforms).names, "none")
