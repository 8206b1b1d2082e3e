"""Filters: the generated images that score lowest are left out (UniDiffDA, section 4.3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from synthaug.clip import Clip, Scorer
from synthaug.settings import settings

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Candidates:
    """Generated images (uint8 NCHW), the classes that they were made to show, and what those are called."""

    images: np.ndarray
    targets: np.ndarray
    words: Sequence[str]
    super_class: str = ""


Score = Callable[[Candidates], np.ndarray]


@settings
class Filter(ABC):
    """Drops the `drop` share of images with the lowest score: of all of them, or of each class by itself. The score
    is about the class that an image was made to show, so a mixed label counts by its target."""

    needs_classifier: ClassVar[bool] = False

    drop: Annotated[float, Field(ge=0, lt=1)] = 0.1
    per_class: bool = False

    @abstractmethod
    def open(self, classifier: nn.Module | None) -> Score:
        """What says how well each image shows its target class, in [0, 1], its model in memory. `classifier` was
        trained on the real images alone, and is there if the filter needs it."""

    def keep(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Which images stay: all but the floor(drop x number) lowest; of equal scores the later ones go."""
        groups = [np.flatnonzero(targets == target) for target in np.unique(targets)] if self.per_class else None
        kept = np.ones(len(scores), bool)
        for group in groups or [np.arange(len(scores))]:
            worst = np.argsort(scores[group][::-1], kind="stable")[: int(self.drop * len(group) + 1e-9)]
            kept[group[::-1][worst]] = False
        return kept


@settings
class BaseProb(Filter):
    """The probability of the target under the classifier that was trained on real images only."""

    needs_classifier: ClassVar[bool] = True

    def open(self, classifier: nn.Module | None) -> Score:
        from synthaug.classify.loop import predict

        assert classifier is not None

        def score(made: Candidates) -> np.ndarray:
            return of_target(predict(classifier, made.images).double().softmax(1).numpy(), made.targets)

        return score


@settings
class ClipMulti(Filter):
    """The probability of the target among all classes, by CLIP."""

    clip: Clip = Clip("openai/clip-vit-base-patch32")

    def open(self, classifier: nn.Module | None) -> Score:
        scorer = self.clip.load()

        def score(made: Candidates) -> np.ndarray:
            texts = [f"A photo of a {word}" for word in made.words]
            p_NC = scorer.probabilities(scorer.embed(made.images), texts).double().cpu().numpy()
            return of_target(p_NC, made.targets)

        return score


@settings
class ClipBinary(Filter):
    """CLIP's answer to whether the target is on the image at all; with a super class, whether the thing is that."""

    clip: Clip = Clip("openai/clip-vit-base-patch32")

    def open(self, classifier: nn.Module | None) -> Score:
        scorer = self.clip.load()

        def score(made: Candidates) -> np.ndarray:
            features = scorer.embed(made.images)
            scores = np.empty(len(features))
            for target in np.unique(made.targets):
                rows = np.flatnonzero(made.targets == target)
                scores[rows] = self.yes(scorer, features[rows], made.words[target], made.super_class)
            return scores

        return score

    def yes(self, scorer: Scorer, features: Tensor, word: str, super_class: str) -> np.ndarray:
        """The probability of the affirmative caption."""
        there = f"A photo of a {word}, a type of {super_class}" if super_class else f"A photo of a {word}"
        absent = f"A photo with no {super_class or word}"
        found: np.ndarray = scorer.probabilities(features, [there, absent])[:, 0].double().cpu().numpy()
        return found


def of_target(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.asarray(probabilities[np.arange(len(targets)), targets])
