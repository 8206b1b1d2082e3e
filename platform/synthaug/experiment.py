"""Experiment and Sweep: what is asked, as frozen values that travel as JSON; the stages that follow and their keys."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, Field, field_validator, model_validator

from synthaug.classify.mixing import Concat, Utilize
from synthaug.classify.recipe import Recipe
from synthaug.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.personalize import Finetune
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.base import ImageEvaluation, Measurement
from synthaug.evaluate.filter import Filter
from synthaug.methods.base import Maker, Method
from synthaug.settings import (
    NotKeyed,
    OneOf,
    UserError,
    did_you_mean,
    from_json,
    hash_of,
    keyed,
    parts,
    seed_of,
    settings,
    to_json,
)
from synthaug.settings import names as names_of
from synthaug.space import Choice, Domain, Grid, RandomSearch, Searcher, Uniform
from synthaug.weights import Weights

__all__ = [
    "Choice",
    "Experiment",
    "Grid",
    "RandomSearch",
    "Recipe",
    "Resources",
    "Sweep",
    "Uniform",
    "replace",
    "seed_of",
]

Identify = Callable[[Dataset | Weights | Path], str]
# versions: raise one when the output of its stage changes
STAGES = {"finetune": 1, "prepare": 1, "generate": 1, "filter": 1, "train": 1, "evaluate": 1}


@settings
class Resources:
    """Where and how wide things run; never enters a key."""

    checkpoint_s: Annotated[float, Field(ge=0)] = 30.0


def _named_backbone(value: Any) -> Any:
    return Backbone(model=value) if isinstance(value, str) else value


def _several(value: Any) -> Any:
    return value if value is None or isinstance(value, list | tuple) else (value,)


@settings(kw_only=True)
class Experiment:
    """One question: this data, these images made and used so, this training, these numbers."""

    dataset: Dataset
    subset: None = None
    backbone: Annotated[OneOf[Backbone] | None, BeforeValidator(_named_backbone)] = None
    method: OneOf[Method] | None = None
    finetune: Annotated[tuple[OneOf[Finetune], ...] | None, BeforeValidator(_several)] = None
    utilize: OneOf[Utilize] = Concat()
    k: Annotated[int, Field(ge=1)] = 5
    filter: OneOf[Filter] | None = None
    recipe: Recipe
    evaluations: Annotated[tuple[OneOf[Measurement], ...], Field(min_length=1)] = (Accuracy(),)
    seed: Annotated[int, Field(ge=0)] = 0
    resources: NotKeyed[Resources] = Resources()

    @property
    def generator(self) -> Backbone | None:
        """The backbone asked for, or the method's own; none without a method, or where the method needs none."""
        return None if self.method is None else self.backbone or self.method.backbone

    @property
    def tuning(self) -> tuple[Finetune, ...]:
        """How the backbone is fitted to the data set: as asked for, or the method's own way."""
        if self.method is None:
            return ()
        return self.method.finetune if self.finetune is None else self.finetune

    def real_only(self) -> Experiment:
        """The same training without generated images, whose classifier a filter may ask."""
        return dataclasses.replace(self, backbone=None, method=None, finetune=None, filter=None)

    def measured(self) -> dict[str, Measurement]:
        """The evaluations by the names of their stages; those of generated images only where there are any."""
        named = zip(numbered("evaluate", len(self.evaluations)), self.evaluations, strict=True)
        return {n: e for n, e in named if self.method is not None or not isinstance(e, ImageEvaluation)}

    def nodes(self, identify: Identify) -> dict[str, Node]:
        """The stages of this experiment by name, in the order in which they are made."""
        data = Node("data", 0, {"dataset": _content(self.dataset), "content": identify(self.dataset)})
        nodes = {} if self.method is None else self._generation(data, identify)
        images = list(nodes.values())[-1:]  # the generated ones, filtered if they are
        train: dict[str, Any] = {"recipe": keyed(self.recipe), "seed": self.seed} | _contents(self.recipe, identify)
        if self.method is not None:
            train |= {"utilize": keyed(self.utilize), "k": self.k}
        nodes["train"] = Node("train", STAGES["train"], train, (data, *images))
        for name, evaluation in self.measured().items():
            inputs = (data, *images) if isinstance(evaluation, ImageEvaluation) else (nodes["train"],)
            asked = keyed(evaluation) | _contents(evaluation, identify)
            asked |= {"k": self.k} if isinstance(evaluation, ImageEvaluation) else {}
            nodes[name] = Node("evaluate", STAGES["evaluate"], asked, inputs)
        return nodes

    def _generation(self, data: Node, identify: Identify) -> dict[str, Node]:
        """The stages that end with the images to use."""
        assert self.method is not None
        nodes: dict[str, Node] = {}
        for name, finetune in zip(numbered("finetune", len(self.tuning)), self.tuning, strict=True):
            nodes[name] = self._tuned(finetune, (data, *list(nodes.values())[-1:]), identify)
        inputs = (data, *list(nodes.values())[-1:])
        if self.method.before is not None:
            nodes["prepare"] = self._made("prepare", self.method.before, inputs, identify)
            inputs = (*inputs, nodes["prepare"])
        nodes["generate"] = self._made("generate", self.method, inputs, identify)
        if self.filter is not None:
            asked = {"filter": keyed(self.filter), "k": self.k} | _contents(self.filter, identify)
            judge = [self.real_only().nodes(identify)["train"]] if self.filter.needs_classifier else []
            nodes["filter"] = Node("filter", STAGES["filter"], asked, (nodes["generate"], *judge))
        return nodes

    def _tuned(self, finetune: Finetune, inputs: tuple[Node, ...], identify: Identify) -> Node:
        if self.generator is None:
            raise UserError(f"{type(self.method).__name__} has no backbone to fine-tune", ("finetune",))
        base = self.generator.for_tuning()
        made_by = {"finetune": keyed(finetune), "version": finetune.version, "seed": self.seed}
        made_by |= {"backbone": keyed(base), "weights": identify(base)} | _contents(finetune, identify)
        return Node("finetune", STAGES["finetune"], made_by, inputs)

    def _made(self, stage: str, maker: Maker, inputs: tuple[Node, ...], identify: Identify) -> Node:
        made_by = {"method": keyed(maker), "method version": maker.version, "seed": self.seed}
        if self.generator is not None:
            made_by |= {"backbone": keyed(self.generator), "weights": identify(self.generator)}
        if contents := _contents(maker, identify):
            made_by["contents"] = contents
        return Node(stage, STAGES[stage], made_by, inputs)

    def key(self, stage: str, identify: Identify | None = None) -> str:
        """The key of one stage; without `identify` the data and the weights are read to know what they are."""
        nodes = self.nodes(identify or identity)
        if stage not in nodes:
            raise UserError(f"this experiment has no stage {stage!r}{did_you_mean(stage, list(nodes))}")
        return nodes[stage].key


