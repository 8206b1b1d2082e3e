"""Rows of a sweep by name."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from pathlib import Path

import pytest

import synthaug
from experiments import digits
from shapes import tiny
from synthaug import cli
from synthaug.experiment import Experiment, Sweep, replace
from synthaug.methods.real_guidance import RealGuidance
from synthaug.pages.report import write_report
from synthaug.runtime.rows import row_name, row_of
from synthaug.runtime.search import Rounds
from synthaug.runtime.store import Store
from synthaug.settings import UserError


def base() -> Experiment:
    return replace(tiny(), {"method": RealGuidance(steps=2), "backbone": "nano:sd", "k": 1})


SWEEPS = [
    digits.compare(),
    Sweep(base=base(), seeds=(3, 5), space={"method.strength": [0.3, 0.5], "utilize": ["Concat", "Replace"]}),
    Sweep(
        base=base(), arms={"a": {}, "a k=2": {"k": 2}, "a k": {"k": 3}}, baseline="a", space={"method.strength": [0.3]}
    ),
]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_row_is_found_by_its_name_and_asks_for_the_same(sweep: Sweep, home: Path) -> None:
    rounds = Rounds(Store(home).prepare(), sweep)
    trials = {}
    for (row, seed), trial in rounds.trials.items():
        trials[row, seed] = trial.experiment
    assert len({row for row, _ in trials}) == len(rounds.places) > 1
    for row, place in enumerate(rounds.places):
        point = {path: place.fields[path] for path in sweep.space}
        alone = row_of(sweep, row_name(place.arm, point))
        assert {trial.seed: trial.experiment for trial in alone.trials()} == {
            seed: experiment for (other, seed), experiment in trials.items() if other == row
        }
        assert alone.baseline is None and not alone.is_search


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plan", "no row begins with 'plan'; did you mean plain"),
        ("plain k=2", "'k=2' is no field of its space with a value; the sweep has no space"),
        ("plainly", "no row begins"),
    ],
)
def test_what_is_no_row_is_said(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        row_of(digits.compare(), name)


def test_the_report_has_a_file_and_a_command_for_each_row(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(base=tiny(steps=2), seeds=(0, 1), space={"recipe.batch_size": [4, 8]})
    synthaug.run(sweep, home=home, workers=0)
    page = write_report(Store(home), {"sizes": sweep}, tmp_path / "page.html").read_text()
    link = re.search(r"<a download=(\S+) href='data:application/json;base64,([^']+)'", page)
    assert link is not None
    monkeypatch.chdir(tmp_path)
    Path(link[1]).write_bytes(base64.b64decode(link[2]))
    whole, *rows = re.findall(r"^(?:.*<pre>)?(synthaug run .*?)(?:</pre>.*)?$", page, re.MULTILINE)
    assert whole == f"synthaug run {link[1]}" and len(rows) == 2
    capfd.readouterr()
    for size, command in zip((4, 8), rows, strict=True):
        words = shlex.split(html.unescape(command))[1:]
        assert cli.main([*words, "--home", str(home), "--workers", "0", "--json"]) == 0
        said = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert [trial["fields"] for trial in said["trials"]] == [{"recipe.batch_size": size}] * 2
        assert all(stage["cached"] for stage in said["stages"].values())  # the very same trainings
