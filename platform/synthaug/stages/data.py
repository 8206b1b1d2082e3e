"""The data set as a stage: nothing makes it, its key says what it holds, and what was decoded of it is kept."""

from __future__ import annotations

import io
import json
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from synthaug.data.dataset import Dataset, subset
from synthaug.data.decoded import Reading, decode_all
from synthaug.data.listing import Entry, Listing
from synthaug.diffusion.batches import Recent
from synthaug.diffusion.one_step import check_time
from synthaug.diffusion.pixel_models import DenoiserModel
from synthaug.evaluate.outliers import image_files
from synthaug.settings import UserError, canonical, hash_of, keyed, parts
from synthaug.stages.base import Computed, Folder, Given, Outcome, Stage
from synthaug.weights import Weights

SUBSET = "subset"  # the training images that were chosen, beside the names of a data set's splits
KEPT = 4  # decoded sets of images in memory
Arrays = tuple[np.ndarray, np.ndarray]
Thing = Dataset | Weights | Path


class Library(Protocol):
    """What data sets and models are, wherever they lie."""

    def identify(self, thing: Thing) -> str:
        """A digest of what a data set, a model, a file or a folder holds."""

    def open(self, dataset: Dataset) -> Listing: ...

    def made(self, key: str) -> Path:
        """The folder of the finished stage whose key begins so."""


class Data(Stage["Pictures"]):
    """A data set by what it holds: its name and place are left to the digest of its content."""

    kind, version, there = "data", 0, True

    def __init__(self, dataset: Dataset, library: Library) -> None:
        self.dataset, self.library = dataset, library
        named = {name: value for name, value in keyed(dataset).items() if name != "name"}
        super().__init__({"dataset": named, "content": library.identify(dataset)}, {})

    @property
    def identity(self) -> tuple[Any, ...]:
        # two data sets of equal content have one key, and each reads its own files
        return *super().identity, self.dataset

    def load(self, at: Folder, given: Given) -> Pictures:
        return Pictures(self.dataset, self.library.open(self.dataset))


@dataclass(frozen=True)
class Pictures:
    """The images of an opened data set. `only` are the ids of the training images that remain of those chosen, where a
    stage before has chosen among them."""

    dataset: Dataset
    listing: Listing
    only: frozenset[str] | None = None
    _decoded: Recent[Arrays] = field(default_factory=lambda: Recent(KEPT), compare=False)
    _chosen: dict[int, tuple[Entry, ...]] = field(default_factory=dict, compare=False)

    def entries(self, name: str, seed: int) -> tuple[Entry, ...]:
        """The images of a split, or (`subset`) those that a seed chooses to train on."""
        if name != SUBSET:
            return self.listing.split(name)
        # where the data set fixes its subset, all seeds have one
        drawn = seed if self.dataset.subset_seed is None else self.dataset.subset_seed
        if drawn not in self._chosen:
            chosen = subset(self.listing, self.dataset, drawn)
            self._chosen[drawn] = tuple(e for e in chosen if self.only is None or e.id in self.only)
        return self._chosen[drawn]

    def arrays(self, name: str, seed: int, size: int) -> Arrays:
        """Those images, uint8 N x 3 x size x size, and their class indices; a process decodes them once."""
        # only the subset hangs on the seed: other splits are decoded once for all
        place = name, seed if name == SUBSET else None, size

        def decoded() -> Arrays:
            entries = self.entries(name, seed)
            images = decode_all(Reading(self.listing.read, [entry.id for entry in entries]), size)
            return images, np.array([entry.label for entry in entries])

        return self._decoded.get(place, decoded)

    def parts(self, seed: int) -> dict[str, tuple[Entry, ...]]:
        """The images of every split, of the training ones those that a seed chooses."""
        return {name: self.entries(SUBSET if name == "train" else name, seed) for name in self.listing.splits}

    def size(self, wanted: int | None) -> int:
        """The size that classifiers see: the one that is wanted, or that of the images if all are squares of one."""
        if wanted is not None:
            return wanted
        from PIL import Image

        # some of them: a large data set is not read whole to know a size
        entries = self.listing.splits["train"][:64]
        sizes = {Image.open(io.BytesIO(self.listing.read(entry.id))).size for entry in entries}
        # (width, height) as a set has one member if the two are equal
        if len(sizes) > 1 or len(set(*sizes)) > 1:
            raise UserError("the images differ in size or are no squares; --set recipe.image_size=224 squashes them")
        return sizes.pop()[0]


