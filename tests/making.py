"""What tests ask of stages: which there are, and some of them made in a home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthaug.data.dataset import Dataset
from synthaug.data.listing import Listing
from synthaug.experiment import Experiment
from synthaug.runtime.executors import Workers
from synthaug.runtime.make import Here, Made, Plan, make
from synthaug.runtime.store import Store
from synthaug.stages.base import Stage
from synthaug.stages.data import identity
from synthaug.stages.line import line_of


class Known:
    """A library that tells what things are by a function, and reads nothing else."""

    def __init__(self, identify: Callable[[Any], str] = identity) -> None:
        self.identify = identify

    def open(self, dataset: Dataset) -> Listing:
        return dataset.open()

    def made(self, key: str) -> Path:
        raise AssertionError("without a home nothing is made")


def stages_of(experiment: Experiment, identify: Callable[[Any], str] = identity) -> dict[str, Stage[Any]]:
    """The stages of an experiment by name, without a home."""
    return line_of(experiment, Known(identify)).stages()


def key_of(experiment: Experiment, name: str, identify: Callable[[Any], str] = identity) -> str:
    return stages_of(experiment, identify)[name].key


def made_in(home: Path | Store, experiment: Experiment, *names: str, workers: int = 0) -> tuple[Store, Made]:
    """Some stages of an experiment by name (all, if none is named) with what they need, and what had to be done."""
    store = home if isinstance(home, Store) else Store(home).prepare()
    stages = store.line(experiment).stages()
    sinks = [stages[name] for name in names] if names else None
    return store, make(Plan(store).add(experiment, sinks), Workers(workers) if workers else Here())


def place_of(store: Store, experiment: Experiment, name: str) -> Path:
    """Where a stage lies."""
    return store.at(store.line(experiment).stages()[name]).local()


def science(answer: dict[str, Any]) -> dict[str, float]:
    """The metrics without what differs between any two runs: times, and whether images were there already."""
    return {n: v for n, v in answer["metrics"].items() if not n.endswith("_s") and n != "gen/cached"}
