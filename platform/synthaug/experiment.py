"""Experiment and Sweep: what is asked, as frozen values that travel as JSON; the stages that follow and their keys."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from synthaug.classify.mixing import Concat, Utilize
from synthaug.classify.recipe import Recipe
from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.finetune import Finetune
from synthaug.diffusion.guide import Guide
from synthaug.diffusion.pixel_models import DenoiserModel, PretrainedUNet, TrainedUNet
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.base import Evaluation, ImageEvaluation, Measurement
from synthaug.evaluate.filter import Filter
from synthaug.methods.base import Maker, Method
from synthaug.settings import (
    Count,
    NotKeyed,
    OneOf,
    UserError,
    did_you_mean,
    from_json,
    jsonable,
    keyed,
    replace,
    seed_of,
    settings,
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
    k: Count = 5
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

    @field_validator("evaluations")
    @classmethod
    def _told_apart(cls, evaluations: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
        named = [(type(evaluation).__name__, evaluation.under) for evaluation in evaluations]
        if twice := [name for name in named if named.count(name) > 1]:
            both = " of ".join(filter(None, twice[0]))
            raise UserError(f"the numbers of two evaluations would have one name ({both}); ask for one of them apart")
        return evaluations

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

    def measured(self) -> dict[str, Measurement]:
        """The evaluations by the names of their stages; those of generated images only where there are any."""
        named = zip(numbered("evaluate", len(self.evaluations)), self.evaluations, strict=True)
        return {n: e for n, e in named if self.method is not None or not isinstance(e, ImageEvaluation)}

    def nodes(self, identify: Identify) -> dict[str, Node]:
        """The stages of this experiment by name, in the order in which they are made."""
        return _Nodes(self, identify).all()

    def stage_of(self, making: Making) -> str:
        """The name of the stage that makes this."""
        return next(name for name, known in self.makings.items() if known == making)

    def key(self, stage: str, identify: Identify | None = None) -> str:
        """The key of one stage; without `identify` the data and the weights are read to know what they are."""
        stages = self.nodes(identify or identity)
        if stage not in stages:
            raise UserError(f"this experiment has no stage {stage!r}{did_you_mean(stage, list(stages))}")
        return stages[stage].key


def needs_denoiser(part: Any) -> bool:
    """Whether a method, a view or an evaluation works with the experiment's denoiser."""
    return part is not None and bool(getattr(part, "needs_denoiser", False))


# --- stages -----------------------------------------------------------------------------------------------------------


