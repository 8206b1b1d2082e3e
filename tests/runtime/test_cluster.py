"""Starting Ray on a machine that is busy, and what the doctor says of a well one."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from synthaug.cli import main
from synthaug.runtime import cluster
from synthaug.settings import UserError

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.mark.parametrize(("failures", "starts"), [(0, True), (2, True), (3, False)])
def test_a_slow_start_is_tried_again(failures: int, starts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def init(**settings: object) -> None:
        tried.append(1)
        if len(tried) <= failures:
            raise Exception(SLOW)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if starts:
        cluster._begin({})
        assert len(tried) == failures + 1
    else:
        with pytest.raises(UserError, match="this machine is too busy"):
            cluster._begin({})


@pytest.mark.parametrize("error", [Exception("something else"), RuntimeError(SLOW)])
def test_any_other_failure_to_start_is_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(type(error), match=str(error)[:14]):
        cluster._begin({})


def test_what_ray_says_while_it_ends_is_not_among_the_results(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_own", True)
    monkeypatch.setattr(ray, "shutdown", lambda: print("(raylet) Task MapWorker.submit failed: Socket closed"))
    cluster.stop_own()
    print("results")
    assert capsys.readouterr().out == "results\n" and not cluster._own


def test_the_doctor_finds_nothing_wrong(home: Path, cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--home", str(home)]) == 0
    said = capsys.readouterr().out
    assert "nano:clip, nano:ddpm, nano:lcm, nano:pix2pix, nano:sd" in said and "ran a task" in said
