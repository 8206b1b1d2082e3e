"""What is measured: on a trained classifier, or on the generated images themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.settings import settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Measurement(ABC):
    """One kind of measurement: an Evaluation asks a classifier, an ImageEvaluation looks at generated images."""

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """The sets of real images that are looked at: "train" (the whole pool), "val", "test", or "subset" (the
        training images that were chosen)."""


@settings
class Evaluation(Measurement):
    """One kind of measurement of a trained classifier on the images of one split."""

    split: str = "test"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.split,)

    @abstractmethod
    def __call__(
        self, model: nn.Module, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]
    ) -> dict[str, Any]:
        """Results as plain JSON values, NaN nowhere.

        `model` takes images as they are stored (uint8 NCHW) or scaled to [0, 1] and returns logits; `labels` are class
        indices into `classes`. The keys of the result:

        - "metrics" (always): flat name -> float, each name beginning with "{split}/"
        - "per_class": class name -> float in [0, 1], or None for a class without images
        - "confusion": counts, one row for each true class, one column for each predicted class
        """


@settings
class ImageEvaluation(Measurement):
    """One kind of measurement of generated images beside real ones; no classifier takes part."""

    @abstractmethod
    def measure(
        self, made: np.ndarray, labels: np.ndarray, real: Mapping[str, np.ndarray], classes: Sequence[str]
    ) -> dict[str, Any]:
        """Results as plain JSON values, NaN nowhere.

        `made` are the generated images, `labels` their target classes (indices into `classes`), `real` the sets that
        `needs` names; all uint8 NCHW of one size. The keys of the result:

        - "metrics" (always): flat name -> float, each name beginning with what is measured, as in "leak/"
        - "about" (always): how it was measured: the extractor of features, counts of images, settings
        - "pairs": generated images and the real ones that they resemble, as mappings, the worst first
        """
