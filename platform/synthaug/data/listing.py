"""Listing: a data set opened, with its splits and how to read an image."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from synthaug.data.sample import Sample
from synthaug.settings import UserError, canonical, did_you_mean, seed_of


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
    _parts: dict[str, tuple[Entry, ...]] = field(default_factory=dict, compare=False, repr=False)

    def summary(self, name: str) -> str:
        """What there is, in a line: "folder: 2 classes (ant, bee); 30 train, 10 val, 10 test images"."""
        shown = ", ".join(self.classes[:6]) + (", ..." if len(self.classes) > 6 else "")
        counts = ", ".join(f"{len(entries)} {split}" for split, entries in self.splits.items() if entries)
        return f"{name}: {len(self.classes)} classes ({shown}); {counts} images"

    def left_out(self) -> list[str]:
        """The first files that cannot be read, each with the reason."""
        bad = [f"left out: {path} ({reason})" for path, reason in self.quarantined[:3]]
        more = len(self.quarantined) - len(bad)
        return [*bad, f"left out: {more} files more that cannot be read"] if more else bad

    def split(self, name: str) -> tuple[Entry, ...]:
        """The images of a split, or of `test:500` those 500 that hash lowest, so that they are among `test:2000`."""
        if name not in self._parts:
            self._parts[name] = self._part(name)
        return self._parts[name]

    def _part(self, name: str) -> tuple[Entry, ...]:
        whole, part, count = name.partition(":")
        if whole not in self.splits:
            raise UserError(f"has no split {name!r}{did_you_mean(whole, sorted(self.splits))}")
        entries = self.splits[whole]
        if not part:
            return entries
        # as a person writes a number: another spelling would be another metric and another key
        if not re.fullmatch("[1-9][0-9]*", count):
            raise UserError(f"has no split {name!r}; {whole}:500 would be 500 of its images")
        if int(count) > len(entries):
            raise UserError(f"has {len(entries)} {whole} images, too few for {name!r}")
        chosen = set(sorted(entries, key=lambda entry: seed_of("split", entry.id))[: int(count)])
        return tuple(entry for entry in entries if entry in chosen)

    def samples(self, entries: Iterable[Entry]) -> list[Sample]:
        # a real image is its own source, and its label is hard: all weight on one class
        return [
            Sample(id=e.id, image=self.read(e.id), label=((e.label, 1.0),), source=e.id, target=e.label)
            for e in entries
        ]


def hash_pixels(pixels: np.ndarray) -> str:
    # the shape too: equal bytes of another shape are another image
    return hashlib.blake2b(canonical(pixels.shape) + pixels.tobytes(), digest_size=16).hexdigest()
