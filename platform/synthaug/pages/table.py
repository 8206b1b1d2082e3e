"""The comparison of a sweep's arms: means with intervals, paired differences to the baseline, and what they cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthaug.evaluate.stats import holm, mean_interval, paired_test
from synthaug.experiment import Sweep

PREFERRED = ("test/top1", "val/top1")


@dataclass(frozen=True)
class Line:
    """One arm (at one point of the space) over its seeds.

    `difference` is to its baseline; `p` is that of the claim that it differs, in one direction, from the baseline and
    from each control; `hardest` is the one that this was least clear for.
    """

    name: str
    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    difference: tuple[float, float, float] | None
    p: float | None
    hardest: str
    images: float
    seconds: float
    calls: float


@dataclass(frozen=True)
class Test:
    """One arm against those that it is compared with, at the same point and paired by seed."""

    baseline: str
    difference: float
    p: float
    hardest: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]


def metric_of(trials: Sequence[Mapping[str, Any]]) -> str:
    """The accuracy that arms are compared by: on test images if that was measured everywhere, or else on others."""
    # arms may be measured differently; compared is what all of them have
    common = [name for name in trials[0]["metrics"] if all(name in trial["metrics"] for trial in trials)]
    known = [name for name in common if name.endswith("/top1")]
    return next((name for name in PREFERRED if name in known), known[0] if known else common[0])


def lines(trials: Sequence[Mapping[str, Any]], sweep: Sweep | None) -> list[Line]:
    """A line for each arm and point, in the order of the sweep. P-values are corrected by Holm over all arms together,
    the intervals of differences by Bonferroni: the more are tried, the likelier one stands out by chance."""
    metric = metric_of(trials)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    found: dict[tuple[str, str], dict[int, float]] = {}
    for trial in trials:
        groups.setdefault(name_of(trial, trials), []).append(trial)
        # an arm is compared where it stands: with the same value of all that the space varies
        found.setdefault((trial["arm"], point_of(trial, sweep)), {})[trial["seed"]] = trial["metrics"][metric]
    tests: dict[str, Test] = {}
    for name, (first, *_) in groups.items():
        point = point_of(first, sweep)
        compared = () if sweep is None else sweep.compared(first["arm"])
        others = {arm: found.get((arm, point), {}) for arm in compared}
        if test := _test(found[first["arm"], point], others):
            tests[name] = test
    known = {name: test.p for name, test in tests.items() if not math.isnan(test.p)}  # one pair has none
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    level = 1 - 0.05 / max(1, len(tests))
    return [_line(name, group, tests.get(name), adjusted.get(name), level, metric) for name, group in groups.items()]


def point_of(trial: Mapping[str, Any], sweep: Sweep | None) -> str:
    """Where in the space a trial stands, as JSON."""
    space = () if sweep is None else sweep.space
    return json.dumps({path: trial["fields"][path] for path in space}, sort_keys=True)


def _test(ours: Mapping[int, float], others: Mapping[str, Mapping[int, float]]) -> Test | None:
    found: dict[str, tuple[float, float]] = {}
    pairs: tuple[tuple[float, ...], tuple[float, ...]] = (), ()
    for arm, theirs in others.items():
        # a seed that one of the two lacks is in no pair
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            continue
        sides = tuple(ours[seed] for seed in seeds), tuple(theirs[seed] for seed in seeds)
        difference, _, _, p = paired_test(*sides)
        found[arm] = difference, p
        pairs = pairs if pairs[0] else sides
    if not found:
        return None
    first, *_ = found
    # Choosing the best control by what it reached on test images would favour it; the claim is instead about all of
    # them, so it is no clearer than the least clear one (an intersection-union test, which needs no correction) ...
    hardest = max(found, key=lambda arm: found[arm][1])
    sign = math.copysign(1, found[first][0])
    # ... and where one control is beaten and another is not there is no claim at all
    against = [arm for arm, (difference, _) in found.items() if math.copysign(1, difference) != sign]
    p = 1.0 if against else found[hardest][1]
    return Test(first, found[first][0], p, against[0] if against else hardest, *pairs)


def _line(
    name: str, group: Sequence[Mapping[str, Any]], test: Test | None, p: float | None, level: float, metric: str
) -> Line:
    values = tuple(t["metrics"][metric] for t in group)
    # added up: what the arm cost, with all its seeds
    cost = {
        n: sum(t["metrics"].get(n, 0.0) for t in group) for n in ("gen/images", "cost/device_s", "cost/denoiser_calls")
    }
    difference = None if test is None else paired_test(test.ours, test.theirs, level)[:3]
    hardest = "" if test is None or test.hardest == test.baseline else test.hardest
    return Line(name, values, *mean_interval(values), difference, p, hardest, *cost.values())


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
    "corrected interval",
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
        against = f" ({line.hardest})" if line.hardest else ""
        difference = (f"{d:+.1f}", interval(low, high, "+"), "" if line.p is None else p_text(line.p) + against)
    cost = (f"{line.images:.0f}", f"{line.seconds:.0f}", f"{line.calls:.0f}")
    return line.name, f"{100 * line.mean:.1f}", interval(100 * line.low, 100 * line.high), *difference, *cost


def interval(low: float, high: float, sign: str = "") -> str:
    return "one seed" if math.isnan(low) else f"{low:{sign}.1f} to {high:{sign}.1f}"


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def note(found: Sequence[Line], sweep: Sweep | None) -> str:
    """How the differences of a table are to be read."""
    count = sum(line.difference is not None for line in found)
    if sweep is None or not count:
        return ""
    to = "its own baseline" if sweep.against else sweep.baseline
    said = f"differences are paired by seed, to {to}; of {count}, p corrected by Holm, intervals by Bonferroni"
    if sweep.controls:
        controls = ", ".join(sweep.controls)
        said += f"; p is for a gain over {controls} as well (in brackets the one that it is least clear for)"
    return said


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
