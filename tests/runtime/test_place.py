"""What travels to other processes: relative paths and the home."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import synthaug
from shapes import class_folders, tiny
from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment, Recipe, Sweep
from synthaug.methods.diffuse_denoise import DiffuseDenoise
from synthaug.runtime import place
from synthaug.runtime.store import Store
from synthaug.settings import UserError


@pytest.fixture
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    place._store.cache_clear()
    return tmp_path


def test_a_process_goes_where_it_was_sent_from(anywhere: Path) -> None:
    sent = place.sent(Store("home").prepare(), tiny())
    (anywhere / "other").mkdir()
    os.chdir("other")
    sys.path[:] = sys.path[:1]
    store, experiment = place.arrived(sent)
    assert Path.cwd() == anywhere and store.home == anywhere / "home" and experiment == tiny()
    assert set(sent["paths"]) <= set(sys.path)
    assert place.arrived(sent)[0] is store, "one store a process: a data set is opened once"


def test_a_home_that_is_not_shared_is_told_of_at_once(anywhere: Path) -> None:
    sent = place.sent(Store("home").prepare(), tiny())
    shutil.rmtree("home")
    with pytest.raises(UserError, match="home is not there on .*: the home must be on a disk that all nodes share"):
        place.arrived(sent)


def test_a_sweep_of_images_at_a_relative_path(anywhere: Path, cluster: None) -> None:
    """Ray's processes begin in folders of their own."""
    class_folders(anywhere / "mine", ["cat", "dog"], 12)
    base = Experiment(
        dataset=Dataset("folder", path="mine", shots=2), method=DiffuseDenoise(how={"denoise": False}), k=1,
        recipe=Recipe(steps=2, batch_size=4, evaluations=1),
    )  # fmt: skip
    answer = synthaug.run(Sweep(base=base, seeds=2), home="runs")
    assert [trial["metrics"]["gen/images"] for trial in answer["trials"]] == [4, 4]
