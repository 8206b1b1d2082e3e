"""What a process elsewhere must know to work on an experiment, and how it gets there."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from synthaug.experiment import Experiment, load
from synthaug.runtime.store import Store
from synthaug.settings import UserError, canonical, to_json


def sent(store: Store, experiment: Experiment) -> dict[str, Any]:
    """An experiment as it travels: with the home, the folders of its classes, and where its relative paths begin."""
    paths = [os.path.abspath(path) for path in sys.path if os.path.isdir(path or ".") and "site-packages" not in path]
    place = {"home": str(store.home), "paths": paths, "cwd": os.getcwd()}
    return place | {"experiment": canonical(to_json(experiment)).decode()}


def arrived(place: Mapping[str, Any]) -> tuple[Store, Experiment]:
    """The store and the experiment in the process that was sent for them."""
    sys.path += [path for path in place["paths"] if path not in sys.path]
    if os.path.isdir(place["cwd"]):
        os.chdir(place["cwd"])  # Ray's processes begin in folders of their own
    experiment = load(place["experiment"])
    assert isinstance(experiment, Experiment)
    return _store(place["home"]), experiment


@lru_cache(maxsize=1)
def _store(home: str) -> Store:
    """One store a process, which opens each data set once."""
    if not Path(home).is_dir():
        raise UserError(
            f"{home} is not there on {socket.gethostname()}: the home must be on a disk that all nodes share"
        )
    return Store(home)
