from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_searchers import thing

from synthaug.search.course import Budget, Course, Found, Place
from synthaug.search.race import Halving, Race, Scheduler
from synthaug.search.searchers import Grid, Optuna, RandomSearch, Searcher
from synthaug.search.space import Choice
from synthaug.settings import UserError

Value = Callable[[Place, int], Found]
SPACE = {"how.x": Choice((0.0, 0.25, 0.5, 0.75, 1.0)), "k": Choice((1, 2, 3))}
GRID, RACE = Grid(), Race(first=2)
ARMS = {"plain": lambda fields: thing({"off": True, "how": "turn"} | dict(fields)), "shift": thing}


def value(place: Place, seed: int) -> Found:
    """Best at 0.75 and 2; a seed does much to all, and a little to each."""
    dice = np.random.default_rng([seed, int(100 * place.fields.get("how.x", 9)), place.fields.get("k", 9)])
    true = (
        0.4 if place.arm == "plain" else 0.5 - (place.fields["how.x"] - 0.75) ** 2 - 0.1 * (place.fields["k"] - 2) ** 2
    )
    common = float(np.random.default_rng(seed).normal(0, 0.1))
    return Found(true + common + float(dice.normal(0, 0.01)), device_s=2.0)


def course(searcher: Searcher = GRID, scheduler: Scheduler | None = RACE, **fields: Any) -> Course:
    fields = {"arms": ARMS, "space": SPACE, "seeds": range(8), "final": (20, 21, 22), "kept": ("plain",)} | fields
    return Course(searcher=searcher, scheduler=scheduler, **fields)


def ran(one: Course, found: Value = value, backwards: bool = False) -> list[list[tuple[int, int]]]:
    """The rounds of a course, to its end."""
    rounds, going = [], one.run()
    try:
        jobs = next(going)
        while True:
            rounds.append(jobs)
            order = jobs[::-1] if backwards else jobs
            jobs = going.send({job: found(one.places[job[0]], job[1]) for job in order})
    except StopIteration:
        return rounds


@pytest.mark.parametrize("searcher", [Grid(), RandomSearch(samples=12), Optuna(samples=12, batch=4)])
@pytest.mark.parametrize("scheduler", [Race(), Race(to="claim"), Halving(), None])
def test_a_course_finds_the_best_and_hangs_on_nothing_but_results(
    searcher: Searcher, scheduler: Scheduler | None
) -> None:
    one, two = course(searcher, scheduler), course(searcher, scheduler)
    rounds = ran(one)
    assert rounds == ran(two, backwards=True), "in whatever order results come"
    assert (one.winner, one.living, one.looks[-1].seeds) == (two.winner, two.living, two.looks[-1].seeds)
    assert one.done and one.winner is not None
    jobs = [job for round_ in rounds for job in round_]
    assert len(jobs) == len(set(jobs)) == one.trainings and one.device_s == 2.0 * len(jobs)
    best = one.places[one.winner]
    others = [p for p in one.places if p.arm == "shift"]
    assert best.fields in [p.fields for p in sorted(others, key=lambda p: -value(p, 0).value)[:3]]  # type: ignore[operator]
    # the control is one point, and runs on the fresh seeds beside the winner
    (plain,) = [row for row, place in enumerate(one.places) if place.arm == "plain"]
    assert one.places[plain].fields == {} and set(one.compared) == {plain, one.winner}
    assert sorted(rounds[-1]) == sorted((row, seed) for row in one.compared for seed in (20, 21, 22))
    assert all(set(place.values) <= set(range(8)) for place in one.places), "no decision sees a fresh seed"
    if scheduler is None:
        assert all(len(place.values) == 8 for place in one.places)
    else:
        assert one.trainings < 8 * len(one.places) + 6


def test_points_begin_on_the_same_seeds_and_the_living_get_more() -> None:
    one = course(scheduler=Race(first=3, block=2))
    rounds = ran(one)
    assert rounds[0] == [(row, seed) for row in range(16) for seed in range(3)]
    for before, after in zip(rounds[:-2], rounds[1:-1], strict=True):
        assert {row for row, _ in after} < {row for row, _ in before} or len(after) == len(before) == 0
        assert {seed for _, seed in after} == set(range(max(s for _, s in before) + 1, max(s for _, s in after) + 1))
    dropped = [place for place in one.places if place.dropped]
    assert dropped and all(len(place.values) == place.dropped and place.behind > 0 for place in dropped)


def test_a_budget_ends_it_with_what_it_has() -> None:
    one = course(scheduler=Race(level=1e-30), budget=Budget(trainings=40))
    rounds = ran(one)
    assert one.done and sum(map(len, rounds[:-1])) >= 40 > sum(map(len, rounds[:-2]))
    assert one.winner is not None and len(rounds[-1]) == 6, "the fresh seeds come on top"
    short = course(Optuna(samples=40, batch=4), budget=Budget(device_s=30))
    assert len(short.places) < 40 and len(ran(short)) >= 2 and short.done


