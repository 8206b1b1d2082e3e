"""A closed loop: rounds of training and generating, in which new images are made where the learner is least certain, as
in "Deliberate Practice" (Askari-Hemmat et al. 2025, arXiv:2502.15588). Theirs steers the sampler by the learner's
entropy; here sources are chosen by it, which stands in for that with any method.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from synthaug.classify.recipe import Recipe
from synthaug.data.sample import Sample
from synthaug.evaluate.base import Result
from synthaug.experiment import Experiment
from synthaug.methods.base import Method
from synthaug.settings import Count, OneOf, UserError, seed_of, settings
from synthaug.stages.base import Computed, Folder, Given, Outcome, Stage, Trained
from synthaug.stages.classifier import Classifier
from synthaug.stages.data import SUBSET, Mask, Pictures
from synthaug.stages.images import Generated, Images
from synthaug.stages.line import Line
from synthaug.training import Entry

Choice = Literal["entropy", "random"]


class Learner(Classifier):
    """The classifier of the rounds so far, who says where it is uncertain."""

    # `kind` is the classifier's: that of no round yet is plain training
    name = "learner"

    def entry_named(self, name: str, entry: Entry) -> Entry:
        return Trained.entry_named(self, name, entry)

    def numbers(
        self, history: Sequence[Entry], result: Result | None, counts: Mapping[str, float]
    ) -> Mapping[str, float]:
        return {}


class Candidates(Generated):
    """Images that are made to be asked about, and not to be trained on."""

    name, counted = "candidates", False


class Uncertain(Mask):
    """The `share` of the training images whose images of the coming round the learner is least certain about: by the
    entropy of what it says of the source, or of a candidate; or any of them, for whom no learner need be trained."""

    kind, cost = "uncertain", "judge"

    def __init__(
        self, data: Stage[Pictures], learner: Learner | None, candidates: Candidates | None, share: float, number: int,
        size: int | None, seed: int,
    ) -> None:  # fmt: skip
        self.share, self.number, self.size, self.seed = share, number, size, seed
        asked = {"seed": seed, "round": number} if learner is None else {"size": size, "seed": seed}
        inputs = {"data": data, "learner": learner, "candidates": candidates}
        super().__init__({"share": share, **asked}, inputs)

    def choose(self, given: Given) -> Collection[str]:
        pictures: Pictures = given["data"]
        ids = [entry.id for entry in pictures.entries(SUBSET, self.seed)]
        scores = self.entropies(given) if "learner" in self.inputs else np.array([self.lot(id) for id in ids])
        assert len(scores) == len(ids), "of each image one"
        count = max(1, round(self.share * len(ids)))
        return {ids[n] for n in np.argsort(-scores, kind="stable")[:count]}

    def lot(self, id: str) -> float:
        """What chance gives an image in this round."""
        return float(seed_of(self.seed, "practice", self.number, id))

    def entropies(self, given: Given) -> np.ndarray:
        """In nats, of what the learner says of each image, or of its candidate."""
        from synthaug.classify.loop import predict

        pictures: Pictures = given["data"]
        size = pictures.size(self.size)
        candidates: Images | None = given.get("candidates")
        if candidates is None:
            images = pictures.arrays(SUBSET, self.seed, size)[0]
        else:
            images = candidates.stacked(size, variants=candidates.stage.wanted)[:, 0]
        log_p = predict(given["learner"], images).double().log_softmax(1)
        return np.asarray(-(log_p.exp() * log_p).sum(1))


class Rounds(Computed["Together"]):
    """The images of several rounds as one set; nothing is made."""

    kind, cost = "rounds", "generate"

    def __init__(self, rounds: Sequence[Generated]) -> None:
        super().__init__({}, {f"round.{number}": images for number, images in enumerate(rounds, 1)})

    def compute(self, given: Given) -> Outcome:
        return Outcome(seconds=0.0, counts={"rounds": len(self.inputs)})

    def load(self, at: Folder, given: Given) -> Together:
        return Together([given[role] for role in self.inputs])


@dataclass(frozen=True)
class Together:
    """What several stages made, read as what one made."""

    rounds: Sequence[Images]

    def samples(self, k: int) -> list[Sample]:
        """The first k variants of each round."""
        return list(chain.from_iterable(images.samples(k) for images in self.rounds))

    def gallery(self, k: int, classes: int = 12) -> list[list[bytes]]:
        """Those of the last round, which its choice has shaped the most."""
        return self.rounds[-1].gallery(k, classes)


class PracticeLine(Line):
    """The usual line with rounds in the place of one generation."""

    experiment: ClosedLoop

    @cached_property
    def rounds(self) -> list[Generated]:
        e, made = self.experiment, list[Generated]()
        if e.method is None:
            return made
        for number in range(e.rounds):
            sources, first = self.uncertain(number, made), number * e.k + 1  # new images, all of them
            made.append(self._of_backbone(Generated, e.method, e.k, self.prepared, self.guide, sources, first))
        return made

    def uncertain(self, number: int, before: Sequence[Generated]) -> Uncertain:
        """Whose images round `number` (from 0) makes, after those before it."""
        e = self.experiment
        if e.by == "random":
            return Uncertain(self.data, None, None, e.share, number, self.size, e.seed)
        learner = self._classifier(Learner, Rounds(before) if before else None, e.learner)
        candidates = None
        if e.candidates is not None:
            # under the noise of the round's first variant: what is asked about is what would be made
            first = number * e.k + 1
            candidates = self._of_backbone(Candidates, e.candidates, 1, None, self.guide, None, first)
        return Uncertain(self.data, learner, candidates, e.share, number, self.size, e.seed)

    @cached_property
    def generated(self) -> Any:
        return Rounds(self.rounds) if self.rounds else None

    @property
    def images(self) -> Any:
        return self.generated


@settings(kw_only=True)
class ClosedLoop(Experiment):
    """`rounds` times the learner so far (trained by the recipe `learner`, or the experiment's own) is asked, and k new
    variants are made of the `share` of the training images that it is least certain about; the classifier is trained
    on all of them. `candidates` are made of all images first, by the same method with fewer steps, and the learner is
    asked about these; None asks about the sources. `by="random"` is the control of as many images a round."""

    LINE: ClassVar[Any] = PracticeLine

    rounds: Count = 3
    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    by: Choice = "entropy"
    candidates: OneOf[Method] | None = None
    learner: Recipe | None = None

    @model_validator(mode="after")
    def _loops(self) -> ClosedLoop:
        if self.recipe is None:
            raise UserError("a closed loop trains a learner; say how (--set recipe.steps=300)", ("recipe",))
        for name in ("subset", "filter"):
            if getattr(self, name) is not None:
                raise UserError("a closed loop chooses by itself which images are made", (name,))
        if self.method is not None and self.k % self.method.together:
            said = f"{type(self.method).__name__} makes {self.method.together} variants of a source at once"
            raise UserError(f"{said}; a round needs k = {self.method.together} or a multiple", ("k",))
        # without a method it is asked about plain training, by a judge for example
        if self.candidates is not None and self.method is not None:
            self._of_a_kind(self.candidates)
        return self

    def _of_a_kind(self, candidates: Method) -> None:
        """Refuse candidates that would need other models than the method, or are not one of each image."""
        if type(candidates) is not type(self.method) or candidates.together > 1 or getattr(candidates, "most", None):
            said = "candidates are made of each image, one each, by the method itself with other settings"
            raise UserError(said, ("candidates",))
