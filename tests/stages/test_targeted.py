"""Targeted augmentation as stages: new images of what is learned slowly, and everything else as before."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthaug
from making import key_of, made_in, place_of, stages_of
from shapes import Noise, class_folders, tiny
from synthaug.classify.mixing import Concat, LocalRandomReplace
from synthaug.classify.optim import AdamW, SharpnessAware
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import AtRandom, Early, HighLoss, Slow
from synthaug.classify.views import DiffAugView
from synthaug.data.dataset import Dataset, subset
from synthaug.data.sample import decode_image
from synthaug.diffusion.pixel_models import TrainedUNet
from synthaug.evaluate.filter import BaseProb
from synthaug.experiment import Experiment, Sweep, read, replace
from synthaug.methods.upsample import Upsample
from synthaug.pages.plan import describe, plan
from synthaug.runtime.store import Store
from synthaug.settings import UserError, to_json
from synthaug.stages.data import Pictures

EARLY = Early(epochs=2)
RECIPE = Recipe(steps=6, batch_size=16, evaluations=2)


def experiment(**fields: Any) -> Experiment:
    return tiny(**{"shots": 6, "recipe": RECIPE, "method": Upsample(), "k": 2, "subset": Slow(early=EARLY)} | fields)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("here")


@pytest.fixture(scope="module")
def answer(here: Path) -> dict[str, Any]:
    return synthaug.run(experiment(), home=here)


def chosen(home: Path, subject: Experiment) -> set[str]:
    """The ids of the images that a finished experiment has chosen."""
    store = Store(home)
    text = (place_of(store, subject, "slow") / "scores.csv").read_text()
    return {row["id"] for row in csv.DictReader(io.StringIO(text)) if row["chosen"] == "1"}


def test_only_of_the_slow_ones_and_exactly_as_they_are(here: Path, answer: dict[str, Any]) -> None:
    assert list(answer["stages"]) == ["early", "slow", "generate", "train", "evaluate"]
    store, subject = Store(here), experiment()
    samples = store.load(store.line(subject).generated).samples(2)
    slow, listing = chosen(here, subject), store.open(subject.dataset)
    entries = {entry.id: entry for entry in subset(listing, subject.dataset, 0)}
    assert {sample.source for sample in samples} == slow and 10 <= len(slow) < 60 and slow < entries.keys()
    for sample in samples:
        assert np.array_equal(decode_image(sample.image), decode_image(listing.read(sample.source)))
        assert dict(sample.label) == {entries[sample.source].label: 1.0}
    assert {entries[id].label for id in slow} == set(range(10)), "of each class some"
    metrics = answer["metrics"]
    assert metrics["slow/images"] == len(slow) and metrics["slow/share"] == len(slow) / 60
    assert metrics["train/set"] == 60 + 2 * len(slow) and metrics["cost/early_s"] > 0


def test_training_on_it_is_training_on_the_sources_once_more(here: Path, answer: dict[str, Any]) -> None:
    """The set that the classifier sees, written out: every real image, then the slow ones twice."""
    store, subject = Store(here), experiment()
    stage = store.line(subject).classifier
    data = stage.training_data(store.planned(stage))
    again = data.images[: data.n_real][data.source_of_synthetic]
    assert (data.images[data.n_real :] == again).all() and len(again) == 2 * len(chosen(here, subject))


def test_the_scores_are_kept_the_hardest_first(here: Path, answer: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO((place_of(Store(here), experiment(), "slow") / "scores.csv").read_text())))
    losses = [float(row["loss"]) for row in rows]
    assert len(rows) == 60 and losses == sorted(losses, reverse=True)
    assert all((float(row["margin"]) <= 0) >= (float(row["loss"]) > 0.7) or float(row["margin"]) < 0.4 for row in rows)


def test_a_plan_says_that_it_knows_only_the_most(here: Path, answer: dict[str, Any], tmp_path: Path) -> None:
    before, after = (plan(experiment(), home) for home in (tmp_path, here))
    assert before["stages"]["generate"]["at most"] and before["stages"]["generate"]["images"] == 120
    text = describe(experiment(), before)
    assert "at most 120 images" in text and "stages to make, at most 120 images" in text
    assert "at most" not in after["stages"]["generate"] and "at most" not in describe(experiment(), after)


def test_the_report_shows_both_kinds(here: Path, answer: dict[str, Any], tmp_path: Path) -> None:
    from synthaug.pages.report import write_report

    page = write_report(Store(here), {"mine": experiment()}, tmp_path / "page.html").read_text()
    for text in ("images of which new ones are made", "images that stand for themselves", "loss of slow and fast"):
        assert text in page
    assert "trained on" in page and f"<td>{answer['metrics']['train/set']:.0f}" in page


def test_again_it_is_all_there_and_selectors_share_the_net(here: Path, answer: dict[str, Any]) -> None:
    again = synthaug.run(experiment(), home=here)
    assert all(stage["cached"] for stage in again["stages"].values())
    others = [stages_of(experiment(subset=kind(early=EARLY))) for kind in (HighLoss, AtRandom)]
    assert {found["early"].key for found in others} == {answer["stages"]["early"]["key"]}
    assert len({found["slow"].key for found in others} | {answer["stages"]["slow"]["key"]}) == 3
    # what follows has no part in the choice: SAM, another use, more variants, more steps
    for fields in (
        {"recipe.optimizer": SharpnessAware(AdamW())}, {"utilize": LocalRandomReplace()}, {"k": 4},
        {"recipe.steps": 9}, {"subset.restart": False},
    ):  # fmt: skip
        assert key_of(replace(experiment(), fields), "slow") == answer["stages"]["slow"]["key"], fields
    for fields in ({"seed": 1}, {"subset.early.epochs": 3}, {"recipe.batch_size": 8}, {"subset.layer": "features"}):
        assert key_of(replace(experiment(), fields), "slow") != answer["stages"]["slow"]["key"], fields


def test_everybody_else_sees_all_images(here: Path, answer: dict[str, Any]) -> None:
    """The judge of a filter, a denoiser, a fine-tuning: their keys are those without a choice."""
    asked = {"filter": BaseProb(), "denoiser": "TrainedUNet", "recipe.views": (DiffAugView(),)}
    ours, theirs = (
        stages_of(replace(experiment(subset=kind), asked)) for kind in (Slow(early=EARLY), None)
    )  # fmt: skip
    for name in ("judge", "denoiser"):
        assert ours[name].key == theirs[name].key
    assert ours["generate"].key != theirs["generate"].key


def test_without_new_images_nothing_is_chosen() -> None:
    assert list(stages_of(experiment(method=None))) == ["train", "evaluate"]
    assert key_of(experiment(method=None), "train") == key_of(experiment(method=None, subset=None), "train")


def test_training_goes_on_from_the_net(here: Path, answer: dict[str, Any]) -> None:
    """With no steps of its own the classifier is that net."""
    subject = replace(experiment(), {"subset.restart": False, "recipe.steps": 0, "recipe.batch_size": 16})
    store, _ = made_in(here, subject, "train")
    line = store.line(subject)
    ours = store.load(line.classifier).classifier.state_dict()
    theirs = store.load(line.learner).model.classifier.state_dict()
    assert all((value == theirs[name]).all() for name, value in ours.items())
    assert key_of(subject, "train") != key_of(replace(subject, {"subset.restart": True}), "train")


def test_nothing_of_validation_or_test_images_enters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders with equal training images, whose other images are other ones and of swapped classes: the same
    choice to the byte. And nothing but training images is asked for."""
    seen: list[str] = []
    real = Pictures.arrays

    def told(self: Pictures, name: str, seed: int, size: int) -> Any:
        seen.append(name)
        return real(self, name, seed, size)

    monkeypatch.setattr(Pictures, "arrays", told)
    found = []
    for number in range(2):
        root = tmp_path / str(number)
        class_folders(root / "train", ("cat", "dog"), 8)
        for place, split in enumerate(("val", "test"), 1):
            class_folders(root / split, ("cat", "dog")[:: 1 - 2 * number], 5, first=1000 * place + 100 * number)
        subject = dataclasses.replace(experiment(), dataset=Dataset("folder", path=str(root)))
        made_in(tmp_path / f"home{number}", subject, "slow")
        home = place_of(Store(tmp_path / f"home{number}"), subject, "slow")
        found.append([(home / name).read_bytes() for name in ("ids.json", "scores.csv")])
    assert found[0] == found[1] and set(seen) == {"subset"}


