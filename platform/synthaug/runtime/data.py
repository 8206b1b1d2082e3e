"""The arrays that training and evaluation work on: real images, and generated ones as an experiment uses them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synthaug.dataset import Dataset, subset
from synthaug.experiment import Experiment
from synthaug.listing import Entry
from synthaug.runtime.generate import open_job, read_images
from synthaug.runtime.store import Store
from synthaug.sample import Sample, decode_image, label_matrix, resize_image
from synthaug.settings import UserError

if TYPE_CHECKING:
    from synthaug.classify.loop import Data

Arrays = tuple[np.ndarray, np.ndarray]
SCORES = "scores.json"  # what a filter leaves


def used_images(store: Store, experiment: Experiment) -> list[Sample]:
    """The generated images of an experiment, without those that its filter dropped."""
    if experiment.method is None:
        return []
    made = read_images(store, open_job(store, experiment), experiment.k)
    if experiment.filter is None:
        return made
    folder = store.folder(experiment.nodes(store.identify)["filter"])
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
    )


def decode_all(images: Sequence[bytes], size: int) -> np.ndarray:
    """Encoded images as one uint8 N x 3 x size x size array, so that no epoch decodes again."""
    out = np.empty((len(images), 3, size, size), np.uint8)
    with ThreadPoolExecutor() as threads:
        for number, pixels in enumerate(threads.map(lambda data: resize_image(decode_image(data), size), images)):
            out[number] = pixels.transpose(2, 0, 1)
    return out


@lru_cache(maxsize=4)
def split_arrays(home: Path, dataset: Dataset, split: str, size: int) -> Arrays:
    """Images and class indices of a held-out split; a process that runs many trials decodes them once."""
    listing = Store(home).open(dataset)
    entries: Sequence[Entry] = listing.splits[split]
    images = decode_all([listing.read(entry.id) for entry in entries], size)
    return images, np.array([entry.label for entry in entries])


def image_size(store: Store, experiment: Experiment) -> int:
    """The recipe's image size, or that of the images when all are squares of one size."""
    if experiment.recipe.image_size is not None:
        return experiment.recipe.image_size
    return _common_size(store.home, experiment.dataset)


@lru_cache(maxsize=4)
def _common_size(home: Path, dataset: Dataset) -> int:
    from PIL import Image

    listing = Store(home).open(dataset)
    entries = listing.splits["train"][:64]
    sizes = {Image.open(io.BytesIO(listing.read(entry.id))).size for entry in entries}
    if len(sizes) > 1 or len(set(*sizes)) > 1:
        raise UserError("the images differ in size or are no squares; --set recipe.image_size=224 squashes them")
    return sizes.pop()[0]
