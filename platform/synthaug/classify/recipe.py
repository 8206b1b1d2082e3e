"""Recipe: how a classifier is trained."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from synthaug.classify.augment import Transform
from synthaug.classify.optim import AdamW, Cosine, Optimizer, Schedule
from synthaug.classify.views import View
from synthaug.settings import ContentOf, Count, OneOf, Share, UserError, did_you_mean, settings

TIMM = "timm:"  # before the names of its nets
NETS = (
    "small", "cifar_resnet18", "cifar_vgg19", "cifar_densenet121", "cifar_vit_s", "tiny_vit_s", "cifar_convnext_t",
    "cifar_swin_t",
)  # fmt: skip


@cache
def torchvision_nets() -> tuple[str, ...]:
    """The names of torchvision's classifiers, from its files: to import it takes seconds."""
    spec = find_spec("torchvision")
    folder = Path(next(iter((spec and spec.submodule_search_locations) or ["."]))) / "models"
    named = (
        re.findall(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)", file.read_text(), re.M) for file in folder.glob("*.py")
    )
    return tuple(sorted(name for names in named for name in names))


def check_name(model: str) -> None:
    """Refuse a net that there is not."""
    known = (*NETS, *torchvision_nets())
    if not model.startswith(TIMM) and model not in known:
        raise UserError(f"no model is called {model!r}{did_you_mean(model, [*known, f'{TIMM}NAME'])}")


def several(value: Any) -> Any:
    """One value where a tuple is asked for is a tuple of one."""
    return value if value is None or isinstance(value, list | tuple) else (value,)


@settings
class Recipe:
    """Model, optimiser, length, schedule (linear warm-up, then as it says) and transforms of a training run.

    Images are squashed to `image_size` (None: kept), then go through `transforms` in their order. Each of `views` adds
    its rows to the batch and its term to the loss, in which the batch itself counts `clean_weight`. `weights` is a
    file with a state dict. Exactly one of `epochs` and `steps` is given; with 0 steps they are taken as they are.
    Batches run on across the ends of epochs; `keeps_last` counts as many steps as a loader makes that ends each epoch
    with a smaller batch.
    """

    model: str = "small"
    weights: ContentOf[str | None] = None
    optimizer: OneOf[Optimizer] = AdamW()
    epochs: Count | None = None
    steps: Annotated[int, Field(ge=0)] | None = None  # the fair one, where arms have epochs of different lengths
    keeps_last: bool = False
    batch_size: Count = 64
    warmup: Share = 0.0
    schedule: OneOf[Schedule] = Cosine()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    transforms: Annotated[tuple[OneOf[Transform], ...], BeforeValidator(several)] = ()
    views: Annotated[tuple[OneOf[View], ...], BeforeValidator(several)] = ()
    clean_weight: Annotated[float, Field(ge=0)] = 1.0
    image_size: Count | None = None
    evaluations: Annotated[int, Field(ge=1, le=20)] = 10  # each is a point of every metric that is tracked
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    threads: Count = 1  # part of the key: sums differ in their last bits with the number of threads

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        check_name(model)
        return model

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if (self.epochs is None) == (self.steps is None):
            given = "neither" if self.epochs is None else "both"
            raise UserError(f"give exactly one of epochs and steps, got {given}; the other is null")
        return self

    def total_steps(self, epoch_length: int) -> int:
        """Optimiser steps of the whole run, given the number of images in an epoch."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        if self.keeps_last:
            return self.epochs * -(-epoch_length // self.batch_size)
        # rounded once, not in every epoch
        return max(1, round(self.epochs * epoch_length / self.batch_size))
