"""What is measured and judged as stages: classifiers, generated images, and which of those to keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.data.layouts import WORDNET
from synthaug.data.published import PUBLISHED
from synthaug.evaluate.adapt import Adaptation
from synthaug.evaluate.base import Evaluation, ImageEvaluation, MappedEvaluation, Measurement, Subject
from synthaug.evaluate.filter import Candidates
from synthaug.evaluate.predict import among
from synthaug.experiment import SUBSET, Experiment, Making
from synthaug.progress import Progress
from synthaug.runtime.adapters import denoiser_of
from synthaug.runtime.data import SCORES, made_now, made_of, used_images
from synthaug.runtime.generate import models_of, open_job, samples_of
from synthaug.runtime.images import Arrays, decode_all, image_size, real_images, split_arrays
from synthaug.runtime.place import arrived, sent
from synthaug.runtime.pool import Actor, mapped
from synthaug.runtime.store import Artefact, Say, Store, read_json, write_bytes, write_json
from synthaug.settings import UserError, canonical, did_you_mean

if TYPE_CHECKING:
    import torch


def evaluate_stages(
    store: Store, experiment: Experiment, say: Say, workers: int = 0, measured: Callable[[], None] = lambda: None
) -> dict[str, Artefact]:
    """The numbers of an experiment, each evaluation a stage of its own; `measured` is called after each."""
    nodes = store.nodes(experiment)
    found = {}
    for name, evaluation in experiment.measured().items():

        def make(folder: Path, name: str = name, evaluation: Measurement = evaluation) -> dict[str, Any]:
            started = time.monotonic()
            if isinstance(evaluation, MappedEvaluation):
                result, spent = _mapped(store, experiment, name, evaluation, folder, workers)
                return {"result": result, "seconds": spent}
            return {"result": _measure(store, experiment, evaluation), "seconds": time.monotonic() - started}

        found[name] = store.stage(nodes[name], make, say)
        measured()
    return found


def check_splits(store: Store, experiment: Experiment) -> None:
    """Refuse to measure on a split that the data set does not have, or on classes that were not learned."""
    for evaluation in experiment.measured().values():
        other = evaluation.dataset if isinstance(evaluation, Evaluation) else None
        listing = store.open(other or experiment.dataset)
        for split in sorted(set(evaluation.needs) - {SUBSET, *listing.splits}):
            name, hint = (other or experiment.dataset).name, did_you_mean(split, sorted(listing.splits))
            raise UserError(f"{name} has no split {split!r}{hint}", ("evaluations",))
        if other is not None:
            _places(listing.classes, store.open(experiment.dataset).classes, other.name)


def _places(theirs: Sequence[str], ours: Sequence[str], name: str) -> list[tuple[int, ...]]:
    """Where the classes of another data set are among those that were learned: some mean several of ImageNet's."""
    place: dict[str, tuple[int, ...]] = {cls: (number,) for number, cls in enumerate(ours)}
    if name in PUBLISHED and len(ours) == 1000 and all(map(WORDNET.fullmatch, ours)):
        place |= PUBLISHED[name].places
    if strange := [cls for cls in theirs if cls not in place]:
        said = f"{len(strange)} classes of {name} were not learned, the first is {strange[0]!r}"
        raise UserError(f"{said}{did_you_mean(strange[0], list(ours))}", ("evaluations",))
    return [place[cls] for cls in theirs]


def _measure(store: Store, experiment: Experiment, evaluation: Measurement) -> dict[str, Any]:
    """The result of one evaluation, of the trained classifier or of the generated images."""
    classes, size = store.open(experiment.dataset).classes, image_size(store, experiment)
    if isinstance(evaluation, ImageEvaluation):
        made = used_images(store, experiment)
        images, targets = decode_all([s.image for s in made], size), np.array([s.target for s in made])
        real = {name: real_images(store, experiment, name) for name in evaluation.needs}
        asked = {"judge": load_model(store, experiment.real_only())} if evaluation.needs_classifier else {}
        return evaluation.measure(images, targets, real, classes, **asked)
    assert isinstance(evaluation, Evaluation), evaluation
    return evaluation(subject_of(store, experiment, evaluation))


def subject_of(store: Store, experiment: Experiment, evaluation: Evaluation) -> Subject:
    """What an evaluation may look at. On a data set with some of the classes only those can be answered, unless it has
    its own names for them."""
    own, size = store.open(experiment.dataset), image_size(store, experiment)
    shown = evaluation.dataset or experiment.dataset
    listing = store.open(shown)
    placed = denoiser_of(store, experiment) if evaluation.needs_denoiser and not evaluation.copied() else None
    places = _places(listing.classes, own.classes, shown.name)
    model, free = load_model(store, experiment), set(own.classes).isdisjoint(listing.classes)

    def images(split: str) -> Arrays:
        found, labels = split_arrays(store.home, shown, split, size)
        return found, np.array([first for first, *_ in places])[labels]

    def copies(maker: Adaptation, split: str, numbers: Sequence[int], variant: int) -> np.ndarray:
        making = Making(maker, maker.variants, split, evaluation.dataset)
        if making in experiment.makings.values():
            return made_of(store, experiment, experiment.stage_of(making), numbers, [variant])[:, 0]
        entries = [listing.splits[split][number] for number in numbers]
        models = models_of(None, denoiser=denoiser_of(store, experiment))
        return made_now(maker, entries, images(split)[0][list(numbers)], variant, models)

    if not free and len(places) < len(own.classes):
        model = among(model, [first for first, *_ in places], len(own.classes))
    return Subject(
        model=model, classes=own.classes, sets=Sets(evaluation.needs, images), copies=copies,
        also={first: (first, *others) for first, *others in places if others},
        ids={split: [entry.id for entry in listing.splits[split]] for split in evaluation.needs},
        denoiser=placed[0].load(placed[1]) if placed else None,
    )  # fmt: skip


