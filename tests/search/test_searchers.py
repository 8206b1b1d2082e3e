from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from synthaug.search.fields import decides, fits, settled
from synthaug.search.searchers import Grid, Known, Optuna, RandomSearch, Searcher, Space, spread, tried
from synthaug.search.space import Choice, LogUniform, Uniform
from synthaug.settings import UserError


@dataclass
class Shift:
    x: float = 0.5


@dataclass
class Turn:
    angle: int = 90
    times: int = 1


@dataclass
class Thing:
    how: Any = field(default_factory=Shift)
    k: int = 1
    lr: float = 0.1
    off: bool = False

    @property
    def idle(self) -> tuple[str, ...]:
        return ("k",) if self.off else ()


KINDS = {"shift": Shift, "turn": Turn}


def thing(fields: Any) -> Thing:
    """What `replace` does of settings, for this test: `how` by name, paths into it."""
    made = Thing(**{n: KINDS[v]() if n == "how" else v for n, v in fields.items() if "." not in n})
    for name, value in fields.items():
        if "." in name:
            if not hasattr(made.how, name.partition(".")[2]):
                raise UserError(f"no such setting: {name}")
            setattr(made.how, name.partition(".")[2], value)
    return made


SPACE: Space = {
    "how.x": Uniform(low=0, high=1, step=0.1),
    "how": Choice(("shift", "turn")),
    "how.angle": Choice((0, 90, 180)),
    "k": Choice((1, 2, 3)),
    "lr": LogUniform(low=1e-4, high=1.0),
}


def asked(searcher: Searcher, value: Callable[[Thing], float | None], space: Space = SPACE) -> list[dict[str, Any]]:
    """All points that a searcher asks for, where that is what they give."""
    going = searcher.asking(space, lambda point, name: fits(thing, point, name))
    found, batch = [], next(going)
    try:
        while True:
            found += batch
            values = [value(thing(point)) for point in batch]
            batch = going.send([Known(p, None if v is None else (v,)) for p, v in zip(batch, values, strict=True)])
    except StopIteration:
        return found


def test_a_field_that_is_not_there_is_not_varied() -> None:
    drawn = {"how.x": 0.3, "how": "turn", "how.angle": 180, "k": 2}
    assert settled(thing, drawn) == {"how": "turn", "how.angle": 180, "k": 2}
    assert settled(thing, drawn | {"how": "shift"}) == {"how.x": 0.3, "how": "shift", "k": 2}
    assert settled(thing, {"off": True, "k": 3}) == {"off": True}, "what decides nothing is not varied either"
    assert decides(Thing(), "how.x") and not decides(Thing(), "how.angle") and not decides(Thing(off=True), "k")
    assert not decides(Thing(how=None), "how.x") and decides(Thing(how=[Shift()]), "how.0.x")
    assert not decides(Thing(how=[Shift()]), "how.1.x") and not decides(Thing(), "how.x.y")


def test_equal_points_are_one() -> None:
    space = {"how": Choice(("shift", "turn")), "how.x": Choice((0.1, 0.2)), "how.times": Choice((1, 2, 3))}
    points = spread(
        {"a": thing, "off": lambda f: thing({"off": True} | dict(f))}, space | {"k": Choice((1, 2))}, Grid()
    )
    assert len([p for arm, p in points if arm == "a"]) == (2 + 3) * 2 and len(points) == 10 + 5
    assert all(len(p) == (3 if arm == "a" else 2) for arm, p in points)


def test_a_field_that_is_nowhere_is_refused() -> None:
    with pytest.raises(UserError, match="no such setting: how.depth"):
        tried({"a": thing}, {"k": Choice((1, 2)), "how.depth": Choice((1,))}, Grid())
    with pytest.raises(UserError, match="decides nothing in any arm"):
        tried({"a": lambda f: thing({"off": True} | dict(f))}, {"k": Choice((1, 2))}, Grid())
    tried({"a": thing}, SPACE, Optuna())


