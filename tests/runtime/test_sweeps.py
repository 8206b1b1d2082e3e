from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from test_looks import Brightness

import synthaug
from shapes import Noise, tiny
from synthaug.classify.augment import TrivialAugment
from synthaug.evaluate.accuracy import Accuracy
from synthaug.experiment import Recipe, Sweep
from synthaug.pages.report import write_report
from synthaug.runtime.store import Store
from synthaug.runtime.sweeps import Watch
from synthaug.runtime.tracking import Run, Tracker
from synthaug.settings import UserError
from synthaug.stages.classifier import Classifier

SWEEP = Sweep(
    base=tiny(),
    arms={
        "plain": {},
        "same as plain": {},
        "TrivialAugment": {"recipe.transforms": (TrivialAugment(),)},
        "noise": {"method": Noise(), "k": 2},
    },
    baseline="plain",
    seeds=2,
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> tuple[Path, dict[str, Any]]:
    home = tmp_path_factory.mktemp("sweep")
    return home, synthaug.run(SWEEP, home=home, name="file:sweep")


def test_every_trial_ran_and_pairs_are_pairs(ran: tuple[Path, dict[str, Any]]) -> None:
    trials = ran[1]["trials"]
    assert [(t["arm"], t["seed"]) for t in trials] == [(arm, seed) for arm in SWEEP.arms for seed in (0, 1)]
    value = {(t["arm"], t["seed"]): t["metrics"]["test/top1"] for t in trials}
    assert [value["plain", s] for s in (0, 1)] == [value["same as plain", s] for s in (0, 1)]
    assert all(t["metrics"]["gen/images"] == (40 if t["arm"] == "noise" else 0) for t in trials)
    assert json.loads(json.dumps(ran[1])) == ran[1]


def test_a_trial_gives_what_the_experiment_gives_in_process(ran: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    trial = next(t for t in SWEEP.trials() if t.arm == "noise")
    alone = synthaug.run(trial.experiment, home=tmp_path)
    told = next(t for t in ran[1]["trials"] if t["arm"] == "noise" and t["seed"] == trial.seed)
    for name in ("test/top1", "test/loss", "val/top1", "gen/images"):
        assert alone["metrics"][name] == told["metrics"][name]


def test_mlflow_holds_a_parent_and_its_children(ran: tuple[Path, dict[str, Any]]) -> None:
    from mlflow import MlflowClient

    home, answer = ran
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'file:sweep'")

    def those(tag: str, value: str) -> dict[str, Any]:
        found = client.search_runs([experiment.experiment_id], f"tags.`{tag}` = '{value}'")
        return {one.info.run_id: one for one in found}

    points = those("synthaug.kind", "point")
    assert all(run.data.tags["synthaug.sweep"] == answer["run_id"] for run in points.values())
    assert not any("mlflow.parentRunId" in run.data.tags for run in points.values()), "or the UI would hide them"
    assert points.keys() == {point["run_id"] for point in answer["points"]} and len(points) == len(SWEEP.arms)
    seeds = {id: run for point in points for id, run in those("mlflow.parentRunId", point).items()}
    assert seeds.keys() == {t["run_id"] for t in answer["trials"]} and len(seeds) == 2 * len(points)
    assert {run.info.status for run in (*points.values(), *seeds.values())} == {"FINISHED"}
    (noise,) = [run for run in points.values() if run.data.params["arm"] == "noise"]
    values = [t["metrics"] for t in answer["trials"] if t["arm"] == "noise"]
    told = noise.data.metrics
    assert told["test/top1"] == pytest.approx(sum(m["test/top1"] for m in values) / 2)
    assert told["cost/device_s"] == pytest.approx(sum(m["cost/device_s"] for m in values)) and told["seeds"] == 2
    assert told["test/top1/low"] <= told["test/top1"] <= told["test/top1/high"]
    assert {"method.amount": "20", "k": "2"}.items() <= noise.data.params.items() and "seed" not in noise.data.params
    noisy = client.get_run(next(t["run_id"] for t in answer["trials"] if t["arm"] == "noise"))
    params = {"method": "Noise", "method.amount": "20", "utilize": "Concat", "k": "2", "seed": "0", "arm": "noise"}
    assert params.items() <= noisy.data.params.items()
    names = {"test/top1", "val/top1", "cost/device_s", "gen/images", "gen/cached"}
    assert names <= noisy.data.metrics.keys()
    assert [p.step for p in client.get_metric_history(noisy.info.run_id, "val/top1")][-1] in (0, 8)
    assert noisy.inputs.dataset_inputs[0].dataset.name == "digits"
    artifacts = {file.path for file in client.list_artifacts(noisy.info.run_id)}
    assert {"experiment.json", "gallery.png", "confusion.png", "per_class.json"} <= artifacts
    assert str(home / "artifacts") in noisy.info.artifact_uri
    parent = client.get_run(answer["run_id"])
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"sweep.json"}


def test_a_second_run_makes_nothing_and_answers_the_same(
    ran: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, answer = ran
    monkeypatch.setattr("synthaug.runtime.sweeps.make", lambda *arguments: pytest.fail("something was made again"))
    again = synthaug.run(SWEEP, home=home, name="file:sweep")
    assert [t["run_id"] for t in again["trials"]] == [t["run_id"] for t in answer["trials"]]
    for one, two in zip(answer["trials"], again["trials"], strict=True):
        assert one["metrics"]["test/top1"] == two["metrics"]["test/top1"]


def test_measuring_alone_moves_the_progress_line(
    ran: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the nets in the store, what is left may still take an hour."""
    sweep = Sweep(base=tiny(evaluations=[Accuracy(split=split) for split in ("test", "val", "train")]), seeds=2)
    synthaug.run(sweep, home=ran[0])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evaluate")]
    assert lines[-1].startswith("evaluate 4/4 steps"), "of each of two nets the two that are not there yet"
    assert not any(line.startswith("evaluate 5") for line in lines)


def test_the_report_stands_alone(ran: tuple[Path, dict[str, Any]]) -> None:
    page = write_report(Store(ran[0]), {"file:sweep": SWEEP}).read_text()
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    for word in ("p (Holm)", "TrivialAugment", "data:image/png;base64", "<svg", "2 seeds"):
        assert word in page


def test_many_arms_stay_readable(ran: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthaug.pages.report.MANY", 1)
    page = write_report(Store(ran[0]), {"file:sweep": SWEEP}).read_text()
    assert "of the 1 arms that end highest" in page and "<tr><th>arm<th>0<th>1<th>2" in page
    assert page.count("data:image/png;base64") == 1, "one gallery a set of images, of the first seed"


@pytest.mark.nightly  # half a minute; that workers train the same is tested elsewhere
def test_each_trial_may_have_train_workers(cluster: None, ran: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """One after another; what fails there is told as it is elsewhere."""
    arms = {"plain": {}, "bad": {"recipe.batch_size": 1}}  # of two workers one would have nothing to do
    sweep = Sweep(base=tiny(), arms=arms, seeds=1)
    with pytest.raises(
        RuntimeError, match="1 of 2 trials failed, the first with: .*smaller than the number of workers"
    ):
        synthaug.run(sweep, home=tmp_path, workers=2)
    (answer,) = synthaug.run(Sweep(base=tiny(), arms={"plain": {}}, seeds=1), home=tmp_path, workers=2)["trials"]
    alone = next(t for t in ran[1]["trials"] if (t["arm"], t["seed"]) == ("plain", 0))
    assert answer["metrics"]["val/loss"] == pytest.approx(alone["metrics"]["val/loss"], abs=1e-4)


def test_trials_are_logged_as_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks at a sweep of days in its first hour sees what there is; in the end each number was told once."""
    for name in ("LOG_S", "LOG_REST"):
        monkeypatch.setattr(f"synthaug.runtime.sweeps.{name}", 0)
    sweep = Sweep(base=tiny(method=None), arms={"plain": {}, "longer": {"recipe.steps": 9}}, seeds=2)
    tracker = Tracker(tmp_path, "synthaug")
    real, seen = Classifier.fit, list[list[str]]()

    def fit(*given: Any) -> Any:
        runs = tracker.client.search_runs([tracker.experiment], "tags.`synthaug.kind` = 'trial'")
        seen.append([run.info.status for run in runs])
        if runs:  # of the point's two seeds one is there
            (point,) = tracker.client.search_runs([tracker.experiment], "tags.`synthaug.kind` = 'point'")
            assert point.info.status == "RUNNING" and point.data.metrics["seeds"] == 1
        if len(seen) == 2:
            monkeypatch.setattr(Classifier, "fit", real)
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(Classifier, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        synthaug.run(sweep, home=tmp_path, workers=0)
    assert seen == [[], ["FINISHED"]]
    answer = synthaug.run(sweep, home=tmp_path, workers=0)
    runs = tracker.client.search_runs([tracker.experiment], "tags.`synthaug.kind` = 'trial'")
    assert {run.info.run_id for run in runs} == {trial["run_id"] for trial in answer["trials"]} and len(runs) == 4
    for run in runs:
        assert run.info.status == "FINISHED"
        assert len(tracker.client.get_metric_history(run.info.run_id, "test/top1")) == 1


def test_a_number_that_is_not_there_ends_it_after_the_first_trial(tmp_path: Path) -> None:
    """Also where its process goes on with what another trial wants of the same net: that has not failed."""
    more = {"evaluations": [Accuracy(), Accuracy(split="val")]}
    sweep = Sweep(base=tiny(method=None), arms={"one": {}, "two": more}, seeds=3, metric="val/top2")
    for _ in range(2):  # what is there already is looked at before anything is made
        with pytest.raises(UserError, match="'val/top2' is not measured; did you mean val/top1"):
            synthaug.run(sweep, home=tmp_path, workers=0)
    assert len(list((tmp_path / "store" / "train").glob("*/manifest.json"))) == 1


def test_a_trial_that_ends_with_a_mapped_stage_is_looked_at_as_well(cluster: None, tmp_path: Path) -> None:
    """What is refused then is no failure of that stage."""
    sweep = Sweep(base=tiny(method=None, steps=1, evaluations=(Brightness("val"),)), seeds=1, metric="val/nothing")
    for workers in (0, None):
        with pytest.raises(UserError, match="'val/nothing' is not measured"):
            synthaug.run(sweep, home=tmp_path / str(workers), workers=workers)


def test_a_server_that_is_away_for_a_moment_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("LOG_S", "LOG_REST"):
        monkeypatch.setattr(f"synthaug.runtime.sweeps.{name}", 0)
    real, calls = Run.curve, list[int]()

    def away(self: Run, entries: Any) -> None:
        calls.append(1)
        raise MlflowException("nobody there")

    monkeypatch.setattr(Run, "curve", away)
    answer = synthaug.run(Sweep(base=tiny(method=None), seeds=2), home=tmp_path, workers=0)
    assert len(calls) == 1 and "MLflow took nothing (nobody there)" in capsys.readouterr().err
    monkeypatch.setattr(Run, "curve", real)
    tracker = Tracker(tmp_path, "synthaug")
    for trial in answer["trials"]:
        assert [p.step for p in tracker.client.get_metric_history(trial["run_id"], "train/loss")] == [2, 4, 6, 8]


def test_curves_are_logged_while_they_grow_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOG_S", "LOG_REST"):
        monkeypatch.setattr(f"synthaug.runtime.sweeps.{name}", 0)
    sweep = Sweep(base=tiny(method=None, recipe=Recipe(steps=12, batch_size=16, evaluations=6)), seeds=2)
    tracker, real, heard = Tracker(tmp_path, "synthaug"), Watch.heard, list[int]()

    def hear(self: Watch, stage: Any, entry: Any) -> None:
        real(self, stage, entry)
        heard.append(int(entry["step"]))
        if len(heard) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "heard", hear)

    def trials() -> list[Any]:
        return list(tracker.client.search_runs([tracker.experiment], "tags.`synthaug.kind` = 'trial'"))

    def steps(run: Any) -> list[int]:
        return [point.step for point in tracker.client.get_metric_history(run.info.run_id, "train/loss")]

    with pytest.raises(KeyboardInterrupt):
        synthaug.run(sweep, home=tmp_path, workers=0)
    (run,) = trials()
    assert run.info.status == "KILLED" and steps(run) == heard == [2, 4, 6]
    answer = synthaug.run(sweep, home=tmp_path, workers=0)
    assert {run.info.run_id for run in trials()} == {trial["run_id"] for trial in answer["trials"]}
    for run in trials():
        assert run.info.status == "FINISHED" and sorted(steps(run)) == [2, 4, 6, 8, 10, 12]
