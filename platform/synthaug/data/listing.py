"""Listing: a data set opened, with its splits and how to read an image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from synthaug.data.sample import Sample
from synthaug.settings import canonical


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a split: its id, class index and the hash of its pixels."""

    id: str
    label: int
    pixels: str  # where images are not decoded, the hash of the file or the id stands in


@dataclass(frozen=True)
class Listing:
    """A data set opened: who is in which split, and how to read an image."""

    classes: tuple[str, ...]
    words: tuple[str, ...]
    splits: dict[str, tuple[Entry, ...]]
    digest: str  # what the data are, never where they lie: it enters the keys of all that is made of them
    read: Callable[[str], bytes]
    quarantined: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def samples(self, entries: Iterable[Entry]) -> list[Sample]:
        # a real image is its own source, and its label is hard: all weight on one class
        return [
            Sample(id=e.id, image=self.read(e.id), label=((e.label, 1.0),), source=e.id, target=e.label)
            for e in entries
        ]


def hash_pixels(pixels: np.ndarray) -> str:
    # the shape too: equal bytes of another shape are another image
    return hashlib.blake2b(canonical(pixels.shape) + pixels.tobytes(), digest_size=16).hexdigest()
