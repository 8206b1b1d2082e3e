"""Line: what an experiment is made of, and how its stages hang together.

Each stage is a property and is pulled: who is not asked for is not made. An experiment of one's own may have a line of
its own (`Experiment.LINE`): a subclass of this one with a property more, or another `sources`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from synthaug.classify.recipe import Recipe
from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.layout import FOLDER
from synthaug.diffusion.pixel_models import PretrainedUNet, TrainedModel
from synthaug.evaluate.base import DenoiserEvaluation, Evaluation, ImageEvaluation, MappedEvaluation, Measurement
from synthaug.evaluate.transformed import Transformed
from synthaug.experiment import Experiment
from synthaug.methods.base import Maker
from synthaug.methods.latents import Latents
from synthaug.settings import UserError, keyed
from synthaug.stages.adapter import Tuned
from synthaug.stages.base import Stage, closure, once
from synthaug.stages.classifier import Classifier, Judge
from synthaug.stages.data import SUBSET, Data, Library, Model, Pictures, contents
from synthaug.stages.denoiser import TrainedDenoiser
from synthaug.stages.detector import TrainedDetector
from synthaug.stages.evaluate import ImageByImage, OfDenoiser, OfImages, Whole
from synthaug.stages.filter import Filtered, Scores
from synthaug.stages.guide import TrainedGuide
from synthaug.stages.images import Copies, Generated, Made, Prepared
from synthaug.stages.subset import Chosen, EarlyNet

S = TypeVar("S", bound=Made)
C = TypeVar("C", bound=Classifier)
MADE_HERE = "run:"  # before the key of a stage of this home whose denoiser another experiment names


class Line:
    """The stages of an experiment. Equal ones have equal keys, whoever's they are."""

    def __init__(self, experiment: Experiment, library: Library) -> None:
        self.experiment, self.library = experiment, library
        self._copies: dict[tuple[Any, ...], Copies] = {}  # one object for all who ask for the same

    # --- what they work on

    @cached_property
    def data(self) -> Data:
        return Data(self.experiment.dataset, self.library)

    @cached_property
    def sources(self) -> Stage[Pictures]:
        """Whose training images new ones are made of; everything else sees all of `data`."""
        subset, learner = self.experiment.subset, self.learner
        if subset is None or learner is None:
            return self.data
        return Chosen(self.data, learner, subset, self.experiment.seed)

    @cached_property
    def learner(self) -> EarlyNet | None:
        """The net that tells which images are learned slowly."""
        subset, recipe = self.experiment.subset, self.experiment.recipe
        if subset is None or recipe is None:
            return None
        early = subset.early.of(recipe)
        return EarlyNet(self.data, subset, recipe, self.experiment.seed, self.named(early))

    @property
    def subset_seed(self) -> int | None:
        """The seed that the training images hang on, if they do."""
        dataset = self.experiment.dataset
        # all images, or a subset that the data set fixes itself, are the same for every seed
        return self.experiment.seed if dataset.shots is not None and dataset.subset_seed is None else None

    @property
    def size(self) -> int | None:
        return self.experiment.image_size

    def named(self, value: Any) -> dict[str, str]:
        """What the files and models that some settings name hold."""
        return contents(value, self.library.identify)

    # --- what is trained for diffusion

    @cached_property
    def denoiser(self) -> Stage[Any] | None:
        model, seed = self.experiment.denoiser, self.experiment.seed
        if isinstance(model, PretrainedUNet) and model.model.startswith(MADE_HERE):
            place = self.library.made(model.model.removeprefix(MADE_HERE)) / FOLDER
            if not place.is_dir():
                raise UserError(f"{model.model} is the key of another stage, not of a denoiser", ("denoiser",))
            model = dataclasses.replace(model, model=str(place))
        if isinstance(model, TrainedModel):
            named = self.named(model)
            return TrainedDenoiser(self.data, self.latents, model.of(seed), seed, self.subset_seed, self.size, named)
        return None if model is None else Model("denoiser", model, self.library)

    @cached_property
    def latents(self) -> Prepared | None:
        """What the denoiser's VAE makes of the training images, if it is trained on that."""
        e = self.experiment
        if e.denoiser is None or e.denoiser.space is None:
            return None
        maker, space = Latents(), e.denoiser.space
        settings = {"method": keyed(maker), "method version": maker.version, "seed": self.subset_seed}
        return Prepared(e.seed, maker, 1, settings, {"data": self.data}, space, self.backbone_key(space))

    @cached_property
    def guide(self) -> TrainedGuide | None:
        e = self.experiment
        if e.method is None or (guide := e.method.guided_by) is None:
            return None
        denoiser = self.denoiser if guide.needs_denoiser else None
        return TrainedGuide(self.data, denoiser, guide, e.seed, self.subset_seed, self.size)

    @cached_property
    def adapters(self) -> Tuned | None:
        """The last of the fine-tunings, each of which has the one before as an input."""
        e, found = self.experiment, None
        for number, last in enumerate(e.tuning, 1):
            if e.generator is None:
                raise UserError(f"{type(e.method).__name__} has no backbone to fine-tune", ("finetune",))
            # how images will be sampled is no matter of what is learned
            base, before = e.generator.for_tuning(), e.tuning[:number]
            found = Tuned(self.data, found, before, base, e.seed, self.backbone_key(base), self.named(last))
        return found

    def backbone_key(self, backbone: Backbone | None) -> dict[str, Any]:
        """A backbone in a key, with what its weights and those added to it hold."""
        return {} if backbone is None else {"backbone": keyed(backbone)} | self.named({"backbone": backbone})

    # --- images

    @cached_property
    def prepared(self) -> Prepared | None:
        method = self.experiment.method
        if method is None or method.before is None:
            return None
        # one of each source, whatever k is
        return self._of_backbone(Prepared, method.before, 1)

    @cached_property
    def generated(self) -> Generated | None:
        e = self.experiment
        if e.method is None:
            return None
        return self._of_backbone(Generated, e.method, e.k, self.prepared, self.guide)

    def _of_backbone(
        self, shape: type[S], maker: Maker, k: int, prepared: Prepared | None = None,
        guide: TrainedGuide | None = None, sources: Stage[Pictures] | None = None, first: int = 1,
    ) -> S:  # fmt: skip
        e, backbone, named = self.experiment, self.experiment.generator, self.named(maker)
        # the words are those of its first version
        settings: dict[str, Any] = {"method": keyed(maker), "method version": maker.version, "seed": e.seed}
        settings |= {"contents": named} if named else {}
        # in this order their keys enter the key of the images
        inputs = {
            "data": sources or self.sources, "adapter": self.adapters, "prepared": prepared,
            "denoiser": self.denoiser if maker.needs_denoiser else None, "guide": guide,
        }  # fmt: skip
        return shape(e.seed, maker, k, settings, inputs, backbone, self.backbone_key(backbone), e.tuning, first)

    @cached_property
    def images(self) -> Generated | Filtered | None:
        """The generated images that are used."""
        chosen, made = self.experiment.filter, self.generated
        if chosen is None or made is None:
            return made
        named = self.named(chosen)
        judge = self.judge if chosen.needs_classifier else None
        # scores are of all that was generated; what stays of them is for each share to choose
        return Filtered(chosen, Scores(chosen, self.data, made, judge, self.size, named), self.experiment.k, named)

    @cached_property
    def judge(self) -> Any:
        """The classifier of the real images alone, whom a filter or a measurement of images may ask."""
        # The recipe stays: so it is the very classifier that plain training gives, and is found if that was done.
        without: dict[str, Any] = dict.fromkeys(("subset", "backbone", "method", "finetune", "filter"))
        real_only = dataclasses.replace(self.experiment, **without)
        # by a line of the same class, which may say otherwise what training sees
        return type(self)(real_only, self.library)._classifier(Judge)

    def asked(self, evaluation: ImageEvaluation) -> Stage[Any] | None:
        """The net that a measurement of images asks, if it does."""
        if evaluation.needs_classifier:
            judge: Stage[Any] = self.judge
            return judge
        if isinstance(evaluation, Transformed):
            return TrainedDetector(self.whole, evaluation.detector, self.size)
        if evaluation.examiner is None:
            return None
        # of all training images, whatever the experiment's subset: one for every arm and seed; of the size that it sees
        recipe = dataclasses.replace(evaluation.examiner, image_size=evaluation.examiner.image_size or self.size)
        alone = Experiment(dataset=self.whole.dataset, recipe=recipe)
        examiner: Stage[Any] = type(self)(alone, self.library)._classifier(Judge)
        return examiner

    @cached_property
    def whole(self) -> Data:
        """The data set with all of its training images."""
        return Data(dataclasses.replace(self.experiment.dataset, shots=None, subset_seed=None), self.library)

    def copies(self, maker: Maker, k: int, split: str = SUBSET, dataset: Dataset | None = None) -> Copies:
        """Copies 1..k of each image of a split, of the experiment's own data set or another; equal ones once."""
        wanted = maker, k, split, dataset
        if wanted not in self._copies:
            source = self.data if dataset is None else Data(dataset, self.library)
            settings = {"maker": keyed(maker), "maker version": maker.version, "split": split, "size": self.size}
            # a seed only where the images that are copied hang on one
            settings |= self.named(maker) | ({"seed": self.subset_seed} if split == SUBSET else {})
            inputs = {"data": source, "denoiser": self.denoiser if maker.needs_denoiser else None}
            self._copies[wanted] = Copies(self.experiment.seed, maker, k, split, self.size, settings, inputs)
        return self._copies[wanted]

    # --- training and numbers

    @cached_property
    def classifier(self) -> Classifier:
        return self._classifier(Classifier, self.images)

    def _classifier(self, shape: type[C], images: Stage[Any] | None = None, recipe: Recipe | None = None) -> C:
        """One of `images`, by another recipe than the experiment's if there is one."""
        e, recipe = self.experiment, recipe or self.experiment.recipe
        assert recipe is not None, "no classifier is trained"
        views = recipe.views
        wanted = {place: view.copies() for place, view in enumerate(views)}
        copies = {place: self.copies(*found) for place, found in wanted.items() if found is not None}
        # a view whose copies are made first asks no denoiser while the net is trained
        looping = any(view.needs_denoiser for place, view in enumerate(views) if place not in copies)
        named = self.named(recipe)
        denoiser = self.denoiser if looping else None
        goes_on = e.subset is not None and not e.subset.restart and images is not None
        start = self.learner if goes_on else None
        return shape(self.data, images, copies, denoiser, start, recipe, e.utilize, e.k, e.seed, named)

    @cached_property
    def results(self) -> dict[str, Stage[Any]]:
        """What the experiment asks for, by name; all else is made because these need it. Generated images are measured
        only where there are any."""
        found: dict[str, Stage[Any]] = {}
        if self.experiment.recipe is not None:
            found["train"] = self.classifier
        elif self.images is not None:  # then they are what is asked for, measured or not
            found[self.images.name] = self.images
        for number, evaluation in enumerate(self.experiment.evaluations, 1):
            if self.generated or not isinstance(evaluation, ImageEvaluation):
                found[nth("evaluate", number)] = self.measured(evaluation)
        return found

    def measured(self, evaluation: Measurement) -> Stage[Any]:
        """The numbers of one evaluation."""
        e, named = self.experiment, self.named(evaluation)
        named |= {"version": str(evaluation.version)} if evaluation.version > 1 else {}
        if isinstance(evaluation, ImageEvaluation):
            return OfImages(
                evaluation, self.data, self.images, self.asked(evaluation), e.k, e.seed, self.size, named
            )  # fmt: skip
        if isinstance(evaluation, DenoiserEvaluation):
            assert self.denoiser is not None, "no denoiser is named"
            return OfDenoiser(
                evaluation, self.data, self.denoiser, e.seed, self.subset_seed, self.size, named
            )  # fmt: skip
        assert isinstance(evaluation, Evaluation), evaluation
        other, wanted = evaluation.dataset, evaluation.copies()
        # who asks for copies as it goes finds those that another evaluation has had made first
        made_first = wanted if evaluation.copies_first else [copy for copy in wanted if (other, copy) in self._shared]
        copies = [self.copies(maker, maker.variants, split, other) for split, maker in made_first]
        # copies that were made first have asked the denoiser in its place
        asks = evaluation.needs_denoiser and not (evaluation.copies_first and copies)
        shown = self.data if other is None else Data(other, self.library)
        shape = ImageByImage if isinstance(evaluation, MappedEvaluation) else Whole
        return shape(
            evaluation, self.classifier, self.data, shown, copies, self.denoiser if asks else None, self.size, named
        )  # fmt: skip

    @cached_property
    def _shared(self) -> set[tuple[Dataset | None, tuple[str, Maker]]]:
        """The copies that evaluations want made first, by the data set and split that they are of."""
        asked = [e for e in self.experiment.evaluations if isinstance(e, Evaluation) and e.copies_first]
        return {(evaluation.dataset, copy) for evaluation in asked for copy in evaluation.copies()}

    # --- all of them

    def stages(
        self, helps: Callable[[Stage[Any], Stage[Any]], bool] = lambda stage, helper: True
    ) -> dict[str, Stage[Any]]:
        """Every stage by the name that people know it by, inputs first; of equal ones the one that asks for most."""
        results = self.results
        # what was asked for keeps the name under which it was; all else is numbered as it comes
        names = {stage.key: name for name, stage in results.items()}
        counts: Counter[str] = Counter()
        found: dict[str, Stage[Any]] = {}
        for stage in once(closure(results.values(), helps)):
            if stage.key not in names:
                counts[stage.name] += 1
                names[stage.key] = nth(stage.name, counts[stage.name])
            found[names[stage.key]] = stage
        return found


def line_of(experiment: Experiment, library: Library) -> Line:
    """The line that an experiment asks for, or the usual one."""
    made: Line = (experiment.LINE or Line)(experiment, library)
    return made


def nth(stage: str, number: int) -> str:
    """The name of one of several stages of a kind."""
    return stage if number == 1 else f"{stage}.{number}"
