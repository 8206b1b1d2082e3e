"""Damage: every kind of file that a home holds, cut, emptied, filled with garbage, removed and with a bit turned. The
same command then gives the result of an undisturbed run, and says in a line what was made anew."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import synthaug
from making import science
from shapes import NANO, class_folders, tiny
from synthaug.classify.subset import Early, Slow
from synthaug.classify.views import DiffAugView
from synthaug.data.dataset import Dataset
from synthaug.diffusion.finetune import TextualInversion
from synthaug.diffusion.pixel_models import TrainedUNet
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.filter import BaseProb
from synthaug.evaluate.predict import Ensemble
from synthaug.experiment import Experiment, Recipe
from synthaug.methods.real_guidance import RealGuidance
from synthaug.pages.doctor import examine_files
from synthaug.runtime.damage import damages, set_aside
from synthaug.runtime.database import trouble_of
from synthaug.runtime.store import Store
from synthaug.runtime.tracking import Tracker
from synthaug.stages.notes import sealed

CLASSES = ("ant", "bee")


def subject(images: Path) -> Experiment:
    """Whatever has files: a fine-tuned backbone, a trained denoiser, a choice, images, a filter, copies, a net."""
    return Experiment(
        dataset=Dataset("folder", path=str(images)), denoiser=TrainedUNet(channels=(8, 8), steps=2, image_size=8),
        finetune=TextualInversion(steps=1, batch_size=2), backbone=NANO, method=RealGuidance(steps=2), filter=BaseProb(), subset=Slow(Early(epochs=2)),
        recipe=Recipe(steps=4, batch_size=8, image_size=8, evaluations=2, views=(DiffAugView(cached=1),)),
        evaluations=(Accuracy(), Accuracy(predictor=Ensemble(times=(0.3,)))), k=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Experiment, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("damage")
    images = class_folders(folder / "images", CLASSES, 20)
    experiment = subject(images)
    return folder / "home", experiment, synthaug.run(experiment, home=folder / "home")


def turned(data: bytes) -> bytes:
    """One bit of the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else b"\1"


WAYS: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "garbage": lambda data: b"\xff\x00 no such thing {" * 20,
    "gone": lambda data: None,
    "a bit turned": turned,
}
KINDS = [
    "store/*/*/manifest.json", "store/*/*/part-?????.json", "store/*/*/part-*-*.*", "store/*/*/model.safetensors",
    "store/*/*/adapter.safetensors", "store/*/*/ids.json", "store/*/*/scores.*", "store/*/*/seen.npz",
    "store/*/*/denoiser/**/*.*", "store/index/*.json", "store/record/*", "store/*/*.lock", "mlflow.*",
    "artifacts/**/*.*",
]  # fmt: skip
READERS = {
    "denoiser": "views", "early": "slow", "slow": "generate", "finetune": "generate", "generate": "train",
    "scores": "filter", "filter": "train", "views": "train",
}  # fmt: skip
LAST = ("train", "evaluate")  # what is made of all else


def harm(home: Path, file: Path, way: str) -> None:
    after = WAYS[way](file.read_bytes())
    file.unlink() if after is None else file.write_bytes(after)


def copied(whole: Path, to: Path) -> Path:
    return Path(shutil.copytree(whole, to))


def check(whole: tuple[Path, Experiment, dict[str, Any]], home: Path) -> None:
    """The same command gives the same result, in one run of MLflow's."""
    _, experiment, answer = whole
    again = synthaug.run(experiment, home=home)
    assert science(again) == science(answer)
    keys = {n: stage["key"] for n, stage in again["stages"].items()}
    # the scores helped to make the filter, and nobody asks for them again where they were taken away
    assert keys | {"scores": answer["stages"]["scores"]["key"]} == {n: s["key"] for n, s in answer["stages"].items()}
    tracker = Tracker(home, "synthaug")
    assert len(tracker.client.search_runs([tracker.experiment])) == 1


def test_each_kind_is_there(whole: tuple[Path, Experiment, dict[str, Any]]) -> None:
    """What no pattern names would not be tried."""
    home = whole[0]
    named = {file for kind in KINDS for file in home.glob(kind)}
    assert all(list(home.glob(kind)) for kind in KINDS)
    assert {file for file in home.rglob("*") if file.is_file()} == {file for file in named if file.is_file()}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("store")])
