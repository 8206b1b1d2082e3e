"""Experiment and Sweep: what is asked, as frozen values that travel as JSON; the stages that follow and their keys."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, Field, field_validator, model_validator

from synthaug.classify.mixing import Concat, Utilize
from synthaug.classify.recipe import Recipe
from synthaug.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.denoisers import DenoiserModel, PretrainedUNet, TrainedUNet
from synthaug.diffusion.guides import Guide
from synthaug.diffusion.personalize import Finetune
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.base import Evaluation, ImageEvaluation, Measurement
from synthaug.evaluate.filter import Filter
from synthaug.methods.base import Maker, Method
from synthaug.settings import (
    NotKeyed,
    OneOf,
    UserError,
    did_you_mean,
    from_json,
    keyed,
    seed_of,
    settings,
    to_json,
)
from synthaug.settings import names as names_of
from synthaug.space import Choice, Domain, Grid, RandomSearch, Searcher, Uniform
from synthaug.stages import (
    STAGES,
    SUBSET,
    Identify,
    Making,
    Node,
    beforehand,
    content,
    contents,
    files_behind,
    identity,
    numbered,
    of_evaluation,
)  # fmt: skip

__all__ = [
    "STAGES",
    "SUBSET",
    "Choice",
    "Experiment",
    "Grid",
    "Making",
    "Node",
    "RandomSearch",
    "Recipe",
    "Resources",
    "Sweep",
    "Uniform",
    "beforehand",
    "files_behind",
    "identity",
    "numbered",
    "replace",
    "seed_of",
]


@settings
class Resources:
    """Where and how wide things run; never enters a key."""

    checkpoint_s: Annotated[float, Field(ge=0)] = 30.0


def _named_backbone(value: Any) -> Any:
    return Backbone(model=value) if isinstance(value, str) else value


def _named_denoiser(value: Any) -> Any:
    """A bare class name, or else a pretrained model by name or folder."""
    return PretrainedUNet(model=value) if isinstance(value, str) and value not in names_of(DenoiserModel) else value


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
    denoiser: Annotated[OneOf[DenoiserModel] | None, BeforeValidator(_named_denoiser)] = None
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

    @model_validator(mode="after")
    def _has_denoiser(self) -> Experiment:
        wanting = [part for part in (self.method, *self.recipe.views, *self.evaluations) if needs_denoiser(part)]
        if wanting and self.denoiser is None:
            way = (
                "--set denoiser=TrainedUNet trains one on your images, denoiser=nano:ddpm is the embedded one of digits"
            )
            raise UserError(f"{type(wanting[0]).__name__} needs a denoiser; {way}", ("denoiser",))
        return self

    @property
    def makings(self) -> dict[str, Making]:
        """What is made image by image, by the names of its stages, each once."""
        found = {}
        if self.method is not None:
            if self.method.before is not None:
                found["prepare"] = Making(self.method.before, 1)
            found["generate"] = Making(self.method, self.k)
        looks = [making for view in self.recipe.views if (making := beforehand(view)) is not None]
        for evaluation in self.evaluations:
            if isinstance(evaluation, Evaluation):
                looks += of_evaluation(evaluation)
        unique = list(dict.fromkeys(looks))
        return found | dict(zip(numbered("views", len(unique)), unique, strict=True))

    @property
    def trains_denoiser(self) -> bool:
        """Whether a denoiser is to be trained: asked for by name, and by something that works with it."""
        parts = (self.method, *self.recipe.views, *self.evaluations)
        return isinstance(self.denoiser, TrainedUNet) and any(map(needs_denoiser, parts))

    @property
    def guide(self) -> Guide | None:
        """The noisy classifier that is to be trained, if the method has one."""
        return None if self.method is None else self.method.guided_by

    @property
    def drawn(self) -> int | None:
        """The seed that the training images depend on, if they do."""
        return self.seed if self.dataset.shots is not None and self.dataset.subset_seed is None else None

    def notes(self) -> list[str]:
        """What people should know of these settings before anything runs."""
        of_method = [] if self.method is None else self.method.notes()
        return of_method + ([] if self.denoiser is None else self.denoiser.notes(self.dataset.shots))

    def real_only(self) -> Experiment:
        """The same training without generated images, whose classifier a filter or a measurement may ask."""
        return dataclasses.replace(self, backbone=None, method=None, finetune=None, filter=None)

    @property
    def asks_judge(self) -> bool:
        """Whether the generated images are shown to the classifier of the real ones."""
        looks = [self.filter, *(e for e in self.measured().values() if isinstance(e, ImageEvaluation))]
        return self.method is not None and any(look is not None and look.needs_classifier for look in looks)

    def _judge(self, identify: Identify) -> Node:
        return self.real_only().nodes(identify)["train"]

    def measured(self) -> dict[str, Measurement]:
        """The evaluations by the names of their stages; those of generated images only where there are any."""
        named = zip(numbered("evaluate", len(self.evaluations)), self.evaluations, strict=True)
        return {n: e for n, e in named if self.method is not None or not isinstance(e, ImageEvaluation)}

    def nodes(self, identify: Identify) -> dict[str, Node]:
        """The stages of this experiment by name, in the order in which they are made."""
        data = Node("data", 0, {"dataset": content(self.dataset), "content": identify(self.dataset)})
        nodes = self._denoiser(data) | self._guide(data, identify)
        images: list[Node] = []  # the generated ones, filtered if they are
        if self.method is not None:
            nodes |= self._generation(data, identify)
            images = list(nodes.values())[-1:]
        for name, making in self.makings.items():
            if name.startswith("views"):
                nodes[name] = self._looked(making, data, identify)
        nodes["train"] = self._trained(data, images, nodes, identify)
        for name, evaluation in self.measured().items():
            nodes[name] = self._evaluated(evaluation, data, images, nodes, identify)
        return nodes

    def _denoiser(self, data: Node) -> dict[str, Node]:
        """The stage that trains the denoiser, if one is to be trained and anything asks for it."""
        if not self.trains_denoiser:
            return {}
        assert isinstance(self.denoiser, TrainedUNet)
        made_by = {"denoiser": keyed(self.denoiser), "version": self.denoiser.version, "seed": self.drawn}
        return {"denoiser": Node("denoiser", STAGES["denoiser"], made_by | {"size": self.recipe.image_size}, (data,))}

    def _guide(self, data: Node, identify: Identify) -> dict[str, Node]:
        """The stage that trains the noisy classifier of a method, if it has one."""
        if (guide := self.guide) is None:
            return {}
        made_by = {"guide": keyed(guide), "version": guide.version, "seed": self.drawn, "size": self.recipe.image_size}
        more, nodes = self._asks(data, identify) if guide.needs_denoiser else ({}, ())
        return {"guide": Node("guide", STAGES["guide"], made_by | more, (data, *nodes))}

    def _asks(self, data: Node, identify: Identify) -> tuple[dict[str, Any], tuple[Node, ...]]:
        """What the denoiser adds to the settings and to the inputs of a stage that uses it."""
        if isinstance(self.denoiser, TrainedUNet):
            return {}, tuple(self._denoiser(data).values())
        assert self.denoiser is not None
        return {"denoiser": keyed(self.denoiser)} | contents({"denoiser": self.denoiser}, identify), ()

    def _trained(self, data: Node, images: list[Node], nodes: dict[str, Node], identify: Identify) -> Node:
        asked: dict[str, Any] = {"recipe": keyed(self.recipe), "seed": self.seed} | contents(self.recipe, identify)
        inputs = (data, *images)
        if self.method is not None:
            asked |= {"utilize": keyed(self.utilize), "k": self.k}
        for view in self.recipe.views:
            if making := beforehand(view):
                inputs += (nodes[self.stage_of(making)],)
        if any(view.needs_denoiser and beforehand(view) is None for view in self.recipe.views):
            more, nodes_ = self._asks(data, identify)
            asked, inputs = asked | more, inputs + nodes_
        return Node("train", STAGES["train"], asked, inputs)

    def _evaluated(
        self, evaluation: Measurement, data: Node, images: list[Node], nodes: dict[str, Node], identify: Identify
    ) -> Node:  # fmt: skip
        asked = keyed(evaluation) | contents(evaluation, identify)
        if isinstance(evaluation, ImageEvaluation):
            judge = [self._judge(identify)] if evaluation.needs_classifier else []
            return Node("evaluate", STAGES["evaluate"], asked | {"k": self.k}, (data, *images, *judge))
        assert isinstance(evaluation, Evaluation)
        made = of_evaluation(evaluation)
        inputs = (nodes["train"], *(nodes[self.stage_of(making)] for making in made))
        if evaluation.needs_denoiser and not made:
            more, nodes_ = self._asks(data, identify)
            asked, inputs = asked | more, inputs + nodes_
        return Node("evaluate", STAGES["evaluate"], asked, inputs)

    def stage_of(self, making: Making) -> str:
        """The name of the stage that makes this."""
        return next(name for name, known in self.makings.items() if known == making)

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
            asked = {"filter": keyed(self.filter), "k": self.k} | contents(self.filter, identify)
            judge = [self._judge(identify)] if self.filter.needs_classifier else []
            nodes["filter"] = Node("filter", STAGES["filter"], asked, (nodes["generate"], *judge))
        return nodes

    def _looked(self, making: Making, data: Node, identify: Identify) -> Node:
        """Images made beforehand: of the training subset, which may hang on the seed, or of a split, which does not."""
        maker, source = making.maker, data
        if making.dataset is not None:
            source = Node("data", 0, {"dataset": content(making.dataset), "content": identify(making.dataset)})
        made_by = {"maker": keyed(maker), "maker version": maker.version, "split": making.split}
        made_by |= {"size": self.recipe.image_size} | contents(maker, identify)
        made_by |= {"seed": self.drawn} if making.split == SUBSET else {}
        more, inputs = self._asks(data, identify) if maker.needs_denoiser else ({}, ())
        return Node("views", STAGES["views"], made_by | more, (source, *inputs))

    def _tuned(self, finetune: Finetune, inputs: tuple[Node, ...], identify: Identify) -> Node:
        if self.generator is None:
            raise UserError(f"{type(self.method).__name__} has no backbone to fine-tune", ("finetune",))
        base = self.generator.for_tuning()
        made_by = {"finetune": keyed(finetune), "version": finetune.version, "seed": self.seed}
        made_by |= {"backbone": keyed(base), "weights": identify(base)} | contents(finetune, identify)
        return Node("finetune", STAGES["finetune"], made_by, inputs)

    def _made(self, stage: str, maker: Maker, inputs: tuple[Node, ...], identify: Identify) -> Node:
        made_by = {"method": keyed(maker), "method version": maker.version, "seed": self.seed}
        if self.generator is not None:
            made_by |= {"backbone": keyed(self.generator), "weights": identify(self.generator)}
        if named := contents(maker, identify):
            made_by["contents"] = named
        if maker.needs_denoiser:
            more, nodes = self._asks(inputs[0], identify)
            made_by, inputs = made_by | more, (*inputs, *nodes)
        if stage == "generate":
            inputs += tuple(self._guide(inputs[0], identify).values())
        return Node(stage, STAGES[stage], made_by, inputs)

    def key(self, stage: str, identify: Identify | None = None) -> str:
        """The key of one stage; without `identify` the data and the weights are read to know what they are."""
        nodes = self.nodes(identify or identity)
        if stage not in nodes:
            raise UserError(f"this experiment has no stage {stage!r}{did_you_mean(stage, list(nodes))}")
        return nodes[stage].key


def needs_denoiser(part: Any) -> bool:
    """Whether a method, a view or an evaluation works with the experiment's denoiser."""
    return part is not None and bool(getattr(part, "needs_denoiser", False))


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
