"""What each stage's key hangs on: a change has to move the keys of all stages whose output it changes, and no others.
A key that stays when it should not gives people the results of another experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from making import key_of, stages_of
from synthaug.classify.views import AugMixView, DiffAugView, SecondView
from synthaug.clip import Clip
from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import AddedLoRA, Backbone
from synthaug.diffusion.finetune import LoRA, TextualInversion
from synthaug.diffusion.guide import Guide
from synthaug.diffusion.one_step import Diffusion
from synthaug.diffusion.pixel_models import TrainedUNet
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.features import ClipFeatures
from synthaug.evaluate.fidelity import Fidelity
from synthaug.evaluate.filter import BaseProb
from synthaug.evaluate.gradients import Gradients
from synthaug.evaluate.leak import Leak
from synthaug.evaluate.predict import Ensemble
from synthaug.evaluate.recognised import Recognised
from synthaug.evaluate.robustness import Robustness
from synthaug.experiment import Experiment, Recipe, replace
from synthaug.methods.diff_ii import DiffII
from synthaug.methods.diffuse_denoise import DiffuseDenoise
from synthaug.methods.guided import ClassifierGuided
from synthaug.methods.real_guidance import RealGuidance
from synthaug.weights import Weights

DE = Ensemble(times=(0.0, 0.2))
RECIPE = Recipe(steps=4, batch_size=8)
CHANGED = {"nano:ddpm": "other weights", "nano:lcm": "another LoRA"}
TRAINED = TrainedUNet(steps=10)


def identify(thing: Any) -> str:
    return thing.model if isinstance(thing, Weights) else str(thing)


def otherwise(thing: Any) -> str:
    """Another model at the same place."""
    return CHANGED.get(thing.model, thing.model) if isinstance(thing, Weights) else str(thing)


def asking(**fields: Any) -> Experiment:
    """Twins made beforehand, and three ways to measure: without a denoiser, with copies, and in the loop."""
    known: dict[str, Any] = {
        "dataset": Dataset("digits", shots=5), "denoiser": TRAINED,
        "recipe": Recipe(steps=4, batch_size=8, views=(DiffAugView(cached=2), SecondView())),
        "evaluations": (Accuracy(), Accuracy(predictor=DE), Gradients()),
    }  # fmt: skip
    return Experiment(**known | fields)


def guided(second: str = "noisy", **fields: Any) -> Experiment:
    method = ClassifierGuided(guide=Guide(steps=4, second=second), steps=2)  # type: ignore[arg-type]
    known: dict[str, Any] = {"dataset": Dataset("digits", shots=5), "denoiser": TRAINED, "recipe": RECIPE}
    return Experiment(**known | {"method": method, "evaluations": (Accuracy(), Recognised())} | fields)


def keys(experiment: Experiment) -> dict[str, str]:
    return {name: stage.key for name, stage in stages_of(experiment, identify).items()}


def changed(one: Experiment, other: Experiment, see: Callable[[Any], str] = identify) -> set[str]:
    before, after = stages_of(one, identify), stages_of(other, see)
    assert list(before) == list(after)
    return {name for name in before if before[name].key != after[name].key}


MEASURED = {"evaluate", "evaluate.2", "evaluate.3"}
ALL = {"denoiser", "views", "views.2", "train", *MEASURED}
COPIED = {"views.2", "evaluate.2"}
FEW: dict[str, Any] = {}
POOL: dict[str, Any] = {"dataset": Dataset("digits")}  # all of it: no seed draws the images
FIXED: dict[str, Any] = {"dataset": Dataset("digits", shots=5, subset_seed=3)}
NANO: dict[str, Any] = {"denoiser": "nano:ddpm"}
LOOP: dict[str, Any] = {"recipe": Recipe(steps=4, batch_size=8, views=(DiffAugView(),))}
NOISE: dict[str, Any] = {"recipe": Recipe(steps=4, batch_size=8, views=(DiffAugView(how=Diffusion(denoise=False)),))}
PLAIN: dict[str, Any] = {"recipe": RECIPE}


@pytest.mark.parametrize(
    ("fields", "path", "value", "expected"),
    [
        (FEW, "seed", 1, ALL),
        (POOL, "seed", 1, {"train", *MEASURED}),
        (FIXED, "seed", 1, {"train", *MEASURED}),
        (FIXED, "dataset.subset_seed", 4, ALL),
        (FEW, "dataset.shots", 6, ALL),
        (FEW, "denoiser.steps", 11, ALL),
        (FEW, "recipe.image_size", 16, ALL),
        (FEW, "recipe.steps", 5, {"train", *MEASURED}),
        (FEW, "recipe.views.0.how.high", 0.5, {"views", "train", *MEASURED}),
        (FEW, "recipe.views.0.weight", 2.0, {"train", *MEASURED}),
        (FEW, "recipe.views.0.cached", 3, {"train", *MEASURED}),  # more variants of the same stage
        (FEW, "evaluations.1.predictor.times", [0.0, 0.3], COPIED),
        (FEW, "evaluations.1.split", "val", COPIED),
        (FEW, "evaluations.2.time", 0.5, {"evaluate.3"}),
        (FEW, "resources.checkpoint_s", 1.0, set()),
        (PLAIN | POOL, "denoiser.steps", 11, {"denoiser", "views", "evaluate.2", "evaluate.3"}),
        (LOOP, "denoiser.steps", 11, {"denoiser", "views", "train", *MEASURED}),
        (NOISE, "denoiser.steps", 11, {"denoiser", "views", "evaluate.2", "evaluate.3"}),
        (NANO, "seed", 1, {"views", "train", *MEASURED}),
        (NANO, "recipe.image_size", 16, {"views", "views.2", "train", *MEASURED}),
        (NANO, "denoiser.precision", "bf16", {"views", "views.2", "train", *MEASURED}),
    ],
)  # fmt: skip
def test_settings(fields: dict[str, Any], path: str, value: Any, expected: set[str]) -> None:
    base = asking(**fields)
    assert changed(base, replace(base, {path: value})) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (NANO, {"views", "views.2", "train", *MEASURED}),
        (NANO | LOOP, {"views", "train", *MEASURED}),
        (NANO | PLAIN, {"views", "evaluate.2", "evaluate.3"}),
        (NANO | NOISE, {"views", "evaluate.2", "evaluate.3"}),
        (FEW, set()),
    ],
)
def test_other_weights_at_the_same_place(fields: dict[str, Any], expected: set[str]) -> None:
    base = asking(**fields)
    assert changed(base, base, otherwise) == expected


def test_what_stops_asking_hangs_on_the_denoiser_and_not_on_copies() -> None:
    adaptive = replace(DE, {"margin": 0.5})
    base, both = (
        asking(**NANO | PLAIN, evaluations=found)
        for found in ((Accuracy(predictor=adaptive),), (Accuracy(predictor=DE), Accuracy(predictor=adaptive)))
    )
    assert list(stages_of(base, identify)) == ["train", "evaluate"], "nothing is made beforehand for it alone"
    assert key_of(base, "evaluate", identify) == key_of(both, "evaluate.2", identify)
    assert changed(base, base, otherwise) == {"evaluate"}
    assert changed(base, replace(base, {"evaluations.0.predictor.margin": 0.6})) == {"evaluate"}


def test_weights_that_are_added_to_a_backbone_count() -> None:
    backbone = Backbone("nano:sd", lora=AddedLoRA("nano:lcm"))
    base = Experiment(dataset=Dataset("digits", shots=5), recipe=RECIPE, method=RealGuidance(), backbone=backbone)
    assert changed(base, base, otherwise) == {"generate", "train", "evaluate"}


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    base = asking(**POOL)
    before = keys(base)
    monkeypatch.setattr(DiffuseDenoise, "version", DiffuseDenoise.version + 1)
    after = keys(base)
    assert {name for name in before if before[name] != after[name]} == {"views", "train", *MEASURED}


def test_copies_are_of_the_data_set_that_is_measured() -> None:
    one, other = (
        asking(**POOL, evaluations=(Accuracy(predictor=DE), Accuracy(predictor=DE, dataset=Dataset(name)), Accuracy()))
        for name in ("digits", "glyphs")
    )
    found = keys(one)
    assert sorted(found)[-2:] == ["views", "views.2"], "equal data sets ask for the same copies"
    made = [keys(other)[name] for name in ("views.2", "views.3")]
    assert found["views.2"] == made[0] != made[1]


def test_what_is_set_of_another_data_set_counts_beside_its_content() -> None:
    base = asking(**PLAIN, evaluations=(Accuracy(dataset=Dataset("digits"), split="val"), Accuracy()))
    assert changed(base, replace(base, {"evaluations.0.dataset.val_share": 0.5})) == {"evaluate"}


def test_arms_share_what_does_not_hang_on_them() -> None:
    """Copies of test images are made once for all recipes and seeds, with or without twins beside them."""
    arms = [asking(**POOL | NANO, seed=seed) for seed in (0, 1)]
    arms += [asking(**POOL | NANO | more) for more in (PLAIN, LOOP, NOISE)]
    copies = [{key for name, key in keys(e).items() if name.startswith("views")} for e in arms]
    assert len(set.intersection(*copies)) == 1


def test_corrupted_copies_are_not_one_anothers() -> None:
    looks = Robustness(corruptions=("fog", "snow"), severities=(1, 2), predictor=DE)
    found = keys(asking(**PLAIN, evaluations=(looks,)))
    assert len({key for name, key in found.items() if name.startswith("views")}) == 4


USED = {"generate", "train", "evaluate", "evaluate.2"}
LEARNED = {"judge", "train", "evaluate", "evaluate.2"}  # two classifiers, and who asks them


@pytest.mark.parametrize(
    ("base", "path", "value", "expected"),
    [
        (guided(), "denoiser.steps", 11, {"denoiser", *USED}),
        (guided("denoised"), "denoiser.steps", 11, {"denoiser", "guide", *USED}),
        (guided(), "method.guide.steps", 5, {"guide", *USED}),
        (guided(), "method.scale", 2.0, USED),
        (guided(), "seed", 1, {"denoiser", "guide", "judge", *USED}),
        (guided(**POOL), "seed", 1, {"judge", *USED}),
        (guided(**FIXED), "seed", 1, {"judge", *USED}),
        (guided(), "recipe.image_size", 16, {"denoiser", "guide", "judge", *USED}),
        (guided(**NANO), "recipe.image_size", 16, {"guide", "judge", *USED}),
        (guided(), "k", 6, USED - {"generate"}),  # more variants of the same stage
        (guided(), "utilize", "Replace", {"train", "evaluate"}),
        (guided(filter=BaseProb()), "recipe.steps", 5, {"scores", "filter", *LEARNED}),
        (guided(), "recipe.steps", 5, LEARNED),  # the judge learns so long as well
        (guided(recipe=Recipe(steps=4, batch_size=8, views=(AugMixView(),))), "recipe.views.0.width", 2,
         LEARNED),
    ],
)  # fmt: skip
def test_guided_images(base: Experiment, path: str, value: Any, expected: set[str]) -> None:
    assert changed(base, replace(base, {path: value})) == expected


def test_a_guide_looks_at_the_weights_only_through_guesses() -> None:
    for second, expected in (("noisy", USED), ("denoised", {"guide", *USED})):
        base = guided(second, **NANO)
        assert changed(base, base, otherwise) == expected


def test_each_step_of_making_images_rests_on_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Experiment(
        dataset=Dataset("digits", shots=5), backbone="nano:sd", method=DiffII(), recipe=RECIPE,
        finetune=(TextualInversion(steps=2), LoRA(steps=2)), evaluations=(Accuracy(),),
    )  # fmt: skip
    chain = ["finetune", "finetune.2", "prepare", "generate", "train", "evaluate"]
    assert list(stages_of(base, identify)) == chain
    assert base.method is not None and base.method.before is not None
    for path, value, first in (
        ("finetune.0.steps", 3, 0), ("finetune.1.steps", 3, 1), ("method.inversion_steps", 7, 2), ("method.steps", 7, 3),
    ):  # fmt: skip
        assert changed(base, replace(base, {path: value})) == set(chain[first:]), path
    before = keys(base)
    monkeypatch.setattr(type(base.method.before), "version", base.method.before.version + 1)
    assert [name for name, key in keys(base).items() if key != before[name]] == chain[2:]


def test_images_are_measured_at_the_size_that_they_are_measured_at() -> None:
    """What is found of generated images at 16 pixels is not what is found of them at 32."""
    clip = ClipFeatures(Clip("nano:clip"))
    # a method whose images do not hang on the recipe's size, as those of a trained denoiser do
    base = Experiment(
        dataset=Dataset("digits", shots=5), recipe=RECIPE, method=RealGuidance(), backbone=Backbone("nano:sd"),
        evaluations=(Fidelity(extractor=clip), Leak(extractor=clip)),
    )  # fmt: skip
    other = replace(base, {"recipe.image_size": 16})
    assert key_of(base, "generate") == key_of(other, "generate")
    assert {"evaluate", "evaluate.2"} <= changed(base, other)


def test_seeds_take_turns_with_replicas_of_a_denoiser() -> None:
    found = [key_of(asking(denoiser=TrainedUNet(steps=10, replicas=3), dataset=Dataset("digits"), seed=seed), "denoiser")
             for seed in range(5)]  # fmt: skip
    assert len(set(found[:3])) == 3 and found[3:] == found[:2]
    assert found[0] == key_of(asking(denoiser=TRAINED, dataset=Dataset("digits")), "denoiser"), "the first is the one"
