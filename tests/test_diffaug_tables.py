"""The tables of DiffAug's poster as sweeps: they load, travel, hold its settings and the controls that it lacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from making import stages_of
from synthaug.classify.loop import Data, train
from synthaug.classify.mixing import Concat
from synthaug.classify.models import build
from synthaug.classify.views import DiffAugView, SecondView
from synthaug.evaluate.predict import DDA, Ensemble, Single
from synthaug.experiment import Experiment, Sweep, load, replace
from synthaug.refs import import_file, subjects_in
from synthaug.settings import hash_of, parts, to_json
from synthaug.stages.base import Stage

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TABLES = ("certified", "ood", "robustness", "synthetic")


@cache
def subjects() -> dict[str, Callable[[], Experiment | Sweep]]:
    files = {table: import_file(str(EXPERIMENTS / f"diffaug_{table}.py")) for table in TABLES}
    return {f"{table}:{name}": made for table, file in files.items() for name, made in subjects_in(file).items()}


def sweep(name: str) -> Sweep:
    made = subjects()[name]()
    assert isinstance(made, Sweep)
    return made


# the poster's rows, typed from it once more
ROWS = {
    "robustness:augmix": (
        "AM 33.18 36.54 34.08 26.72 62.23 75.98 73.80 77.53",
        "AM+DiffAug 34.64 38.61 38.58 29.47 63.53 76.09 75.88 77.34",
    ),
    "robustness:deepaugment": (
        "DA 35.41 39.06 37.08 31.93 63.63 75.39 74.28 76.65",
        "DA+DiffAug 37.61 41.31 40.42 33.78 65.47 75.54 75.43 76.51",
    ),
    "robustness:deepaugment_augmix": (
        "DAM 40.36 44.81 41.86 39.52 65.54 74.41 73.54 75.81",
        "DAM+DiffAug 41.91 46.35 44.77 41.24 66.83 74.64 74.39 75.66",
    ),
    "robustness:resnet50": (
        "RN50 28.35 30.62 27.12 17.87 58.09 74.38 71.43 76.15",
        "RN50+DiffAug 31.15 33.51 32.22 20.87 61.04 74.87 75.07 75.95",
    ),
    "robustness:vit": (
        "ViT 43.60 52.90 48.25 50.75 67.40 81.72 80.43 83.71",
        "ViT+DiffAug 45.05 53.54 51.87 52.78 70.05 81.85 82.59 83.59",
    ),
    "synthetic:real": ("RN50 17.87 36.16 7.12 24.09 0.03 11.36", "+DiffAug/DE 32.22 41.61 12.52 26.67 1.09 11.37"),
    "synthetic:with_clone": (
        "RN50+Synth 17.58 49.28 7.68 35.45 0.63 17.52",
        "+DiffAug/DE 30.06 54.71 13.57 37.39 1.53 21.41",
    ),
    "ood:augmix": ("AM 82.16 77.49 79.94 83.61 80.80", "AM+DiffAug 83.62 78.35 81.29 84.81 82.02"),
    "ood:resnet50": ("RN50 78.17 76.02 77.38 81.36 78.23", "RN50+DiffAug 79.86 76.86 78.76 82.81 79.57"),
    "certified:vit": ("ViT 36.30 25.50 16.72 14.10 10.70 8.10", "ViT+DiffAug 40.30 32.50 23.62 19.40 15.20 11.00"),
}
WITHOUT = {"ood:deepaugment_augmix", "certified:entropy"}  # the poster gives no numbers


def test_every_table_is_there() -> None:
    assert {f.stem for f in EXPERIMENTS.glob("diffaug_*.py")} == {f"diffaug_{table}" for table in TABLES}
    assert subjects().keys() == ROWS.keys() | WITHOUT


@pytest.mark.parametrize("name", ROWS)
def test_a_table_says_what_the_poster_found(name: str) -> None:
    about = " ".join((subjects()[name].__doc__ or "").replace(",", "").split())
    assert all(f" {row}" in about for row in ROWS[name])


@pytest.mark.parametrize("name", subjects())
def test_a_table_travels_and_says_what_was_done_and_what_it_costs(name: str) -> None:
    made, about = sweep(name), " ".join((subjects()[name].__doc__ or "").split())
    assert load(json.dumps(to_json(made))) == made
    recipe = made.base.recipe
    assert recipe.steps is not None
    assert "Not run here." in about and f"{recipe.steps * recipe.batch_size:,} denoiser calls" in about
    assert f"{recipe.steps:,} optimiser steps" in about or name.startswith("certified")


def test_slips_of_the_poster_are_named_with_the_right_numbers() -> None:
    """Every difference that its table of shifts prints, against the numbers it is of."""
    printed = {
        "synthetic:real": (14.85, 5.45, 5.40, 2.56, 1.06, 0.01),
        "synthetic:with_clone": (12.48, 5.43, 5.89, 1.94, 0.90, 3.89),
    }
    for name, gains in printed.items():
        plain, better = ([float(n) for n in row.split()[1:]] for row in ROWS[name])
        for before, after, gain in zip(plain, better, gains, strict=True):
            right = after - before
            told = f"+{gain:.2f}" in (subjects()[name].__doc__ or "")
            assert told == (abs(right - gain) > 0.001), (name, gain)
            assert not told or f"+{right:.2f}" in (subjects()[name].__doc__ or "")


@pytest.mark.parametrize("name", subjects())
def test_every_arm_with_diffaug_has_controls_of_the_same_cost(name: str) -> None:
    made = sweep(name)
    recipes = {trial.arm: trial.experiment.recipe for trial in made.trials()}
    twins = {arm: recipe for arm, recipe in recipes.items() if arm.endswith("+DiffAug")}
    assert len(twins) == 1
    for arm, recipe in twins.items():
        steps, look = (recipes[f"{arm.removesuffix('+DiffAug')}, {which}"] for which in ("same steps", "second look"))
        own = recipe.views[:-1]
        assert recipe.views == (*own, DiffAugView()) and steps.views == own and look.views == (*own, SecondView())
        # but for their views they are one recipe
        assert [to_json(r) | {"views": []} for r in (steps, look)] == [to_json(recipe) | {"views": []}] * 2
        assert made.baseline == f"{arm.removesuffix('+DiffAug')}, second look"


RECIPES = {  # optimiser, rate, weight decay, nesterov, steps, weights, its views (spec of the released code)
    "resnet50": ("SGD", 0.1, 1e-4, False, 450_000, None, []),
    "augmix": ("SGD", 0.001, 1e-4, False, 50_000, "AM.pt", ["AugMixView"]),
    "deepaugment": ("SGD", 0.001, 1e-4, True, 50_000, "DA.pt", ["FolderView"] * 2),
    "deepaugment_augmix": ("SGD", 0.001, 1e-4, True, 50_000, "DAM.pt", ["AugMixView", *["FolderView"] * 2]),
    "synthetic": ("AdamW", 1e-5, 1e-4, None, 50_000, "resnet50-0676ba61.pth", []),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_those_of_the_released_code(name: str) -> None:
    recipe = getattr(import_file(str(EXPERIMENTS / "diffaug.py")), name)().recipe
    found: Any = recipe.optimizer
    kind, lr, decay, nesterov, steps, weights, views = RECIPES[name]
    assert (type(found).__name__, found.lr, found.weight_decay) == (kind, lr, decay)
    assert (getattr(found, "nesterov", None), getattr(found, "momentum", 0.9)) == (nesterov, 0.9)
    assert (recipe.steps, recipe.batch_size, recipe.image_size, recipe.clean_weight) == (steps, 256, 256, 1.0)
    assert (recipe.weights and Path(recipe.weights).name) == weights
    assert [type(view).__name__ for view in recipe.views] == views


def test_corruptions_and_test_images_are_asked_in_the_four_ways() -> None:
    looks: Any = sweep("robustness:vit").base.evaluations
    four = [DDA(), DDA(self_ensemble=True), Ensemble(), Single()]
    assert [look.predictor for look in looks] == four * 2
    assert [look.dataset and look.dataset.name for look in looks] == ["imagenet-c"] * 4 + [None] * 4
    assert all(look.severities == (5,) and len(look.corruptions) == 15 for look in looks[:4])


def test_shifts_are_asked_by_default_and_by_de() -> None:
    looks: Any = sweep("synthetic:real").base.evaluations
    asked = [(look.dataset.name, look.split) for look in looks]
    whole = [(f"imagenet-{letter}", "test") for letter in ("c", "r", "s", "sketch", "a")]
    assert asked == [*whole, *(("imagenet-d", part) for part in ("background", "material", "texture"))] * 2
    assert [look.predictor for look in looks] == [Single()] * 8 + [Ensemble()] * 8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Empty files wherever a sweep names one."""
    root = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("HOME", str(root))
        for made in subjects().values():
            for file in (part for _, part in parts(made()) if isinstance(part, Path)):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        yield root


