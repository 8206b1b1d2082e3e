"""Stages: what an experiment is made of, each known by a key, the hash of all that decides what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from synthaug.classify.views import DiffAugView, View
from synthaug.data.dataset import Dataset
from synthaug.evaluate.base import Evaluation
from synthaug.evaluate.outliers import image_files
from synthaug.methods.base import Maker
from synthaug.methods.diffuse_denoise import DiffuseDenoise
from synthaug.settings import UserError, hash_of, keyed, parts
from synthaug.weights import Weights

SUBSET = "subset"  # the training images that were chosen
Identify = Callable[[Dataset | Weights | Path], str]
# versions: raise one when the output of its stage changes
STAGES = {
    "finetune": 1, "prepare": 1, "generate": 1, "filter": 1, "denoiser": 1, "guide": 2, "views": 1, "train": 2,
    "evaluate": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A stage with all that decides its output; the key is the hash of that."""

    stage: str
    version: int
    settings: Any
    inputs: tuple[Node, ...] = ()

    @cached_property
    def key(self) -> str:
        return hash_of([self.stage, self.version, self.settings, [node.key for node in self.inputs]])


@dataclass(frozen=True)
class Making:
    """Something that is made of each image of a split: variants 1..k, each on its own."""

    maker: Maker
    k: int
    split: str = SUBSET
    dataset: Dataset | None = None  # None: the experiment's own


def of_evaluation(evaluation: Evaluation) -> list[Making]:
    """What must be made of the images that an evaluation looks at, before it begins."""
    if not evaluation.beforehand:
        return []
    return [Making(maker, maker.variants, split, evaluation.dataset) for split, maker in evaluation.copied()]


def beforehand(view: View) -> Making | None:
    """What a view wants made of the training images, if it does not work in the loop."""
    return Making(DiffuseDenoise(how=view.how), view.cached) if isinstance(view, DiffAugView) and view.cached else None


def numbered(stage: str, count: int) -> list[str]:
    """The names of several stages of one kind."""
    return [stage if number == 1 else f"{stage}.{number}" for number in range(1, count + 1)]


def contents(value: Any, identify: Identify) -> dict[str, str]:
    """What the files and models that a value names hold, by the fields that name them: beside the settings of these
    fields in a key, not in their place."""
    found = {}
    for path, part in parts(value):
        if isinstance(part, Path) and not part.exists():
            raise UserError(f"there is no file {str(part)!r}", tuple(path.split(".")))
        if isinstance(part, Path | Weights | Dataset):
            found[f"content of {path}"] = identify(part)
    return found


def content(dataset: Dataset) -> Any:
    """A data set by what it holds: its name and place are left to the content digest."""
    return {name: value for name, value in keyed(dataset).items() if name != "name"}


def identity(thing: Dataset | Weights | Path) -> str:
    """What a data set, a model or a file *is*, read from its bytes."""
    if isinstance(thing, Dataset):
        return thing.open().digest
    if isinstance(thing, Weights) and (commit := thing.commit()):
        return commit
    digests = [[name, sha256(file.read_bytes()).hexdigest()] for name, file in files_behind(thing).items()]
    return str(digests[0][1]) if isinstance(thing, Path) and thing.is_file() else hash_of(digests)


def files_behind(thing: Weights | Path) -> dict[str, Path]:
    """The files that a model, a file or a folder consists of, by name."""
    if isinstance(thing, Weights):
        return thing.identity_files()
    return image_files(thing) if thing.is_dir() else {thing.name: thing}
