"""A new kind of stage is one file: everything below is all that it takes to add three to an experiment.

A net that is trained before everything, something that is made of each source by it, and a mask between the data and
the sources of generation. Running, showing, sweeping, costs, progress, resuming and cleaning know nothing of them.
"""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import synthaug
from making import key_of, made_in
from preloaded import start
from shapes import Noise, tiny
from synthaug.data.listing import Entry
from synthaug.experiment import Experiment, Resources, Sweep, read, replace
from synthaug.pages.plan import plan
from synthaug.runtime.store import Store
from synthaug.settings import canonical, settings, to_json
from synthaug.stages.base import Cost, Folder, Given, Loop, Mapped, Outcome, Part, Stage, Trained
from synthaug.stages.data import SUBSET, Mask, Pictures
from synthaug.stages.line import Line
from synthaug.stages.shards import read_part

UNIT = 4  # sources of a unit


class Average(Trained[np.ndarray]):
    """The mean image, learned step by step."""

    kind, cost = "average", "average"

    def __init__(self, data: Stage[Pictures], seed: int, steps: int) -> None:
        self.seed, self.steps = seed, steps
        super().__init__({"seed": seed, "steps": steps}, {"data": data})

    @property
    def reports(self) -> int:
        return self.steps

    def fit(self, given: Given, loop: Loop) -> Outcome:
        import torch

        images, _ = given["data"].arrays(SUBSET, self.seed, 32)
        state = loop.checkpoint.load() if loop.checkpoint else None
        mean = torch.zeros(images.shape[1:]) if state is None else state["mean"]
        history = [] if state is None else state["history"]
        for step in range(len(history), self.steps):
            mean = mean + (torch.from_numpy(images[step % len(images)]) - mean) / (step + 1)
            history.append({"step": float(step + 1), "train/loss": float(mean.std())})
            loop.report(history[-1])
            if loop.checkpoint and loop.checkpoint.due():
                loop.checkpoint.save({"mean": mean, "history": history})
        out = io.BytesIO()
        np.save(out, mean.numpy())
        return Outcome({"mean.npy": out.getvalue()}, 1.5, history=history)

    def load(self, at: Folder, given: Given) -> np.ndarray:
        return np.asarray(np.load(io.BytesIO(at.read("mean.npy"))))


