"""What a sweep looks like: accuracy against cost, and a heat map where two numbers are varied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthaug.evaluate import figures
from synthaug.evaluate.base import less_is_more
from synthaug.evaluate.stats import mean_interval
from synthaug.pages.table import Line, is_share
from synthaug.runtime.search import Rounds
from synthaug.search.course import short

MAPS = 6  # heat maps of one arm


@dataclass(frozen=True)
class Cell:
    """A point with its numbers; `note` is what became of it."""

    arm: str
    fields: Mapping[str, Any]
    values: Sequence[float]
    note: str = ""


def against_cost(found: Sequence[Line], colours: Mapping[str, str]) -> str:
    """Each arm's number over what it cost, with its interval, and the front that no other beats in both."""
    sign = -1 if found and less_is_more(found[0].metric) else 1
    known = [line for line in found if line.seconds > 0]
    if len(known) < 2:
        return ""
    each = {line.name: line.seconds / len(line.values) for line in known}
    scale = 100 if is_share(known[0].metric) else 1
    dots = {
        line.name: (
            each[line.name],
            scale * line.mean,
            None if math.isnan(line.low) else scale * (line.high - line.mean),
        )
        for line in known
    }
    front, best = [], -math.inf
    for line in sorted(known, key=lambda line: (each[line.name], -sign * line.mean)):
        if sign * line.mean > best:
            front.append(line.name)
            best = sign * line.mean
    label = f"{known[0].metric}{' in per cent' if scale == 100 else ''}"
    return figures.scatter(dots, front, colours, "device seconds a seed", label)


def heat_maps(cells: Sequence[Cell], order: Sequence[str], metric: str) -> list[tuple[str, str]]:
    """Title and drawing for each arm in which two numbers or more are varied: the first two as axes, one map for each
    value of the others."""
    found = []
    for arm in dict.fromkeys(cell.arm for cell in cells):
        mine = [cell for cell in cells if cell.arm == arm and cell.values]
        axes = [name for name in order if _is_axis(mine, name)]
        if len(axes) < 2:
            continue
        x, y, rest = axes[0], axes[1], [name for name in order if name not in axes[:2]]
        groups: dict[str, list[Cell]] = {}
        for cell in mine:
            if x in cell.fields and y in cell.fields:
                groups.setdefault(_title(cell, rest), []).append(cell)
        for title, group in sorted(groups.items())[:MAPS]:
            found.append((f"{arm} {title}".strip(), _map(group, x, y, metric)))
    return found


def _is_axis(cells: Sequence[Cell], name: str) -> bool:
    values = [cell.fields[name] for cell in cells if name in cell.fields]
    return len({value for value in values if type(value) in (int, float)}) > 1


def _title(cell: Cell, rest: Sequence[str]) -> str:
    return " ".join(f"{name}={_told(cell.fields[name])}" for name in rest if name in cell.fields)


def _told(value: Any) -> str:
    """A value for people; of settings what tells them from others of their class, too."""
    if not isinstance(value, dict):
        return short(value)
    own = ", ".join(f"{name}={_told(item)}" for name, item in value.items() if name != "kind")
    return f"{short(value)}({own})" if own else short(value)


def _map(cells: Sequence[Cell], x: str, y: str, metric: str) -> str:
    scale = 100 if is_share(metric) else 1
    columns, rows = (sorted({cell.fields[name] for cell in cells}) for name in (x, y))
    means, texts = {}, {}
    for cell in cells:
        place = rows.index(cell.fields[y]), columns.index(cell.fields[x])
        mean, low, _ = mean_interval(cell.values)
        means[place] = scale * mean
        half = "" if math.isnan(low) else f" ±{scale * (mean - low):.1f}"
        texts[place] = f"{scale * mean:.1f}{half}" + (f"\n{cell.note}" if cell.note else "")
    return figures.heat(means, texts, columns, rows, x, y)


def cells_of(rounds: Rounds, trials: Sequence[Mapping[str, Any]], metric: str) -> list[Cell]:
    """The points of a sweep: of a search with what decided there, else with what was measured."""
    if rounds.course is None:
        values: dict[int, list[float]] = {}
        for trial in trials:
            values.setdefault(trial["point"], []).append(trial["metrics"][metric])
        return [Cell(place.arm, place.fields, values.get(row, [])) for row, place in enumerate(rounds.places)]
    sign, course = -1 if less_is_more(metric) else 1, rounds.course
    leader = {} if course.winner is None else course.places[course.winner].values
    # each on seeds of its own: beside the leader on the same ones, or what a seed does to all would show
    middle = sum(leader.values()) / max(1, len(leader))
    return [
        Cell(
            place.arm, place.fields,
            [sign * (value - leader[seed] + middle) for seed, value in place.values.items() if seed in leader],
            f"dropped {place.dropped}" if place.dropped else "winner" if row == course.winner else "",
        )
        for row, place in enumerate(course.places)
    ]  # fmt: skip
