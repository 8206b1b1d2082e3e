"""A full disk and a home that moves: one line, nothing lost, nothing written elsewhere."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import synthaug
from making import science
from shapes import Noise, tiny
from synthaug.experiment import Experiment
from synthaug.runtime import disk
from synthaug.runtime.tracking import Tracker
from synthaug.settings import UserError

WRITES = [
    "create_experiment",
    "create_run",
    "set_tag",
    "log_batch",
    "log_inputs",
    "log_dict",
    "log_image",
    "set_terminated",
]


def subject() -> Experiment:
    return tiny(method=Noise(), k=1)


class Full:
    """Counts writes, and fails from number `at` on, as the disk and SQLite do when there is no space."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None) -> None:
        self.count, self.at = 0, at
        patch.setattr(disk.os, "fsync", self.wrap(disk.os.fsync, OSError(errno.ENOSPC, "No space left on device")))
        full = MlflowException("(sqlite3.OperationalError) database or disk is full")
        for name in WRITES:
            patch.setattr(MlflowClient, name, self.wrap(getattr(MlflowClient, name), full))

    def wrap(self, real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def write(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.at is not None and self.count >= self.at:
                raise error
            return real(*args, **kwargs)

        return write


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], int]:
    home = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        full = Full(patch, None)
        return home, synthaug.run(subject(), home=home), full.count


def check(undisturbed: tuple[Path, dict[str, Any], int], home: Path, at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Full(patch, at)
        with pytest.raises(UserError, match="the disk is full") as error:
            synthaug.run(subject(), home=home)
        assert "\n" not in str(error.value)
    assert science(synthaug.run(subject(), home=home)) == science(undisturbed[1])
    tracker = Tracker(home, "synthaug")
    assert len(tracker.client.search_runs([tracker.experiment])) == 1
    assert not list(home.rglob(".*.????????"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_a_full_disk(undisturbed: tuple[Path, dict[str, Any], int], share: float, tmp_path: Path) -> None:
    check(undisturbed, tmp_path, 1 + round(share * (undisturbed[2] - 1)))


@pytest.mark.nightly
def test_a_disk_that_fills_at_any_write(undisturbed: tuple[Path, dict[str, Any], int], tmp_path: Path) -> None:
    for at in range(1, undisturbed[2] + 1):
        check(undisturbed, tmp_path / str(at), at)


@pytest.mark.parametrize("moved", [True, False])
def test_a_home_that_moves_or_is_copied_takes_its_artifacts_along(
    undisturbed: tuple[Path, dict[str, Any], int], moved: bool, tmp_path: Path
) -> None:
    old, new = Path(shutil.copytree(undisturbed[0], tmp_path / "old")), tmp_path / "new" / "home"
    first = Tracker(old, "synthaug")
    assert first.client.get_run(undisturbed[1]["run_id"]).info.artifact_uri.startswith(f"{old.as_uri()}/artifacts/")
    shutil.copytree(old, new)
    if moved:
        shutil.rmtree(old)
    before = {file: file.stat().st_mtime_ns for file in old.rglob("*")}
    answer = synthaug.run(tiny(method=Noise(), k=2), home=new)
    for run in (answer["run_id"], undisturbed[1]["run_id"]):
        artifacts = Tracker(new, "synthaug").client.get_run(run).info.artifact_uri
        assert artifacts.startswith(f"{new.as_uri()}/artifacts/synthaug/")
        assert (new / artifacts.removeprefix(f"{new.as_uri()}/") / "experiment.json").is_file()
    assert before == {file: file.stat().st_mtime_ns for file in old.rglob("*")}, "nothing is written there"
