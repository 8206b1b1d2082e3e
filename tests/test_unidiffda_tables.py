"""The tables of UniDiffDA as sweeps: they load, travel, and hold what the protocol says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from synthaug.classify.mixing import Concat, GlobalRandomReplace, LocalRandomReplace
from synthaug.classify.recipe import Recipe
from synthaug.data.sample import Sample
from synthaug.diffusion.finetune import LoRA, TextualInversion
from synthaug.experiment import Experiment, Sweep, load
from synthaug.methods.base import Context
from synthaug.refs import import_file, subjects_in
from synthaug.settings import to_json

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = sorted(EXPERIMENTS.glob("unidiffda_*.py"))


def module(name: str) -> ModuleType:
    return import_file(str(EXPERIMENTS / f"{name}.py"))


def subjects() -> list[tuple[str, Callable[[], Experiment | Sweep]]]:
    return [(f"{f.stem}:{name}", made) for f in FILES for name, made in subjects_in(module(f.stem)).items()]


@pytest.fixture(scope="module")
def protocol() -> Any:
    return module("unidiffda")


def test_every_table_of_numbers_is_there() -> None:
    assert [f.stem for f in FILES] == [
        "unidiffda_controls",
        "unidiffda_figures",
        *(f"unidiffda_table_{n:02d}" for n in range(2, 20)),
    ]
    assert all(subjects_in(module(f.stem)) for f in FILES)


@pytest.mark.parametrize("name, made", subjects(), ids=[name for name, _ in subjects()])
def test_a_table_travels_as_json_and_says_what_to_expect(name: str, made: Callable[[], Experiment | Sweep]) -> None:
    subject = made()
    assert isinstance(subject, Experiment | Sweep) and load(json.dumps(to_json(subject))) == subject
    about = made.__doc__ or ""
    told = (
        re.search(r"\d", about)
        if "figures" in name or "controls" in name
        else re.search(r"\d\.\d\d|the paper's are in \w+_epochs", about)
    )
    assert told, "the numbers of the paper, or where they are"


def test_equal_steps_and_equal_epochs_are_two_sweeps() -> None:
    found = dict(subjects())
    twins = [name for name in found if f"{name}_epochs" in found]
    assert len(twins) >= 15
    for name in twins:
        steps, epochs = found[name](), found[f"{name}_epochs"]()
        assert isinstance(steps, Sweep) and isinstance(epochs, Sweep) and steps.arms == epochs.arms
        length, paper = steps.base.recipe, epochs.base.recipe
        assert length.steps and paper.epochs and f"{length.steps:,} optimiser steps" in (found[name].__doc__ or "")
        assert {t.experiment.recipe.steps for t in steps.trials()} == {length.steps}


def test_steps_are_those_of_five_variants_beside_the_real_image(protocol: Any) -> None:
    for task, steps in ((protocol.caltech101(), 45_469), (protocol.cifar100(), 187_500), (protocol.blood(5), 750)):
        sweep = protocol.compare(task, {})
        assert sweep.base.recipe.steps == round(100 * task.images * 6 / 32) == steps


RECIPES = {  # task: learning rate, weight decay, batch, epochs, smoothing, weights (section 6.2)
    "caltech101": (0.01, 1e-4, 32, 100, 0, False),
    "cifar100": (0.1, 5e-4, 32, 100, 0, False),
    "imagenet100": (0.1, 1e-4, 32, 100, 0, False),
    "birds": (0.1, 5e-4, 256, 128, 0.1, True),
    "planes": (0.1, 5e-4, 256, 128, 0.1, True),
    "blood": (0.01, 5e-4, 32, 100, 0, False),
    "skin": (0.01, 5e-4, 32, 100, 0, False),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_those_of_the_protocol(name: str, protocol: Any) -> None:
    shots = {"birds": (5,), "planes": (5,), "blood": (5,), "skin": (10,)}.get(name, ())
    recipe: Recipe = getattr(protocol, name)(*shots).recipe
    lr, decay, batch, epochs, smooth, weights = RECIPES[name]
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay, recipe.optimizer.momentum) == (lr, decay, 0.9)
    assert (recipe.batch_size, recipe.epochs, recipe.warmup, recipe.image_size) == (batch, epochs, 0, 256)
    assert (recipe.weights is not None, recipe.label_smoothing > 0) == (weights, smooth > 0)
    assert [type(t).__name__ for t in recipe.transforms] == ["RandomCrop", "HorizontalFlip"]
    assert (recipe.transforms[0].padding, recipe.transforms[0].size) == (8, 224)


@pytest.mark.parametrize("classes", [2, 100, 200])
def test_smoothing_leaves_nine_tenths_to_the_class(classes: int, protocol: Any) -> None:
    logits = torch.randn(4, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    told = torch.nn.functional.cross_entropy(
        logits, torch.zeros(4, dtype=torch.long), label_smoothing=protocol.smoothing(classes)
    )
    wanted = torch.full((4, classes), 0.1 / (classes - 1), dtype=torch.float64)
    wanted[:, 0] = 0.9
    torch.testing.assert_close(told, -(wanted * logits.log_softmax(1)).sum(1).mean())


def test_strengths_and_uses_of_the_fine_tasks(protocol: Any) -> None:
    local, everywhere = LocalRandomReplace, GlobalRandomReplace
    five = protocol.fine_arms(protocol.birds(5))
    assert {name: (getattr(arm["method"], "strength", None), arm["utilize"]) for name, arm in five.items()} == {
        "Real Guidance": (0.1, everywhere(0.1)), "GIF": (0.1, everywhere(0.5)), "DiffuseMix": (None, local(0.3)),
        "DA-Fusion": (0.9, local(0.5)), "Diff-Aug": (0.9, everywhere(0.5)), "Diff-Mix": (0.7, everywhere(0.7)),
        "Diff-II": (None, local(0.5)),
    }  # fmt: skip
    one = protocol.fine_arms(protocol.planes(1))
    assert {name: (getattr(arm["method"], "strength", None), arm["utilize"]) for name, arm in one.items()} == {
        "Real Guidance": (0.1, everywhere(0.3)), "GIF": (0.1, everywhere(0.5)), "DiffuseMix": (None, local(0.3)),
        "DA-Fusion": (0.1, local(0.3)), "Diff-Aug": (0.1, everywhere(0.3)), "Diff-Mix": (0.7, everywhere(0.1)),
        "Diff-II": (None, local(0.3)),
    }  # fmt: skip


def test_three_methods_share_one_fine_tuned_model(protocol: Any) -> None:
    for task, init, steps in (
        (protocol.caltech101(), "the", (2000, 1000)),
        (protocol.birds(5), "bird", (2000, 1000)),
        (protocol.planes(5), "aircraft", (2000, 1000)),
        (protocol.skin(10), "the", (500, 500)),
    ):
        words = TextualInversion(steps=steps[0], init=init, precision="bf16")
        assert task.tuned() == (words, LoRA(steps=steps[1], precision="bf16"))
        assert task.inverted() == task.tuned()[:1]
    arms = protocol.fine_arms(protocol.birds(5))
    assert arms["Diff-Aug"]["finetune"] == arms["Diff-Mix"]["finetune"] == arms["Diff-II"]["finetune"]
    assert arms["DA-Fusion"]["finetune"] == arms["Diff-Mix"]["finetune"][:1] and not arms["GIF"]["finetune"]
    tuned = {name for name, arm in protocol.medical_arms(protocol.blood(5)).items() if arm["finetune"]}
    assert tuned == {"GIF", "DA-Fusion", "Diff-Aug", "Diff-Mix"}, "GIF is fitted to medical images only"


def test_coarse_and_medical_arms_concatenate(protocol: Any) -> None:
    coarse = protocol.coarse_arms(protocol.caltech101(), 4.0)
    medical = protocol.medical_arms(protocol.blood(5))
    assert all(arm["utilize"] == Concat() for arm in [*coarse.values(), *medical.values()])
    assert {getattr(arm["method"], "strength", 0.9) for arm in coarse.values()} == {0.9}
    assert {name: arm["method"].strength for name, arm in medical.items()} == {
        "Real Guidance": 0.3, "GIF": 0.3, "DA-Fusion": 0.3, "Diff-Aug": 0.3, "Diff-Mix": 0.7,
    }  # fmt: skip
    assert (coarse["GIF"]["method"].constraint, medical["GIF"]["method"].constraint) == (4.0, 0.1)
    # where the data set says what its images are, GIF says that
    task = protocol.blood(5)
    context = Context(0, ("monocyte",), task.dataset.templates, "")
    row = medical["GIF"]["method"].plan(Sample("a", b"", ((0, 1.0),), "a", 0), 1, context)
    assert row.prompt == "a microscopic blood cell image of monocyte"


def test_suffixes_of_diff_ii_are_ten_for_every_class(protocol: Any) -> None:
    from synthaug.data import suffixes

    for task, name in ((protocol.birds(5), "Fish Crow"), (protocol.planes(5), "F-16A/B")):
        assert len(set(suffixes.read(protocol.suffixes(task)).of_class(name))) == 10


def test_as_released_turns_off_what_the_released_code_lost(protocol: Any) -> None:
    birds, caltech = protocol.birds(5), protocol.caltech101()
    arms = protocol.fine_arms(birds)
    two = protocol.as_released(protocol.one(birds, arms["Diff-II"]))
    assert (
        two.method.alone and two.dataset.kind_word == "" and two.tuning == protocol.one(birds, arms["Diff-II"]).tuning
    )
    mix = protocol.one(caltech, protocol.coarse_arms(caltech)["Diff-Mix"])
    released = protocol.as_released(mix)
    assert [type(part) for part in mix.tuning] == [TextualInversion, LoRA]
    assert [type(part) for part in released.tuning] == [LoRA]
    assert released.dataset.templates == ("a photo of a <{}>",) and mix.dataset.templates == ("a photo of a {}",)
    plain = protocol.one(caltech, protocol.coarse_arms(caltech)["Real Guidance"])
    assert protocol.as_released(plain).dataset.templates == ("a photo of a {}",)