class Distances(Mapped[dict[str, float]]):
    """How far each training image is from the mean one."""

    kind, cost, suffix = "distances", "distances", "json"

    def __init__(self, data: Stage[Pictures], average: Average, seed: int) -> None:
        self.seed = seed
        super().__init__({"seed": seed}, {"data": data, "average": average})

    def entries(self, given: Given) -> tuple[Entry, ...]:
        pictures: Pictures = given["data"]
        return pictures.entries(SUBSET, self.seed)

    def units(self, given: Given) -> Sequence[int]:
        return range(-(-len(self.entries(given)) // UNIT))

    def measure(self, unit: int, given: Given) -> Cost:
        return Cost(units=len(self.entries(given)[unit * UNIT : (unit + 1) * UNIT]), calls=7)

    def make(self, unit: int, opened: Given) -> Part:
        images, _ = opened["data"].arrays(SUBSET, self.seed, 32)
        entries = self.entries(opened)[unit * UNIT : (unit + 1) * UNIT]
        far = [float(np.abs(images[unit * UNIT + n] - opened["average"]).mean()) for n in range(len(entries))]
        found = {entry.id: value for entry, value in zip(entries, far, strict=True)}
        return Part(canonical(found), len(found), seconds=0.25, counters={"unet_calls": 7})

    def load(self, at: Folder, given: Given) -> dict[str, float]:
        parts = [json.loads(read_part(at, unit, self.suffix)) for unit in self.units(given)]
        return {id: value for part in parts for id, value in part.items()}


class FarHalf(Mask):
    """The training images that are farthest from the mean one: only of these new ones are made."""

    kind, cost = "far", "far"

    def __init__(self, data: Stage[Pictures], distances: Distances) -> None:
        super().__init__({}, {"data": data, "distances": distances})

    def choose(self, given: Given) -> list[str]:
        far: dict[str, float] = given["distances"]
        return sorted(far, key=lambda id: -far[id])[: len(far) // 2]


class FarLine(Line):
    """The usual line with the three."""

    @cached_property
    def average(self) -> Average:
        assert isinstance(self.experiment, FarExperiment)
        return Average(self.data, self.experiment.seed, self.experiment.average_steps)

    @cached_property
    def sources(self) -> FarHalf:  # type: ignore[override]
        return FarHalf(self.data, Distances(self.data, self.average, self.experiment.seed))


@settings(kw_only=True)
class FarExperiment(Experiment):
    """An experiment that asks for them."""

    LINE: ClassVar[Any] = FarLine
    average_steps: int = 6


def experiment(**fields: Any) -> FarExperiment:
    base = tiny(method=Noise(), k=2, resources=Resources(checkpoint_s=0), **fields)
    return FarExperiment(**{field.name: getattr(base, field.name) for field in dataclasses.fields(base)})


THREE = ["average", "distances", "far"]


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    return {"home": home, **synthaug.run(experiment(), home=home)}


def test_they_are_run_and_new_images_are_made_of_some_only(answer: dict[str, Any]) -> None:
    assert list(answer["stages"]) == [*THREE, "generate", "train", "evaluate"]
    store = Store(answer["home"])
    line = store.line(experiment())
    far = store.load(line.sources)
    made = store.load(line.generated).samples(2)
    assert len({sample.source for sample in made}) == 10 and len(made) == 20
    assert {sample.source for sample in made} == {entry.id for entry in far.entries(SUBSET, 0)}
    distances = store.load(line.sources.inputs["distances"])
    assert min(distances[s.source] for s in made) >= sorted(distances.values())[10]
    data = line.classifier.training_data(store.given(line.classifier))
    assert data.n_real == 20 and len(data.source_of_synthetic) == 20, "the classifier sees all real images"


def test_their_costs_are_counted(answer: dict[str, Any]) -> None:
    metrics = answer["metrics"]
    assert metrics["cost/average_s"] == 1.5 and metrics["cost/far_s"] > 0
    assert metrics["cost/distances_s"] == 5 * 0.25 and metrics["cost/denoiser_calls"] == 5 * 7
    named = [name for name in metrics if name.endswith("_s") and name.startswith("cost/") and name != "cost/device_s"]
    assert metrics["cost/device_s"] == pytest.approx(sum(metrics[name] for name in named))


def test_again_finds_them(answer: dict[str, Any]) -> None:
    again = synthaug.run(experiment(), home=answer["home"])
    assert again["run_id"] == answer["run_id"] and all(stage["cached"] for stage in again["stages"].values())
    assert Store(answer["home"]).unneeded() == [], "clean leaves alone what a run refers to"


def test_show_tells_them_before_and_after(answer: dict[str, Any], tmp_path: Path) -> None:
    before = plan(experiment(), tmp_path)
    assert [before["stages"][name]["cached"] for name in THREE] == [False] * 3
    assert before["stages"]["generate"]["images"] == 40, "at most: the mask is not known yet"
    after = plan(experiment(), answer["home"])
    assert all(stage["cached"] for stage in after["stages"].values()) and after["missing"]["images"] == 0


class Late(Distances):
    """Which units there are hangs on what its input will give."""

    def units(self, given: Given) -> Sequence[int]:
        return range(len(given["average"]))


class LateLine(FarLine):
    @cached_property
    def sources(self) -> FarHalf:  # type: ignore[override]
        return FarHalf(self.data, Late(self.data, self.average, self.experiment.seed))


@settings(kw_only=True)
class LateExperiment(FarExperiment):
    LINE: ClassVar[Any] = LateLine


def test_show_says_nothing_of_what_cannot_be_known_yet(tmp_path: Path) -> None:
    late = LateExperiment(
        **{field.name: getattr(experiment(), field.name) for field in dataclasses.fields(experiment())}
    )
    stages = plan(late, tmp_path)["stages"]
    assert (
        not stages["distances"]["cached"] and stages["distances"]["calls"] == 0 and stages["generate"]["images"] == 40
    )


def test_keys_hang_together() -> None:
    base, other = experiment(), replace(experiment(), {"average_steps": 7})
    names = [*THREE, "generate", "train", "evaluate"]
    assert all(key_of(base, name) != key_of(other, name) for name in names)
    assert read(to_json(base)) == base and isinstance(read(to_json(base)), FarExperiment)
    sweep = Sweep(base=base, space={"average_steps": [6, 7]}, seeds=1)
    assert read(to_json(sweep)) == sweep
    assert [type(trial.experiment) for trial in sweep.trials()] == [FarExperiment] * 2


def test_a_sweep_makes_each_once_in_other_processes(tmp_path: Path, cluster: None) -> None:
    """Workers are sent the experiment's JSON, whose `kind` names the line."""
    sweep = Sweep(base=experiment(), arms={"far": {}, "other": {"utilize": "Replace"}}, baseline="far", seeds=1)
    answer = synthaug.run(sweep, home=tmp_path)
    stages = [name.partition("/")[0] for name in answer["stages"]]
    assert {name: stages.count(name) for name in THREE} == dict.fromkeys(THREE, 1) and stages.count("train") == 2
    assert all(trial["metrics"]["cost/distances_s"] == 5 * 0.25 for trial in answer["trials"])


@pytest.mark.nightly  # what is mapped by actors, and shared by Ray Train, has one test each that is not
def test_with_workers_the_bytes_are_the_same(answer: dict[str, Any], tmp_path: Path, cluster: None) -> None:
    made_in(tmp_path, experiment(), "generate", workers=2)
    assert bytes_of(tmp_path) == bytes_of(answer["home"])


def bytes_of(home: Path) -> dict[str, bytes]:
    """What the three and the images are."""
    named = [path for kind in (*THREE, "generate") for path in (home / "store" / kind).glob("*/*")]
    kept = [path for path in named if path.suffix in (".npy", ".parquet") or path.name == "ids.json"]
    return {str(path.relative_to(home)): path.read_bytes() for path in kept}


CHILD = """
import sys, synthaug
from test_one_file import experiment
synthaug.run(experiment(), home=sys.argv[1])
"""


@pytest.mark.parametrize(
    "sign", ["store/average/*/checkpoint.pt", "store/distances/*/part-*.json", "store/far/*/ids.json"]
)
def test_killed_in_each_and_run_again(answer: dict[str, Any], tmp_path: Path, sign: str) -> None:
    process = start(CHILD, tmp_path)
    while process.poll() is None and not list(tmp_path.glob(sign)):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not list(tmp_path.glob("store/evaluate/*/manifest.json")), "something was left to do"
    synthaug.run(experiment(), home=tmp_path)
    assert bytes_of(tmp_path) == bytes_of(answer["home"])


def test_clean_takes_away_what_nobody_refers_to(tmp_path: Path) -> None:
    synthaug.run(experiment(), home=tmp_path)
    store = Store(tmp_path)
    for path in (tmp_path / "store/record").glob("*.json"):
        path.unlink()
    found = dict(store.unneeded())
    assert {name.partition("/")[0] for name in found} >= {*THREE, "generate"}
    assert all(store.remove(name, why) for name, why in found.items()) and store.unneeded() == []