def test_what_fails_or_costs_too_much_cannot_win() -> None:
    def broken(place: Place, seed: int) -> Found:
        if place.fields.get("how.x") == 0.75 and seed == 1:
            return Found(None, error="no memory")
        found = value(place, seed)
        return Found(found.value, excess=0.2 if place.fields.get("k") == 2 else 0.0)

    for searcher in (Grid(), Optuna(samples=20, batch=5)):
        one = course(searcher)
        ran(one, broken)
        assert one.winner is not None
        best = one.places[one.winner]
        assert best.arm == "plain" or best.fields["how.x"] != 0.75 and best.fields["k"] != 2
        assert {p.error for p in one.places if p.fields.get("how.x") == 0.75} <= {"no memory"}
    one = course()
    ran(one, lambda place, seed: Found(None, error="no disk"))
    assert one.done and one.winner is None and one.living == [] and one.compared == []


def test_what_a_later_seed_shows_to_cost_too_much_is_out() -> None:
    clean, late = course(), course()
    ran(clean)
    assert clean.winner is not None
    best = clean.places[clean.winner].fields

    def dear(place: Place, seed: int) -> Found:
        return Found(value(place, seed).value, excess=0.1 if place.fields == best and seed == 1 else 0.0)

    ran(late, dear)
    assert late.winner is not None and late.places[late.winner].fields != best
    # from the third seed on: it has begun the race
    later = course(scheduler=Race(first=2, level=1e-30))
    ran(later, lambda place, seed: Found(value(place, seed).value, excess=float(place.fields == best and seed == 2)))
    assert later.winner is not None and later.places[later.winner].fields != best


def test_the_best_point_of_each_control_is_compared() -> None:
    arms = {
        "plain": lambda fields: thing({"how": "shift"} | dict(fields)),
        "turn": lambda f: thing({"how": "turn"} | dict(f)),
    }

    def better(place: Place, seed: int) -> Found:
        return Found(place.fields["k"] / 10 + (0.5 if place.arm == "turn" else 0.0) + seed / 100)

    one = course(arms=arms, space={"k": Choice((1, 2, 3))}, scheduler=Race(first=2))
    ran(one, better)
    assert [(one.places[row].arm, one.places[row].fields) for row in one.compared] == [
        ("turn", {"k": 3}), ("plain", {"k": 3})
    ]  # fmt: skip


def test_where_a_control_wins_the_best_of_the_others_stands_beside_it() -> None:
    def worse(place: Place, seed: int) -> Found:
        return Found(0.9 + seed / 100 if place.arm == "plain" else (value(place, seed).value or 0.0) / 2)

    one = course()
    ran(one, worse)
    assert one.winner is not None and one.places[one.winner].arm == "plain"
    assert [one.places[row].arm for row in one.compared] == ["plain", "shift"]
    assert all(len(one.places[row].final) == 3 for row in one.compared)


def test_points_that_do_not_go_together_are_passed_by() -> None:
    def strict(fields: Any) -> Any:
        if dict(fields).get("how.x") == 1.0 and dict(fields).get("k") == 3:
            raise UserError("do not go together")
        return thing(fields)

    one = course(Optuna(samples=40, batch=10), arms={"a": strict}, kept=())
    ran(one)
    assert one.done and one.winner is not None
    refused = [place for place in one.places if place.error]
    assert all(place.error == "do not go together" and not place.values for place in refused)


def test_of_several_objectives_the_front_is_looked_for() -> None:
    def two(place: Place, seed: int) -> Found:
        """More of x is better and dearer; more of k is only dearer."""
        x, k = place.fields["how.x"], place.fields["k"]
        return Found(x + seed / 100, others=(-x - k / 10,))

    one = course(Optuna(samples=64, batch=8, random=16), None, arms={"shift": thing}, seeds=range(2), objectives=2)
    ran(one, two)
    front = [one.places[row] for row in one.front]
    assert {place.fields["k"] for place in front} == {1} and len(front) == 5, "each x with the least k"
    assert all(place.means == (place.mean, pytest.approx(-place.fields["how.x"] - 0.1)) for place in front)
    assert one.winner is not None and one.places[one.winner].fields["how.x"] == 1.0