def stub(thing: Any) -> str:
    """Stands for the content of what is not here: its name and place."""
    return hash_of(str(thing) if isinstance(thing, Path) else [thing.name, thing.path])


@pytest.mark.parametrize("name", subjects())
def test_stages_follow_without_any_data(name: str, files: Path) -> None:
    made = sweep(name)
    stages = {trial.arm: stages_of(trial.experiment, stub) for trial in made.trials() if trial.seed == 0}
    trainings = [found["train"].key for found in stages.values()]
    assert len(set(trainings)) == len(stages), "arms differ"
    for arm, found in stages.items():
        assert ("denoiser" in found["train"].settings) == arm.endswith("+DiffAug"), "only DiffAug trains with one"
        assert len([stage for stage in found if stage.startswith("evaluate")]) == len(made.base.evaluations)
    views = [{s: n.key for s, n in found.items() if s.startswith("views")} for found in stages.values()]
    data = _data(stages[made.baseline or ""])
    shared = [v for v, found in zip(views, stages.values(), strict=True) if _data(found) == data]
    assert all(v == shared[0] for v in shared), "what is made of test images is made once for all arms"
    assert ("views" in shared[0]) == (not name.startswith("ood") and name != "certified:vit")


def _data(stages: dict[str, Stage[Any]]) -> str:
    return stages["train"].inputs["data"].key


def test_published_weights_are_asked_as_they_are(tmp_path: Path) -> None:
    """No step is taken, whatever the recipe that this one stands in for."""
    weights = tmp_path / "published.pt"
    start = build("small", 3, seed=1).net.state_dict()
    torch.save(start, weights)
    given = {"recipe.model": "small", "recipe.weights": str(weights), "recipe.transforms": [], "recipe.batch_size": 4}
    poster = import_file(str(EXPERIMENTS / "diffaug.py"))
    experiment = replace(sweep("robustness:augmix").base, given | {"recipe.image_size": 32} | poster.untouched())
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, none = torch.eye(3).repeat(2, 1), torch.empty(0, dtype=torch.long)
    data = Data(images, labels, 6, none, images[:0], none)
    found = train(experiment.recipe, Concat(), data, seed=0, report=lambda entry: None)
    assert found.steps == 0
    assert all(torch.equal(found.model[f"net.{name}"], value) for name, value in start.items())
