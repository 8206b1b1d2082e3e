"""Measurements as stages: of a classifier, at once or image by image, and of the generated images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.data.decoded import decode_all
from synthaug.data.layouts import WORDNET
from synthaug.data.listing import Entry as Image
from synthaug.data.published import PUBLISHED
from synthaug.data.sample import Sample
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.pixel_models import DenoiserModel
from synthaug.diffusion.score_models import TrainedScore
from synthaug.evaluate.adapt import Adaptation
from synthaug.evaluate.base import (
    DenoiserEvaluation,
    Evaluation,
    ImageEvaluation,
    MappedEvaluation,
    Measurement,
    Result,
    Subject,
)  # fmt: skip
from synthaug.evaluate.predict import among
from synthaug.evaluate.results import check_result, check_rows
from synthaug.methods.base import Context, Maker, Models
from synthaug.settings import UserError, canonical, did_you_mean, keyed
from synthaug.stages.base import Computed, Cost, Folder, Given, Mapped, Outcome, Part, Receipt, Stage
from synthaug.stages.data import SUBSET, Arrays, Pictures
from synthaug.stages.images import Copies, Images
from synthaug.stages.shards import read_part
from synthaug.training import Entry

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"


class Measured(Stage[Result]):
    """The numbers of one measurement."""

    kind, version, cost = "evaluate", 2, "evaluate"
    evaluation: Measurement

    @property
    def own(self) -> bool:  # type: ignore[override]
        return not type(self.evaluation).__module__.startswith("synthaug.")

    def numbers(
        self, history: Sequence[Entry], result: Result | None, counts: Mapping[str, float]
    ) -> Mapping[str, float]:
        found: Mapping[str, float] = {} if result is None else result["metrics"]
        return found

    def checked(self, found: Any) -> Result:
        """What the measurement returned, before it is stored."""
        return check_result(self.evaluation, found, own=self.own)

    def holds(self, result: Result | None) -> bool:
        # what older code stored unseen would end every later run, also that of the corrected measurement
        try:
            self.checked(result)
        except UserError:
            return False
        return True

    def load(self, at: Folder, given: Given) -> Result:
        found: Result = json.loads(at.read(MANIFEST))["result"]
        return found


class OfImages(Measured, Computed[Result]):
    """A measurement of the generated images beside real ones; the classifier in training takes no part."""

    evaluation: ImageEvaluation

    def __init__(
        self, evaluation: ImageEvaluation, data: Stage[Pictures], images: Stage[Any] | None, judge: Stage[Any] | None,
        k: int, seed: int, size: int | None, named: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.evaluation, self.k, self.seed, self.size = evaluation, k, seed, size
        # features of squashed images are others; where images are kept as they are, keys stay what they were
        squashed = {} if size is None else {"size": size}
        settings = keyed(evaluation) | dict(named) | {"k": k} | squashed
        super().__init__(settings, {"data": data, "images": images, "judge": judge})

    def check(self, given: Given) -> None:
        check_splits(self.evaluation, given["data"])
        given["data"].size(self.size)

    def compute(self, given: Given) -> Outcome:
        pictures: Pictures = given["data"]
        size = pictures.size(self.size)
        # after the filter, if there is one: what is measured are the images that are used
        made: list[Sample] = given["images"].samples(self.k)
        images, targets = decode_all([s.image for s in made], size), np.array([s.target for s in made])
        real = {name: pictures.arrays(name, self.seed, size)[0] for name in self.evaluation.needs}
        asked = {"judge": given["judge"]} if "judge" in self.inputs else {}
        if self.evaluation.paired:
            place = {entry.id: number for number, entry in enumerate(pictures.entries(SUBSET, self.seed))}
            asked["sources"] = np.array([place[s.source] for s in made])
        found = self.evaluation.measure(images, targets, real, pictures.listing.classes, **asked)
        return Outcome(result=self.checked(found))


class OfDenoiser(Measured, Computed[Result]):
    """A measurement of the denoiser on real images."""

    evaluation: DenoiserEvaluation

    def __init__(
        self, evaluation: DenoiserEvaluation, data: Stage[Pictures], denoiser: Stage[Any], seed: int,
        subset_seed: int | None, size: int | None, named: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.evaluation, self.seed, self.size = evaluation, seed, size
        settings = keyed(evaluation) | dict(named) | {"seed": subset_seed, "size": size}
        super().__init__(settings, {"data": data, "denoiser": denoiser})

    def check(self, given: Given) -> None:
        check_splits(self.evaluation, given["data"])
        given["data"].size(self.size)
        model = self.inputs["denoiser"].model  # type: ignore[attr-defined]  # trained or there already
        if self.evaluation.informed and not isinstance(model, TrainedScore):
            raise UserError(f"{type(self.evaluation).__name__} asks a net that was trained as TrainedEDM is")

    def estimate(self, given: Given) -> Cost:
        pictures: Pictures = given["data"]
        images = max(len(pictures.entries(name, self.seed)) for name in self.evaluation.needs)
        return Cost(units=1, calls=self.evaluation.calls(images))

    def compute(self, given: Given) -> Outcome:
        import torch

        pictures: Pictures = given["data"]
        size = pictures.size(self.size)
        model, folder = given["denoiser"]
        denoiser = model.informed(folder) if self.evaluation.informed else model.load(folder)
        real = {}
        for name in self.evaluation.needs:
            entries = pictures.entries(name, self.seed)
            # chosen first: of a million images a few hundred are decoded
            chosen = [entries[row] for row in self.evaluation.chosen(name, len(entries))]
            images = decode_all([pictures.listing.read(entry.id) for entry in chosen], size)
            real[name] = clean(images, model.space), torch.tensor([entry.label for entry in chosen])
        result = self.evaluation.measure(denoiser, real, model.labels)
        return Outcome(result=self.checked(result), calls=denoiser.rows)


def clean(images: np.ndarray, space: Backbone | None) -> Tensor:
    """Images (uint8 NCHW) as a denoiser knows them: in [-1, 1], or the means of their latents."""
    import torch

    if space is None:
        return torch.from_numpy(images).float() / 127.5 - 1
    codec = space.load().codec
    with torch.inference_mode():
        means = [codec.posterior(image.transpose(1, 2, 0), n)[0] for n, image in enumerate(images)]
        return torch.cat(means).float().cpu() * codec.scale


class OfClassifier(Measured):
    """A measurement of the classifier on the images of a data set, `shown`, which may be another than `data`.

    `copies` were made of them first, if the evaluation wants that, or because another one did; `denoiser` is there if
    it works with one itself.
    """

    evaluation: Evaluation

    def __init__(
        self, evaluation: Evaluation, classifier: Stage[Any], data: Stage[Pictures], shown: Stage[Pictures],
        copies: Sequence[Copies], denoiser: Stage[Any] | None, size: int | None, named: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.evaluation, self.size = evaluation, size
        looks = {f"copies.{number}": stage for number, stage in enumerate(copies)}
        self.looks = {(stage.split, stage.maker): role for role, stage in looks.items()}
        settings = keyed(evaluation) | dict(named)
        inputs = {"classifier": classifier, **looks, "denoiser": denoiser}
        # which data it is about is in the classifier's key, or in `named`; copies that another has had made are those
        # that it would make itself
        keyed_too = [role for role in inputs if evaluation.copies_first or role not in looks]
        super().__init__(settings, inputs | {"data": data, "shown": shown}, keyed=keyed_too)

    def check(self, given: Given) -> None:
        check_splits(self.evaluation, given["shown"])
        ours: Pictures = given["data"]
        places_of(given["shown"], ours.listing.classes)  # refuses a class that was not learned
        if "denoiser" in self.inputs:
            model: DenoiserModel = given.stage.inputs["denoiser"].model  # type: ignore[attr-defined]
            self.evaluation.check(model.alphas_cumprod())

    def most_calls(self, given: Given) -> int:
        """Of the denoiser: those that stop asking sooner make fewer."""
        if self.looks:
            return 0
        shown: Pictures = given["shown"]
        return self.evaluation.calls(max(len(shown.listing.split(split)) for split in self.evaluation.needs))


class Whole(OfClassifier, Computed[Result]):
    """All images at once."""

    def estimate(self, given: Given) -> Cost:
        return Cost(units=1, calls=self.most_calls(given))

    def compute(self, given: Given) -> Outcome:
        looking = Looking(self, given)
        # first, because only then is it known what it has asked
        result = self.evaluation(looking.subject())
        return Outcome(result=self.checked(result), calls=looking.calls())


class ImageByImage(OfClassifier, Mapped[Result]):
    """What costs much for each image: shard by shard, on many devices if there are."""

    suffix = "json"
    evaluation: MappedEvaluation

    def images_of(self, unit: int, given: Given) -> Sequence[int]:
        """The places in the split of a shard's images."""
        size = self.evaluation.SHARD
        return self.chosen(given)[unit * size : (unit + 1) * size]

    def chosen(self, given: Given) -> Sequence[int]:
        shown: Pictures = given["shown"]
        return self.evaluation.chosen(len(shown.listing.split(self.evaluation.split)))

    def units(self, given: Given) -> Sequence[int]:
        return range(-(-len(self.chosen(given)) // self.evaluation.SHARD))

    def measure(self, unit: int, given: Given) -> Cost:
        images = len(self.images_of(unit, given))
        return Cost(units=images, calls=self.most_calls(given) * images // max(1, len(self.chosen(given))))

    def open(self, given: Given) -> Any:
        looking = Looking(self, given)
        return given, looking.subject(), looking.calls

    def make(self, unit: int, opened: Any) -> Part:
        given, subject, calls = opened
        # models outlive a unit, so what one has asked is a difference
        before = calls()
        rows = check_rows(self.evaluation, self.evaluation.rows(subject, self.images_of(unit, given)))
        return Part(canonical(rows), len(rows), counters={"unet_calls": calls() - before})

    def close(self, at: Folder, given: Given, receipts: Sequence[Receipt]) -> Outcome:
        # by the order of the images, whoever was done first
        rows = [row for unit in self.units(given) for row in json.loads(read_part(at, unit, self.suffix))]
        try:
            result = self.checked(self.evaluation.result(rows))
        except UserError as error:
            raise UserError(f"{error} (rows are kept: if they are wrong, raise its version)") from None
        return replace(super().close(at, given, receipts), result=result)


def check_splits(evaluation: Measurement, shown: Pictures) -> None:
    """Refuse to measure on a split that the data set does not have."""
    for split in sorted(set(evaluation.needs) - {SUBSET}):
        try:
            shown.listing.split(split)
        except UserError as error:
            raise UserError(f"{shown.dataset.name} {error.message}", ("evaluations",)) from None


def places_of(shown: Pictures, ours: Sequence[str]) -> list[tuple[int, ...]]:
    """Where the classes of a data set are among those that were learned: some mean several of ImageNet's."""
    name, theirs = shown.dataset.name, shown.listing.classes
    place: dict[str, tuple[int, ...]] = {cls: (number,) for number, cls in enumerate(ours)}
    # robustness sets of ImageNet call its classes otherwise, and know where they are among its thousand
    if name in PUBLISHED and len(ours) == 1000 and all(map(WORDNET.fullmatch, ours)):
        place |= PUBLISHED[name].places
    if strange := [cls for cls in theirs if cls not in place]:
        said = f"{len(strange)} classes of {name} were not learned, the first is {strange[0]!r}"
        raise UserError(f"{said}{did_you_mean(strange[0], list(ours))}", ("evaluations",))
    return [place[cls] for cls in theirs]


class Looking:
    """One evaluation at work: it gets images, copies and the classifier as it asks for them."""

    def __init__(self, stage: OfClassifier, given: Given) -> None:
        self.stage, self.given, self.evaluation = stage, given, stage.evaluation
        self.ours: Pictures = given["data"]
        self.shown: Pictures = given["shown"]
        self.size = self.ours.size(stage.size)
        self.places = places_of(self.shown, self.ours.listing.classes)
        self.models = Models(None, (), given.get("denoiser"))  # asked in the loop, or for copies made on demand

    def calls(self) -> int:
        # in the loop, or for copies that are made when they are asked for
        return self.models.counters.get("unet_calls", 0)

    def subject(self) -> Subject:
        own, listing = self.ours.listing, self.shown.listing
        model = self.given["classifier"]
        # on a data set with some of the classes only those can be answered, unless it has its own names for them
        free = set(own.classes).isdisjoint(listing.classes)
        if not free and len(self.places) < len(own.classes):
            model = among(model, [first for first, *_ in self.places], len(own.classes))
        # who looks at copies asks no denoiser itself: whoever makes them does
        in_the_loop = self.evaluation.needs_denoiser and not self.evaluation.copies()
        return Subject(
            model=model, classes=own.classes, sets=Sets(self.images), copy=self.copy,
            also={first: (first, *others) for first, *others in self.places if others},
            ids={split: [entry.id for entry in listing.split(split)] for split in self.evaluation.needs},
            denoiser=self.models.denoiser if in_the_loop else None,
        )  # fmt: skip

    def images(self, split: str) -> Arrays:
        # any seed: a split is the same for all of them
        found, labels = self.shown.arrays(split, 0, self.size)
        # their numbers become ours; of several that are as true the first stands for all
        return found, np.array([first for first, *_ in self.places])[labels]

    def copy(self, maker: Adaptation, split: str, numbers: Sequence[int], variant: int) -> np.ndarray:
        """One copy of some images of a split (uint8 NCHW): made first, or else now."""
        role = self.stage.looks.get((split, maker))
        if role is not None:
            made: Images = self.given[role]
            return made.stacked(self.size, numbers, [variant])[:, 0]  # N x 1 x C x H x W to NCHW
        known = self.shown.listing.split(split)
        entries = [known[number] for number in numbers]
        return copies_now(maker, entries, self.images(split)[0][list(numbers)], variant, self.models)


def copies_now(
    maker: Maker, entries: Sequence[Image], images_NCHW: np.ndarray, variant: int, models: Models
) -> np.ndarray:
    """One copy of each of some images, made here and kept nowhere."""
    samples = [Sample(entry.id, b"", ((entry.label, 1.0),), entry.id, entry.label) for entry in entries]
    # an empty context: the noise of a copy hangs on image and variant alone, so it is the same as when it is made first
    rows = [maker.plan(sample, variant, Context(0, (), ("",), "")) for sample in samples]
    made_NHWC, _ = maker.generate(rows, list(images_NCHW.transpose(0, 2, 3, 1)), models)  # makers see HWC
    return np.stack(made_NHWC).transpose(0, 3, 1, 2)


class Sets(dict[str, Arrays]):
    """Images and labels by split, read when they are asked for: all at once may be more than fits in memory."""

    def __init__(self, read: Callable[[str], Arrays]) -> None:
        self.read = read

    def __missing__(self, name: str) -> Arrays:
        return self.read(name)
