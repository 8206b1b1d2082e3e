"""Do generated images show the augmentation that their generator was trained with?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from synthaug.classify.detector import TransformDetector
from synthaug.evaluate.base import ImageEvaluation, Result
from synthaug.settings import OneOf, settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Transformed(ImageEvaluation):
    """The share of generated images that a detector takes for transformed, beside the same share of held-out real
    images (which nothing was done to: `real`), and their difference (`leak`). What a transform leaves that is like any
    image, such as a turned 0, no detector sees: `found` is the share of transformed real images that it finds."""

    detector: OneOf[TransformDetector] = TransformDetector()
    heldout: str = "test"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.heldout,)

    def measure(
        self, made: np.ndarray, labels: np.ndarray, real: Mapping[str, np.ndarray], classes: Sequence[str],
        judge: nn.Module | None = None,
    ) -> Result:  # fmt: skip
        from synthaug.classify.detector_net import transformed
        from synthaug.classify.loop import predict

        assert judge is not None, "Transformed needs its detector"
        kinds, held = self.detector.kinds, real[self.heldout]
        called = {name: predict(judge, images).argmax(1).numpy() for name, images in (("made", made), ("real", held))}
        none = len(kinds) - 1
        shares = {name: float((kind != none).mean()) for name, kind in called.items()}
        done, truth = transformed(self.detector, held)
        seen = predict(judge, done).argmax(1).numpy()
        found = {"share": shares["made"], "real": shares["real"], "leak": shares["made"] - shares["real"]}
        found["found"] = float((seen != none)[truth != none].mean())
        found |= {name: float((called["made"] == number).mean()) for number, name in enumerate(kinds[:-1])}
        right = {name: float((seen == number)[truth == number].mean()) for number, name in enumerate(kinds)}
        about = {"heldout": self.heldout, "made": len(made), "real": len(held), "told apart": right}
        return {"metrics": {f"transformed/{name}": value for name, value in found.items()}, "about": about}
