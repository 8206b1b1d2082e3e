"""The comparison of a sweep's arms: means with intervals, paired differences to the baseline, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthaug.evaluate.stats import holm, mean_interval, paired_test

PREFERRED = ("test/top1", "val/top1")


@dataclass(frozen=True)
class Line:
    """One arm (at one point of the space) over its seeds."""

    name: str
    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    difference: tuple[float, float, float] | None
    p: float | None
    images: float
    seconds: float
    calls: float


def metric_of(trials: Sequence[Mapping[str, Any]]) -> str:
    """The accuracy that arms are compared by: on test images if that was measured everywhere, or else on others."""
    # arms may be measured differently; compared is what all of them have
    common = [name for name in trials[0]["metrics"] if all(name in trial["metrics"] for trial in trials)]
    known = [name for name in common if name.endswith("/top1")]
    return next((name for name in PREFERRED if name in known), known[0] if known else common[0])


def lines(trials: Sequence[Mapping[str, Any]], baseline: str | None) -> list[Line]:
    """A line for each arm and point, in the order of the sweep; p-values are Holm-corrected over the table."""
    metric = metric_of(trials)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for trial in trials:
        groups.setdefault(name_of(trial, trials), []).append(trial)
    # by seed, because arms are paired by it
    base = {t["seed"]: t["metrics"][metric] for t in trials if baseline is not None and t["arm"] == baseline}
    tests = {name: _test(group, base, metric) for name, group in groups.items() if group[0]["arm"] != baseline and base}
    # over all arms together: the more are tried, the likelier one stands out by chance
    adjusted = dict(zip(tests, holm([test[3] for test in tests.values()]), strict=True))
    return [_line(name, group, tests.get(name), adjusted.get(name), metric) for name, group in groups.items()]


def _test(
    group: Sequence[Mapping[str, Any]], base: Mapping[int, float], metric: str
) -> tuple[float, float, float, float]:
    ours = {t["seed"]: t["metrics"][metric] for t in group}
    # a seed that one of the two lacks is in no pair
    seeds = sorted(ours.keys() & base.keys())
    return paired_test([ours[seed] for seed in seeds], [base[seed] for seed in seeds])


def _line(
    name: str,
    group: Sequence[Mapping[str, Any]],
    test: tuple[float, float, float, float] | None,
    p: float | None,
    metric: str,
) -> Line:
    values = tuple(t["metrics"][metric] for t in group)
    # added up: what the arm cost, with all its seeds
    cost = {
        n: sum(t["metrics"].get(n, 0.0) for t in group) for n in ("gen/images", "cost/device_s", "cost/denoiser_calls")
    }
    return Line(name, values, *mean_interval(values), test[:3] if test else None, p, *cost.values())


def name_of(trial: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """The arm, and where the arm has several points what tells them apart."""
    # an arm that stands at one point needs no more than its name
    siblings = [t["fields"] for t in trials if t["arm"] == trial["arm"]]
    vary = [path for path in trial["fields"] if any(fields.get(path) != trial["fields"][path] for fields in siblings)]
    return str(trial["arm"]) + "".join(f" {path}={_short(trial['fields'][path])}" for path in vary)


def _short(value: Any) -> str:
    return str(value["kind"]).rpartition(":")[2] if isinstance(value, dict) and "kind" in value else str(value)


HEADER = (
    "arm",
    "accuracy %",
    "95 % interval",
    "difference",
    "95 % interval",
    "p (Holm)",
    "images",
    "device s",
    "denoiser calls",
)


def cells(line: Line) -> tuple[str, ...]:
    """A line as text, in the order of HEADER."""
    difference = ("", "", "")
    if line.difference is not None:
        d, low, high = (100 * x for x in line.difference)
        difference = (f"{d:+.1f}", interval(low, high, "+"), "" if line.p is None else p_text(line.p))
    cost = (f"{line.images:.0f}", f"{line.seconds:.0f}", f"{line.calls:.0f}")
    return line.name, f"{100 * line.mean:.1f}", interval(100 * line.low, 100 * line.high), *difference, *cost


def interval(low: float, high: float, sign: str = "") -> str:
    return "one seed" if math.isnan(low) else f"{low:{sign}.1f} to {high:{sign}.1f}"


def p_text(p: float) -> str:
    # one pair has no p
    return "" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def text(found: Sequence[Line]) -> str:
    """The table for a terminal."""
    rows = [HEADER, *(cells(line) for line in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    shown = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([shown[0], "-" * len(shown[0]), *shown[1:]])
