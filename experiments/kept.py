"""Studies of hours: what is finished is kept in a small file, from which any machine goes on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import synthaug
from synthaug.experiment import Sweep, replace
from synthaug.pages import table
from synthaug.progress import say
from synthaug.runtime.finished import Finished
from synthaug.runtime.store import Store
from synthaug.settings import hash_of

More = Callable[[Finished], dict[str, float]]


def go_on(
    sweep: Sweep, file: Path, home: str = "runs", at_once: int = 4, of: Collection[str] | None = None,
    more: More = lambda finished: {},
) -> str:  # fmt: skip
    """Run what the file lacks of a sweep, and say how its arms compare; written after so many trials of a seed, with
    all their numbers or those named in `of`, and `more` that the store knows of each."""
    file.parent.mkdir(exist_ok=True)
    try:
        _run(sweep, file, home, at_once, of, more)
    except KeyboardInterrupt:
        say(f"stopped; what was finished is in {file.name} and {home}, run the same command again to go on")
        raise SystemExit(130) from None
    found = table.lines(finished(sweep, file, home), sweep)
    return f"{table.text(found)}\n{table.note(found, sweep)}"


def _run(sweep: Sweep, file: Path, home: str, at_once: int, of: Collection[str] | None, more: More) -> None:
    told = asked(sweep, home)
    while missing := [place for place in told if place not in _known(told, file)]:
        say(f"{file.stem}: {len(missing)} of {len(told)} trials are not in {file}; some at a time:")
        seed = min((seed for _, seed in missing), key=sweep.seeds.index)
        arms = [arm for arm, other in missing if other == seed][:at_once]
        # comparisons are for the end: a part of the arms may lack those that they are compared with
        alone: dict[str, Any] = {"baseline": None, "controls": (), "against": {}, "seeds": (seed,)}
        part = replace(sweep, alone | {"arms": {arm: sweep.arms[arm] for arm in arms}})
        made = synthaug.run(part, home=home, name=file.stem)["trials"]
        rows = [{"asked": told[trial["arm"], trial["seed"]]} | trial for trial in made]
        if of is not None:
            rows = [row | {"metrics": {n: v for n, v in row["metrics"].items() if n in of}} for row in rows]
        store = Store(home)
        for row, trial in zip(rows, part.trials(), strict=True):
            row["metrics"] |= more(Finished(store, trial.experiment))
        names = ("asked", "arm", "seed", "fields", "metrics")
        text = "".join(json.dumps({name: _short(row[name]) for name in names}) + "\n" for row in rows)
        half = file.with_suffix(".half")
        half.write_text((file.read_text() if file.is_file() else "") + text)
        half.rename(file)  # what is there is whole


def _short(value: Any) -> Any:
    """Numbers to six digits, so that files stay small."""
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def finished(sweep: Sweep, file: Path, home: str = "runs") -> list[dict[str, Any]]:
    """What is in the file, of what the sweep asks today, in its order."""
    told = asked(sweep, home) if file.is_file() else {}
    known = _known(told, file)
    return [known[place] for place in told if place in known]


def asked(sweep: Sweep, home: str) -> dict[tuple[str, int], str]:
    """What each trial, by its arm and seed, is a result of: the keys of what it asks for, with all that goes into them.
    A sweep over a space is not cut into parts, so it has none."""
    assert not sweep.space, "arms alone"
    store = Store(home)
    keys = {(t.arm, t.seed): store.line(t.experiment).results.values() for t in sweep.trials()}
    return {place: hash_of(sorted(stage.key for stage in stages))[:12] for place, stages in keys.items()}


def _known(told: dict[tuple[str, int], str], file: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of the file that are results of what is asked."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return {(r["arm"], r["seed"]): r for r in lines if told.get((r["arm"], r["seed"])) == r["asked"]}


def means(rows: list[dict[str, Any]], names: dict[str, str]) -> str:
    """A table for LOG.md: a line for each arm, some numbers of each, means over the seeds."""
    head = "| arm | " + " | ".join(names.values()) + " |\n|---" * 1
    lines = [head + "|---" * len(names) + "|"]
    for arm, group in itertools.groupby(sorted(rows, key=lambda row: str(row["arm"])), key=lambda row: row["arm"]):
        mine = list(group)
        values = [sum(row["metrics"][name] for row in mine) / len(mine) for name in names]
        lines.append(f"| {arm} | " + " | ".join(f"{value:.3g}" for value in values) + " |")
    return "\n".join(lines)
