from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ALL_WITH_RAY = 'pytestmark = pytest.mark.xdist_group("ray")'

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a read-only HOME has no room for Ray's token
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("SYNTHAUG_HOME", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: two processes of two threads on two cores are 12 times slower. Not OMP_THREAD_LIMIT too:
    # torch waits for ever for a second thread that a test asks for and OpenMP does not give.
    os.environ["OMP_NUM_THREADS"] = "1"


def scope(nodeid: str) -> str:
    """What stays in one process: the tests of a file, and all that use Ray, so that two never run at once."""
    file, _, test = nodeid.partition("::")
    return "ray" if test.partition("[")[0] in users_of_ray(file) else file


@cache
def users_of_ray(file: str) -> frozenset[str]:
    """The tests of a file that ask for `cluster`, by a fixture or themselves; all, where the file says so."""
    source = (ROOT / file).read_text()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    if ALL_WITH_RAY in source:
        return frozenset(function.name for function in functions)
    found = {"cluster"}
    for _ in range(3):  # a fixture of a fixture
        found |= {function.name for function in functions if found & {each.arg for each in function.args.args}}
    return frozenset(found)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Not `--dist loadgroup`, which pytest 9.2 has made without effect: the two speak through names of tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Scopes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    return Scopes(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: scope(item.nodeid) != "ray")  # they take longest, so they begin


@pytest.fixture(scope="session", autouse=True)
def one_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow takes a second to make its tables: a process of tests makes them once, and its homes begin with a copy.
    Nightly, and where tests start processes of their own, each home makes its own."""
    from synthaug.runtime import database

    made, real = tmp_path_factory.mktemp("mlflow"), database._make

    def copied(home: Path) -> None:
        if not (made / database.NAME).exists():
            real(made)
        new = home / f"{database.NAME}.new"
        shutil.copyfile(made / database.NAME, new)
        os.replace(new, home / database.NAME)

    if request.config.option.markexpr == "not nightly":
        database._make = copied
    yield
    database._make = real


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
