"""Errors in the user's own code: a method, a measurement or a file of experiments may raise anything."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synthaug.settings import PACKAGES, UserError

OURS = f"{Path(__file__).parents[1]}{os.sep}"
# "<": what is no file, such as importlib's own frames
LIBRARIES = ("<", *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
INSTALLED = ("site-packages", "dist-packages")


def place_of(error: BaseException) -> str | None:
    """The line of the user's that raised an error, or called the library that did; None if one of ours is nearer."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(OURS):
            return None
        if not os.path.isabs(frame.filename):  # of a compiled library, which tells where it was written
            continue
        if not _is_library(frame.filename):
            return f"{Path(frame.filename).name}, line {frame.lineno}"
    return None


def _is_library(file: str) -> bool:
    """Whether it is what somebody else has written: not a package with methods or measurements, wherever it lies."""
    parts = Path(file).parts
    if installed := [place for place, part in enumerate(parts) if part in INSTALLED]:
        return Path(parts[installed[-1] + 1]).stem not in PACKAGES
    return file.startswith(LIBRARIES)


@contextmanager
def told(what: object) -> Iterator[None]:
    """While `what` is made: an error of theirs is one line with its place, whichever process it is in; ours stay as
    they are."""
    try:
        yield
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"{place_of(error) or what}: ends the program (exit {error.code})") from error
    except Exception as error:
        place = place_of(error)
        if place is None:
            raise
        raise UserError(f"{place}: {type(error).__name__}: {error} (while making {what})") from error
