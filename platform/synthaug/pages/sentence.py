"""The answer of a sweep in words: what helps, what costs, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthaug.evaluate.base import less_is_more
from synthaug.evaluate.stats import paired_test
from synthaug.experiment import Sweep
from synthaug.pages.table import Line, interval, is_share, number, p_text
from synthaug.runtime.search import Rounds
from synthaug.search.course import Course

CLEAR = 0.05
NAMED = 3  # arms of a kind that are named
FEW = 3  # seeds; with less a test says little, and rounded accuracies may differ by the same twice
NEAR = 0.005  # half a point: a winner no more behind is as good


def of_comparison(found: Sequence[Line], sweep: Sweep) -> str:
    """What is clearly better or worse than what it is compared with; or that nothing is."""
    compared = [line for line in found if line.difference is not None and line.p is not None]
    if not compared:
        return ""
    if (seeds := min(line.pairs for line in compared)) < FEW:
        return f"Too early to tell: {seeds} seed{'s' * (seeds > 1)} of each; {FEW} are the least, five a good start."
    sign = -1 if less_is_more(compared[0].metric) else 1
    clear = [line for line in compared if line.p is not None and line.p < CLEAR]
    ahead = sorted((line for line in clear if sign * _gain(line) > 0), key=lambda line: -sign * _gain(line))
    behind = sorted((line for line in clear if sign * _gain(line) < 0), key=lambda line: sign * _gain(line))
    said = [_several(ahead, "")] if ahead else []
    made = [line for line in compared if line.images]
    if made and not any(line.images for line in ahead):
        said.append("no generated images help clearly" if ahead or behind else "")
    said += [_several(behind, "costs ")] if behind else []
    if not clear:
        nearest = min(compared, key=lambda line: line.p if line.p is not None else 1.0)
        told = f"nearest is {nearest.name} with {_told(nearest)}, p = {p_text(nearest.p or 0.0)}"
        return f"Nothing is clearly better or worse than {_base(compared)}, of {len(compared)} compared; {told}."
    return f"Against {_base(compared)}: {'; '.join(filter(None, said))}."


def of_search(rounds: Rounds, found: Sequence[Line], fresh: Sequence[Mapping[str, Any]]) -> str:
    """The winner, what cannot be told from it, what it is worth on seeds that no decision has seen, and the risk."""
    course = rounds.course
    assert course is not None
    if course.winner is None:
        if not course.done:
            return "The search has only begun."
        return "Nothing could be compared: all points failed, or pass a limit."
    best, others = course.places[course.winner], len(course.living) - 1
    said = [f"Best of {len(course.places)} points by {rounds.metric}: {best.name}"]
    if course.objectives > 1:
        names = ", ".join([rounds.metric, *getattr(rounds.subject, "objectives", ())])
        said[0] += f"; {len(course.front)} points that none beats in all of {names}"
    else:
        # where a budget has cut the race short nothing is said of those that are left
        alike = "cannot be told from it" if course.is_over else "were left when the budget was spent"
        said[0] += f"; {others} others {alike}" if others else ""
    dropped = [place.dropped for place in course.places if place.dropped]
    if dropped:
        after = f"{min(dropped)} to {max(dropped)}" if min(dropped) < max(dropped) else f"{dropped[0]}"
        said[0] += f"; {len(dropped)} fell behind after {after} of {len(course.seeds)} seeds ({course.rules.promise()})"
    if not course.done:
        return said[0] + ". The search is not finished."
    said += [one for one in (_worth(course, found, fresh), _risk(rounds)) if one]
    return ". ".join(said) + "."


def _worth(course: Course, found: Sequence[Line], fresh: Sequence[Mapping[str, Any]]) -> str:
    """What the winner reaches on the fresh seeds, beside what it is compared with on the same ones."""
    if not course.final or not course.done:
        return ""
    by_point: dict[int, dict[int, float]] = {}
    for trial in fresh:
        by_point.setdefault(trial["point"], {})[trial["seed"]] = trial["metrics"][found[0].metric]
    mine = by_point.pop(course.winner, {}) if course.winner is not None else {}
    if not mine:
        return "On fresh seeds it could not be run"
    metric, told = found[0].metric, []
    level = 1 - 0.05 / max(1, sum(line.difference is not None for line in found))  # that of the table beside it
    for point, theirs in by_point.items():
        pairs = sorted(mine.keys() & theirs.keys())
        if not pairs:
            continue
        d, low, high, _ = paired_test([mine[seed] for seed in pairs], [theirs[seed] for seed in pairs], level)
        within = interval(low, high, metric, "+") if len(pairs) >= FEW else f"{len(pairs)} seeds are too few to tell"
        told.append(f"{number(d, metric, '+')} ({within}) against {course.places[point].name}")
    reached = f"{number(float(np.mean(list(mine.values()))), metric)} ({metric})"
    said = f"On {len(mine)} seeds that no decision has seen it reaches {reached}"
    return ", ".join([said, *told])


def _risk(rounds: Rounds) -> str:
    course = rounds.course
    assert course is not None
    risk = course.risk(NEAR) if is_share(rounds.metric) else None
    if risk is None:
        return ""
    return f"A point that was tried is more than {100 * NEAR:g} points better with a probability of roughly {risk:.0%}"


def _gain(line: Line) -> float:
    return 0.0 if line.difference is None else line.difference[0]


def _several(lines: Sequence[Line], verb: str) -> str:
    shown = ", ".join(f"{line.name} {verb}{_told(line, bare=bool(verb))}" for line in lines[:NAMED])
    return shown + (f" and {len(lines) - NAMED} more" if len(lines) > NAMED else "")


def _told(line: Line, bare: bool = False) -> str:
    """A difference with its interval; what something costs has no sign."""
    d, low, high = line.difference or (0.0, 0.0, 0.0)
    if bare:
        d, low, high = (-d, -high, -low) if d < 0 else (d, low, high)
    unit = " points" if is_share(line.metric) else ""
    return f"{number(d, line.metric, '' if bare else '+')}{unit} ({interval(low, high, line.metric)})"


def _base(lines: Sequence[Line]) -> str:
    names = list(dict.fromkeys(line.baseline for line in lines))
    return names[0] if len(names) == 1 else "what they are compared with"
