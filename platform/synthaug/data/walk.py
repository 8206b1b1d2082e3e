"""Folders as they lie on a disk: what is looked at, and a refusal where something would vanish without a line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from synthaug.settings import UserError

AT = ("dataset", "path")
# what systems leave in folders of images; nobody but root may look into the last one
IGNORED = {"Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"}
# no images, and nobody means them as such; whatever else cannot be read is told file by file
SIDECARS = {
    ".csv", ".db", ".doc", ".docx", ".gz", ".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".lnk", ".log", ".mat",
    ".md", ".npy", ".npz", ".pdf", ".pkl", ".py", ".tar", ".tsv", ".txt", ".url", ".xls", ".xlsx", ".xml", ".yaml",
    ".yml", ".zip",
}  # fmt: skip

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_hidden(name: str) -> bool:
    # "..." or "..name" is nobody's hidden file, and may be the name of a class
    return name in IGNORED or (name.startswith(".") and not name.startswith(".."))


def sidecar(name: str) -> str:
    """The suffix of a file that is no image by its name; "" of all others."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in SIDECARS else ""


def visible_folders(root: Path) -> list[str]:
    with refused(root):
        return [entry.name for entry in _visible(root) if _kind(entry) == "folder"]


def images_in(root: Path) -> list[str]:
    """Those in a folder itself, by their names, which can be printed."""
    with refused(root):
        names = [entry.name for entry in _visible(root) if _kind(entry) == "file"]
    return [os.fsencode(n).decode(errors="backslashreplace") for n in names if n.lower().endswith(SUFFIXES)]


def sized(folder: str) -> list[tuple[str, int]]:
    """The names and sizes of the files of a folder, without opening any."""
    with refused(folder):
        files = [entry for entry in _visible(folder) if _kind(entry) == "file"]
        utf8((file.name for file in files), folder)
        return [(file.name, file.stat().st_size) for file in files]


def files_below(folder: Path, lost: list[str], at: tuple[str, ...] = AT) -> Iterator[str]:
    """Every visible file below a folder, at any depth, by its path there with "/" on every system.

    Links to folders are followed when all else is done: a folder is read once, by its own name where it has one. Those
    that lead nowhere, or to a folder that they are in, go to `lost`.
    """
    # of a folder: its path below the first one, where it really is, and the folders with the links that led there
    plain: list[tuple[str, str, tuple[str, ...]]] = [("", os.path.realpath(folder), ())]
    links: list[tuple[str, str, tuple[str, ...]]] = []
    seen = set[str]()
    while plain or links:
        path, real, came = plain.pop() if plain else links.pop(0)
        if real in seen:
            continue
        seen.add(real)
        with refused(folder / path, at):
            inside = [(entry, _kind(entry)) for entry in _visible(folder / path)]
        utf8((entry.name for entry, kind in inside if kind == "folder" or not sidecar(entry.name)), folder / path, at)
        for entry, kind in inside:
            name, target = path + entry.name, f"{real}{os.sep}{entry.name}"
            if kind == "file":
                yield name
            elif entry.is_symlink():
                target = os.path.realpath(target)
                if not kind or any(_holds(target, place) for place in (*came, real)):
                    lost.append(name)
                else:
                    links.append((f"{name}/", target, (*came, real)))
            elif kind == "folder":
                plain.append((f"{name}/", target, came))


def utf8(names: Iterable[str], place: str | Path, at: tuple[str, ...] = AT) -> None:
    """Refuse names that are no text: they cannot be printed, and no table holds them."""
    for name in names:
        # the bytes that are no UTF-8 come as surrogates
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(f"{os.fsencode(name)!r} in {str(place)!r} is no name in UTF-8; rename it", at)


@contextmanager
def refused(place: str | Path, at: tuple[str, ...] = AT) -> Iterator[None]:
    """What cannot be listed would be a class or a part of one that vanishes: it is refused."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {str(place)!r}: {error.strerror or error}", at) from None


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    # sorted, because the order of a directory, which no two disks share, decides by which link a folder is read
    with os.scandir(folder) as found:
        return sorted((entry for entry in found if not is_hidden(entry.name)), key=lambda entry: entry.name)


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry is, or leads to: a "folder", a "file", or "" of a pipe and of a link that leads nowhere."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link to itself leads nowhere, too
            raise
        return ""


def _holds(folder: str, place: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)
