"""The answer in words, and the figures behind it."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment, Recipe, Sweep
from synthaug.pages import table
from synthaug.pages.charts import Cell, against_cost, heat_maps
from synthaug.pages.sentence import _worth, of_comparison
from synthaug.runtime.views import place
from synthaug.search.course import Course, Place
from synthaug.search.race import Look
from synthaug.search.searchers import Grid

ARMS: dict[str, dict[str, Any]] = {name: {} for name in ("plain", "better", "worse", "alike")}
SWEEP = Sweep(base=Experiment(dataset=Dataset("digits"), recipe=Recipe(steps=1)), arms=ARMS, baseline="plain", seeds=6)  # type: ignore[arg-type]


def rows(gains: dict[str, float], images: dict[str, int], metric: str = "test/top1") -> list[dict[str, Any]]:
    """Trials whose arms differ from plain by so much, with a little noise."""
    return [
        {
            "arm": arm, "seed": seed, "fields": {},
            "metrics": {
                metric: 0.8 + 0.01 * seed + gains[arm] + 0.001 * float(np.random.default_rng([n, seed]).normal()),
                "gen/images": images.get(arm, 0), "cost/device_s": 10.0 * (n + 1),
            },
        }
        for n, arm in enumerate(ARMS)
        for seed in range(6)
    ]  # fmt: skip


GAINS = {"plain": 0.0, "better": 0.03, "worse": -0.02, "alike": 0.0}


def test_gains_and_costs_are_told_with_their_intervals() -> None:
    found = table.lines(rows(GAINS, {"worse": 50}), SWEEP)
    said = of_comparison(found, SWEEP)
    assert said.startswith("Against plain: better +3.0 points (") and "no generated images help clearly" in said
    assert re.search(r"worse costs (1.9|2.0) points \(", said) and "alike" not in said and said.endswith(".")
    helped = of_comparison(table.lines(rows(GAINS, {"better": 50}), SWEEP), SWEEP)
    assert "no generated images" not in helped


def test_nothing_clear_is_said_too() -> None:
    found = table.lines(rows(dict.fromkeys(ARMS, 0.0), {}), SWEEP)
    said = of_comparison(found, SWEEP)
    assert said.startswith("Nothing is clearly better or worse than plain, of 3 compared; nearest is ")
    assert of_comparison(found[:1], SWEEP) == ""


def test_where_less_is_more_a_gain_is_a_fall() -> None:
    found = table.lines(rows(GAINS, {}, "fidelity/fid"), SWEEP)
    said = of_comparison(found, SWEEP)
    assert said.startswith("Against plain: worse -0.0") and "better costs 0.03" in said


def test_pairs_are_of_the_same_seeds_and_two_are_too_few() -> None:
    """The winner and plain have each lost a fresh seed."""
    trials = [
        {"arm": arm, "seed": seed, "point": point, "fields": {}, "metrics": {"test/top1": value, "gen/images": 0}}
        for arm, point, values in (("better", 1, {20: 0.5, 21: 0.7, 22: 0.8, 24: 0.9}), ("plain", 0, {21: 0.65, 22: 0.7, 23: 0.1, 24: 0.84}))
        for seed, value in values.items()
    ]  # fmt: skip
    course = Course(
        arms={}, space={}, searcher=Grid(), seeds=range(2), final=(20, 21, 22, 23, 24), done=True,
        places=[Place("plain", {}, {0: 0.1}), Place("better", {}, {0: 0.9})],
        looks=[Look(2, 1, np.array([0, 1]), np.array([0.8, 0.0]), np.array([True, False]))],
    )  # fmt: skip
    found = table.lines(trials, SWEEP)
    said = _worth(course, found, trials)
    assert (
        said.startswith("On 4 seeds that no decision has seen it reaches 72.5 (test/top1), +7.0 (+0.")
        and "against plain" in said
    )
    few = [trial for trial in trials if trial["seed"] != 24]
    assert "+7.5 (2 seeds are too few to tell) against plain" in _worth(course, table.lines(few, SWEEP), few)
    assert _worth(course, found, [t for t in trials if t["arm"] == "plain"]) == "On fresh seeds it could not be run"
    early = [{**t, "seed": t["seed"]} for t in rows(GAINS, {}) if t["arm"] != "plain" or t["seed"] < 2]
    assert of_comparison(table.lines(early, SWEEP), SWEEP).startswith("Too early to tell: 2 seeds of each")


def test_the_sentence_and_the_table_beside_it_have_the_same_intervals() -> None:
    """Of two comparisons both are corrected, or a reader finds two intervals for one difference."""
    values = {"plain": (0.5, 0.61, 0.55, 0.58), "better": (0.7, 0.74, 0.71, 0.8), "worse": (0.45, 0.5, 0.4, 0.56)}
    order = {"better": 1, "plain": 0, "worse": 2}
    trials: list[dict[str, Any]] = [
        {
            "arm": arm,
            "seed": 20 + n,
            "point": order[arm],
            "fields": {},
            "metrics": {"test/top1": value, "gen/images": 0},
        }
        for arm in order
        for n, value in enumerate(values[arm])
    ]
    places = [Place(arm, {}, {0: 0.1}) for arm in ("plain", "better", "worse")]
    look = Look(3, 1, np.array([0, 1, 2]), np.array([0.8, 0.0, 0.9]), np.array([True, False, True]))
    course = Course(
        arms={},
        space={},
        searcher=Grid(),
        seeds=range(2),
        final=(20, 21, 22, 23),
        done=True,
        places=places,
        looks=[look],
    )
    assert course.winner == 1
    found = table.lines(trials, SWEEP)
    line = next(line for line in found if line.name == "better")
    _, _, _, difference, corrected, *_ = table.cells(line)
    assert f"{difference} ({corrected}) against plain" in _worth(course, found, trials)
    gains = np.subtract(values["better"], values["plain"])
    half = stats.t.ppf(1 - 0.05 / 2 / 2, 3) * gains.std(ddof=1) / 2
    assert corrected == f"{100 * (gains.mean() - half):+.1f} to {100 * (gains.mean() + half):+.1f}", (
        "of two comparisons"
    )


def test_the_front_and_the_maps() -> None:
    found = table.lines(rows(GAINS, {}), SWEEP)
    colours = {arm: f"C{n}" for n, arm in enumerate(ARMS)}
    drawn = against_cost(found, colours)
    assert all(f">{arm}<" in drawn or arm in drawn for arm in ARMS) and drawn.startswith("<svg")
    assert against_cost(found[:1], colours) == ""
    cells = [
        Cell("edits", {"strength": s, "p": p, "k": k, "name": "a"}, [0.5 + s * p, 0.6], "dropped 2" if p > 0.5 else "")
        for s in (0.1, 0.9) for p in (0.3, 0.7) for k in (1, 4)
    ]  # fmt: skip
    maps = heat_maps([*cells, Cell("plain", {}, [0.4])], ["strength", "p", "k", "name"], "val/top1")
    assert [title for title, _ in maps] == ["edits k=1 name=a", "edits k=4 name=a"]
    assert all("dropped 2" in drawn for _, drawn in maps)
    assert heat_maps(cells[:2], ["strength", "p"], "val/top1") == [], "nothing is varied"


def test_the_ui_opens_at_the_sweep_that_ran_last(tmp_path: Path) -> None:
    assert place(tmp_path / "none.db") == "experiments?workflowType=machine_learning"
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table runs (run_uuid, experiment_id, start_time)")
        database.execute("create table tags (run_uuid, key, value)")
        database.execute("create table experiment_tags (experiment_id, key, value)")
        database.executemany("insert into runs values (?, ?, ?)", [("a", 1, 5), ("b", 2, 9), ("c", 2, 11)])
        database.executemany(
            "insert into tags values (?, 'synthaug.kind', ?)", [("a", "sweep"), ("b", "sweep"), ("c", "trial")]
        )
    found = place(tmp_path / "mlflow.db")
    assert found.startswith("experiments/2/runs?") and "%27b%27" in found and "point" in found
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("insert into experiment_tags values (2, 'mlflow.sharedViewState.b', '{}')")
    assert place(tmp_path / "mlflow.db").endswith("viewStateShareKey=b")
