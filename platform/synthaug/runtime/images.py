"""Real images as arrays of the size that classifiers work on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from synthaug.data.dataset import Dataset, subset
from synthaug.data.listing import Entry, Listing
from synthaug.data.sample import decode_image, resize_image
from synthaug.experiment import SUBSET, Experiment
from synthaug.runtime.store import Store
from synthaug.settings import UserError

Arrays = tuple[np.ndarray, np.ndarray]


def decode_all(images: Sequence[bytes], size: int) -> np.ndarray:
    """Encoded images as one uint8 N x 3 x size x size array, so that no epoch decodes again."""
    out = np.empty((len(images), 3, size, size), np.uint8)
    with ThreadPoolExecutor() as threads:
        for number, pixels in enumerate(threads.map(lambda data: resize_image(decode_image(data), size), images)):
            out[number] = pixels.transpose(2, 0, 1)
    return out


@lru_cache(maxsize=2)
def _opened(home: Path, dataset: Dataset) -> Listing:
    """A data set may have many splits, and a million files to list."""
    return Store(home).open(dataset)


@lru_cache(maxsize=4)
def split_arrays(home: Path, dataset: Dataset, split: str, size: int) -> Arrays:
    """Images and class indices of a held-out split; a process that runs many trials decodes them once."""
    listing = _opened(home, dataset)
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


def real_images(store: Store, experiment: Experiment, name: str) -> np.ndarray:
    """The images of a split, or (`subset`) those that were chosen to train on."""
    size = image_size(store, experiment)
    if name != SUBSET:
        return split_arrays(store.home, experiment.dataset, name, size)[0]
    listing = store.open(experiment.dataset)
    return decode_all([listing.read(e.id) for e in subset(listing, experiment.dataset, experiment.seed)], size)