def numbered(stage: str, count: int) -> list[str]:
    """The names of several stages of one kind."""
    return [stage if number == 1 else f"{stage}.{number}" for number in range(1, count + 1)]


def _contents(value: Any, identify: Identify) -> dict[str, str]:
    """What the files and models that a value names hold, by the fields that name them."""
    found = {}
    for path, part in parts(value):
        if isinstance(part, Path) and not part.is_file():
            raise UserError(f"there is no file {str(part)!r}", tuple(path.split(".")))
        if isinstance(part, Path | Weights):
            found[path] = identify(part)
    return found


def _content(dataset: Dataset) -> Any:
    """A data set by what it holds: its name and place are left to the content digest."""
    return {name: value for name, value in keyed(dataset).items() if name != "name"}


def identity(thing: Dataset | Weights | Path) -> str:
    """What a data set, a model or a file *is*, read from its bytes."""
    if isinstance(thing, Dataset):
        return thing.open().digest
    if isinstance(thing, Path):
        return sha256(thing.read_bytes()).hexdigest()
    digests = [[name, sha256(file.read_bytes()).hexdigest()] for name, file in thing.identity_files().items()]
    return thing.commit() or hash_of(digests)


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


# --- sweeps ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One experiment of a sweep: an arm at a point of the space with one seed."""

    arm: str
    seed: int
    fields: dict[str, Any]
    experiment: Experiment = field(repr=False)


