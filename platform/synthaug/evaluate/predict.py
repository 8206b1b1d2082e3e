"""Ways to ask a classifier about an image: once, or about several copies of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from synthaug.diffusion.one_step import Diffusion
from synthaug.evaluate.adapt import Adaptation, AtTimes, Corruption, DDAImages, corrupted
from synthaug.evaluate.base import Evaluation
from synthaug.settings import Count, OneOf, Share, UserError, settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from synthaug.diffusion.denoiser import Denoiser
    from synthaug.evaluate.base import Subject

Copy = Callable[[int, np.ndarray], np.ndarray]  # number of a copy, from 1, and places of images: uint8 NCHW
TIMES = tuple(round(0.05 * step, 2) for step in range(10))  # 0, 50, ..., 450 of 1,000
CHUNK = 256  # images whose copies are in memory at once


@settings
class Predictor(ABC):
    """Class probabilities of test images, and how many denoiser calls each image takes."""

    name: ClassVar[str]

    @property
    def copies_first(self) -> bool:
        """Whether all copies are needed, so that all who ask for them can share them."""
        return True

    def adaptation(self, corruption: Corruption | None) -> Adaptation | None:
        """The copies of each image that are looked at, if any are."""
        return None

    @abstractmethod
    def __call__(self, model: nn.Module, images: np.ndarray, copy: Copy) -> tuple[np.ndarray, float]:
        """Log probabilities (N x C) of images (uint8 NCHW), and denoiser calls an image."""


@settings
class Single(Predictor):
    """The image as it is."""

    name: ClassVar[str] = ""

    def __call__(self, model: nn.Module, images: np.ndarray, copy: Copy) -> tuple[np.ndarray, float]:
        from scipy.special import log_softmax

        from synthaug.classify.loop import predict

        return log_softmax(predict(model, images).double().numpy(), 1), 0.0


@settings
class Ensemble(Predictor):
    """DiffAug-Ensemble (DE): the mean over guesses from several times; at time 0 the image itself is asked.

    With `margin` an image is asked no further once the mean of its first class leads the second by so much: the
    adaptive ensemble, whose mean is over what was asked. Its guesses are made when they are asked for, unless another
    evaluation has had the same ones made beforehand.
    """

    times: Annotated[tuple[Share, ...], Field(min_length=1)] = TIMES
    average: Literal["probability", "logit"] = "probability"
    margin: Annotated[float, Field(gt=0, le=1)] | None = None
    how: Diffusion = Diffusion()

    @field_validator("times")
    @classmethod
    def _each_once(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(times)) < len(times):
            raise UserError("a time stands there twice, and its guess would be the same")
        return times

    @property
    def name(self) -> str:  # type: ignore[override]
        return "DE" if self.margin is None else "adaptive DE"

    @property
    def copies_first(self) -> bool:
        return self.margin is None

    @property
    def later(self) -> tuple[float, ...]:
        """The times for which the denoiser is called."""
        return tuple(time for time in self.times if time > 0)

    def adaptation(self, corruption: Corruption | None) -> Adaptation | None:
        return AtTimes(times=self.later, how=self.how, corruption=corruption) if self.later else None

    def __call__(self, model: nn.Module, images: np.ndarray, copy: Copy) -> tuple[np.ndarray, float]:
        from synthaug.classify.loop import predict

        free = len(self.times) - len(self.later)  # looks without a call
        asked = np.zeros(len(images), int)
        total: np.ndarray | float = 0.0
        going = np.arange(len(images))
        for number in range(len(self.times)):
            logits = predict(model, images[going] if number < free else copy(number - free + 1, going)).double()
            found = (logits.softmax(1) if self.average == "probability" else logits).numpy()
            if isinstance(total, float):
                total = np.zeros((len(images), found.shape[1]))
            total[going] += found
            asked[going] += 1
            if self.margin is not None:
                going = going[_lead(self._mean(total[going], asked[going])) < self.margin]
            if not len(going):
                break
        assert isinstance(total, np.ndarray)
        p = self._mean(total, asked)
        return np.log(np.maximum(p, np.finfo(float).tiny)), float(np.maximum(asked - free, 0).mean())

    def _mean(self, total: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Probabilities from what was added up."""
        from scipy.special import log_softmax

        mean = total / asked[:, None]
        return np.asarray(mean if self.average == "probability" else np.exp(log_softmax(mean, 1)))