def test_optuna_asks_for_what_is_there_and_the_same_again() -> None:
    def value(of: Thing) -> float:
        return of.how.angle / 180 if isinstance(of.how, Turn) else of.how.x - 1

    points = asked(Optuna(samples=60, batch=5), value)
    assert len(points) == 60 and points == asked(Optuna(samples=60, batch=5), value)
    assert all(("how.angle" in p) == (p["how"] == "turn") and ("how.x" in p) == (p["how"] == "shift") for p in points)
    assert all(p["how.x"] in [round(i / 10, 10) for i in range(11)] for p in points if "how.x" in p)
    assert all(p["lr"] == float(f"{p['lr']:.2g}") and 1e-4 <= p["lr"] <= 1 for p in points)
    late = points[40:]
    assert sum(p["how"] == "turn" for p in late) > 14, "it has learnt which is better"
    assert points != asked(Optuna(samples=60, batch=5, seed=1), value)
    # more of it begins like less of it
    assert asked(Optuna(samples=15, batch=5), value) == points[:15]


def test_optuna_comes_nearer_than_chance() -> None:
    space: Space = {"how.x": Uniform(low=0, high=1, step=0.01), "lr": LogUniform(low=1e-4, high=1.0)}

    def value(of: Thing) -> float:
        return -((of.how.x - 0.73) ** 2) - 0.05 * abs(of.lr - 0.01)

    best = {
        type(searcher): [
            max(value(thing(p)) for p in asked(dataclasses.replace(searcher, seed=seed), value, space))
            for seed in range(6)
        ]
        for searcher in (Optuna(samples=40, batch=4), RandomSearch(samples=40))
    }
    assert sum(best[Optuna]) > sum(best[RandomSearch])


def test_optuna_begins_where_it_is_told_and_keeps_to_limits() -> None:
    start = ({"how": "turn", "how.angle": 90, "k": 3, "lr": 0.01}, {"how": "shift", "how.x": 0.4, "k": 1, "lr": 1.0})
    points = asked(Optuna(samples=4, batch=4, start=start), lambda of: 0.0)
    assert points[:2] == [dict(sorted(p.items(), key=lambda item: list(SPACE).index(item[0]))) for p in start]
    with pytest.raises(UserError, match="'spin' is not among"):
        asked(Optuna(start=({"how": "spin"},)), lambda of: 0.0)
    going = Optuna(samples=60, batch=10).asking({"how.x": SPACE["how.x"]}, lambda point, name: True)
    found, batch = [], next(going)
    try:
        while True:
            found += batch
            # better the larger, and too expensive above 0.5
            batch = going.send([Known(p, (p["how.x"],), max(0.0, p["how.x"] - 0.5)) for p in batch])
    except StopIteration:
        pass
    late = [p["how.x"] for p in found[30:]]
    assert sum(x <= 0.5 for x in late) > 0.6 * len(late)


def test_what_failed_is_passed_by() -> None:
    points = asked(Optuna(samples=12, batch=3), lambda of: None if isinstance(of.how, Turn) else of.how.x)
    assert len(points) == 12


def test_values_that_rise_have_an_order() -> None:
    assert Choice((1, 2.5, 3)).ordered and not Choice((3, 1)).ordered and not Choice((False, True)).ordered
    assert not Choice(("a", "b")).ordered
    with pytest.raises(UserError, match="must be below"):
        LogUniform(low=1, high=0.1)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"hw": "shift"}, "no field of the space; did you mean how"),
        ({"k": 9}, "9 is not among"),
        ({"lr": 7.0}, "7.0 does not lie between 0.0001 and 1.0"),
    ],
)
def test_a_start_that_is_nowhere_is_refused_before_anything_runs(start: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        tried({"": thing}, SPACE, Optuna(start=(start,)))


def test_a_search_needs_a_space_and_a_step_leads_to_the_end() -> None:
    with pytest.raises(UserError, match="it needs a space to search in"):
        tried({"": thing}, {}, Optuna())
    with pytest.raises(UserError, match="steps of 0.05 do not lead from 0.001 to 0.01; set step"):
        Uniform(low=0.001, high=0.01)
    with pytest.raises(UserError, match="steps of 0.4 do not lead"):
        Uniform(low=0, high=1, step=0.4)


def test_what_fails_is_not_asked_for_again() -> None:
    space: Space = {"how.x": Uniform(low=0.0, high=1.0)}
    points = asked(Optuna(samples=80, batch=8), lambda of: None if of.how.x > 0.5 else -abs(of.how.x - 0.2), space)
    assert sum(p["how.x"] > 0.5 for p in points[40:]) <= 8, "told as failures to Optuna it is three quarters of 40"
