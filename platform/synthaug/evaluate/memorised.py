"""Are generated images copies of those that the generator was trained on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from synthaug.classify.recipe import Recipe
from synthaug.evaluate.base import ImageEvaluation, Result
from synthaug.evaluate.features import Extractor
from synthaug.evaluate.fidelity import nearest_two
from synthaug.settings import OneOf, settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Memorised(ImageEvaluation):
    """The nearest training images of generated ones, by pixels or by the features of `extractor`.

    - share: generated images that are `ratio` times as near to one training image as to the next (Yoon et al. 2023:
      a third, by pixels), and so are copies of it; real_share: the same of held-out images
    - distance_ratio: the median distance to the nearest training image over that of held-out images. Below 1 generated
      images are nearer to what was trained on than new images would be.
    """

    heldout: str = "test"
    ratio: Annotated[float, Field(gt=0, lt=1)] = 1 / 3
    extractor: OneOf[Extractor] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return ("subset", self.heldout)

    @property
    def examiner(self) -> Recipe | None:
        return None if self.extractor is None else self.extractor.trained_by

    def measure(
        self, made: np.ndarray, labels: np.ndarray, real: Mapping[str, np.ndarray], classes: Sequence[str],
        judge: nn.Module | None = None,
    ) -> Result:  # fmt: skip
        embed = _pixels if self.extractor is None else self.extractor.of(judge)
        trained = embed(real["subset"])
        first, second = nearest_two(embed(made), trained)
        new, new_second = nearest_two(embed(real[self.heldout]), trained)
        found = {"share": _share(first, second, self.ratio), "real_share": _share(new, new_second, self.ratio)}
        if usual := float(np.median(new)):  # 0: most of the held-out images were trained on
            found["distance_ratio"] = float(np.median(first)) / usual
        by = "pixels" if self.extractor is None else self.extractor.about()
        about = {"by": by, "heldout": self.heldout, "ratio": self.ratio, "made": len(first), "trained": len(trained)}
        return {"metrics": {f"memorised/{name}": value for name, value in found.items()}, "about": about}


def _share(first: np.ndarray, second: np.ndarray, ratio: float) -> float:
    return float((first < ratio * second).mean())


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255
