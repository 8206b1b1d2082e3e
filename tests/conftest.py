from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a read-only HOME has no room for Ray's token
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("SYNTHAUG_HOME", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """The one Ray that all tests share; the code under test finds it running."""
    from synthaug.runtime import cluster

    cluster.start(dashboard=True)
    yield
    cluster.stop_own()
