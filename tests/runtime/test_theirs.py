"""What the user's own code raises: one line with their file and line, whichever process it was in."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthaug
import synthaug.runtime.cluster
from shapes import Noise, tiny
from synthaug.data.dataset import Dataset
from synthaug.evaluate.base import Evaluation, Result, Subject, less_is_more
from synthaug.experiment import Experiment, Sweep, replace
from synthaug.methods.base import Models, Row
from synthaug.runtime.make import Plan
from synthaug.runtime.order import order
from synthaug.runtime.ray_data import UnitActor
from synthaug.runtime.search import is_ready
from synthaug.runtime.store import Store
from synthaug.runtime.theirs import OURS, place_of
from synthaug.settings import Failed, UserError, settings

HERE = Path(__file__)


def line_with(text: str) -> int:
    """The number of the first line of this file that holds it."""
    return next(number for number, line in enumerate(HERE.read_text().splitlines(), 1) if text in line)


@settings
class Dividing(Noise):
    def generate(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Any:
        return len(rows) // 0  # theirs


@settings
class Stacking(Noise):
    def generate(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Any:
        return np.stack([np.zeros(2), np.zeros(3)])  # in numpy


@settings
class Looking(Evaluation):
    def __call__(self, subject: Subject) -> Result:
        return {"metrics": {"test/x": subject.nothing}}  # type: ignore[attr-defined]


@settings
class Asking(Evaluation):
    """What it calls raises in our code."""

    def __call__(self, subject: Subject) -> Result:
        return {"metrics": {"test/x": float(less_is_more(3))}}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": Dividing()}, f"line {line_with('# theirs')}: ZeroDivisionError: .*while making generate [0-9a-f]{{8}}"),
        ({"method": Stacking()}, f"line {line_with('# in numpy')}: ValueError: all input arrays must have the same shape"),
        ({"method": None, "evaluations": (Looking(),)}, f"line {line_with('subject.nothing')}: AttributeError: .*evaluate"),
    ],
)  # fmt: skip
def test_what_their_code_raises_is_one_line(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{HERE.name}, {said}") as error:
        synthaug.run(tiny(steps=1, **fields), home=tmp_path)
    assert error.value.__cause__ is not None, "who debugs has the traceback"


@settings
class One(Evaluation):
    def __call__(self, subject: Subject) -> Result:
        return {"metrics": {"test/count": 1.0}}


@settings
class Two(Evaluation):
    def __call__(self, subject: Subject) -> Result:
        return {"metrics": {"test/count": 2.0}}


def test_two_that_call_their_numbers_alike_are_refused(tmp_path: Path) -> None:
    """One would take the place of the other; both stay in the store for the day when only one is asked for."""
    both = tiny(steps=1, method=None, evaluations=(One(), Two()))
    with pytest.raises(UserError, match="evaluate.* and evaluate.* both call a number 'test/count', and one would be"):
        synthaug.run(both, home=tmp_path)
    assert synthaug.run(replace(both, {"evaluations": [Two()]}), home=tmp_path)["metrics"]["test/count"] == 2


def test_what_ours_raises_stays_as_it_is(tmp_path: Path) -> None:
    """A line of theirs is above it, and yet it may be our fault."""
    with pytest.raises(AttributeError, match="'int' object has no attribute 'rpartition'"):
        synthaug.run(tiny(steps=1, method=None, evaluations=(Asking(),)), home=tmp_path)


def test_a_worker_says_the_same(tmp_path: Path) -> None:
    """In an actor whatever is raised becomes a line; Ray Data would add sixty."""
    subject = tiny(method=Dividing())
    plan = Plan(Store(tmp_path).prepare()).add(subject)
    stage = plan.store.line(subject).generated
    assert stage is not None
    answer = UnitActor({stage.key: order(plan, [stage])})({"key": [stage.key], "unit": [0]})
    assert answer["receipt"] == [""]
    assert answer["error"][0].startswith(f"UserError: {HERE.name}, line {line_with('# theirs')}: ZeroDivisionError")
    other = UnitActor({stage.key: "{}"})({"key": [stage.key], "unit": [0]})
    assert other["error"] == ["KeyError: 'paths'"], "a fault of ours, in one line as well"


@settings
class Somewhere(Noise):
    """Tells who makes how many at a time, and fails in the fifth unit."""

    marks: str = ""

    def generate(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Any:
        for what in ("begins", "ends"):
            with open(self.marks, "a") as file:
                file.write(f"{os.getpid()} {what}\n")
            time.sleep(0.2)
        if Path(self.marks).read_text().count("ends") > 4:
            raise ValueError("enough")  # elsewhere
        return super().generate(rows, images, models)


def test_so_do_the_processes_of_a_sweep(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which make nothing after an error."""
    monkeypatch.setattr("synthaug.runtime.executors.PROCESS_S", -1.0)  # not here: other processes always pay
    marks = tmp_path / "marks"
    sweep = Sweep(base=tiny(shots=20, method=Somewhere(marks=str(marks)), k=20), seeds=1)
    with pytest.raises(
        Failed, match=rf"first with: {HERE.name}, line {line_with('# elsewhere')}: ValueError: enough"
    ) as error:
        synthaug.run(sweep, home=tmp_path / "home")
    assert "\n" not in str(error.value)
    lines = [line.split() for line in marks.read_text().splitlines()]
    assert str(os.getpid()) not in {pid for pid, _ in lines}
    time.sleep(1.5)
    assert marks.read_text().count("begins") <= 5 + synthaug.runtime.cluster.width(), "the others are not tried"