class Sets(Mapping[str, Arrays]):
    """Images and labels by split, read when they are asked for."""

    def __init__(self, names: Sequence[str], read: Callable[[str], Arrays]) -> None:
        self.names, self.read = tuple(names), read

    def __getitem__(self, name: str) -> Arrays:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


# --- shard by shard -------------------------------------------------------------------------------------------------


def _mapped(
    store: Store, experiment: Experiment, stage: str, evaluation: MappedEvaluation, folder: Path, workers: int
) -> tuple[dict[str, Any], float]:
    """The result of an evaluation that goes image by image, and the seconds on devices that it took. Each finished
    shard is a file, so that an interrupted run goes on."""
    count = len(store.open(evaluation.dataset or experiment.dataset).splits[evaluation.split])
    shards = _shards(evaluation, count)
    files = [folder / f"rows-{number:05d}.json" for number in range(len(shards))]
    pending = [number for number, file in enumerate(files) if read_json(file) is None]
    if pending:
        with Progress(f"evaluate {evaluation.split}", "images", sum(len(shards[number]) for number in pending)) as line:
            made = _by_ray(store, experiment, stage, pending, workers) if workers else None
            for number, done in made or _here(store, experiment, evaluation, pending):
                write_json(files[number], done)
                line.add(len(done["rows"]))
    parts = [read_json(file) for file in files]
    return evaluation.result([row for part in parts for row in part["rows"]]), sum(part["seconds"] for part in parts)


def _shards(evaluation: MappedEvaluation, count: int) -> list[Sequence[int]]:
    chosen = evaluation.chosen(count)
    return [chosen[first : first + evaluation.SHARD] for first in range(0, len(chosen), evaluation.SHARD)]


def _here(
    store: Store, experiment: Experiment, evaluation: MappedEvaluation, numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    subject = subject_of(store, experiment, evaluation)
    for number in numbers:
        yield number, rows_of(evaluation, subject, number)


def rows_of(evaluation: MappedEvaluation, subject: Subject, number: int) -> dict[str, Any]:
    """One shard, wherever it is made."""
    started = time.monotonic()
    numbers = _shards(evaluation, len(subject.sets[evaluation.split][1]))[number]
    return {"rows": evaluation.rows(subject, numbers), "seconds": time.monotonic() - started}


class EvaluateActor(Actor):
    """Holds a classifier and judges one shard a call."""

    def __init__(self, place: dict[str, Any], stage: str) -> None:
        self.place, self.stage = place, stage
        self.opened: tuple[MappedEvaluation, Subject] | None = None

    def work(self, row: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.opened = self.opened or self.open()
        return int(row["shard"]), rows_of(*self.opened, int(row["shard"]))

    def open(self) -> tuple[MappedEvaluation, Subject]:
        store, experiment = arrived(self.place)
        evaluation = experiment.measured()[self.stage]
        assert isinstance(evaluation, MappedEvaluation)
        return evaluation, subject_of(store, experiment, evaluation)


def _by_ray(
    store: Store, experiment: Experiment, stage: str, numbers: Sequence[int], workers: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Shards as they come from a pool of actors."""
    rows = [{"shard": number} for number in numbers]
    return mapped(EvaluateActor, rows, workers, place=sent(store, experiment), stage=stage)


# --------------------------------------------------------------------------------------------------------------------


def load_model(store: Store, experiment: Experiment) -> torch.nn.Module:
    """The trained classifier, on the device that the denoiser is put on too."""
    import torch
    from safetensors.torch import load as load_tensors

    from synthaug.classify import models

    folder = store.folder(store.nodes(experiment)["train"])
    model = models.build(experiment.recipe.model, len(store.open(experiment.dataset).classes))
    model.load_state_dict(load_tensors((folder / "model.safetensors").read_bytes()))
    return models.prepared(experiment.recipe, model).to("cuda" if torch.cuda.is_available() else "cpu")


def filter_stage(store: Store, experiment: Experiment, say: Say) -> Artefact:
    """Which generated images the experiment's filter keeps, and the scores of all."""
    chosen, listing = experiment.filter, store.open(experiment.dataset)
    assert chosen is not None

    def make(folder: Path) -> dict[str, Any]:
        started, job, size = time.monotonic(), open_job(store, experiment), image_size(store, experiment)
        judge = load_model(store, experiment.real_only()) if chosen.needs_classifier else None
        ids: list[str] = []
        targets, scores = [np.empty(0, int)], [np.empty(0)]
        for number in job.shards(range(1, experiment.k + 1)):  # one shard in memory at a time
            made = [sample for sample in samples_of(store, job, number) if sample.variant <= experiment.k]
            ids += [sample.id for sample in made]
            targets.append(np.array([sample.target for sample in made]))
            images = decode_all([sample.image for sample in made], size)
            candidates = Candidates(images, targets[-1], listing.words, experiment.dataset.kind_word)
            scores.append(chosen.score(candidates, judge))
        kept = chosen.keep(np.concatenate(scores), np.concatenate(targets))
        stay = [id for id, stays in zip(ids, kept, strict=True) if stays]
        known = dict(zip(ids, map(float, np.concatenate(scores)), strict=True))
        write_bytes(folder / SCORES, canonical({"kept": stay, "scores": known}))
        return {"kept": int(kept.sum()), "dropped": int((~kept).sum()), "seconds": time.monotonic() - started}

    return store.stage(store.nodes(experiment)["filter"], make, say)
