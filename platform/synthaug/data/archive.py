"""Data sets for generative models, which come as folders or as one zip file: FFHQ and AFHQv2."""

from __future__ import annotations

import re
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from synthaug.data.folder import Fact, Facts, Files, fact_of, look, refuse_bad
from synthaug.data.layouts import Found, Reader, on_disk
from synthaug.data.listing import Entry
from synthaug.data.sample import why_unreadable
from synthaug.data.walk import AT, files_below, is_hidden
from synthaug.settings import UserError

IMAGE = re.compile(r"\.(png|jpe?g|webp)$", re.IGNORECASE)
HELD_OUT = 7  # of FFHQ's 70,000 images the last 10,000 are the official validation images, of a part of them as many
PETS = re.compile(r"(?:^|/)(train|test|val)/(cat|dog|wild)/[^/]+$")


def folder_or_zip(sort: Callable[[Sequence[str]], Files]) -> Reader:
    """A reader for image files wherever they lie; `sort` tells classes and splits from their names, in their order."""

    def read(root: Path, facts: Facts) -> Found:
        if root.is_dir():
            return on_disk(lambda root: sort(_below(root)))(root, facts)
        archive = _Archive(root)
        files = sort(sorted(name for name in archive.infos if _is_image(name)))
        named = [name for split in files.splits.values() for name in sorted(split)]
        # by size and checksum, not by the archive's time: of one that is moved or grows nothing is decoded again
        look({name: archive.stamp(name) for name in named}, facts, archive.fact)
        bad = {name: fact[4] for name, fact in sorted(facts.items()) if fact[4]}
        splits = {
            # what the archive knows of a file stands for its pixels
            split: [Entry(name, label, archive.content(name)) for name, label in sorted(of.items()) if name not in bad]
            for split, of in files.splits.items()
        }
        refuse_bad([*bad.items()], len(facts), files.classes, splits["train"])
        content = [[name, archive.content(name)] for name in named if name not in bad]
        return Found(files.classes, splits, content, archive.read, bad=tuple(bad.items()))

    return read


class _Archive:
    """The files of a zip; each thread has it open for itself."""

    def __init__(self, path: Path) -> None:
        self.path, self._open = path, threading.local()
        try:
            with zipfile.ZipFile(path) as file:
                self.infos = {info.filename: info for info in file.infolist() if not info.is_dir()}
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{str(path)!r} is no zip file that can be read: {error}; download it again", AT) from None

    def stamp(self, name: str) -> tuple[int, int]:
        return self.infos[name].file_size, self.infos[name].CRC

    def content(self, name: str) -> str:
        size, crc = self.stamp(name)
        return f"{size}:{crc:08x}"

    def fact(self, name: str) -> Fact:
        return fact_of(lambda: self._read(name), Path(name).suffix)

    def read(self, name: str) -> bytes:
        try:
            return self._read(name)
        except Exception as error:  # it was readable once, so the archive has been damaged since
            why = why_unreadable(error)
            raise UserError(f"{name!r} in {str(self.path)!r} {why}; download the archive again", AT) from None

    def _read(self, name: str) -> bytes:
        if not hasattr(self._open, "file"):
            self._open.file = zipfile.ZipFile(self.path)
        found: bytes = self._open.file.read(name)
        return found


def _is_image(name: str) -> bool:
    return bool(IMAGE.search(name)) and not any(map(is_hidden, name.split("/")))


def _below(root: Path) -> list[str]:
    """The image files below a folder, by their relative paths."""
    return sorted(name for name in files_below(root, []) if _is_image(name))


def ffhq(names: Sequence[str]) -> Files:
    """Faces: all images in the order of their names; the last seventh is held out, as the official 10,000 are."""
    if len(names) < HELD_OUT:
        raise UserError(f"{len(names)} images are there; FFHQ has 70,000, and {HELD_OUT} are the fewest", AT)
    first = len(names) - len(names) // HELD_OUT
    return Files(("face",), {"train": dict.fromkeys(names[:first], 0), "test": dict.fromkeys(names[first:], 0)})


def afhqv2(names: Sequence[str]) -> Files:
    """Animal faces: train/ and test/ with cat/, dog/ and wild/."""
    classes, splits = ("cat", "dog", "wild"), {"train": dict[str, int](), "test": dict[str, int]()}
    for name in names:
        if found := PETS.search(name):
            splits["train" if found[1] == "train" else "test"][name] = classes.index(found[2])
    if missing := [split for split, named in splits.items() if set(named.values()) != {0, 1, 2}]:
        raise UserError(f"no images of some class in {missing[0]}/; AFHQv2 has cat/, dog/ and wild/ there", AT)
    return Files(classes, splits)
