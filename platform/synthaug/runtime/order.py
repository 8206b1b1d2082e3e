"""An order: what a process elsewhere must know to make some stages, as text."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthaug.experiment import Experiment, read
from synthaug.runtime.make import Plan
from synthaug.runtime.store import Store
from synthaug.settings import UserError, canonical, to_json
from synthaug.stages.base import Stage, closure, once


def order(plan: Plan, stages: Sequence[Stage[Any]]) -> str:
    """Stages by their keys, with the experiments that they belong to, the home, the folders of their classes, and where
    relative paths begin."""
    # what is installed a worker has itself; files of experiments are imported there under the names they have here
    paths = [os.path.abspath(path) for path in sys.path if os.path.isdir(path or ".") and "site-packages" not in path]
    # each experiment once, however many stages of it are sent
    owners = list(dict.fromkeys(plan.owner[stage.key] for stage in stages))
    wanted = [[owners.index(plan.owner[stage.key]), stage.key] for stage in stages]
    sent = {"home": str(plan.store.home), "paths": paths, "cwd": os.getcwd(), "stages": wanted}
    return canonical(sent | {"experiments": [to_json(owner) for owner in owners]}).decode()


def received(text: str) -> tuple[Store, list[tuple[Experiment, Stage[Any]]]]:
    """The store and the stages in the process that the order was sent to."""
    sent = json.loads(text)
    # at the end, so that what the worker has itself comes first
    sys.path += [path for path in sent["paths"] if path not in sys.path]
    if os.path.isdir(sent["cwd"]):
        os.chdir(sent["cwd"])  # Ray's processes begin in folders of their own
    store = _store(sent["home"])
    experiments = [read(data) for data in sent["experiments"]]
    return store, [_found(store, experiments[number], key) for number, key in sent["stages"]]


def _found(store: Store, experiment: Any, key: str) -> tuple[Experiment, Stage[Any]]:
    assert isinstance(experiment, Experiment)
    for stage in once(closure(store.line(experiment).results.values())):
        if stage.key == key:
            return experiment, stage
    # keys are worked out anew from what lies on the disk, which is no longer what it was when the order was given
    raise UserError("what the experiment reads has changed since it was started; run the same command again")


@lru_cache(maxsize=1)
def _store(home: str) -> Store:
    """One store a process, which opens each data set once."""
    if not Path(home).is_dir():
        raise UserError(
            f"{home} is not there on {socket.gethostname()}: the home must be on a disk that all nodes share"
        )
    return Store(home)
