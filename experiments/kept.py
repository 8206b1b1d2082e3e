"""Studies of hours: what is finished is kept in a small file, from which any machine goes on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import synthaug
from synthaug.experiment import Experiment, Sweep, replace
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
    while missing := _missing(sweep, file, home):
        say(f"{file.stem}: {len(missing)} of {len(sweep.trials())} trials are not in {file}; some at a time:")
        seed = missing[0][1]
        arms = [arm for arm, other in missing if other == seed][:at_once]
        # comparisons are for the end: a part of the arms may lack those that they are compared with
        alone: dict[str, Any] = {"baseline": None, "controls": (), "against": {}, "seeds": (seed,)}
        part = replace(sweep, alone | {"arms": {arm: sweep.arms[arm] for arm in arms}})
        made = synthaug.run(part, home=home, name=file.stem)["trials"]
        told = [_asked(trial.experiment, home) for trial in part.trials()]
        rows = [{"asked": asked} | trial for asked, trial in zip(told, made, strict=True)]
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
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    known = {(row["arm"], row["seed"], row["asked"]): row for row in lines}
    wanted = [(trial.arm, trial.seed, _asked(trial.experiment, home)) for trial in sweep.trials()] if known else []
    return [known[key] for key in wanted if key in known]


def _missing(sweep: Sweep, file: Path, home: str) -> list[tuple[str, int]]:
    """Arms and seeds that the file lacks; a sweep over a space is not cut into parts, so it has none."""
    assert not sweep.space, "arms alone"
    done = {(row["arm"], row["seed"]) for row in finished(sweep, file, home)}
    trials = sorted(sweep.trials(), key=lambda trial: sweep.seeds.index(trial.seed))
    return [(trial.arm, trial.seed) for trial in trials if (trial.arm, trial.seed) not in done]


def _asked(experiment: Experiment, home: str) -> str:
    """What a trial is a result of: the keys of what it asks for, with all that goes into them."""
    return hash_of(sorted(stage.key for stage in Store(home).line(experiment).results.values()))[:12]


def means(rows: list[dict[str, Any]], names: dict[str, str]) -> str:
    """A table for LOG.md: a line for each arm, some numbers of each, means over the seeds."""
    head = "| arm | " + " | ".join(names.values()) + " |\n|---" * 1
    lines = [head + "|---" * len(names) + "|"]
    for arm, group in itertools.groupby(sorted(rows, key=lambda row: str(row["arm"])), key=lambda row: row["arm"]):
        mine = list(group)
        values = [sum(row["metrics"][name] for row in mine) / len(mine) for name in names]
        lines.append(f"| {arm} | " + " | ".join(f"{value:.3g}" for value in values) + " |")
    return "\n".join(lines)
