"""Do generated images show the augmentation that their generator was trained with?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from synthaug.classify.detector import TransformDetector
from synthaug.evaluate.base import ImageEvaluation, Result
from synthaug.settings import OneOf, settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Transformed(ImageEvaluation):
    """The share of generated images that a detector takes for transformed, beside the same share of held-out real
    images (which nothing was done to: `real`), and their difference (`leak`). What a transform leaves that is like any
    image, such as a turned 0 or a slightly brighter one, no detector sees: it calls an image transformed where it is
    surer of that than of all but the share `alarms` of one half of the held-out images, and is tried on the other
    half; `found` is the share of transformed real images that it finds then. Images that are not quite real are
    called transformed too, so the zero of a leak is that of a net that was trained without."""

    version: ClassVar[int] = 2

    detector: OneOf[TransformDetector] = TransformDetector()
    heldout: str = "test"
    alarms: Annotated[float, Field(gt=0, lt=1)] = 0.05

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.heldout,)

    def measure(
        self, made: np.ndarray, labels: np.ndarray, real: Mapping[str, np.ndarray], classes: Sequence[str],
        judge: nn.Module | None = None,
    ) -> Result:  # fmt: skip
        from synthaug.classify.detector_net import transformed

        assert judge is not None, "Transformed needs its detector"
        kinds, first, second = self.detector.kinds, real[self.heldout][::2], real[self.heldout][1::2]
        limit = np.quantile(_asked(judge, first)[0], 1 - self.alarms, method="higher")
        changed, truth = transformed(self.detector, second)
        called = {}
        for name, images in (("made", made), ("real", second), ("changed", changed)):
            sure, kind = _asked(judge, images)
            called[name] = np.where(sure > limit, kind, len(kinds) - 1)
        none = len(kinds) - 1
        shares = {name: float((kind != none).mean()) for name, kind in called.items()}
        found = {"share": shares["made"], "real": shares["real"], "leak": shares["made"] - shares["real"]}
        if (truth != none).any():  # of a few images none may have been drawn
            found["found"] = float((called["changed"] != none)[truth != none].mean())
        found |= {name: float((called["made"] == number).mean()) for number, name in enumerate(kinds[:-1])}
        among = {name: called["changed"][truth == number] == number for number, name in enumerate(kinds)}
        right = {name: float(mine.mean()) if len(mine) else None for name, mine in among.items()}
        about = {"heldout": self.heldout, "made": len(made), "real": len(second), "told apart": right}
        return {"metrics": {f"transformed/{name}": value for name, value in found.items()}, "about": about}


def _asked(judge: nn.Module, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How sure a detector is that something was done to each image, and what it would have been."""
    from synthaug.classify.loop import predict

    p = predict(judge, images).double().softmax(1).numpy()
    return 1 - p[:, -1], p[:, :-1].argmax(1)
