"""What a finished run tells people: the numbers, and where to look next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synthaug.experiment import Experiment, Sweep
from synthaug.pages import raced, sentence, table
from synthaug.pages.report import write_report
from synthaug.runtime.finished import Finished
from synthaug.runtime.records import record_key
from synthaug.runtime.search import Rounds, rounds_of
from synthaug.runtime.store import Store


def summary(name: str, subject: Experiment | Sweep, answer: dict[str, Any], home: Path) -> str:
    """The table of a sweep or the metrics of an experiment, the report and the way to the UI."""
    store = Store(home)
    # one page for each REF as it was set: a second run of it writes the same page anew
    file = f"{name.replace(':', '-')}-{record_key(subject)[:8]}.html"
    page = write_report(store, {name: subject}, store.home / "reports" / file)
    where = "" if home == Path("runs") else f" --home {shlex.quote(str(home))}"
    ends = ["", f"report: {page}", f"compare in MLflow: synthaug ui{where}"]
    if isinstance(subject, Sweep):
        return "\n".join([*told(rounds_of(store, subject), answer["trials"]), *ends])
    stages = [f"{n:12} {s['path']}  {_state(s)}" for n, s in answer["stages"].items()]
    metrics = [f"{n:20} {value:.4g}" for n, value in sorted(answer["metrics"].items())]
    return "\n".join([*stages, "", *metrics, *ends])


def told(rounds: Rounds, trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """The answer of a sweep in words, and the tables behind it."""
    sweep = rounds.subject
    assert isinstance(sweep, Sweep)
    if rounds.course is None:
        found = table.lines(trials, sweep)
        tables = [table.text(found), table.note(found, sweep)]
        return [*tables, *_own(rounds, trials, trials), "", sentence.of_comparison(found, sweep)]
    rows, found = raced.fresh(rounds, trials), []
    head, lines = raced.table(rounds)
    tables = [table.plain([head, *lines[: raced.SHOWN]])]
    tables += [f"... and {len(lines) - raced.SHOWN} points more"] if len(lines) > raced.SHOWN else []
    if rows:
        found = table.lines(rows, sweep, among=trials)
        tables += ["", raced.about_fresh(rounds), table.text(found), table.note(found, sweep)]
        tables += _own(rounds, rows, trials)
    return [*tables, "", sentence.of_search(rounds, found, rows)]


def _own(rounds: Rounds, trials: Sequence[Mapping[str, Any]], among: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the user's own measurements found: `trials` are rows of the answer, named so that each is told from
    `among`."""
    sweep, store = rounds.subject, rounds.store
    assert isinstance(sweep, Sweep)
    every = [Finished(store, trial.experiment).own for trial in rounds.trials.values()]
    names = dict.fromkeys(name for own in every for name in own if name != table.metric_of(trials, sweep))
    return ["", table.others(trials, list(names), among)] if names else []


def _state(stage: dict[str, Any]) -> str:
    return "cached" if stage["cached"] else f"{stage['seconds']:.1f} s"
