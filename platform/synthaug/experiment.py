"""Experiment and Sweep: what is asked, as frozen values that travel as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from synthaug.changes import jsonable, replace
from synthaug.classify.augment import HorizontalFlip
from synthaug.classify.mixing import Concat, Utilize
from synthaug.classify.recipe import Recipe, several
from synthaug.classify.subset import Subset
from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.finetune import Finetune
from synthaug.diffusion.pixel_models import DenoiserModel, PretrainedUNet, TrainedModel
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.base import ImageEvaluation, Measurement
from synthaug.evaluate.filter import Filter
from synthaug.methods.base import Method
from synthaug.search.course import Budget
from synthaug.search.fields import Make
from synthaug.search.race import Scheduler
from synthaug.search.searchers import Grid, Searcher, spread, tried
from synthaug.search.space import Choice, Domain
from synthaug.settings import (
    Count,
    NotKeyed,
    OneOf,
    UserError,
    did_you_mean,
    find_class,
    from_json,
    settings,
)
from synthaug.settings import names as names_of


@settings
class Resources:
    """Where and how wide things run; never enters a key."""

    checkpoint_s: Annotated[float, Field(ge=0)] = 30.0


def _named_backbone(value: Any) -> Any:
    return Backbone(model=value) if isinstance(value, str) else value


def _named_denoiser(value: Any) -> Any:
    """A bare class name, or else a pretrained model by name or folder."""
    known = names_of(DenoiserModel)
    if not isinstance(value, str) or value in known:
        return value
    hint = did_you_mean(value, known)
    if value.isidentifier() and "did you mean" in hint:  # and not one of the hub
        raise UserError(f"no denoiser is called {value!r}{hint}")
    return PretrainedUNet(model=value)


@settings(kw_only=True)
class Experiment:
    """One question: this data, these images made and used so, this training, these numbers.

    A subclass may name a line of its own (`stages/line.py`); None is the usual one.
    """

    # no field: the subclass's own kind in the JSON is what carries its line to the workers
    LINE: ClassVar[Any] = None
    ALSO: ClassVar[dict[str, str]] = {"amplification": "k"}  # what people call a field otherwise

    dataset: Dataset
    # of which training images new ones are made; None is all
    subset: OneOf[Subset] | None = None
    backbone: Annotated[OneOf[Backbone] | None, BeforeValidator(_named_backbone)] = None
    method: OneOf[Method] | None = None
    # None is the method's own way, () none at all
    finetune: Annotated[tuple[OneOf[Finetune], ...] | None, BeforeValidator(several)] = None
    utilize: OneOf[Utilize] = Concat()
    # not in the key of what is generated: more variants are only more shards
    k: Count = 5
    filter: OneOf[Filter] | None = None
    denoiser: Annotated[OneOf[DenoiserModel] | None, BeforeValidator(_named_denoiser)] = None
    # None: no classifier is trained, and only images and denoisers are asked about
    recipe: Recipe | None = None
    evaluations: Annotated[tuple[OneOf[Measurement], ...], BeforeValidator(several), Field(min_length=1)] = (
        Accuracy(),
    )
    # the only seed: it sets the subset, the noise, the start of the net and the order of data; arms are paired by it
    seed: Annotated[int, Field(ge=0)] = 0
    resources: NotKeyed[Resources] = Resources()

    @property
    def generator(self) -> Backbone | None:
        """The backbone asked for, or the method's own; none without a method, or where the method needs none, unless
        the denoiser works in the latents of one."""
        if self.method is None:
            return None
        space = self.denoiser.space if self.denoiser is not None and self.method.needs_denoiser else None
        return self.backbone or self.method.backbone or space

    def implied(self, name: str) -> Any:
        """What a field stands for that is None: --set backbone.precision=bf16 is about the method's own backbone."""
        return self.generator if name == "backbone" else None

    @property
    def idle(self) -> tuple[str, ...]:
        """Fields that decide nothing as they stand: where no images are made, how they would be used."""
        return () if self.method else ("backbone", "finetune", "utilize", "k", "amplification", "filter")

    @property
    def tuning(self) -> tuple[Finetune, ...]:
        """How the backbone is fitted to the data set: as asked for, or the method's own way."""
        if self.method is None:
            return ()
        asked = self.method.finetune if self.finetune is None else self.finetune
        return tuple(part.of(self.dataset) for part in asked)

    @model_validator(mode="after")
    def _has_denoiser(self) -> Experiment:
        # said when an experiment is put together, not when a worker first asks
        wanting = self._wants_denoiser()
        if wanting and self.denoiser is None:
            way = "--set denoiser=TrainedUNet (or TrainedEDM) trains one on your images, nano:ddpm knows digits"
            raise UserError(f"{type(wanting[0]).__name__} needs a denoiser; {way}", ("denoiser",))
        return self

    @model_validator(mode="after")
    def _has_classifier(self) -> Experiment:
        if self.recipe is not None:
            return self
        parts: tuple[Any, ...] = self.evaluations if self.filter is None else (self.filter, *self.evaluations)
        asking = [part for part in parts if part.needs_classifier]
        if asking:
            way = "say how (--set recipe.steps=300), or name other evaluations"
            raise UserError(f"{type(asking[0]).__name__} asks a classifier, and none is trained; {way}", ("recipe",))
        return self

    @model_validator(mode="after")
    def _has_learner(self) -> Experiment:
        if self.subset is not None and self.recipe is None:
            way = "say how it is trained (--set recipe.steps=300)"
            raise UserError(f"{type(self.subset).__name__} asks a net that is being trained; {way}", ("recipe",))
        if self.subset is not None and not self.subset.restart and self.recipe is not None:
            early = self.subset.early.of(self.recipe).model
            if early != self.recipe.model:
                raise UserError(f"{self.recipe.model} cannot go on from {early}", ("subset", "restart"))
        return self

    @model_validator(mode="after")
    def _has_one_size(self) -> Experiment:
        trained = self.denoiser.image_size if isinstance(self.denoiser, TrainedModel) else None
        if self.recipe is not None and trained not in (None, self.recipe.image_size):
            said = f"the denoiser is trained on {trained} px and the classifier on {self.recipe.image_size or 'all'}"
            raise UserError(f"{said}; leave it to recipe.image_size", ("denoiser", "image_size"))
        return self

    @property
    def image_size(self) -> int | None:
        """What images are squashed to, if they are: as the classifier's recipe says, or the trained denoiser."""
        if self.recipe is not None:
            return self.recipe.image_size
        return self.denoiser.image_size if isinstance(self.denoiser, TrainedModel) else None

    def _wants_denoiser(self) -> list[Any]:
        """What asks for one; measurements of images work with none."""
        parts = (self.method, *(self.recipe.views if self.recipe else ()), *self.evaluations)
        return [part for part in parts if getattr(part, "needs_denoiser", False)]

    @model_validator(mode="after")
    def _has_pixels(self) -> Experiment:
        if self.denoiser is None or self.denoiser.space is None:
            return self
        wanting = [part for part in self._wants_denoiser() if not getattr(part, "in_latents", False)]
        if wanting:
            said = f"{type(wanting[0]).__name__} needs a denoiser of pixels"
            raise UserError(f"{said}, and {type(self.denoiser).__name__} works in latents", ("denoiser",))
        return self

    @field_validator("evaluations")
    @classmethod
    def _told_apart(cls, evaluations: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
        # metrics have fixed names: the second would take the place of the first, silently
        named = [(type(evaluation).__name__, evaluation.prefix) for evaluation in evaluations]
        if twice := [name for name in named if named.count(name) > 1]:
            both = " of ".join(filter(None, twice[0]))
            raise UserError(f"the numbers of two evaluations would have one name ({both}); ask for one of them apart")
        return evaluations

    @staticmethod
    def spelled(name: str, value: Any) -> tuple[str, Any]:
        """A field and its value, where people call it otherwise: `amplification` counts the original too."""
        if name not in Experiment.ALSO:
            return name, value
        if not isinstance(value, int) or value < 2:
            said = "is how often an image stands in all, 2 or more; without new ones there is no method"
            raise UserError(said, (name,))
        return Experiment.ALSO[name], value - 1

    @property
    def is_nano(self) -> bool:
        """Whether an embedded model makes the images."""
        return self.generator is not None and self.generator.model.startswith("nano:")

    @property
    def label(self) -> str:
        """A short name for people."""
        method = type(self.method).__name__ if self.method else "no synthetic images"
        shots = f" {self.dataset.shots}-shot" if self.dataset.shots else ""
        return f"{self.dataset.name}{shots} {method} seed {self.seed}"

    def notes(self) -> list[str]:
        """What people should know of these settings before anything runs."""
        of_method = [] if self.method is None else self.method.notes()
        transforms = () if self.recipe is None else self.recipe.transforms
        if not self.dataset.can_mirror and any(isinstance(t, HorizontalFlip) for t in transforms):
            of_method.append("the recipe mirrors images (HorizontalFlip), which changes their class in this data set")
        if not self.dataset.can_mirror and self.denoiser is not None and self.denoiser.mirrors:
            of_method.append("the denoiser is trained on mirrored images too, whose class is another in this data set")
        if self.subset is not None and self.method is None:
            of_method.append("subset chooses the images that new ones are made of, and no method makes any")
        if self.method is None and all(isinstance(e, ImageEvaluation) for e in self.evaluations):
            of_method.append("nothing is measured: the evaluations look at generated images, and no method makes any")
        if self.denoiser is not None and not self._wants_denoiser() and self.recipe is not None:
            of_method.append("the denoiser is used by nothing here: no method, view or evaluation asks for one")
        if self.denoiser == PretrainedUNet("nano:ddpm") and self.dataset.name != "digits":
            of_method.append("nano:ddpm knows only digits; TrainedUNet is trained on your images")
        return of_method + ([] if self.denoiser is None else self.denoiser.notes(self.dataset.shots))


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
    """A base experiment varied by named arms and over a space of its fields, every point with the same seeds.

    Differences are to `baseline`. `controls` are arms that cost what the others cost: who claims a gain must beat each
    of them too. `against` names what an arm is compared with where it is neither: the first is its baseline.

    A field of the space that is not there at a point (`utilize.p` where all images are added) is not varied there. With
    a `scheduler`, or a searcher that learns from results, it is a search: points get seeds as long as they are worth
    it, by `metric` on `seeds`, within `budget` and `at_most` so much of other numbers; the winner, the baseline and the
    controls then run on the seeds `final`, which no decision has seen. They are five, if they are not named. What
    `objectives` name is weighed beside `metric` by a searcher that learns, which then looks for all that none beats.
    """

    ALONE: ClassVar[str] = "base"
    base: OneOf[Experiment]
    arms: dict[str, dict[str, Any]] = Field(default_factory=dict)
    baseline: str | None = None
    # the number that arms are compared by; None is accuracy, or what comes next to it (pages/table.py)
    metric: Annotated[str, Field(min_length=1)] | None = None
    controls: tuple[str, ...] = ()
    against: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    space: dict[str, OneOf[Domain]] = Field(default_factory=dict)
    searcher: OneOf[Searcher] = Grid()
    scheduler: OneOf[Scheduler] | None = None
    budget: Budget = Budget()
    at_most: dict[str, float] = field(default_factory=dict)  # unlike Field's, this default stays out of keys
    objectives: tuple[str, ...] = ()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    final: tuple[int, ...] | None = None

    @field_validator("arms", mode="before")
    @classmethod
    def _plain(cls, arms: Any) -> Any:
        # JSON from the start, so that a sweep equals itself after a journey
        if not isinstance(arms, dict) or not all(isinstance(fields, dict) for fields in arms.values()):
            raise UserError('needs the fields that each arm replaces, such as {"strong": {"method.strength": 0.9}}')
        return {arm: {path: jsonable(v) for path, v in fields.items()} for arm, fields in arms.items()}

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, seeds: Any) -> Any:
        # seeds=5 is short for 0 to 4
        return tuple(range(seeds)) if isinstance(seeds, int) else seeds

    @field_validator("space", mode="before")
    @classmethod
    def _lists(cls, space: Any) -> Any:
        if not isinstance(space, dict):
            raise UserError('needs the values of each field that is varied, such as {"k": [1, 5]}')
        return {
            path: Choice(tuple(jsonable(v) for v in d)) if isinstance(d, list | tuple) else d
            for path, d in space.items()
        }

    @model_validator(mode="after")
    def _checked(self) -> Sweep:
        if self.controls and self.baseline is None:
            raise UserError("they stand beside a baseline; name it", ("controls",))
        if self.baseline in self.controls or len(set(self.controls)) < len(self.controls):
            raise UserError("each stands there once, and the baseline is no control of its own", ("controls",))
        for arm, others in self.against.items():
            if arm in others or len(set(others)) < len(others):
                raise UserError("an arm is compared with others, each of them once", ("against", arm))
        for path, seeds in (("seeds", self.seeds), ("final", self.final or ())):
            if len(set(seeds)) < len(seeds):
                raise UserError("each counts once, or the interval would be of fewer than it says", (path,))
        if "" in self.arms:
            raise UserError("an arm has a name", ("arms",))
        if "seed" in self.space or any("seed" in fields for fields in self.arms.values()):
            raise UserError("seeds are those of the sweep: --set seeds=5, or seeds=[3]", ("seed",))
        # the point would win, and arms that differ in nothing but that field would be one under several names
        if both := [path for path in self.space for arm, fields in self.arms.items() if _meets(path, fields)]:
            raise UserError(f"an arm sets {both[0]} as well; leave it to one of the two", ("space", both[0]))
        named = {
            "baseline": () if self.baseline is None else (self.baseline,),
            "controls": self.controls,
            "against": (*self.against, *chain(*self.against.values())),
        }
        for path, arms in named.items():
            for arm in arms:
                if arm not in self.arms:
                    raise UserError(f"no arm is called {arm!r}{did_you_mean(arm, list(self.arms))}", (path,))
        if seen := set(self.seeds) & set(self.final or ()):
            raise UserError(f"seed {min(seen)} decides, so it cannot tell what the winner is worth", ("final",))
        if self.objectives and (self.scheduler is not None or not self.searcher.adaptive):
            raise UserError("a searcher that learns weighs them, and no race; searcher=Optuna alone", ("objectives",))
        # every value is tried on, or as many as are drawn: what does not fit is refused before anything runs
        tried(self.makers, self.space, self.searcher)
        return self

    def compared(self, arm: str) -> tuple[str, ...]:
        """The arms that one is compared with, its baseline first."""
        if arm in self.against:
            return self.against[arm]
        if self.baseline is None or arm == self.baseline:
            return ()
        return (self.baseline,) if arm in self.controls else (self.baseline, *self.controls)

    @property
    def is_search(self) -> bool:
        """Whether what runs is decided as results come in."""
        return self.scheduler is not None or self.searcher.adaptive

    @property
    def makers(self) -> dict[str, Make]:
        """By arm, its experiment with some more fields replaced."""
        # the space may vary what lies in something that an arm has set
        arms = self.arms or {self.ALONE: {}}
        return {arm: partial(self._made, fields) for arm, fields in arms.items()}

    def _made(self, fields: dict[str, Any], point: Mapping[str, Any]) -> Experiment:
        made: Experiment = replace(self.base, fields | dict(point))
        return made

    def trials(self) -> list[Trial]:
        """Every trial of what is no search, arms first, then points, then seeds."""
        points = spread(self.makers, self.space, self.searcher)
        return [self.trial(arm, point, seed) for arm, point in points for seed in self.seeds]

    def trial(self, arm: str, point: dict[str, Any], seed: int) -> Trial:
        # the seed is not among the fields, which are what the seeds of a point have in common
        fields = self.arms.get(arm, {}) | point
        return Trial(arm, seed, fields, replace(self.base, fields | {"seed": seed}))


def _meets(path: str, fields: dict[str, Any]) -> bool:
    """Whether a replaced field is at the path or below it; one above it has the path in what it brings."""
    return any(f"{field}.".startswith(f"{path}.") for field in fields)


def load(text: str) -> Experiment | Sweep:
    """An experiment or a sweep from its JSON."""
    try:
        return read(json.loads(text))
    except json.JSONDecodeError as error:
        raise UserError(f"is no JSON: {error}") from None


def read(data: Any) -> Experiment | Sweep:
    """An experiment or a sweep from the JSON of either, as it is written today or was before."""
    kind = data.get("kind") if isinstance(data, dict) else None  # older JSON of an experiment names none
    base: Any = Experiment
    with suppress(UserError):
        base = find_class(Sweep, str(kind))
    found: Experiment | Sweep = from_json(base, data)
    return found
