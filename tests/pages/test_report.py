"""The report of a whole home, of which a part may be gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import synthaug
from shapes import class_folders, tiny
from synthaug.data.dataset import Dataset
from synthaug.data.decoded import decode_all
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.base import Evaluation, Result, Subject
from synthaug.experiment import Experiment, Recipe, Sweep
from synthaug.pages.report import recorded_subjects, write_report
from synthaug.pages.summary import told
from synthaug.runtime.search import rounds_of
from synthaug.runtime.store import Store
from synthaug.settings import UserError, settings


@settings
class Lightness(Evaluation):
    """A measurement as a user writes one: how light the images are that the classifier was asked about."""

    by: float = 1.0

    def __call__(self, subject: Subject) -> Result:
        return {"metrics": {f"{self.title}/lightness": self.by * float(subject.sets[self.split][0].mean())}}


def test_what_cannot_be_read_any_more_is_left_out_and_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody deletes the folder of an old experiment: the page of all the others must not go with it."""
    folder = class_folders(tmp_path / "own", ("a", "b"), 8)
    own = Experiment(dataset=Dataset("folder", path=str(folder)), recipe=Recipe(steps=2, batch_size=8, evaluations=1))
    synthaug.run(own, home=home)
    synthaug.run(tiny(steps=2), home=home)
    shutil.rmtree(folder)
    store = Store(home)
    page = write_report(store, recorded_subjects(store), home / "page.html").read_text()
    assert page.count("<h2>") == 2 and "digits 2-shot" in page
    assert "Left out: dataset.path: there is no folder" in page
    assert "left out of the report" in capsys.readouterr().err
    with pytest.raises(UserError, match="there is no folder"):  # alone it is what was asked for
        write_report(store, {"own": own}, home / "page.html")


def test_a_measurement_of_ones_own_is_told_without_more(home: Path) -> None:
    """In the terminal beside the table, and in the report; what synthaug itself measures is not said twice."""
    arms: dict[str, dict[str, Any]] = {"plain": {}, "long": {"recipe.steps": 3}}
    base = tiny(steps=2, method=None, evaluations=(Accuracy(), Lightness(by=2.0)))
    sweep = Sweep(base=base, arms=arms, baseline="plain", seeds=2)
    answer = synthaug.run(sweep, home=home, workers=0)
    store = Store(home)
    text = "\n".join(told(rounds_of(store, sweep), answer["trials"]))
    digits = base.dataset.open()
    light = 2 * decode_all([digits.read(entry.id) for entry in digits.split("test")], 32).mean()
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if "test/lightness" in line)
    head, _, *rows = lines[first : first + 4]
    assert head.split() == ["arm", "test/lightness"], "test/top1, test/loss and others are ours"
    told_of = [f"{light:.3g}", f"({light:.3g}", "to", f"{light:.3g})"]
    assert [row.split() for row in rows] == [[arm, *told_of] for arm in arms]
    page = write_report(store, {"s": sweep}, home / "page.html").read_text()
    assert "test/lightness" in page and f"{light:.3g}" in page
    only = Sweep(base=base, arms={"plain": {"evaluations": (Accuracy(),)}, "long": arms["long"]}, seeds=2)
    text = "\n".join(told(rounds_of(store, only), synthaug.run(only, home=home, workers=0)["trials"]))
    rows = text.split("test/lightness")[1].splitlines()[2:4]
    assert rows[0].split() == ["plain"] and rows[1].split()[0] == "long", "nothing where it was not measured"