def test_five_things_at_once(here: Path) -> None:
    """A method, of the slow images, used by replacing, with DiffAug in the loop, by SAM."""
    recipe = Recipe(steps=4, batch_size=8, evaluations=1, views=(DiffAugView(),), optimizer=SharpnessAware(AdamW()))
    subject = experiment(
        method=Noise(), utilize=LocalRandomReplace(0.3), recipe=recipe, filter=BaseProb(drop=0.2),
        denoiser=TrainedUNet(channels=(8, 16), steps=3, batch_size=4),
    )  # fmt: skip
    answer = synthaug.run(read(to_json(subject)), home=here)
    assert set(answer["stages"]) == {
        *("denoiser", "early", "slow", "generate", "judge", "scores", "filter", "train", "evaluate")
    }
    metrics = answer["metrics"]
    made = metrics["gen/images"]
    assert made == 2 * metrics["slow/images"] and metrics["train/set"] == 60 + made - int(0.2 * made)
    assert metrics["cost/denoiser_calls"] > 4 * 8, "in the loop"


def test_amplification_counts_the_original() -> None:
    assert replace(experiment(), {"amplification": 5}).k == 4
    sweep = Sweep(base=experiment(), space={"amplification": [2, 5]}, seeds=(0,))
    assert [trial.experiment.k for trial in sweep.trials()] == [1, 4]
    assert [trial.fields for trial in sweep.trials()] == [{"amplification": 2}, {"amplification": 5}]
    assert replace(sweep, {"base.amplification": 3}).base.k == 2
    with pytest.raises(UserError, match="amplification"):
        replace(experiment(), {"amplification": 1})


