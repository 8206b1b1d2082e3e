from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import preloaded
import synthaug
from making import made_in, place_of, science
from shapes import FailsInTheSecond, Noise, tiny
from synthaug.classify import loop
from synthaug.experiment import Experiment, Recipe, Resources
from synthaug.methods.base import Models, Row
from synthaug.runtime.disk import Disk
from synthaug.runtime.finished import Finished
from synthaug.runtime.make import Made
from synthaug.runtime.store import MANIFEST, Store
from synthaug.runtime.tracking import Tracker
from synthaug.settings import UserError, settings


def experiment(**fields: object) -> Experiment:
    given = {"method": Noise(), "k": 2, "recipe": Recipe(steps=40, batch_size=16, evaluations=8)} | fields
    return tiny(resources=Resources(checkpoint_s=0), **given)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    home = tmp_path_factory.mktemp("undisturbed")
    return home, synthaug.run(experiment(), home=home)


def test_the_answer_is_whole(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, answer = undisturbed
    assert set(answer) == {"run_id", "experiment", "stages", "metrics"}
    assert list(answer["stages"]) == ["generate", "train", "evaluate"]
    for stage in answer["stages"].values():
        assert set(stage) == {"key", "path", "cached", "seconds"} and Path(stage["path"]).is_dir()
        assert not stage["cached"]
    assert {"test/top1", "val/top1", "cost/device_s", "gen/images", "gen/cached"} <= set(answer["metrics"])
    assert json.loads(json.dumps(answer)) == answer


def test_a_second_run_is_cached_whole_and_is_the_same_run(
    undisturbed: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, answer = undisturbed
    monkeypatch.setattr("synthaug.runtime.run.make", lambda *arguments: pytest.fail("something was made again"))
    again = synthaug.run(experiment(), home=home)
    assert all(stage["cached"] for stage in again["stages"].values())
    assert again["run_id"] == answer["run_id"] and science(again) == science(answer)


def test_only_what_depends_on_a_change_runs(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    home, answer = undisturbed
    other = synthaug.run(experiment(utilize="Replace"), home=home)
    assert [stage["cached"] for stage in other["stages"].values()] == [True, False, False]
    assert other["stages"]["generate"]["key"] == answer["stages"]["generate"]["key"]


CHILD = """
import sys
from test_run import experiment
import synthaug
from synthaug.classify import loop
real = loop.Run.interval
def told(self, *given):
    entry = real(self, *given)
    print("step", entry["step"], flush=True)
    return entry
loop.Run.interval = told
synthaug.run(experiment(), home=sys.argv[1])
"""


def test_killed_in_training_and_run_again_ends_with_the_same_numbers(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    process = preloaded.start(CHILD, tmp_path)
    for line in process.stdout:
        if line.startswith("step 20"):
            break
    process.kill()
    process.wait()
    store = Store(tmp_path)
    assert store.manifest(store.stages(experiment())["train"]) is None, "something was left to do"
    assert (place_of(store, experiment(), "train") / "checkpoint.pt").exists(), "and something was done"
    again = synthaug.run(experiment(), home=tmp_path)
    assert science(again) == science(undisturbed[1])
    equal_files(again, undisturbed[1])
    assert not list(store.disk.root.glob("**/checkpoint.pt"))


def equal_files(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same weights and images to the byte."""
    for name, pattern in (("train", "*.safetensors"), ("generate", "*.parquet")):
        mine, theirs = (Path(answer["stages"][name]["path"]) for answer in (one, other))
        files = [path.name for path in theirs.glob(pattern)]
        assert files and all((mine / file).read_bytes() == (theirs / file).read_bytes() for file in files)


def finished(store: Store, made: Made) -> dict[str, Any]:
    """What a run would answer."""
    return Finished(store, experiment()).answer("", made)


class Killed(BaseException):
    """Nobody expects it."""


def test_killed_between_the_last_step_and_the_manifest_trains_only_what_no_checkpoint_holds(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are there and are written once more: what lies there without a manifest is nobody's."""
    write, steps = Disk.write, list[int]()
    real = loop.Run.step

    def killed(self: Disk, name: str, data: bytes) -> None:
        if name == MANIFEST and self.root.parent.name == "train":
            raise Killed
        write(self, name, data)

    def counted(self: loop.Run, number: int, indices: Tensor) -> Tensor:
        steps.append(number)
        return real(self, number, indices)

    monkeypatch.setattr(Disk, "write", killed)
    with pytest.raises(Killed):
        made_in(tmp_path, experiment())
    train = place_of(Store(tmp_path), experiment(), "train")
    assert (train / "model.safetensors").exists() and not (train / MANIFEST).exists()
    monkeypatch.setattr(Disk, "write", write)
    monkeypatch.setattr(loop.Run, "step", counted)
    again = finished(*made_in(tmp_path, experiment()))
    assert steps == list(range(35, 40)), "those since the last of the eight evaluations but one"
    assert science(again) == science(undisturbed[1])
    equal_files(again, undisturbed[1])
    theirs = Path(undisturbed[1]["stages"]["train"]["path"])
    mine, other = (json.loads((folder / MANIFEST).read_bytes()) for folder in (train, theirs))
    assert mine["history"] == other["history"] and mine["steps"] == other["steps"]


def test_two_that_ask_at_once_get_the_same_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the moment between looking and making stretched, so that without a lock everybody makes one."""
    from mlflow import MlflowClient

    Store(home).prepare()
    real, trackers = MlflowClient.create_run, [Tracker(home, "together") for _ in range(4)]
    assert len({tracker.experiment for tracker in trackers}) == 1

    def slow(self: MlflowClient, *arguments: Any, **more: Any) -> Any:
        time.sleep(0.5)
        return real(self, *arguments, **more)

    monkeypatch.setattr(MlflowClient, "create_run", slow)
    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(lambda tracker: tracker.open("key", "name", {}).id, trackers))) == 1


class TrainingError(Exception):
    """Ray Train's is no RuntimeError."""


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failing")


@pytest.mark.parametrize(
    ("seed", "error", "status"),
    [(0, RuntimeError, "FAILED"), (1, TrainingError, "FAILED"), (2, KeyboardInterrupt, "KILLED")],
)
def test_a_failed_run_says_so_and_goes_on_later(
    seed: int, error: type[BaseException], status: str, failing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    subject, client = tiny(steps=4, seed=seed), MlflowClient(f"sqlite:///{failing / 'mlflow.db'}")

    def broken(*arguments: object, **more: object) -> None:
        raise error("the training loss is nan at step 3")

    def runs() -> list[tuple[str, str]]:
        (own,) = client.search_experiments(filter_string=f"name = '{error.__name__}'")
        return [(run.info.run_id, run.info.status) for run in client.search_runs([own.experiment_id])]

    monkeypatch.setattr(loop, "train", broken)
    # what is raised in a file that is not ours is told as the user's own
    with pytest.raises(UserError if issubclass(error, Exception) else error, match="nan at step 3"):
        synthaug.run(subject, home=failing, name=error.__name__)
    assert [ended for _, ended in runs()] == [status]
    monkeypatch.undo()
    answer = synthaug.run(subject, home=failing, name=error.__name__)
    assert runs() == [(answer["run_id"], "FINISHED")]


@pytest.mark.nightly
def test_an_error_in_one_of_the_workers_ends_the_training(tmp_path: Path, cluster: None) -> None:
    """Said and not raised, the other would wait for this one for ever."""
    recipe = Recipe(steps=4, batch_size=8, evaluations=1, transforms=(FailsInTheSecond(),))
    with pytest.raises(RuntimeError, match="only here"):
        synthaug.run(tiny(method=None, recipe=recipe), home=tmp_path, workers=2)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.nightly), 2])
def test_train_workers_give_the_same_classifier_up_to_rounding(
    workers: int, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, cluster: None
) -> None:
    answer = synthaug.run(experiment(), home=tmp_path, workers=workers)
    assert not (tmp_path / "ray").exists(), "nothing of Ray Train's is left"
    one, many = undisturbed[1]["metrics"], answer["metrics"]
    assert abs(one["test/loss"] - many["test/loss"]) < 0.02 and abs(one["test/top1"] - many["test/top1"]) < 0.02
    generated = [Path(a["stages"]["generate"]["path"]) for a in (undisturbed[1], answer)]
    names = [sorted(path.name for path in folder.glob("*.parquet")) for folder in generated]
    assert names[0] == names[1], "the same images to the byte"


@settings
class Sleepy(Noise):
    """Waits, as for a disk or a busy machine."""

    def generate(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Any:
        time.sleep(2)
        return super().generate(rows, images, models)


def test_waiting_costs_no_device_seconds(tmp_path: Path) -> None:
    metrics = synthaug.run(tiny(method=Sleepy(), k=1), home=tmp_path)["metrics"]
    assert 0 < metrics["cost/generate_s"] < 1