def test_a_bit_turned(
    whole: tuple[Path, Experiment, dict[str, Any]], kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the first file of each kind, where whoever reads it is still to be made."""
    home = copied(whole[0], tmp_path / "home")
    file = sorted(home.glob(kind))[0]
    harm(home, file, "a bit turned")
    shutil.rmtree(home / "store" / READERS.get(file.relative_to(home).parts[1], "evaluate"))
    check(whole, home)
    err = capfd.readouterr().err
    read = not kind.startswith(("store/index", "store/record")) and not kind.endswith("lock")
    lines = [line for line in err.splitlines() if "damaged, made anew" in line]
    assert len(lines) == read, "a line for what was made anew"
    if kind.startswith(("store/index", "store/record")):
        assert err.count(f"{file} is damaged") == (file.suffix == ".json"), "one for what is noted or hashed again"


@pytest.mark.nightly
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_every_file_in_every_way(
    whole: tuple[Path, Experiment, dict[str, Any]], way: str, again: bool, tmp_path: Path
) -> None:
    """Also where all that is trained is trained `again`, so that everything else is read."""
    files = dict.fromkeys(file for kind in KINDS for file in sorted(whole[0].glob(kind)) if file.is_file())
    failed = []
    for number, file in enumerate(files):
        # a place of its own: MLflow keeps a connection to each database that it has opened
        home = copied(whole[0], tmp_path / str(number))
        place = home / file.relative_to(whole[0])
        harm(home, place, way)
        for stage in LAST if again else ():
            shutil.rmtree(home / "store" / stage)
            if place.is_relative_to(home / "store" / stage):
                break
        try:
            check(whole, home)
        except Exception as error:
            failed.append(f"{file.relative_to(whole[0])}: {type(error).__name__} {error}")
        shutil.rmtree(home)
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("way", ["cut", "emptied", "garbage"])
def test_a_damaged_database_is_set_aside_and_its_runs_are_written_again(
    whole: tuple[Path, Experiment, dict[str, Any]], way: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = copied(whole[0], tmp_path / "home")
    harm(home, home / "mlflow.db", way)
    assert trouble_of(home / "mlflow.db")
    check(whole, home)
    assert not trouble_of(home / "mlflow.db") and len(list((home / "damaged").iterdir())) == 1
    assert "mlflow.db is damaged" in capfd.readouterr().err


def test_a_database_that_is_gone_is_written_again(
    whole: tuple[Path, Experiment, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What was tracked of all records, and not of the one that is run again alone."""
    first = copied(whole[0], tmp_path / "first")
    synthaug.run(tiny(steps=2), home=first)
    home = copied(first, tmp_path / "home")
    (home / "mlflow.db").unlink()
    synthaug.run(tiny(steps=3), home=home)
    assert "mlflow.db is gone: its runs are written again from the store" in capfd.readouterr().err
    tracker = Tracker(home, "synthaug")
    assert len(tracker.client.search_runs([tracker.experiment])) == 3


HALFWAY = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("pragma cache_size = 1")  # so that pages are written before it is over
connection.execute("begin")
connection.execute("create table more as select * from params, (select 1 union select 2 union select 3)")
connection.execute("update params set value = value || 'x' ")
connection.execute("delete from runs")
os._exit(9)
"""


def test_a_database_whose_writer_was_killed_is_as_it_was_before(
    whole: tuple[Path, Experiment, dict[str, Any]], tmp_path: Path
) -> None:
    """Its journal lies beside it: looked at without that it would seem damaged, and be set aside."""
    home = copied(whole[0], tmp_path / "home")
    subprocess.run([sys.executable, "-c", HALFWAY, str(home / "mlflow.db")])
    assert (home / "mlflow.db-journal").exists()
    assert trouble_of(home / "mlflow.db") == "" and not (home / "mlflow.db-journal").exists()
    check(whole, home)
    assert not (home / "damaged").exists()


@pytest.mark.parametrize("folder", ["walls", "failed"])
def test_notes_of_searches_are_looked_at(
    folder: str, whole: tuple[Path, Experiment, dict[str, Any]], tmp_path: Path
) -> None:
    store = Store(copied(whole[0], tmp_path / "home"))
    store.disk.write(f"{folder}/a.json", sealed({"0": 3.5}))
    assert list(damages(store)) == []
    (store.home / "store" / folder / "a.json").write_bytes(b"{")
    (found,) = damages(store)
    assert found.file == f"store/{folder}/a.json"
    set_aside(store, found)
    assert list(damages(store)) == []


def test_the_doctor_finds_what_nothing_reads_and_mends_it(
    whole: tuple[Path, Experiment, dict[str, Any]], tmp_path: Path
) -> None:
    """A bit of a shard and one of a classifier, a cut receipt, record and index, where all that uses them is there."""
    home = copied(whole[0], tmp_path / "home")
    kinds = ["store/generate/*/part-*-*", "store/train/*/*.safetensors", "store/scores/*/part-?????.json"]
    files = [sorted(home.glob(kind))[0] for kind in [*kinds, "store/record/*.json", "store/index/*.json"]]
    assert all(well for _, well, _ in examine_files(home, False)), list(examine_files(home, False))
    for number, file in enumerate(files):
        harm(home, file, "a bit turned" if number < 2 else "cut")
    gone = next(home.glob("store/finetune/*/adapter.safetensors"))
    gone.unlink()
    found = {name: text for name, well, text in examine_files(home, False) if not well}
    expected = [file.relative_to(home).as_posix() for file in [*files, gone]]
    part = next(home.glob("store/generate/*/part-?????.json")).relative_to(home).as_posix()  # the note of the shard
    assert sorted(found) == sorted([part, *expected[1:]])
    assert [well for _, well, _ in examine_files(home, True)] == [True] * 6
    assert sum(file.is_file() for file in (home / "damaged").rglob("*")) == 7, "with two manifests"
    assert all(well for _, well, _ in examine_files(home, False)), list(examine_files(home, False))
    check(whole, home)
    assert all(well for _, well, _ in examine_files(home, False)), list(examine_files(home, False))


def test_the_doctor_tells_what_is_not_there(whole: tuple[Path, Experiment, dict[str, Any]], tmp_path: Path) -> None:
    """A manifest and a receipt: nothing is left to set aside, and the same command makes it anew."""
    home = copied(whole[0], tmp_path / "home")
    files = [next(home.glob("store/slow/*/manifest.json")), next(home.glob("store/views/*/part-?????.json"))]
    for file in files:
        file.unlink()
    for mend in (False, True):
        found = list(examine_files(home, mend))
        assert [(name, well) for name, well, _ in found] == [
            (f.parent.relative_to(home).as_posix(), True) for f in files
        ]
        assert "a run that has ended names it; made anew" in found[0][2]
        assert re.match(r"the receipts of \d+ of its images are not there; made anew", found[1][2])
    check(whole, home)
    assert [text for _, _, text in examine_files(home, False)] == [f"all of {home} is as it was written"]
