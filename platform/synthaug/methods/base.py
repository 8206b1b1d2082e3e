"""Method: how images are made. A new method is one file with one subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from synthaug.diffusion.backbone import Backbone
from synthaug.sample import Label, Sample
from synthaug.settings import seed_of, settings

if TYPE_CHECKING:
    import numpy as np

    from synthaug.diffusion.backbone import Pipeline


@dataclass(frozen=True)
class Context:
    """What a plan may know of the data set beside the sample itself."""

    seed: int
    words: tuple[str, ...]
    prompt: str
    super_class: str


class Models:
    """The models of a process, loaded when a method first asks."""

    def __init__(self, backbone: Backbone | None) -> None:
        self.backbone = backbone

    @cached_property
    def pipeline(self) -> Pipeline:
        assert self.backbone is not None, "this method names no backbone"
        return self.backbone.load()

    @property
    def counters(self) -> dict[str, int]:
        """What the loaded models have done so far."""
        return dict(self.pipeline.counters) if "pipeline" in vars(self) else {}


@dataclass(frozen=True)
class Row:
    """One image to make: planned without a model, so that it can be shown, counted and repeated."""

    source: str
    source_class: int
    target: int
    variant: int
    prompt: str
    strength: float
    seed: int


def own_class(sample: Sample, variant: int, context: Context, *, strength: float = 0.0) -> Row:
    """The plain plan: the sample's own class, and a seed that depends on nothing but seed, image and variant."""
    label = sample.target
    prompt = context.prompt.format(context.words[label])
    seed = seed_of(context.seed, "generate", sample.id, variant)
    return Row(sample.id, label, label, variant, prompt, strength, seed)


@settings
class Method(ABC):
    """A way to make images; its hyper-parameters are its fields. Raise `version` when its output changes.

    `backbone` is the model it was published with; None for a method that needs none.
    """

    version: ClassVar[int] = 1
    backbone: ClassVar[Backbone | None] = Backbone(model="stable-diffusion-v1-5/stable-diffusion-v1-5")

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        """What will be made of a sample as variant number `variant` (from 1), decided without a model."""
        return own_class(sample, variant, context)

    def calls(self) -> int:
        """Denoiser evaluations an image costs, for the estimate of `show`."""
        return 0

    @abstractmethod
    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        """The images (uint8 HWC) and soft labels of the rows, made from their source images."""
