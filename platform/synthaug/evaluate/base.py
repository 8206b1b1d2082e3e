"""Evaluation: what is measured on a trained classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from synthaug.settings import settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Evaluation(ABC):
    """One kind of measurement on the images of one split."""

    split: Literal["test", "val"] = "test"

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