def test_wall_time_ends_a_search_with_what_it_has() -> None:
    def alike(row: int, seed: int) -> Found:
        return Found(float(np.random.default_rng([seed, row]).normal(0, 0.1)))

    def rounds(most: float | None) -> tuple[int, Course]:
        one, count = course(budget=Budget(wall_s=most)), 0
        going = one.run()
        try:
            jobs = next(going)
            while True:
                count, one.wall_s = count + 1, one.wall_s + 4
                jobs = going.send({(row, seed): alike(row, seed) for row, seed in jobs})
        except StopIteration:
            return count, one

    (all_of_it, whole), (few, cut) = rounds(None), rounds(8)
    assert all_of_it > 4 and few == 3, "two rounds of the race, and the fresh seeds"
    assert cut.done and cut.winner is not None and all(cut.places[row].final for row in cut.compared)
    assert cut.trainings < whole.trainings


def test_the_winner_is_sound() -> None:
    """What fails or passes a limit after it has led is not the answer, and what is no number has failed."""

    def late(place: Place, seed: int) -> Found:
        x = place.fields["how.x"]
        noise = np.random.default_rng([seed, int(100 * x)]).normal(0, 0.02)
        return Found(x / 20 + noise, excess=0.4 if x > 0.5 and seed >= 2 else 0.0)

    one = course(
        scheduler=Race(level=1e-9), arms={"shift": thing}, seeds=range(6), final=(9,), space={"how.x": SPACE["how.x"]}
    )
    ran(one, late)
    assert one.winner is not None and one.places[one.winner].fields["how.x"] <= 0.5
    assert all(one.places[row].excess == 0 for row in one.living)
    two = course(arms={"shift": thing}, seeds=range(6), final=(9,), space={"how.x": Choice((0.0, 0.75, 1.0))})

    def alike(place: Place, seed: int) -> Found:
        x = place.fields["how.x"]
        turn = 0.02 * (-1) ** (seed + (x == 1))  # now one leads, now the other
        return Found(0.5 + turn if x else 0.0, excess=late(place, seed).excess)

    ran(two, alike)
    assert two.places[0].dropped == 2 and two.winner == 0, (
        "all that lived pass the limit: the dropped one is what is left"
    )
    nan = course(arms={"shift": thing}, seeds=range(2), final=(), space={"how.x": SPACE["how.x"]})
    ran(nan, lambda place, seed: Found(float("nan") if place.fields["how.x"] == 1.0 else place.fields["how.x"]))
    assert [place.error for place in nan.places if place.fields["how.x"] == 1.0] == ["no number came of it"]
    assert nan.winner is not None and nan.places[nan.winner].fields["how.x"] == 0.75
    assert all(nan.places[row].fields["how.x"] != 1.0 for row in nan.front)


def test_fresh_seeds_decide_nothing() -> None:
    one = course(arms={"shift": thing}, seeds=range(4), final=(20, 21), space={"how.x": SPACE["how.x"]})
    ran(one, lambda place, seed: Found(place.fields["how.x"] + seed / 100, excess=float(seed >= 20)))
    assert one.winner is not None and one.places[one.winner].excess == 0 and len(one.places[one.winner].final) == 2
    failing = course(arms={"shift": thing}, seeds=range(4), final=(20, 21), space={"how.x": SPACE["how.x"]})
    ran(failing, lambda place, seed: Found(None if seed >= 20 else place.fields["how.x"], error="lost"))
    assert failing.winner is not None and not failing.places[failing.winner].error


def test_one_seed_is_no_risk_that_could_be_told() -> None:
    one = course(arms={"shift": thing}, seeds=range(1), final=(), space={"how.x": SPACE["how.x"]})
    ran(one, lambda place, seed: Found(place.fields["how.x"]))
    assert one.winner is not None and one.risk(0.005) is None


def test_a_race_that_a_budget_cut_short_has_the_risk_of_a_short_race() -> None:
    def alike(place: Place, seed: int) -> Found:
        k, x = place.fields["k"], place.fields["how.x"]
        return Found(float(np.random.default_rng([seed, k, int(100 * x)]).normal(0.01 * x, 0.02)))

    whole, cut = (
        course(arms={"shift": thing}, seeds=range(20), budget=budget) for budget in (Budget(), Budget(trainings=31))
    )
    ran(whole, alike)
    ran(cut, alike)
    assert whole.is_over and not cut.is_over and cut.looks[-1].seeds < 5
    told = cut.risk(0.005), whole.risk(0.005)
    assert told[0] is not None and told[1] is not None and told[0] > told[1]


def test_what_the_winner_is_compared_with_runs_in_any_case() -> None:
    arms = {"plain": thing, "shift": thing, "other": thing}
    for seed in range(10):
        one = course(Optuna(samples=8, batch=4, seed=seed), arms=arms, kept=("plain", "other"))
        ran(one, lambda place, seed: Found(len(place.arm) + seed / 100))
        assert {"plain", "other"} <= {place.arm for place in one.places}
