"""The arrays that training and evaluation work on: real images, and generated ones as an experiment uses them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synthaug.classify.views import FolderView
from synthaug.data.dataset import subset
from synthaug.data.listing import Entry
from synthaug.data.sample import Sample, label_matrix
from synthaug.experiment import Experiment, beforehand
from synthaug.methods.base import Context, Maker, Models
from synthaug.runtime.generate import Job, open_job, read_images, samples_of
from synthaug.runtime.images import decode_all, image_size, split_arrays
from synthaug.runtime.store import Store
from synthaug.settings import UserError

if TYPE_CHECKING:
    from synthaug.classify.loop import Data

SCORES = "scores.json"  # what a filter leaves


def used_images(store: Store, experiment: Experiment) -> list[Sample]:
    """The generated images of an experiment, without those that its filter dropped."""
    if experiment.method is None:
        return []
    made = read_images(store, open_job(store, experiment), experiment.k)
    if experiment.filter is None:
        return made
    folder = store.folder(store.nodes(experiment)["filter"])
    kept = set(json.loads((folder / SCORES).read_bytes())["kept"])
    return [sample for sample in made if sample.id in kept]


def training_data(store: Store, experiment: Experiment) -> Data:
    """Real k-shot images and variants 1..k of each, decoded once."""
    import torch

    from synthaug.classify.loop import Data

    listing = store.open(experiment.dataset)
    entries = subset(listing, experiment.dataset, experiment.seed)
    samples = listing.samples(entries)
    place = {entry.id: number for number, entry in enumerate(entries)}
    made = used_images(store, experiment)
    size = image_size(store, experiment)
    val_images, val_labels = split_arrays(store.home, experiment.dataset, "val", size)
    labels = label_matrix([s.label for s in samples + made], len(listing.classes))
    return Data(
        images=torch.from_numpy(decode_all([s.image for s in samples + made], size)),
        labels=torch.from_numpy(labels),
        n_real=len(samples),
        source_of_synthetic=torch.tensor([place[s.source] for s in made], dtype=torch.long),
        val_images=torch.from_numpy(val_images),
        val_labels=torch.from_numpy(val_labels),
        variants=variants_of(store, experiment),
    )


def variants_of(store: Store, experiment: Experiment) -> dict[int, np.ndarray]:
    """What the views of a recipe want made of each real image, by their places: N x K x C x H x W."""
    found = {}
    for place, view in enumerate(experiment.recipe.views):
        if making := beforehand(view):
            found[place] = made_of(store, experiment, experiment.stage_of(making))
        elif isinstance(view, FolderView):
            found[place] = _twins(store, experiment, Path(view.path).expanduser())
    return found


def made_of(
    store: Store, experiment: Experiment, stage: str, numbers: Sequence[int] | None = None,
    variants: Sequence[int] | None = None,
) -> np.ndarray:  # fmt: skip
    """Variants of the sources of a stage, all or some of each, source by source: N x K x C x H x W."""
    job = open_job(store, experiment, stage)
    chosen = job.sources if numbers is None else [job.sources[number] for number in numbers]
    wanted = {variant: number for number, variant in enumerate(variants or range(1, job.k + 1))}
    place = {entry.id: number for number, entry in enumerate(chosen)}
    assert job.size is not None
    made = np.empty((len(chosen), len(wanted), 3, job.size, job.size), np.uint8)
    for number in job.shards(list(wanted)):
        if not _holds(job, number, place):
            continue
        found = [s for s in samples_of(store, job, number) if s.source in place and s.variant in wanted]
        for sample, pixels in zip(found, decode_all([s.image for s in found], job.size), strict=True):
            made[place[sample.source], wanted[sample.variant]] = pixels
    return made


def made_now(maker: Maker, entries: Sequence[Entry], images: np.ndarray, variant: int, models: Models) -> np.ndarray:
    """One variant of some images (uint8 NCHW), made here and kept nowhere."""
    samples = [Sample(entry.id, b"", ((entry.label, 1.0),), entry.id, entry.label) for entry in entries]
    rows = [maker.plan(sample, variant, Context(0, (), "", "")) for sample in samples]
    made, _ = maker.generate(rows, list(images.transpose(0, 2, 3, 1)), models)
    return np.stack(made).transpose(0, 3, 1, 2)


def _holds(job: Job, number: int, place: Mapping[str, int]) -> bool:
    return any(entry.id in place for entry in job.entries(number))


def _twins(store: Store, experiment: Experiment, folder: Path) -> np.ndarray:
    """The images of the same names in another folder."""
    entries = subset(store.open(experiment.dataset), experiment.dataset, experiment.seed)
    files = [folder / entry.id for entry in entries]
    if missing := [file for file in files if not file.is_file()]:
        raise UserError(f"{len(missing)} training images have no twin, the first is {str(missing[0])!r}")
    return decode_all([file.read_bytes() for file in files], image_size(store, experiment))[:, None]
