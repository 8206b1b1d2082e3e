"""Data sets for generative models, which come as folders or as one zip file: FFHQ and AFHQv2."""

from __future__ import annotations

import os
import re
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from synthaug.data.folder import AT, Facts, Files
from synthaug.data.layouts import Found, Reader, on_disk
from synthaug.data.listing import Entry
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
        files = sort(sorted(name for name in archive.infos if IMAGE.search(name)))
        splits = {
            # unread, so what the archive knows of a file stands for its pixels
            split: [Entry(name, label, archive.content(name)) for name, label in sorted(named.items())]
            for split, named in files.splits.items()
        }
        content = [[name, archive.content(name)] for named in files.splits.values() for name in sorted(named)]
        return Found(files.classes, splits, content, archive.read)

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

    def content(self, name: str) -> str:
        return f"{self.infos[name].file_size}:{self.infos[name].CRC:08x}"

    def read(self, name: str) -> bytes:
        if not hasattr(self._open, "file"):
            self._open.file = zipfile.ZipFile(self.path)
        found: bytes = self._open.file.read(name)
        return found


def _below(root: Path) -> list[str]:
    """The image files below a folder, by their relative paths."""
    found = []
    for place, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(place, file).relative_to(root).as_posix() for file in files if IMAGE.search(file)]
    return sorted(found)


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
