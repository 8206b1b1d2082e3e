"""The report of a whole home, of which a part may be gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import synthaug
from shapes import class_folders, tiny
from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment, Recipe
from synthaug.pages.report import recorded_subjects, write_report
from synthaug.runtime.store import Store
from synthaug.settings import UserError


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
