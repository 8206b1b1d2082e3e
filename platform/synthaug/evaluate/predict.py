"""Ways to ask a classifier about an image: once, or about several copies of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from synthaug.diffusion.diffaug import Diffusion
from synthaug.evaluate.adapt import Adaptation, AtTimes, Corruption, DDAImages, corrupted
from synthaug.settings import Count, Share, UserError, settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from synthaug.diffusion.denoiser import Denoiser
    from synthaug.evaluate.base import Subject

TIMES = tuple(round(0.05 * step, 2) for step in range(10))  # 0, 50, ..., 450 of 1,000
CHUNK = 256  # images whose copies are in memory at once


@settings
class Predictor(ABC):
    """Class probabilities of test images, and how many denoiser calls each image takes."""

    name: ClassVar[str]

    def adaptations(self, corruption: Corruption | None) -> tuple[Adaptation, ...]:
        """The copies that are needed of each image."""
        return ()

    @abstractmethod
    def __call__(self, model: nn.Module, images: np.ndarray, copies: np.ndarray | None) -> tuple[np.ndarray, float]:
        """Log probabilities (N x C) of images (uint8 NCHW) with their copies (uint8 N x K x C x H x W), and calls."""


@settings
class Single(Predictor):
    """The image as it is."""

    name: ClassVar[str] = ""

    def __call__(self, model: nn.Module, images: np.ndarray, copies: np.ndarray | None) -> tuple[np.ndarray, float]:
        from synthaug.classify.loop import predict

        return log_softmax(predict(model, images).double().numpy()), 0.0


@settings
class Ensemble(Predictor):
    """DiffAug-Ensemble (DE): the mean over guesses from several times; at time 0 the image itself is asked.

    With `margin` an image is asked no further once the mean of its first class leads the second by so much: the
    adaptive ensemble, whose mean is over what was asked.
    """

    times: Annotated[tuple[Share, ...], Field(min_length=1)] = TIMES
    average: Literal["probability", "logit"] = "probability"
    margin: Annotated[float, Field(gt=0, le=1)] | None = None
    how: Diffusion = Diffusion()

    @property
    def name(self) -> str:  # type: ignore[override]
        return "DE" if self.margin is None else "adaptive DE"

    def adaptations(self, corruption: Corruption | None) -> tuple[Adaptation, ...]:
        diffused = tuple(time for time in self.times if time > 0)
        return (AtTimes(times=diffused, how=self.how, corruption=corruption),) if diffused else ()

    def __call__(self, model: nn.Module, images: np.ndarray, copies: np.ndarray | None) -> tuple[np.ndarray, float]:
        from synthaug.classify.loop import predict

        looks = [images] if 0 in self.times else []
        looks += [] if copies is None else [copies[:, variant] for variant in range(copies.shape[1])]
        free = len(looks) - (0 if copies is None else copies.shape[1])  # looks without a call
        asked = np.zeros(len(images), int)
        total: np.ndarray | float = 0.0
        going = np.arange(len(images))
        for look in looks:
            logits = predict(model, look[going]).double()
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
        mean = total / asked[:, None]
        return np.asarray(mean if self.average == "probability" else np.exp(log_softmax(mean)))


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

    def adaptations(self, corruption: Corruption | None) -> tuple[Adaptation, ...]:
        return (
            DDAImages(
                steps=self.steps, start=self.start, scale=self.scale, shrink=self.shrink, corruption=corruption
            ),
        )  # fmt: skip

    def __call__(self, model: nn.Module, images: np.ndarray, copies: np.ndarray | None) -> tuple[np.ndarray, float]:
        from synthaug.classify.loop import predict

        assert copies is not None
        p = predict(model, copies[:, 0]).double().softmax(1)
        if self.self_ensemble:
            p = (p + predict(model, images).double().softmax(1)) / 2
        return np.log(np.maximum(p.numpy(), np.finfo(float).tiny)), float(self.start)


def ask(
    predictor: Predictor, subject: Subject, split: str, corruption: Corruption | None = None
) -> tuple[np.ndarray, float]:
    """Log probabilities of all images of a split, corrupted if wanted, and denoiser calls an image."""
    images, _ = subject.sets[split]
    makers = predictor.adaptations(corruption)
    found: list[np.ndarray] = []
    calls = 0.0
    for first in range(0, len(images), CHUNK):
        numbers = range(first, min(first + CHUNK, len(images)))
        ids = subject.ids.get(split, [""] * len(images))
        seen = corrupted(corruption, images[first : first + CHUNK], [ids[n] for n in numbers])
        assert subject.copies is not None or not makers
        copies = [subject.copies(maker, split, numbers) for maker in makers if subject.copies]
        log_p, each = predictor(subject.model, seen, np.concatenate(copies, 1) if copies else None)
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
    looks = [images] if len(later) < len(times) else []
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


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities of N x C logits."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))  # type: ignore[no-any-return]