@settings(kw_only=True)
class Sweep:
    """A base experiment varied by named arms and over a space of its fields, every point with the same seeds."""

    ALONE: ClassVar[str] = "base"
    base: Experiment
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    baseline: str | None = None
    space: dict[str, OneOf[Domain]] = Field(default_factory=dict)
    searcher: OneOf[Searcher] = Grid()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)

    @field_validator("arms", mode="before")
    @classmethod
    def _plain(cls, arms: Any) -> Any:
        return {arm: {path: _jsonable(v) for path, v in fields.items()} for arm, fields in arms.items()}

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, seeds: Any) -> Any:
        return tuple(range(seeds)) if isinstance(seeds, int) else seeds

    @field_validator("space", mode="before")
    @classmethod
    def _lists(cls, space: Any) -> Any:
        return {
            path: Choice(tuple(_jsonable(v) for v in d)) if isinstance(d, list | tuple) else d
            for path, d in space.items()
        }

    @model_validator(mode="after")
    def _checked(self) -> Sweep:
        if self.baseline is not None and self.baseline not in self.arms:
            raise UserError(
                f"no arm is called {self.baseline!r}{did_you_mean(self.baseline, list(self.arms))}", ("baseline",)
            )
        self.trials()
        return self

    def trials(self) -> list[Trial]:
        """Every trial, arms first, then points, then seeds; a bad field or value shows here, before anything runs."""
        found = []
        for arm, replaced in (self.arms or {self.ALONE: {}}).items():
            for point in self.searcher.points(self.space):
                fields = replaced | point
                experiment = replace(self.base, fields)
                found += [Trial(arm, seed, fields, replace(experiment, {"seed": seed})) for seed in self.seeds]
        return found


def _jsonable(value: Any) -> Any:
    """Settings as JSON, so that a sweep equals itself after a journey as JSON."""
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return to_json(value) if is_dataclass(value) and not isinstance(value, type) else value


def replace(value: Any, fields: Mapping[str, Any]) -> Any:
    """A copy of a settings value with the fields at dotted paths replaced, validated as a whole."""
    data = to_json(value)
    for path, new in fields.items():
        _set(type(value), data, path, _jsonable(new))
    return from_json(type(value), data)


def _set(cls: type, data: Any, path: str, new: Any) -> None:
    *parents, last = path.split(".")
    for depth, name in enumerate(parents):
        if isinstance(data, list) and name.isdigit() and int(name) < len(data):
            data = data[int(name)]
        elif isinstance(data, dict) and data.get(name) is not None:
            data = data[name]
        else:
            raise UserError(_no_way(cls, data, tuple(parents[:depth]), name), tuple(parents[: depth + 1]))
    if isinstance(data, list):
        data[int(last)] = new
    else:
        data[last] = new


def _no_way(cls: type, data: Any, above: tuple[str, ...], name: str) -> str:
    """Why a path ends at `name`: misspelt, or nothing is set there yet."""
    if not isinstance(data, dict) or name not in data:
        return f"no such setting{did_you_mean(name, list(data) if isinstance(data, dict) else [])}"
    hint = get_type_hints(cls)[name] if not above else Any
    bases = [arg for arg in _flat(hint) if isinstance(arg, type) and is_dataclass(arg)]
    choices = sorted({choice for base in bases for choice in names_of(base)})
    return f"is None, so it has no settings; set {name} first, one of: {', '.join(choices) or 'nothing yet'}"


def _flat(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (None, types.UnionType) and not get_args(hint):
        yield hint
    for arg in get_args(hint):
        yield from _flat(arg)


def load(text: str) -> Experiment | Sweep:
    """An experiment or a sweep from its JSON."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"is no JSON: {error}") from None
    is_sweep = isinstance(data, dict) and str(data.get("kind", "")).endswith(":Sweep")
    return from_json(Sweep, data) if is_sweep else from_json(Experiment, data)
