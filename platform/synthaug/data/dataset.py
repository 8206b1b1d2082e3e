"""Data sets: what is known by name or lies in a folder, its splits, its digest and its k-shot subsets."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from synthaug.data.folder import AT, Facts, open_folder
from synthaug.data.listing import Entry, Listing, hash_pixels
from synthaug.data.published import PHOTO, PUBLISHED, open_published, twins
from synthaug.data.sample import encode_image
from synthaug.settings import Count, NotKeyed, UserError, canonical, did_you_mean, seed_of, settings


@settings(key="synthaug.dataset:Dataset")
class Dataset:
    """`digits`, `glyphs`, `folder` (class folders, or train/ [val/] test/ with class folders, at `path`) or a published
    set (published.py) at `path`.

    Without a validation split, `val_share` of each class of the training images choose the model; with 0 the last
    weights are kept. `prompt` (of several one is drawn for each image) and `super_class` None are the table's own;
    `mirrors` says whether a mirror image is still of its class, which is not so of digits and letters.
    """

    name: str
    shots: Count | None = None
    path: NotKeyed[str | None] = None
    prompt: str | tuple[str, ...] | None = None
    class_words: tuple[tuple[str, str], ...] = ()
    super_class: str | None = None
    duplicates: Literal["refuse", "drop"] = "refuse"
    subset_seed: int | None = None  # where a protocol fixes its subset; else the experiment's one seed draws it
    val_share: Annotated[float, Field(ge=0, lt=0.8)] = 0.2  # below 0.8: a fifth may have to go to a test set
    mirrors: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @field_validator("prompt", mode="before")
    @classmethod
    def _has_a_place(cls, prompt: Any) -> Any:
        if isinstance(prompt, list | tuple) and not prompt:
            raise UserError("of several prompts there is at least one")
        several = prompt if isinstance(prompt, list | tuple) else (prompt,)
        for text in (text for text in several if isinstance(text, str)):
            if text.count("{}") != 1 or set(text.replace("{}", "", 1)) & set("{}"):
                raise UserError(f"{text!r} has no {{}}, the one place where the class goes")
        return prompt

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts with {} for the class."""
        known = PUBLISHED[self.name].prompt if self.name in PUBLISHED else PHOTO
        given = known if self.prompt is None else self.prompt
        return (given,) if isinstance(given, str) else given

    @property
    def can_mirror(self) -> bool:
        """Whether a mirror image is of the same class."""
        return self.name not in ("digits", "glyphs") if self.mirrors is None else self.mirrors

    @property
    def kind_word(self) -> str:
        """The word for what all classes are ("bird"), or nothing."""
        known = PUBLISHED[self.name].super_class if self.name in PUBLISHED else ""
        return known if self.super_class is None else self.super_class

    def open(self, facts: Facts | None = None) -> Listing:
        """Classes and splits. `facts` are remembered facts of a folder's files; it is brought up to date."""
        if self.name not in KNOWN:
            hint = did_you_mean(self.name, sorted(KNOWN))
            raise UserError(f"no data set is called {self.name!r}{hint}", ("dataset", "name"))
        found = KNOWN[self.name](self, {} if facts is None else facts)
        if unknown := [name for name, _ in self.class_words if name not in found.classes]:
            hint = did_you_mean(unknown[0], list(found.classes))
            raise UserError(f"no class is called {unknown[0]!r}{hint}", ("dataset", "class_words"))
        return found


def subset(listing: Listing, dataset: Dataset, seed: int) -> tuple[Entry, ...]:
    """The k-shot training set of a seed: per class the images that hash lowest, so that 5 shots hold the 1 shot."""
    if "train" not in listing.splits:
        why = f"{dataset.name} has only test images; name it as the data set of an evaluation"
        raise UserError(why, ("dataset", "name"))
    train = listing.splits["train"]
    if dataset.shots is None:
        return train
    by_class: dict[int, list[Entry]] = defaultdict(list)
    for entry in train:
        by_class[entry.label].append(entry)
    # the seed alone, never the method: all arms of a seed train on the same images
    seed = seed if dataset.subset_seed is None else dataset.subset_seed
    chosen: list[Entry] = []
    for label, name in enumerate(listing.classes):
        if len(by_class[label]) < dataset.shots:
            have = f"class {name!r} has {len(by_class[label])} training images"
            raise UserError(f"{have}, fewer than shots={dataset.shots}", ("dataset", "shots"))
        # too few were refused above: the published code draws with replacement then
        chosen += sorted(by_class[label], key=lambda e: seed_of(seed, "subset", e.id))[: dataset.shots]
    return tuple(chosen)


