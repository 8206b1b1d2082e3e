"""Ctrl-C in a run that has started Ray: nothing of it is left soon after, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

PLAN = """
from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.experiment import Experiment, Recipe, Sweep
from synthaug.methods.real_guidance import RealGuidance


def long() -> Sweep:
    base = Experiment(
        dataset=Dataset("digits", shots=1), recipe=Recipe(steps=STEPS, batch_size=16, evaluations=20),
        method=RealGuidance(strength=0.2, steps=5), backbone=Backbone("nano:sd"), k=1,
    )
    return Sweep(base=base, seeds=3)
"""
LEAVE_S = 5.0


def living(mark: str) -> list[str]:
    """The processes that have inherited a mark."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes() and "Z" not in (place / "stat").read_text().split()[2]:
                found.append((place / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended meanwhile, or is not ours
            continue
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_nothing_is_left_of_what_was_stopped(workers: list[str], tmp_path: Path) -> None:
    mark = uuid4().hex
    (tmp_path / "plan.py").write_text(PLAN.replace("STEPS", "3000"))
    command = [sys.executable, "-m", "synthaug.cli", "run", "plan.py:long", "--home", "home", *workers]
    run = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"MARK": mark},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stderr is not None
    said = []
    for line in run.stderr:
        said.append(line)
        if "generate 30/30" in line:
            break
    time.sleep(20)  # now it trains, or is about to
    assert len(living(mark)) > 3, "\n".join(said)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    rest = run.stderr.read()
    assert run.wait(60) == 130, rest
    assert "Traceback" not in rest and "run the same command again" in rest
    ended = time.monotonic()
    while (left := living(mark)) and time.monotonic() - ended < LEAVE_S:
        time.sleep(0.2)
    assert not left