def test_mistakes_of_the_user() -> None:
    with pytest.raises(UserError, match="recipe"):
        replace(experiment(), {"recipe": None})
    with pytest.raises(UserError, match="clusters"):
        replace(experiment(), {"subset.clusters": 1})
    with pytest.raises(UserError, match="cannot go on from resnet18"):
        replace(experiment(), {"subset.restart": False, "subset.early.recipe": Recipe(model="resnet18", steps=1)})
    assert isinstance(replace(experiment(), {"subset": "AtRandom"}).subset, AtRandom)
    assert replace(experiment(), {"utilize": "Concat"}).utilize == Concat()


def test_faithfulness_is_of_each_image_and_its_own_source(here: Path) -> None:
    """Copies of the slow ones are their sources: nothing is further away, everything is left."""
    found = synthaug.run(replace(experiment(), {"evaluations": [{"kind": "Faithfulness"}]}), home=here)["metrics"]
    assert found["faithful/distance"] == 0 and found["faithful/left"] == pytest.approx(1, abs=1e-6)
    assert found["faithful/left_of_others"] < 0.9 and 0 <= found["faithful/agreement"] <= 1


def test_notes_of_what_has_no_effect() -> None:
    notes = experiment(method=None).notes()
    assert any("no method makes any" in note for note in notes)
    faithful = replace(experiment(method=None), {"evaluations": [{"kind": "Faithfulness"}]})
    assert any("nothing is measured" in note for note in faithful.notes())
    assert not any("no method" in note for note in experiment().notes())


def test_what_is_named_has_its_defaults_to_go_on_from() -> None:
    fields = {"denoiser": "TrainedEDM", "denoiser.scoreaug": "ScoreAug", "denoiser.scoreaug.how.transforms": []}
    with pytest.raises(UserError, match="transforms"):
        replace(experiment(), fields)
    told = replace(experiment(), {"recipe.optimizer": "SharpnessAware", "recipe.optimizer.base.lr": 0.3})
    assert told.recipe.optimizer.base.lr == 0.3
