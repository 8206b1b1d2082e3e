from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import synthaug
from shapes import Noise, tiny
from synthaug.experiment import Experiment, Recipe, Resources
from synthaug.runtime.store import Store
from synthaug.runtime.tracking import Tracker

ROOT = Path(__file__).parents[1]


def experiment(**fields: object) -> Experiment:
    given = {"method": Noise(), "k": 2, "recipe": Recipe(steps=40, batch_size=16, evaluations=8)} | fields
    return tiny(resources=Resources(checkpoint_s=0), **given)


def science(answer: dict[str, Any]) -> dict[str, float]:
    """The metrics without what differs between any two runs: times, and whether images were there already."""
    return {n: v for n, v in answer["metrics"].items() if not n.endswith("_s") and n != "gen/cached"}


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
    monkeypatch.setattr("synthaug.runtime.run.make_all", lambda *arguments: pytest.fail("something was made again"))
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
real = loop._Run.interval
def told(self, *given):
    entry = real(self, *given)
    print("step", entry["step"], flush=True)
    return entry
loop._Run.interval = told
synthaug.run(experiment(), home=sys.argv[1])
"""


def test_killed_in_training_and_run_again_ends_with_the_same_numbers(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    where = os.pathsep.join([str(ROOT), str(ROOT / "runtime"), *sys.path])
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": where})
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 20"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = Store(tmp_path)
    nodes = experiment().nodes(store.identify)
    assert store.manifest(nodes["train"]) is None, "something was left to do"
    assert (store.folder(nodes["train"]) / "checkpoint.pt").exists(), "and something was done"
    again = synthaug.run(experiment(), home=tmp_path)
    assert science(again) == science(undisturbed[1])
    for name in ("train", "generate"):
        mine, theirs = Path(again["stages"][name]["path"]), Path(undisturbed[1]["stages"][name]["path"])
        for file in [*theirs.glob("*.safetensors"), *theirs.glob("*.parquet")]:
            assert (mine / file.name).read_bytes() == file.read_bytes()
    assert not list(store.root.glob("**/checkpoint.pt"))


def test_killed_between_the_last_step_and_the_manifest_trains_no_more(
    undisturbed: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, answer = undisturbed
    manifest = Path(answer["stages"]["train"]["path"]) / "manifest.json"
    before = manifest.read_bytes()
    manifest.unlink()
    monkeypatch.setattr("synthaug.classify.loop.train", lambda *_, **__: pytest.fail("trained again"))
    assert science(synthaug.run(experiment(), home=home)) == science(answer)
    ours, theirs = json.loads(manifest.read_bytes()), json.loads(before)
    assert ours["history"] == theirs["history"] and ours["steps"] == theirs["steps"]


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


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (TrainingError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_failed_run_says_so_and_goes_on_later(
    error: type[BaseException], status: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def broken(*arguments: object, **more: object) -> None:
        raise error("the training loss is nan at step 3")

    monkeypatch.setattr("synthaug.runtime.run.train_stage", broken)
    with pytest.raises(error):
        synthaug.run(experiment(method=None), home=home)
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    ids = [e.experiment_id for e in client.search_experiments()]
    assert [run.info.status for run in client.search_runs(ids)] == [status]
    monkeypatch.undo()
    answer = synthaug.run(experiment(method=None), home=home)
    assert [(run.info.run_id, run.info.status) for run in client.search_runs(ids)] == [(answer["run_id"], "FINISHED")]


@pytest.mark.parametrize("workers", [1, 2])
def test_train_workers_give_the_same_classifier_up_to_rounding(
    workers: int, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, cluster: None
) -> None:
    answer = synthaug.run(experiment(), home=tmp_path, workers=workers)
    one, many = undisturbed[1]["metrics"], answer["metrics"]
    assert abs(one["test/loss"] - many["test/loss"]) < 0.02 and abs(one["test/top1"] - many["test/top1"]) < 0.02
    generated = [Path(a["stages"]["generate"]["path"]) for a in (undisturbed[1], answer)]
    names = [sorted(path.name for path in folder.glob("*.parquet")) for folder in generated]
    assert names[0] == names[1], "the same images to the byte"
