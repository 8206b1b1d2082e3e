"""What is measured and judged as stages: classifiers, generated images, and which of those to keep."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.dataset import subset
from synthaug.evaluate.base import Evaluation, ImageEvaluation, Measurement
from synthaug.evaluate.filter import Candidates
from synthaug.experiment import Experiment
from synthaug.runtime.data import SCORES, decode_all, image_size, split_arrays, used_images
from synthaug.runtime.generate import open_job, samples_of
from synthaug.runtime.store import Artefact, Say, Store, write_bytes
from synthaug.settings import UserError, canonical, did_you_mean

if TYPE_CHECKING:
    import torch


def evaluate_stages(store: Store, experiment: Experiment, say: Say) -> dict[str, Artefact]:
    """The numbers of an experiment, each evaluation a stage of its own."""
    nodes = experiment.nodes(store.identify)
    found = {}
    for name, evaluation in experiment.measured().items():

        def make(folder: Path, evaluation: Measurement = evaluation) -> dict[str, Any]:
            started = time.monotonic()
            result = _measure(store, experiment, evaluation)
            return {"result": result, "seconds": time.monotonic() - started}

        found[name] = store.stage(nodes[name], make, say)
    return found


def check_splits(store: Store, experiment: Experiment) -> None:
    """Refuse to measure on a split that the data set does not have."""
    splits = store.open(experiment.dataset).splits
    for evaluation in experiment.measured().values():
        for split in set(evaluation.needs) - {"subset", *splits}:
            hint = did_you_mean(split, sorted(splits))
            raise UserError(f"{experiment.dataset.name} has no split {split!r}{hint}", ("evaluations",))


def _measure(store: Store, experiment: Experiment, evaluation: Measurement) -> dict[str, Any]:
    """The result of one evaluation, of the trained classifier or of the generated images."""
    classes, size = store.open(experiment.dataset).classes, image_size(store, experiment)
    if isinstance(evaluation, ImageEvaluation):
        made = used_images(store, experiment)
        images, targets = decode_all([s.image for s in made], size), np.array([s.target for s in made])
        real = {name: _real_images(store, experiment, name, size) for name in evaluation.needs}
        return evaluation.measure(images, targets, real, classes)
    assert isinstance(evaluation, Evaluation), evaluation
    images, labels = split_arrays(store.home, experiment.dataset, evaluation.split, size)
    return evaluation(load_model(store, experiment), images, labels, classes)


def _real_images(store: Store, experiment: Experiment, name: str, size: int) -> np.ndarray:
    """What generated images are held against: a split, or (`subset`) what they were made from."""
    if name != "subset":
        return split_arrays(store.home, experiment.dataset, name, size)[0]
    listing = store.open(experiment.dataset)
    entries = subset(listing, experiment.dataset, experiment.seed)
    return decode_all([listing.read(entry.id) for entry in entries], size)


def load_model(store: Store, experiment: Experiment) -> torch.nn.Module:
    """The trained classifier."""
    from safetensors.torch import load as load_tensors

    from synthaug.classify import models

    folder = store.folder(experiment.nodes(store.identify)["train"])
    model = models.build(experiment.recipe.model, len(store.open(experiment.dataset).classes))
    model.load_state_dict(load_tensors((folder / "model.safetensors").read_bytes()))
    return models.prepared(experiment.recipe, model)


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

    return store.stage(experiment.nodes(store.identify)["filter"], make, say)