class Mask(Computed[Pictures]):
    """A choice among the training images of `data`: what comes of it stands for the data where new images are made."""

    bounds: ClassVar[bool] = True
    FILE: ClassVar[str] = "ids.json"

    @abstractmethod
    def choose(self, given: Given) -> Collection[str]:
        """The ids of the images that stay."""

    def compute(self, given: Given) -> Outcome:
        return self.outcome(self.choose(given))

    def outcome(self, chosen: Iterable[str]) -> Outcome:
        """The choice as it is kept."""
        # sorted, because a set comes in any order and the file is to have the same bytes each time
        ids = sorted(chosen)
        return Outcome({self.FILE: canonical(ids)}, counts={"chosen": len(ids)})

    def at_most(self, given: Given) -> Pictures:
        pictures: Pictures = given["data"]
        return pictures

    def load(self, at: Folder, given: Given) -> Pictures:
        whole = self.at_most(given)
        return Pictures(whole.dataset, whole.listing, frozenset(json.loads(at.read(self.FILE))))


class Model(Stage[Any]):
    """A model that lies on the disk already: its settings, with what its files hold, enter the keys of those who use
    it in the place of a key of its own."""

    kind, there, keyless = "model", True, True

    def __init__(self, role: str, model: Any, library: Library) -> None:
        self.model = model
        super().__init__({role: keyed(model)} | contents({role: model}, library.identify), {})

    def load(self, at: Folder, given: Given) -> tuple[Any, None]:
        """The model, and no folder of a stage."""
        return self.model, None


def check_noise(denoiser: Stage[Any], latest: float) -> None:
    """Refuse a time of DiffAug's schedule whose noise the denoiser does not know."""
    model: DenoiserModel = denoiser.model  # type: ignore[attr-defined]  # trained or there already
    check_time(latest, model.alphas_cumprod())


# --- what is behind a name ------------------------------------------------------------------------------------------


def contents(value: Any, identify: Callable[[Thing], str]) -> dict[str, str]:
    """What the files and models that a value names hold, by the fields that name them: beside the settings of these
    fields in a key, not in their place."""
    found = {}
    for path, part in parts(value):
        if isinstance(part, Path) and not part.exists():
            raise UserError(f"there is no file {str(part)!r}", tuple(path.split(".")))
        if isinstance(part, Path | Weights | Dataset):
            found[f"content of {path}"] = identify(part)
    return found


def identity(thing: Thing) -> str:
    """What a data set, a model or a file *is*, read from its bytes."""
    if isinstance(thing, Dataset):
        return thing.open().digest
    # a revision of the hub names its files for good: gigabytes need not be read
    if isinstance(thing, Weights) and (commit := thing.commit()):
        return commit
    # by name and content: two files that change places are another model; a single file is its content alone
    digests = [[name, sha256(file.read_bytes()).hexdigest()] for name, file in files_behind(thing).items()]
    return str(digests[0][1]) if isinstance(thing, Path) and thing.is_file() else hash_of(digests)


def files_behind(thing: Weights | Path) -> Mapping[str, Path]:
    """The files that a model, a file or a folder consists of, by name."""
    if isinstance(thing, Weights):
        return thing.identity_files()
    return image_files(thing) if thing.is_dir() else {thing.name: thing}
