"""A closed loop: rounds of new images where the learner is least certain, against the same written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthaug
from making import key_of, place_of, stages_of
from shapes import Noise, tiny
from synthaug.classify.loop import predict
from synthaug.classify.recipe import Recipe
from synthaug.data.dataset import Dataset
from synthaug.diffusion.score_models import TrainedEDM
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.filter import BaseProb
from synthaug.evaluate.recognised import Recognised
from synthaug.experiment import read
from synthaug.methods.from_noise import FromNoise, Resample
from synthaug.runtime.store import Store
from synthaug.settings import UserError, to_json
from synthaug.stages.practice import ClosedLoop

RECIPE = Recipe(steps=8, batch_size=16, evaluations=2)


def experiment(**fields: Any) -> ClosedLoop:
    known: dict[str, Any] = {"dataset": Dataset("digits", shots=4), "recipe": RECIPE, "method": Noise(), "k": 2}
    return ClosedLoop(**known | {"rounds": 2, "share": 0.25} | fields)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("here")


@pytest.fixture(scope="module")
def answer(here: Path) -> dict[str, Any]:
    return synthaug.run(experiment(), home=here)


def chosen(home: Path, subject: ClosedLoop, name: str) -> set[str]:
    return set(json.loads((place_of(Store(home), subject, name) / "ids.json").read_bytes()))


def test_rounds_of_new_images(here: Path, answer: dict[str, Any]) -> None:
    order = ["learner", "uncertain", "generate", "rounds", "learner.2", "uncertain.2", "generate.2", "rounds.2"]
    assert set(answer["stages"]) == {*order, "train", "evaluate"}
    metrics = answer["metrics"]
    assert metrics["gen/images"] == 2 * 2 * 10 and metrics["train/set"] == 40 + 40, "a quarter of 40, twice, two each"
    store = Store(here)
    samples = store.load(store.line(experiment()).generated).samples(2)
    by_round = [{s.source for s in samples if s.variant in pair} for pair in ((1, 2), (3, 4))]
    assert by_round == [chosen(here, experiment(), name) for name in ("uncertain", "uncertain.2")]
    assert len({s.id for s in samples}) == len({s.image for s in samples}) == 40, "all of them new ones"


def test_the_first_choice_is_by_the_entropy_of_plain_training(here: Path, answer: dict[str, Any]) -> None:
    store, plain = Store(here), tiny(shots=4, recipe=RECIPE)
    assert answer["stages"]["learner"]["key"] == key_of(plain, "train")
    model = store.load(store.line(plain).classifier)
    pictures = store.load(store.line(plain).data)
    images, _ = pictures.arrays("subset", 0, 32)
    p = predict(model, images).double().softmax(1).numpy()
    entropy = -(p * np.log(p)).sum(1)
    ids = [entry.id for entry in pictures.entries("subset", 0)]
    assert chosen(here, experiment(), "uncertain") == {ids[n] for n in np.argsort(-entropy)[:10]}


def test_the_second_learner_has_seen_the_first_round(here: Path, answer: dict[str, Any]) -> None:
    store = Store(here)
    stage = store.line(experiment()).stages()["learner.2"]
    data = stage.training_data(store.planned(stage))
    pictures = store.load(store.line(experiment()).data)
    ids = [entry.id for entry in pictures.entries("subset", 0)]
    assert {ids[n] for n in data.source_of_synthetic} == chosen(here, experiment(), "uncertain")
    assert len(data.source_of_synthetic) == 20


def test_again_all_is_there_and_more_rounds_go_on(here: Path, answer: dict[str, Any]) -> None:
    assert all(stage["cached"] for stage in synthaug.run(experiment(), home=here)["stages"].values())
    more = stages_of(experiment(rounds=3))
    keys = {stage["key"] for stage in answer["stages"].values()}
    new = {stage.name for stage in more.values() if stage.key not in keys}
    # the classifier of two rounds is the learner of the third
    assert new == {"uncertain", "generate", "rounds", "train", "evaluate"}
    assert sum(stage.key not in keys for stage in more.values()) == 5, "one of each: two rounds stay"


def test_chance_is_of_the_same_size_and_trains_no_learner(here: Path) -> None:
    found = synthaug.run(experiment(by="random"), home=here)
    assert not [name for name in found["stages"] if "learner" in name]
    assert found["metrics"]["gen/images"] == 40 and found["metrics"]["train/set"] == 80
    first, second = (chosen(here, experiment(by="random"), name) for name in ("uncertain", "uncertain.2"))
    assert len(first) == len(second) == 10 and first != second
    other = experiment(by="random", seed=1)
    assert key_of(other, "uncertain") != key_of(experiment(by="random"), "uncertain")


def test_candidates_are_asked_about_and_not_trained_on(here: Path) -> None:
    """Of all sources one each, under the noise of the first image of the round; a judge is asked about none."""
    subject = experiment(candidates=Noise(amount=60), rounds=2, evaluations=(Accuracy(), Recognised()))
    found = synthaug.run(read(to_json(subject)), home=here)
    assert found["metrics"]["gen/images"] == 40 and found["metrics"]["train/set"] == 80
    store = Store(here)
    stages = store.line(subject).stages()
    assert [stages[name].first for name in ("candidates", "candidates.2")] == [1, 3]
    candidates = store.load(stages["candidates.2"])
    model = store.load(stages["learner.2"])
    p = predict(model, candidates.stacked(32, variants=[3])[:, 0]).double().softmax(1).numpy()
    order = np.argsort((p * np.log(p)).sum(1))[:10]
    assert chosen(here, subject, "uncertain.2") == {candidates.sources[n].id for n in order}
    assert {s.variant for s in candidates.samples(1)} == {3} and len(candidates.samples(1)) == 40


def test_a_learner_of_its_own_recipe() -> None:
    stages = stages_of(experiment(learner=Recipe(steps=3)))
    assert stages["learner"].recipe.steps == 3 and stages["train"].recipe.steps == 8


def test_what_it_refuses() -> None:
    two: dict[str, Any] = {"method": Resample(kept=2), "denoiser": TrainedEDM()}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"filter": BaseProb()}, "filter"), ({"subset": "Slow"}, "subset"), ({"recipe": None}, "recipe"),
        (two | {"k": 3}, "makes 2 variants"), ({"candidates": Resample()}, "by the method itself"),
        ({"method": FromNoise(), "denoiser": TrainedEDM(), "candidates": FromNoise(most=5)}, "of each image"),
    ]  # fmt: skip
    for fields, name in refused:
        with pytest.raises(UserError, match=name):
            experiment(**fields)
