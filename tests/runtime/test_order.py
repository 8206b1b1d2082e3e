"""What travels to other processes: stages by their keys, relative paths and the home."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import synthaug
from making import stages_of
from shapes import class_folders, paint, tiny
from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment, Recipe, Sweep
from synthaug.methods.diffuse_denoise import DiffuseDenoise
from synthaug.runtime.make import Plan
from synthaug.runtime.order import _store, order, received
from synthaug.runtime.store import Store
from synthaug.settings import UserError


@pytest.fixture
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    _store.cache_clear()
    return tmp_path


def ordered(experiment: Experiment) -> str:
    """All that an experiment asks for, of a home beside the test."""
    Path("home").mkdir()  # a run has noted there what it is about to make
    plan = Plan(Store("home").prepare()).add(experiment)
    return order(plan, plan.stages())


def test_a_process_goes_where_it_was_sent_from(anywhere: Path) -> None:
    sent = ordered(tiny())
    (anywhere / "other").mkdir()
    os.chdir("other")
    sys.path[:] = [path for path in sys.path if "site-packages" in path]
    store, found = received(sent)
    assert Path.cwd() == anywhere and store.home == anywhere / "home"
    assert [experiment for experiment, _ in found] == [tiny()] * 2
    assert {stage.name: stage.key for _, stage in found} == {n: s.key for n, s in stages_of(tiny()).items()}
    assert set(json.loads(sent)["paths"]) <= set(sys.path)
    assert received(sent)[0] is store, "one store a process: a data set is opened once"


def test_stages_of_several_experiments_know_their_own(anywhere: Path) -> None:
    both = [tiny(seed=seed) for seed in (0, 1)]
    Path("home").mkdir()
    plan = Plan(Store("home").prepare())
    for experiment in both:
        plan.add(experiment)
    _, found = received(order(plan, plan.stages()))
    wanted = [(experiment, stage.key) for experiment in both for stage in stages_of(experiment).values()]
    assert [(experiment, stage.key) for experiment, stage in found] == wanted


def test_images_that_changed_after_the_order_stop(anywhere: Path) -> None:
    class_folders(anywhere / "mine", ["cat", "dog"], 4)
    sent = ordered(Experiment(dataset=Dataset("folder", path="mine"), recipe=Recipe(steps=1)))
    paint(anywhere / "mine" / "cat" / "0.png", seed=99)
    with pytest.raises(UserError, match="what the experiment reads has changed since it was started"):
        received(sent)


def test_a_home_that_is_not_shared_is_told_of_at_once(anywhere: Path) -> None:
    sent = ordered(tiny())
    shutil.rmtree("home")
    with pytest.raises(UserError, match="home is not there on .*: the home must be on a disk that all nodes share"):
        received(sent)


def test_a_sweep_of_images_at_a_relative_path(anywhere: Path, cluster: None) -> None:
    """Ray's processes begin in folders of their own."""
    class_folders(anywhere / "mine", ["cat", "dog"], 12)
    base = Experiment(
        dataset=Dataset("folder", path="mine", shots=2), method=DiffuseDenoise(how={"denoise": False}), k=1,
        recipe=Recipe(steps=2, batch_size=4, evaluations=1),
    )  # fmt: skip
    answer = synthaug.run(Sweep(base=base, seeds=2), home="runs")
    assert [trial["metrics"]["gen/images"] for trial in answer["trials"]] == [4, 4]
