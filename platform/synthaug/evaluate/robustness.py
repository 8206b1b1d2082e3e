"""Accuracy on corrupted images: the families of ImageNet-C at several severities, on any data set."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, field_validator

from synthaug.evaluate.accuracy import top_k
from synthaug.evaluate.adapt import Adaptation, Corruption
from synthaug.evaluate.base import Result, Subject
from synthaug.evaluate.corruptions import FAMILIES
from synthaug.evaluate.predict import Asked, ask
from synthaug.settings import UserError, did_you_mean, settings

Severity = Annotated[int, Field(ge=1, le=5)]
# the mean of the benchmark is over these; its four extra ones are meant for validation
FIFTEEN = tuple(name for family, names in FAMILIES.items() if family != "extra" for name in names)


@settings
class Robustness(Asked):
    """Top-1 under each corruption and severity; means over all, over each family and over each severity.

    The images of `split` are corrupted here, unless `dataset` is one that comes corrupted, as `imagenet-c` does.
    """

    corruptions: Annotated[tuple[str, ...], Field(min_length=1)] = FIFTEEN
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = (1, 2, 3, 4, 5)

    @field_validator("corruptions")
    @classmethod
    def _known(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        known = [name for names in FAMILIES.values() for name in names]
        for name in given:
            if name not in known:
                raise UserError(f"no corruption is called {name!r}{did_you_mean(name, known)}")
        return given

    @property
    def cells(self) -> list[tuple[str, int]]:
        return [(name, severity) for name in self.corruptions for severity in self.severities]

    @property
    def title(self) -> str:
        return f"{self.split}-c" if self.dataset is None else self.dataset.name

    @property
    def shown(self) -> list[tuple[str, Corruption | None]]:
        """For each cell the split to look at, and how to corrupt it."""
        if self.dataset is None:
            return [(self.split, cell) for cell in self.cells]
        return [(f"{name}/{severity}", None) for name, severity in self.cells]

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(split for split, _ in self.shown))

    def copies(self) -> list[tuple[str, Adaptation]]:
        # a predictor that asks the image itself has none: ask() corrupts for it on the spot
        return [(split, made) for split, cell in self.shown if (made := self.predictor.adaptation(cell))]

    def __call__(self, subject: Subject) -> Result:
        found: dict[tuple[str, int], float] = {}
        calls = []
        for cell, (split, corruption) in zip(self.cells, self.shown, strict=True):
            log_p, each = ask(self.predictor, subject, split, corruption)
            found[cell] = top_k(log_p, subject.meant(split, log_p), 1)
            calls.append(each)
        # plain means over the cells, not ImageNet-C's mCE, which divides by the errors of AlexNet
        metrics = {f"{self.prefix}/top1": float(np.mean(list(found.values())))}
        for family, names in FAMILIES.items():  # only those of which something was asked
            if mine := [value for (name, _), value in found.items() if name in names]:
                metrics[f"{self.prefix}/{family}/top1"] = float(np.mean(mine))
        for severity in self.severities:
            mine = [value for (_, other), value in found.items() if other == severity]
            metrics[f"{self.prefix}/severity-{severity}/top1"] = float(np.mean(mine))
        metrics |= {f"{self.prefix}/calls": float(np.mean(calls))} if self.copies() else {}
        table = {name: [found[name, severity] for severity in self.severities] for name in self.corruptions}
        return {"metrics": metrics, "about": {"severities": list(self.severities), "top1": table}}
