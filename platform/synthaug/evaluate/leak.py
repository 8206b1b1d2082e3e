"""Leak: do generated images show test images, which a generator may have seen in its own training?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from synthaug.classify.recipe import Recipe
from synthaug.evaluate.base import ImageEvaluation, Result
from synthaug.evaluate.features import ClipFeatures, Extractor
from synthaug.evaluate.fidelity import nearest
from synthaug.settings import OneOf, settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Leak(ImageEvaluation):
    """How near generated images come to test images, against how near the real training images come.

    - share_closer: generated images nearer to a test image than the `quantile` of the real ones, `expected` of them if
      both are alike. Well above it: test images leak, or images are so plain that they are near to everything.
    - median_ratio: the median distance of generated images over that of the real ones
    - copies: generated images whose nearest test image differs by at most `levels` of 255 (root mean square; 4 is
      what a JPEG or a resize leaves); real_copies: the same among the real ones, duplicates that the data set brought
    """

    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.01
    levels: Annotated[float, Field(ge=0)] = 4.0
    worst: Annotated[int, Field(ge=0)] = 10
    extractor: OneOf[Extractor] = ClipFeatures()

    @property
    def needs(self) -> tuple[str, ...]:
        return ("subset", "test")

    @property
    def examiner(self) -> Recipe | None:
        return self.extractor.trained_by

    def measure(
        self, made: np.ndarray, labels: np.ndarray, real: Mapping[str, np.ndarray], classes: Sequence[str],
        judge: nn.Module | None = None,
    ) -> Result:  # fmt: skip
        """The four numbers, and under "pairs" the generated images that are nearest to a test image, for people."""
        embed = self.extractor.of(judge)
        test, subset = embed(real["test"]), embed(real["subset"])
        near, which = nearest(embed(made), test)
        # how near images come that cannot have leaked: the yardstick for what is near in this feature space
        normal, normal_which = nearest(subset, test)
        # pixels of the pair that is nearest in features: all pairs of pixels would take too long
        off = differences(made, real["test"], which)
        real_off = differences(real["subset"], real["test"], normal_which)
        found = {"share_closer": share_closer(near, normal, self.quantile)}
        found |= {"copies": float((off <= self.levels).sum()), "real_copies": float((real_off <= self.levels).sum())}
        if usual := float(np.median(normal)):  # 0: most real training images lie in the test set too
            found["median_ratio"] = float(np.median(near)) / usual
        pairs = [
            {"made": int(i), "test": int(which[i]), "distance": float(near[i]), "levels": float(off[i])}
            for i in np.argsort(near, kind="stable")[: self.worst]
        ]
        about = {"extractor": self.extractor.about(), "reference": "test", "quantile": self.quantile}
        about |= {"expected": expected_share(len(normal), self.quantile), "levels": self.levels}
        about |= {"made": len(made), "subset": len(normal), "test": len(test)}
        return {"metrics": {f"leak/{name}": value for name, value in found.items()}, "about": about, "pairs": pairs}


def share_closer(near: np.ndarray, normal: np.ndarray, quantile: float) -> float:
    """The share of `near` below the quantile of `normal`, whose estimate at rank (n + 1) q makes the share unbiased."""
    return float((near < np.quantile(normal, quantile, method="weibull")).mean())


def expected_share(count: int, quantile: float) -> float:
    """The mean of `share_closer` when both come from one distribution; few images cannot show a small quantile."""
    # the lowest of n values lies at 1 / (n + 1) on average, and no estimate reaches below it
    return min(max(quantile, 1 / (count + 1)), count / (count + 1))


def differences(images: np.ndarray, others: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The root mean square difference, in 8-bit levels, of each image to the one of `others` that `which` names."""
    found = np.empty(len(images))
    for i, j in enumerate(which):  # one by one: all pairs at once, as floats, would take many times the images' memory
        found[i] = np.sqrt(np.square(images[i].astype(np.float32) - others[j]).mean())
    return found
