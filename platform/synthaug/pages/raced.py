"""What became of the points of a search, as people read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synthaug.evaluate.base import less_is_more
from synthaug.pages.table import number
from synthaug.runtime.search import Rounds
from synthaug.search.course import Course

SHOWN = 12  # points in a terminal
HEAD = ("point", "seeds", "mean", "behind", "")


def fresh(rounds: Rounds, trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The trials on seeds that no decision has seen, the winner's first."""
    course = _course(rounds)
    order = {row: place for place, row in enumerate(course.compared)}
    found = [t for t in trials if t["point"] in order and t["seed"] in course.final]
    return sorted(found, key=lambda trial: order[trial["point"]])


def about_fresh(rounds: Rounds) -> str:
    return (
        f"the winner beside what it is compared with, on {len(_course(rounds).final)} seeds that no decision has seen"
    )


def about_race(rounds: Rounds) -> str:
    course = _course(rounds)
    return f"every point began on the same {min(course.rules.first, len(course.seeds))} seeds; {course.rules.promise()}"


def table(rounds: Rounds) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows, the best first."""
    course = _course(rounds)
    sign = -1 if less_is_more(rounds.metric) else 1
    head = (f"{HEAD[0]} (by {rounds.metric})", *HEAD[1:])
    return head, [_cells(course, row, rounds.metric, sign) for row in course.order]


def _cells(course: Course, row: int, metric: str, sign: int) -> tuple[str, ...]:
    place = course.places[row]
    mean = number(sign * place.mean, metric) if place.values else ""
    behind = number(place.behind, metric) if place.behind else ""
    return place.name, str(len(place.values)), mean, behind, _state(course, row)


def _state(course: Course, row: int) -> str:
    place = course.places[row]
    if place.error:
        return f"failed: {place.error[:60]}"
    if place.excess:
        return f"over the limit by {place.excess:.0%}"
    if row == course.winner:
        return "winner" if course.done else "leads"
    if course.objectives > 1:
        return "on the front" if row in course.front else ""
    left = "as good" if course.is_over else "left"
    return f"dropped after {place.dropped}" if place.dropped else left if row in course.living else ""


def _course(rounds: Rounds) -> Course:
    assert rounds.course is not None
    return rounds.course
