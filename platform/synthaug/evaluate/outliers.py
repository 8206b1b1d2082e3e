"""Outliers: images of nothing that a classifier knows, some to choose a detector's settings by, others to report on."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from synthaug.data.dataset import Dataset
from synthaug.data.sample import decode_image, resize_image, why_unreadable
from synthaug.data.walk import SUFFIXES, files_below
from synthaug.settings import ContentOf, Count, UserError, seed_of, settings

Part = Literal["val", "test"]
VAL_SHARE = 5  # one image in so many is for choosing


@settings(kw_only=True)
class Outliers(ABC):
    """A source of images; `count` is the most that it gives for each part, and no image is in both parts."""

    count: Count = 500

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in the names of metrics."""

    @abstractmethod
    def images(self, size: int, part: Part) -> np.ndarray:
        """The images of a part: uint8 N x 3 x size x size."""


@settings
class Letters(Outliers):
    """Rendered upper-case letters: near outliers for digits. Left out are those that may well be digits: a small net
    that knows all 36 glyphs takes 24 % of O and 7 % of I for digits, and at most 3 % of any other letter."""

    without: str = "IO"

    @property
    def name(self) -> str:
        return "letters"

    def images(self, size: int, part: Part) -> np.ndarray:
        listing = Dataset("glyphs").open()
        wanted = {label for label, name in enumerate(listing.classes) if name.isalpha() and name not in self.without}
        entries = [entry for entry in listing.splits[part] if entry.label in wanted]
        if not entries:
            raise UserError(f"without={self.without!r} leaves no letter", ("without",))
        chosen = sorted(entries, key=lambda entry: seed_of("letters", entry.id))[: self.count]
        return _stack((decode_image(listing.read(entry.id)) for entry in chosen), size)


@settings
class Noise(Outliers):
    """Independent pixels, uniform over all levels or Gaussian around the middle (cut at black and white)."""

    law: Literal["uniform", "gaussian"] = "uniform"
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def name(self) -> str:
        return f"{self.law}-noise"

    def images(self, size: int, part: Part) -> np.ndarray:
        rng = np.random.default_rng(seed_of("noise", self.law, self.seed, part))  # each part draws its own
        shape = (self.count, 3, size, size)
        if self.law == "uniform":
            return rng.integers(0, 256, shape, dtype=np.uint8)
        return np.clip(np.rint(rng.normal(127.5, 64, shape)), 0, 255).astype(np.uint8)


@settings
class Textures(Outliers):
    """Gratings, checkers and blobs in turn, each between two colours of its own."""

    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def name(self) -> str:
        return "textures"

    def images(self, size: int, part: Part) -> np.ndarray:
        return _stack((self._draw(size, part, number) for number in range(self.count)), size)

    def _draw(self, size: int, part: Part, number: int) -> np.ndarray:
        rng = np.random.default_rng(seed_of("textures", self.seed, part, number))
        draw = (grating, checker, blobs)[number % 3]
        shade = draw(_turned(size, rng), rng)[..., None]  # H W 1 in [0, 1]
        dark, light = rng.uniform(0, 255, (2, 3))  # two colours; which of them is the lighter one is left to chance
        return np.asarray(np.rint(dark + shade * (light - dark)).astype(np.uint8))


def _turned(size: int, rng: np.random.Generator) -> np.ndarray:
    """The plane of an image as (2, size, size), two lengths wide, turned and shifted."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1  # centres of pixels: the same texture at any size
    plane = np.stack(np.meshgrid(axis, axis))
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(np.einsum("ij,jhw->ihw", turn, plane) + rng.uniform(0, 1, (2, 1, 1)))


def grating(plane: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wave of 1 to 6 periods across the image, in [0, 1]."""
    return np.asarray(0.5 + 0.5 * np.sin(np.pi * rng.uniform(1, 6) * plane[0]))


def checker(plane: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A board of 2 to 10 fields a side, 0 or 1."""
    field = np.floor(plane * rng.uniform(1, 5)).astype(int)
    return np.asarray((field.sum(0) % 2).astype(float))


def blobs(plane: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Twelve soft spots, bright and dark, stretched to [0, 1]."""
    # somewhere on the plane, which is [-1, 1], turned and shifted by up to 1
    centres, widths, heights = rng.uniform(-1, 2, (12, 2, 1, 1)), rng.uniform(0.1, 0.5, 12), rng.normal(size=12)
    away = np.square(plane - centres).sum(1) / (2 * np.square(widths)[:, None, None])
    total = np.einsum("k,khw->hw", heights, np.exp(-away))
    return np.asarray((total - total.min()) / (np.ptp(total) or 1.0))


@settings
class Folder(Outliers):
    """Any folder of images, at any depth: the hash of an image's name below it says to which part it belongs (a fifth
    is for choosing), and which come first when there are more than `count`."""

    path: ContentOf[str]

    @property
    def name(self) -> str:
        return re.sub(r"[^\w.-]+", "_", Path(self.path).expanduser().resolve().name)  # what a metric may be called

    def images(self, size: int, part: Part) -> np.ndarray:
        files = image_files(Path(self.path).expanduser())
        places = {name: seed_of("outliers", name) for name in files}
        # by its own name and no list, so that adding images moves none from one part to the other
        mine = [name for name in files if (places[name] % VAL_SHARE == 0) == (part == "val")]
        if not mine:
            raise UserError(f"{self.path!r} has no image for {part} among its {len(files)}; add some", ("path",))
        chosen = sorted(mine, key=lambda name: places[name])[: self.count]
        return _stack((_read(files[name]) for name in chosen), size)


def image_files(root: Path) -> dict[str, Path]:
    """Every image below a folder by its name there, sorted; hidden ones are none."""
    if not root.is_dir():
        raise UserError(f"there is no folder {str(root)!r}", ("path",))
    lost: list[str] = []
    found = sorted(name for name in files_below(root, lost, ("path",)) if name.lower().endswith(SUFFIXES))
    if lost:
        raise UserError(f"{lost[0]!r} is a link that leads nowhere or to a folder that it is in; remove it", ("path",))
    if not found:
        raise UserError(f"{str(root)!r} has no images ({', '.join(SUFFIXES)}), at any depth", ("path",))
    return {name: root / name for name in found}


def _read(file: Path) -> np.ndarray:
    try:
        return decode_image(file.read_bytes())
    except Exception as error:  # every decoder has its own; what is no fault of the image is raised again
        why = why_unreadable(error)
        raise UserError(f"{str(file)!r} cannot be decoded, remove or mend it: {why}", ("path",)) from None


def _stack(pixels: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Images of any size (HWC) as one NCHW array."""
    return np.ascontiguousarray(np.stack([resize_image(image, size) for image in pixels]).transpose(0, 3, 1, 2))
