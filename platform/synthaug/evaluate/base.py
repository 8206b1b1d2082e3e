"""What is measured: on a trained classifier, or on the generated images themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Required, TypedDict

import numpy as np

from synthaug.classify.recipe import Recipe
from synthaug.data.dataset import Dataset
from synthaug.diffusion.one_step import check_time
from synthaug.settings import settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from synthaug.diffusion.denoiser import Denoiser, NetDenoiser
    from synthaug.evaluate.adapt import Adaptation


# numbers that are better where they are lower, by the last part of their names, and all of whose names begin so
LOWER = {
    "fid", "kid", "fid_of_sets", "share", "leak", "gap", "gap share", "heldout", "train", "loss", "ece", "copies",
    "share_closer",
}  # fmt: skip
ERRORS = ("answers/", "cost/", "gen/")


def less_is_more(metric: str) -> bool:
    return metric.rpartition("/")[2] in LOWER or metric.startswith(ERRORS)


class Curve(TypedDict):
    """Something along an axis; `y` is one line of numbers, or several by name; `label` says what x and y are."""

    x: list[float]
    y: list[float] | dict[str, list[float]]
    label: list[str]


class Result(TypedDict, total=False):
    """What was found, as plain JSON values, NaN nowhere; `metrics` is always there.

    Names of metrics begin with what is measured. `per_class` is a share for each class, None for one without images;
    `confusion` counts, a row for each true class, a column for each predicted one; `about` is how it was measured;
    `pictures` are PNGs in base64; `pairs` are generated images and the real ones that they resemble, the worst first.
    """

    metrics: Required[dict[str, float]]
    per_class: dict[str, float | None]
    confusion: list[list[int]]
    about: Mapping[str, Any]
    pictures: dict[str, str]
    curves: dict[str, Curve]
    pairs: list[dict[str, float]]


@settings
class Measurement(ABC):
    """One kind of measurement: an Evaluation asks a classifier, an ImageEvaluation looks at generated images."""

    version: ClassVar[int] = 1  # raise it when its numbers change
    needs_classifier: ClassVar[bool] = False  # the experiment's recipe says how it is trained

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """The sets of real images that are looked at: "train" (the whole pool), "val", "test", or "subset" (the
        training images that were chosen)."""

    @property
    def prefix(self) -> str:
        """What tells its numbers from those of another measurement of its kind."""
        return ""


@dataclass(frozen=True)
class Subject:
    """What an evaluation may look at.

    `model` takes images as they are stored (uint8 NCHW) or scaled to [0, 1] and returns logits over `classes`. `sets`
    are images (uint8 NCHW) and class indices of the splits that the evaluation needs, `ids` the names of the images.
    `copy` gives one of the copies (from 1) that an adaptation makes of some images of a split, uint8 NCHW. `denoiser`
    works on [-1, 1] and is there if the evaluation needs one and looks at no copies. `also` are the classes that
    are as true as the one that an image is labelled with, itself among them.
    """

    model: nn.Module
    classes: Sequence[str]
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]]
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    copy: Callable[[Adaptation, str, Sequence[int], int], np.ndarray] | None = None
    denoiser: Denoiser | None = None
    also: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def meant(self, split: str, scores: np.ndarray) -> np.ndarray:
        """The true classes of a split's images; where several are true, the one that got the highest score."""
        labels = self.sets[split][1]
        if not self.also:
            return labels
        return np.array(
            [max(self.also.get(int(c), (int(c),)), key=row.__getitem__) for c, row in zip(labels, scores, strict=True)]
        )


@settings
class Evaluation(Measurement):
    """One kind of measurement of a trained classifier on the images of one split: of the experiment's data set, or of
    another, whose classes are found among the trained ones by their names."""

    needs_classifier: ClassVar[bool] = True

    split: str = "test"
    dataset: Dataset | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.split,)

    @property
    def copies_first(self) -> bool:
        """Whether the copies that it looks at are to be made first, for all who look at the same."""
        return True

    @property
    def title(self) -> str:
        """What the names of its numbers begin with."""
        return self.split if self.dataset is None else f"{self.dataset.name}/{self.split}"

    @property
    def prefix(self) -> str:
        return self.title

    def copies(self) -> list[tuple[str, Adaptation]]:
        """The copies that it looks at, each of a split's images."""
        return []

    @property
    def needs_denoiser(self) -> bool:
        """Whether the experiment must name a denoiser."""
        return any(adaptation.needs_denoiser for _, adaptation in self.copies())

    def calls(self, images: int) -> int:
        """The most rows through the denoiser that it asks for itself, about so many images of each split."""
        return 0 if self.copies_first else sum(maker.variants for _, maker in self.copies()) * images

    def check(self, alphas_cumprod: Tensor) -> None:
        """Refuse what the schedule of the experiment's denoiser does not allow, before anything runs."""
        for _, adaptation in self.copies():
            check_time(adaptation.latest, alphas_cumprod)

    @abstractmethod
    def __call__(self, subject: Subject) -> Result:
        """What is found; each name of a metric begins with "{title}/"."""


@settings
class MappedEvaluation(Evaluation):
    """An evaluation that costs much for each image: done shard by shard, on many devices if there are."""

    SHARD: ClassVar[int] = 16  # images

    def chosen(self, count: int) -> Sequence[int]:
        """Which of the split's images are looked at."""
        return range(count)

    @abstractmethod
    def rows(self, subject: Subject, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """What is found of some images of the split, as JSON, each independent of the others."""

    @abstractmethod
    def result(self, rows: Sequence[dict[str, Any]]) -> Result:
        """The result, as of `__call__`, from the rows of all chosen images in their order."""

    def __call__(self, subject: Subject) -> Result:
        return self.result(self.rows(subject, self.chosen(len(subject.sets[self.split][1]))))


@settings
class ImageEvaluation(Measurement):
    """One kind of measurement of generated images beside real ones; the classifier in training takes no part.

    With `needs_classifier`, `measure` is given one more argument, `judge`: the classifier that was trained on the real
    images alone. With an `examiner` that is one trained in this way, on all training images of the data set. One that
    is `paired` is given `sources`: of each image the place in the set "subset" of the one that it was made of.
    """

    paired: ClassVar[bool] = False

    @property
    def examiner(self) -> Recipe | None:
        return None

    @abstractmethod
    def measure(
        self, made: np.ndarray, labels: np.ndarray, real: Mapping[str, np.ndarray], classes: Sequence[str]
    ) -> Result:
        """What is found of the generated images `made`, whose target classes (indices into `classes`) are `labels`,
        beside the sets of `real` ones that `needs` names; all uint8 NCHW of one size. "about" tells at least the
        extractor of features, counts of images, and settings."""


@settings
class DenoiserEvaluation(Measurement):
    """One kind of measurement of the experiment's denoiser itself; no classifier takes part.

    With `informed` it is asked about the net as it was trained, which is told what was done to an image (`Told`).
    """

    informed: ClassVar[bool] = False
    needs_denoiser: ClassVar[bool] = True

    @abstractmethod
    def chosen(self, split: str, count: int) -> Sequence[int]:
        """Which of the images of a split are looked at."""

    @abstractmethod
    def calls(self, images: int) -> int:
        """The rows through the denoiser that it asks for, about so many images of each split."""

    @abstractmethod
    def measure(self, denoiser: NetDenoiser, real: Mapping[str, tuple[Tensor, Tensor]], labels: bool) -> Result:
        """What is found with the chosen images of the splits that `needs` names, as the denoiser knows them (in
        [-1, 1], or its latents), and their class indices; `labels`: whether it is told those."""