@settings
class DDA(Predictor):
    """Diffusion-driven adaptation; with `self_ensemble` the image itself has half a say (DDA-SE)."""

    self_ensemble: bool = False
    steps: Annotated[int, Field(ge=2, le=1000)] = 100
    start: Count = 50
    scale: Annotated[float, Field(ge=0)] = 6.0
    shrink: Count = 4

    @model_validator(mode="after")
    def _within(self) -> DDA:
        if self.start >= self.steps:
            raise UserError(f"{self.start} lies beyond the last of {self.steps} steps", ("start",))
        return self

    @property
    def name(self) -> str:  # type: ignore[override]
        return "DDA-SE" if self.self_ensemble else "DDA"

    def adaptation(self, corruption: Corruption | None) -> Adaptation | None:
        return DDAImages(
            steps=self.steps, start=self.start, scale=self.scale, shrink=self.shrink, corruption=corruption
        )  # fmt: skip

    def __call__(self, model: nn.Module, images: np.ndarray, copy: Copy) -> tuple[np.ndarray, float]:
        from synthaug.classify.loop import predict

        p = predict(model, copy(1, np.arange(len(images)))).double().softmax(1)
        if self.self_ensemble:
            p = (p + predict(model, images).double().softmax(1)) / 2
        return np.log(np.maximum(p.numpy(), np.finfo(float).tiny)), float(self.start)


@settings
class Asked(Evaluation):
    """What asks a classifier in a way that can be chosen."""

    predictor: OneOf[Predictor] = Single()

    @property
    def prefix(self) -> str:
        return "/".join(filter(None, (self.title, self.predictor.name)))

    @property
    def copies_first(self) -> bool:
        return self.predictor.copies_first


def ask(
    predictor: Predictor, subject: Subject, split: str, corruption: Corruption | None = None
) -> tuple[np.ndarray, float]:
    """Log probabilities of all images of a split, corrupted if wanted, and denoiser calls an image."""
    images, _ = subject.sets[split]
    maker = predictor.adaptation(corruption)
    found: list[np.ndarray] = []
    calls = 0.0
    for first in range(0, len(images), CHUNK):
        numbers = range(first, min(first + CHUNK, len(images)))

        def copy(variant: int, rows: np.ndarray, numbers: range = numbers) -> np.ndarray:
            assert subject.copy is not None and maker is not None
            return subject.copy(maker, split, [numbers[row] for row in rows], variant)

        ids = subject.ids.get(split, [""] * len(images))
        seen = corrupted(corruption, images[first : first + CHUNK], [ids[n] for n in numbers])
        log_p, each = predictor(subject.model, seen, copy)
        found.append(log_p)
        calls += each * len(numbers)
    return np.concatenate(found), calls / len(images)


def ensemble(
    model: nn.Module, images: Tensor, denoiser: Denoiser, times: Sequence[float], seeds: Sequence[int],
    how: Diffusion | None = None,
) -> Tensor:  # fmt: skip
    """The probabilities that DE gives images in [0, 1], all guesses in one pass through the denoiser and the model."""
    import torch

    from synthaug.methods.diffuse_denoise import noise_of
    from synthaug.settings import seed_of

    how = how or Diffusion()
    later = [time for time in times if time > 0]
    looks = [images] * (len(times) - len(later))
    if later:
        many = images.repeat(len(later), 1, 1, 1)
        at = torch.tensor(later).repeat_interleave(len(images))
        noise = noise_of([seed_of(seed, time) for time in later for seed in seeds], many)
        looks.append(how(many, at, denoiser, noise))
    p: Tensor = model(torch.cat(looks)).softmax(1)
    return p.view(len(times), len(images), -1).mean(0)


def _lead(p: np.ndarray) -> np.ndarray:
    """How far the first class is ahead of the second."""
    best = np.sort(p, 1)[:, -2:]
    return np.asarray(best[:, 1] - best[:, 0])


def among(model: nn.Module, places: Sequence[int], classes: int) -> nn.Module:
    """The model with only some of its classes to choose from, as ImageNet-A and -R are measured."""
    import torch
    from torch import nn

    class Among(nn.Module):
        closed: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("closed", torch.full((classes,), -1e4).index_fill(0, torch.tensor(places), 0.0))

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.model(images)
            return logits + self.closed

    return Among().to(next(model.parameters()).device).eval()
