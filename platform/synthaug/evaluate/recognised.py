"""Do generated images show what they were made to show? Asked of the classifier that was trained on real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from synthaug.evaluate.accuracy import confusion, per_class
from synthaug.evaluate.base import ImageEvaluation, Result
from synthaug.settings import settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Recognised(ImageEvaluation):
    """The share of generated images that the classifier of the real images alone takes for their target class, and
    the mean probability that it gives that class. Images that are all alike can be recognised too: see it beside
    Fidelity's recall and coverage."""

    needs_classifier: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def measure(
        self, made: np.ndarray, labels: np.ndarray, real: Mapping[str, np.ndarray], classes: Sequence[str],
        judge: nn.Module | None = None,
    ) -> Result:  # fmt: skip
        from synthaug.classify.loop import predict

        assert judge is not None, "Recognised needs the classifier of the real images"
        # `judge` has seen no generated image in its training, which the classifier of the experiment has
        p = predict(judge, made).double().softmax(1).numpy()
        counts = confusion(labels, p.argmax(1), len(classes))
        # labels are target classes: an edited image with a soft label counts as what it was made to be
        found = {"top1": float(np.trace(counts) / len(made)), "p": float(p[np.arange(len(labels)), labels].mean())}
        about = {"made": len(made), "of class": dict(zip(classes, per_class(counts), strict=True))}
        return {"metrics": {f"recognised/{name}": value for name, value in found.items()}, "about": about}