def open_images(dataset: Dataset, facts: Facts) -> Listing:
    """The user's own images."""
    if not dataset.path:  # an empty one would be the folder that one happens to be in
        raise UserError("name the folder of your images: --set dataset.path=DIR", AT)
    root, words = Path(dataset.path).expanduser(), dict(dataset.class_words)
    # shots go along, so that cutting off a validation set leaves as many of each class as are asked for
    return open_folder(root, dataset.duplicates, words, facts, val_share=dataset.val_share, shots=dataset.shots or 0)


def open_known(dataset: Dataset, facts: Facts) -> Listing:
    """A published data set that the user has downloaded."""
    words = dict(dataset.class_words)
    return open_published(dataset.name, dataset.path, words, dataset.val_share, dataset.shots, facts)


def open_digits(dataset: Dataset, facts: Facts) -> Listing:
    """scikit-learn's 1,797 handwritten digits, 8x8 shown at 32x32: 700 train, 300 val, 797 test."""
    spec = find_spec("sklearn")  # its file is read without importing it, which takes seconds
    assert spec and spec.submodule_search_locations
    raw = np.loadtxt(Path(spec.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", delimiter=",", dtype=int)
    # a row is 64 pixels in 17 levels (0 to 16), and the digit
    pixels = np.rint(raw[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    target = raw[:, -1]
    # by a hash of the number and no user's seed: the split is fixed, like that of a benchmark
    order = sorted(range(len(pixels)), key=lambda i: seed_of("digits", i))
    entries = [Entry(f"digits/{i}", int(target[i]), hash_pixels(pixels[i])) for i in order]
    splits = {"test": tuple(entries[:797]), "val": tuple(entries[797:1097]), "train": tuple(entries[1097:])}
    # int64, because `int` is not as wide on every platform
    digest = hashlib.sha256(pixels.tobytes() + target.astype(np.int64).tobytes()).hexdigest()
    classes = tuple(str(i) for i in range(10))
    words, notes = _words(dataset, classes), twins(splits)
    return Listing(classes, words, splits, digest, lambda id: _show(pixels, id), notes=notes)


def _show(pixels: np.ndarray, id: str) -> bytes:
    """Digit number i as a 32x32 RGB image."""
    from PIL import Image

    small = Image.fromarray(pixels[int(id.rpartition("/")[2])])
    return encode_image(np.array(small.resize((32, 32), Image.Resampling.BILINEAR).convert("RGB")))


def open_glyphs(dataset: Dataset, facts: Facts) -> Listing:
    """Rendered letters and digits: 200 train, 50 val and 50 test images of each of the 36 classes."""
    from synthaug.data import glyphs

    counts = {"train": 200, "val": 50, "test": 50}
    splits: dict[str, tuple[Entry, ...]] = {}
    start = 0  # numbers run on, so no glyph is in two splits
    for split, count in counts.items():
        numbers = range(start, start + count * len(glyphs.CLASSES))
        # the number stands for the pixels, which are drawn when they are read
        splits[split] = tuple(Entry(f"glyphs/{i}", glyphs.label_of(i), f"glyphs/{i}") for i in numbers)
        start = numbers.stop

    def read(id: str) -> bytes:
        return encode_image(glyphs.render(int(id.rpartition("/")[2]), GLYPHS_SEED)[0])

    # what the images are a function of
    digest = hashlib.sha256(canonical([glyphs.VERSION, GLYPHS_SEED, counts])).hexdigest()
    return Listing(glyphs.CLASSES, _words(dataset, glyphs.CLASSES), splits, digest, read)


def _words(dataset: Dataset, classes: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict(dataset.class_words).get(name, name) for name in classes)


GLYPHS_SEED = 1  # the nano models were trained on seed 0
KNOWN: dict[str, Callable[[Dataset, Facts], Listing]] = {
    "folder": open_images,
    "digits": open_digits,
    "glyphs": open_glyphs,
    **dict.fromkeys(PUBLISHED, open_known),
}