@pytest.mark.parametrize("workers", [0, None])
def test_images_that_cannot_be_made_end_no_other_trial(workers: int | None, cluster: None, tmp_path: Path) -> None:
    arms: dict[str, Any] = {"plain": {"method": None}, "noise": {}, "bad": {"method": Dividing()}}
    sweep = Sweep(base=tiny(method=Noise(), steps=1), arms=arms, seeds=2)
    with pytest.raises(Failed, match=r"2 of 6 trials failed, the first with: .*line \d+: ZeroDivisionError"):
        synthaug.run(sweep, home=tmp_path, workers=workers)
    good = replace(sweep, {"arms": {"plain": arms["plain"], "noise": {}}})
    assert all(is_ready(Store(tmp_path), trial.experiment) for trial in good.trials())


@settings
class Leaving(Noise):
    def generate(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Any:
        sys.exit(0)  # leaves


def test_who_ends_the_program_is_told_too(tmp_path: Path) -> None:
    """Or it would end well, without a line and without a result."""
    with pytest.raises(UserError, match=rf"^{HERE.name}, line {line_with('# leaves')}: ends the program \(exit 0\)"):
        synthaug.run(tiny(steps=1, method=Leaving()), home=tmp_path)


def test_what_a_compiled_library_raises_below_ours_is_ours() -> None:
    """Its frames have names that are no files here."""

    def made(text: str, file: str) -> Any:
        space: dict[str, Any] = {}
        exec(compile(text, file, "exec"), space)
        return space["f"]

    fails = made("def f(): raise OSError('x')", "error.pxi")
    ours = made("def f(go): go()", f"{OURS}data/x.py")
    theirs = made("def f(go): go()", "/home/somebody/mine.py")
    for call, place in (
        (lambda: ours(fails), None), (lambda: theirs(lambda: ours(fails)), None),
        (lambda: ours(lambda: theirs(fails)), "mine.py, line 1"),
    ):  # fmt: skip
        with pytest.raises(OSError, match="x") as error:
            call()
        assert place_of(error.value) == place
    assert not "/a/platform/synthaug_mine/x.py".startswith(OURS)


@pytest.mark.parametrize(
    ("name", "place"), [("/methods.py", "methods.py"), (".py", "fancy_edits.py"), ("_more/methods.py", HERE.name)]
)
def test_methods_that_are_installed_are_theirs_too(name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what lies beside libraries, packages with settings of their own, of one file or of several."""
    packages = set[str]()
    for module in ("synthaug.settings", "synthaug.runtime.theirs"):
        monkeypatch.setattr(f"{module}.PACKAGES", packages)
    space: dict[str, Any] = {"__name__": "fancy_edits.methods", "settings": settings, "Noise": Noise}
    exec(compile("def f(): raise OSError('x')", f"/venv/lib/site-packages/fancy_edits{name}", "exec"), space)
    with pytest.raises(OSError, match="x") as error:
        space["f"]()
    assert str(place_of(error.value)).startswith(f"{HERE.name}, "), "a library, as far as is known"
    exec("@settings\nclass Own(Noise):\n    pass", space)
    assert str(place_of(error.value)).startswith(f"{place}, ")


def test_the_nearest_line_decides() -> None:
    def caught(call: Any) -> str | None:
        try:
            call()
        except Exception as error:
            return place_of(error)
        return "nothing was raised"

    assert caught(lambda: np.zeros(3).reshape(2)) == f"{HERE.name}, line {line_with('reshape(2)) ==')}"
    assert caught(lambda: json.loads("{")) == f"{HERE.name}, line {line_with('loads(')}"
    assert caught(lambda: Dataset("digits", shots=5).open().read("none")) is None


def test_a_wrong_name_comes_before_what_it_leaves_out() -> None:
    with pytest.raises(UserError, match="datset: no such setting of Experiment; did you mean dataset"):
        Experiment(datset=Dataset("digits"))  # type: ignore[call-arg]
    with pytest.raises(UserError, match="dataset: Field required"):
        Experiment()  # type: ignore[call-arg]