class _Nodes:
    """The stages of an experiment, each with what its key hangs on."""

    def __init__(self, experiment: Experiment, identify: Identify) -> None:
        self.experiment, self.identify = experiment, identify
        self.data = self._of_data(experiment.dataset)
        self.found: dict[str, Node] = {}
        self.images: tuple[Node, ...] = ()  # the generated ones, filtered if they are

    def all(self) -> dict[str, Node]:
        e, found = self.experiment, self.found
        if e.trains_denoiser:
            found["denoiser"] = self._denoiser()
        if e.guide is not None:
            found["guide"] = self._guide(e.guide)
        if e.method is not None:
            self._generation(e.method)
        found |= {name: self._looked(making) for name, making in e.makings.items() if name.startswith("views")}
        found["train"] = self._train()
        found |= {name: self._evaluated(evaluation) for name, evaluation in e.measured().items()}
        return found

    def _of_data(self, dataset: Dataset) -> Node:
        return Node("data", 0, {"dataset": content(dataset), "content": self.identify(dataset)})

    def _node(self, stage: str, made_by: dict[str, Any], *inputs: Node) -> Node:
        return Node(stage, STAGES[stage], made_by, inputs)

    # --- what other stages work with

    def _denoiser(self) -> Node:
        e = self.experiment
        assert isinstance(e.denoiser, TrainedUNet)
        made_by = {"denoiser": keyed(e.denoiser), "version": e.denoiser.version, "seed": e.drawn}
        return self._node("denoiser", made_by | {"size": e.recipe.image_size}, self.data)

    def _asks(self, wanted: bool) -> tuple[dict[str, Any], tuple[Node, ...]]:
        """What the denoiser adds to the settings and to the inputs of a stage, if that uses it."""
        denoiser = self.experiment.denoiser
        if not wanted:
            return {}, ()
        if "denoiser" in self.found:
            return {}, (self.found["denoiser"],)
        assert denoiser is not None
        return {"denoiser": keyed(denoiser)} | contents({"denoiser": denoiser}, self.identify), ()

    def _guide(self, guide: Guide) -> Node:
        e = self.experiment
        made_by = {"guide": keyed(guide), "version": guide.version, "seed": e.drawn, "size": e.recipe.image_size}
        more, denoiser = self._asks(guide.needs_denoiser)
        return self._node("guide", made_by | more, self.data, *denoiser)

    def _judge(self, wanted: bool) -> tuple[Node, ...]:
        """The classifier of the real images, if it is asked."""
        return (self.experiment.real_only().nodes(self.identify)["train"],) if wanted else ()

    # --- images

    def _generation(self, method: Method) -> None:
        """The stages that end with the images to use."""
        e = self.experiment
        before: tuple[Node, ...] = (self.data,)
        for name, finetune in zip(numbered("finetune", len(e.tuning)), e.tuning, strict=True):
            self.found[name] = self._tuned(finetune, *before)
            before = (self.data, self.found[name])
        if method.before is not None:
            self.found["prepare"] = self._made("prepare", method.before, *before)
            before = (*before, self.found["prepare"])
        self.found["generate"] = last = self._made("generate", method, *before)
        if e.filter is not None:
            asked = {"filter": keyed(e.filter), "k": e.k} | contents(e.filter, self.identify)
            self.found["filter"] = last = self._node("filter", asked, last, *self._judge(e.filter.needs_classifier))
        self.images = (last,)

    def _tuned(self, finetune: Finetune, *inputs: Node) -> Node:
        e = self.experiment
        if e.generator is None:
            raise UserError(f"{type(e.method).__name__} has no backbone to fine-tune", ("finetune",))
        base = e.generator.for_tuning()
        made_by = {"finetune": keyed(finetune), "version": finetune.version, "seed": e.seed}
        return self._node("finetune", made_by | self._drawn_by(base) | contents(finetune, self.identify), *inputs)

    def _drawn_by(self, backbone: Backbone) -> dict[str, Any]:
        """A backbone in a key, with what its weights and those added to it hold."""
        return {"backbone": keyed(backbone)} | contents({"backbone": backbone}, self.identify)

    def _made(self, stage: str, maker: Maker, *inputs: Node) -> Node:
        e = self.experiment
        made_by = {"method": keyed(maker), "method version": maker.version, "seed": e.seed}
        if e.generator is not None:
            made_by |= self._drawn_by(e.generator)
        if named := contents(maker, self.identify):
            made_by["contents"] = named
        more, denoiser = self._asks(maker.needs_denoiser)
        guide = [self.found["guide"]] if stage == "generate" and "guide" in self.found else []
        return self._node(stage, made_by | more, *inputs, *denoiser, *guide)

    def _looked(self, making: Making) -> Node:
        """Images made beforehand: of the training subset, which may hang on the seed, or of a split, which does not."""
        e, maker = self.experiment, making.maker
        source = self.data if making.dataset is None else self._of_data(making.dataset)
        made_by = {"maker": keyed(maker), "maker version": maker.version, "split": making.split}
        made_by |= {"size": e.recipe.image_size} | contents(maker, self.identify)
        made_by |= {"seed": e.drawn} if making.split == SUBSET else {}
        more, denoiser = self._asks(maker.needs_denoiser)
        return self._node("views", made_by | more, source, *denoiser)

    # --- training and numbers

    def _train(self) -> Node:
        e = self.experiment
        asked: dict[str, Any] = {"recipe": keyed(e.recipe), "seed": e.seed} | contents(e.recipe, self.identify)
        if e.method is not None:
            asked |= {"utilize": keyed(e.utilize), "k": e.k}
        made = {view: making for view in e.recipe.views if (making := beforehand(view))}
        looks = [self.found[e.stage_of(making)] for making in made.values()]
        more, denoiser = self._asks(any(view.needs_denoiser and view not in made for view in e.recipe.views))
        return self._node("train", asked | more, self.data, *self.images, *looks, *denoiser)

    def _evaluated(self, evaluation: Measurement) -> Node:
        e = self.experiment
        asked = keyed(evaluation) | contents(evaluation, self.identify)
        if isinstance(evaluation, ImageEvaluation):
            judge = self._judge(evaluation.needs_classifier)
            return self._node("evaluate", asked | {"k": e.k}, self.data, *self.images, *judge)
        assert isinstance(evaluation, Evaluation)
        looks = [self.found[e.stage_of(making)] for making in of_evaluation(evaluation)]
        more, denoiser = self._asks(evaluation.needs_denoiser and not looks)
        return self._node("evaluate", asked | more, self.found["train"], *looks, *denoiser)


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
        return {arm: {path: jsonable(v) for path, v in fields.items()} for arm, fields in arms.items()}

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, seeds: Any) -> Any:
        return tuple(range(seeds)) if isinstance(seeds, int) else seeds

    @field_validator("space", mode="before")
    @classmethod
    def _lists(cls, space: Any) -> Any:
        return {
            path: Choice(tuple(jsonable(v) for v in d)) if isinstance(d, list | tuple) else d
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


def load(text: str) -> Experiment | Sweep:
    """An experiment or a sweep from its JSON."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"is no JSON: {error}") from None
    is_sweep = isinstance(data, dict) and str(data.get("kind", "")).endswith(":Sweep")
    return from_json(Sweep, data) if is_sweep else from_json(Experiment, data)
