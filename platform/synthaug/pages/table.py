"""The comparison of a sweep's arms: means with intervals, paired differences to the baseline, and what they cost."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthaug.evaluate.base import less_is_more
from synthaug.evaluate.stats import holm, mean_interval, paired_test
from synthaug.experiment import Sweep
from synthaug.search.course import short
from synthaug.settings import UserError, did_you_mean

PREFERRED = ("test/top1", "val/top1")
# where nothing was classified
OTHERWISE = ("fidelity/fid", "denoising/heldout")


Place = tuple[str, str]  # an arm, and a point as JSON


@dataclass(frozen=True)
class Line:
    """One arm (at one point of the space) over its seeds.

    `difference` is to its baseline; `p` is that of the claim that it falls behind it, or else that it is ahead of it
    and of each control; `hardest` is the one that this is least clear for.
    """

    name: str
    metric: str
    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    difference: tuple[float, float, float] | None
    baseline: str
    p: float | None
    hardest: str
    pairs: int  # seeds that it has in common with its baseline
    trained_on: float | None  # images, real and generated
    images: float
    seconds: float
    calls: float


@dataclass(frozen=True)
class Test:
    """One arm against those that it is compared with, at the same point and paired by seed."""

    baseline: str
    p: float
    hardest: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]


def metric_of(trials: Sequence[Mapping[str, Any]], sweep: Sweep | None = None) -> str:
    """The number that arms are compared by: the one that the sweep names, or accuracy, on test images if that was
    measured everywhere, or else on others; where nothing was classified, what the images or the denoiser are like."""
    # arms may be measured differently; compared is what all of them have
    common = [name for name in trials[0]["metrics"] if all(name in trial["metrics"] for trial in trials)]
    asked = None if sweep is None else sweep.metric
    if asked is not None:
        if asked not in common:
            raise UserError(f"{asked!r} was not measured in all trials{did_you_mean(asked, common)}", ("metric",))
        return asked
    # a guide or a judge is only asked, and is not what is compared
    known = [name for name in common if name.endswith("/top1") and not name.startswith(("guide/", "judge/"))]
    # of images that did not choose the model first, whichever part of them was asked for
    tested = [name for name in known if not name.startswith("val")]
    wanted = [PREFERRED[0], *tested, *known, *OTHERWISE]
    return str(next((name for name in wanted if name in common), common[0]))


def is_share(metric: str) -> bool:
    """Whether it is told in per cent."""
    return metric.endswith("/top1")


def lines(
    trials: Sequence[Mapping[str, Any]], sweep: Sweep | None, among: Sequence[Mapping[str, Any]] | None = None
) -> list[Line]:
    """A line for each arm and point, in the order of the sweep, named so that it is told from `among`. P-values are
    corrected by Holm over all arms together, the intervals of differences by Bonferroni: the more are tried, the
    likelier one stands out by chance."""
    metric = metric_of(trials, sweep)
    sign = -1 if less_is_more(metric) else 1
    groups: dict[Place, dict[int, Mapping[str, Any]]] = {}
    names: dict[Place, str] = {}
    for trial in trials:
        place = trial["arm"], point_of(trial, sweep)
        # a point that a searcher drew twice is one point: its trials are the very same
        groups.setdefault(place, {})[trial["seed"]] = trial
        names[place] = name_of(trial, among or trials)
    found = {place: {seed: t["metrics"][metric] for seed, t in group.items()} for place, group in groups.items()}
    tests: dict[Place, Test] = {}
    for arm, point in groups:
        compared = {other: beside(groups, other, point) for other in (() if sweep is None else sweep.compared(arm))}
        others = {other: {} if place is None else found[place] for other, place in compared.items()}
        if test := _test(found[arm, point], others, sign):
            tests[arm, point] = test
    known = {place: test.p for place, test in tests.items() if not math.isnan(test.p)}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    level = 1 - 0.05 / max(1, len(tests))
    return [
        _line(names[place], list(group.values()), tests.get(place), adjusted.get(place), level, metric)
        for place, group in groups.items()
    ]


def point_of(trial: Mapping[str, Any], sweep: Sweep | None) -> str:
    """Where in the space a trial stands, as JSON; fields that are not there at its point are not in it."""
    space = () if sweep is None else sweep.space
    return json.dumps({path: trial["fields"][path] for path in space if path in trial["fields"]}, sort_keys=True)


def beside(places: Iterable[Place], arm: str, point: str) -> Place | None:
    """Where another arm stands beside a point: with the same value of all that is varied in it. In a search each arm
    that the winner is compared with has one point, its best."""
    mine = [place for place in places if place[0] == arm]
    ours = json.loads(point)
    same = [place for place in mine if all(ours.get(path) == value for path, value in json.loads(place[1]).items())]
    return same[0] if same else mine[0] if len(mine) == 1 else None


def _test(ours: Mapping[int, float], others: Mapping[str, Mapping[int, float]], sign: int) -> Test | None:
    """The comparison with the first of the others, if there are pairs, and how clear it is for all of them; with the
    sign -1 less is more."""
    if not others:
        return None
    found: dict[str, tuple[float, float]] = {}
    pairs: list[tuple[tuple[float, ...], tuple[float, ...]]] = []
    for arm, theirs in others.items():
        # a seed that one of the two lacks is in no pair
        seeds = sorted(ours.keys() & theirs.keys())
        pairs.append((tuple(ours[seed] for seed in seeds), tuple(theirs[seed] for seed in seeds)))
        difference, _, _, p = paired_test(*pairs[-1]) if seeds else (math.nan,) * 4
        found[arm] = sign * difference, p
    first, *_ = others
    if not pairs[0][0]:
        return None
    if any(math.isnan(p) for _, p in found.values()):  # nothing is claimed as long as one comparison is missing
        return Test(first, math.nan, first, *pairs[0])
    if found[first][0] <= 0:  # whoever falls behind the baseline claims no gain
        return Test(first, found[first][1], first, *pairs[0])
    # Choosing the best control by what it reached on test images would favour it; the claim is instead about all of
    # them, so it is no clearer than the least clear one (an intersection-union test, which needs no correction) ...
    hardest = max(found, key=lambda arm: found[arm][1])
    # ... and where one is not beaten there is no claim at all
    ahead = [arm for arm, (difference, _) in found.items() if difference <= 0]
    return Test(first, 1.0 if ahead else found[hardest][1], ahead[0] if ahead else hardest, *pairs[0])


def _line(
    name: str, group: Sequence[Mapping[str, Any]], test: Test | None, p: float | None, level: float, metric: str
) -> Line:
    values = tuple(t["metrics"][metric] for t in group)
    # added up: what the arm cost, with all its seeds
    cost = {
        n: sum(t["metrics"].get(n, 0.0) for t in group) for n in ("gen/images", "cost/device_s", "cost/denoiser_calls")
    }
    difference = None if test is None else paired_test(test.ours, test.theirs, level)[:3]
    base, hardest = ("", "") if test is None else (test.baseline, test.hardest)
    sizes = [t["metrics"]["train/set"] for t in group if "train/set" in t["metrics"]]
    size = sum(sizes) / len(sizes) if sizes else None
    pairs = 0 if test is None else len(test.ours)
    return Line(name, metric, values, *mean_interval(values), difference, base, p, hardest, pairs, size, *cost.values())


def name_of(trial: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """The arm, and where the arm has several points what tells them apart."""
    # an arm that stands at one point needs no more than its name
    siblings = [_leaves(t["fields"]) for t in trials if t["arm"] == trial["arm"]]
    own = _leaves(trial["fields"])
    # what only some of them have goes with the class that brings it
    shared = [path for path in own if all(path in other for other in siblings)]
    vary = [path for path in shared if any(other[path] != own[path] for other in siblings)]
    return str(trial["arm"]) + "".join(f" {path.removesuffix('.kind')}={short(own[path])}" for path in vary)


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """What JSON holds, by dotted paths."""
    if not isinstance(value, dict):
        return {path: value}
    return {p: v for name, item in value.items() for p, v in _leaves(item, f"{path}.{name}".lstrip(".")).items()}


HEADER = (
    "arm",
    "accuracy %",
    "95 % interval",
    "difference",
    "corrected interval",
    "p (Holm)",
    "trained on",
    "images",
    "device s",
    "denoiser calls",
)


def header(found: Sequence[Line]) -> tuple[str, ...]:
    """HEADER, with the name of what is compared where that is not plain accuracy on the test images."""
    metric = found[0].metric if found else PREFERRED[0]
    usual = f"{HEADER[1]} ({metric})" if is_share(metric) else metric
    return HEADER if metric == PREFERRED[0] else (HEADER[0], usual, *HEADER[2:])


def cells(line: Line) -> tuple[str, ...]:
    """A line as text, in the order of HEADER."""
    difference = ("", "", "")
    if line.difference is not None:
        d, low, high = line.difference
        against = f" ({line.hardest})" if line.hardest != line.baseline else ""
        p = "" if line.p is None else p_text(line.p) + against
        difference = (number(d, line.metric, "+"), interval(low, high, line.metric, "+"), p)
    size = "" if line.trained_on is None else f"{line.trained_on:.0f}"
    cost = (size, f"{line.images:.0f}", f"{line.seconds:.0f}", f"{line.calls:.0f}")
    mean = number(line.mean, line.metric)
    return line.name, mean, interval(line.low, line.high, line.metric), *difference, *cost


def number(value: float, metric: str, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}" if is_share(metric) else f"{value:{sign}.3g}"


def interval(low: float, high: float, metric: str, sign: str = "") -> str:
    return "one seed" if math.isnan(low) else f"{number(low, metric, sign)} to {number(high, metric, sign)}"


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def note(found: Sequence[Line], sweep: Sweep | None) -> str:
    """How the differences of a table are to be read."""
    count = sum(line.difference is not None for line in found)
    if sweep is None or not count:
        return ""
    corrected = f"of {count}, p corrected by Holm, intervals by Bonferroni"
    compared = Counter(others for arm in sweep.arms if (others := sweep.compared(arm)))
    if len(compared) == 1 and len(next(iter(compared))) == 1:
        return f"differences are paired by seed, to {next(iter(compared))[0]}; {corrected}"
    said = "differences are paired by seed, to the first that an arm is compared with; p of a gain is of one over all"
    them = "; ".join(f"{', '.join(others)} ({number} arm{'s' * (number > 1)})" for others, number in compared.items())
    return f"{said} (in brackets the least clear); {corrected}. Compared with {them}"


def text(found: Sequence[Line]) -> str:
    """The table for a terminal."""
    return plain([header(found), *(cells(line) for line in found)])


def others(trials: Sequence[Mapping[str, Any]], names: Sequence[str], among: Sequence[Mapping[str, Any]]) -> str:
    """A table of other numbers of the same arms: means over the seeds, with intervals."""
    groups: dict[str, list[Mapping[str, float]]] = {}
    for trial in trials:
        groups.setdefault(name_of(trial, among), []).append(trial["metrics"])
    rows = [("arm", *names)]
    for arm, found in groups.items():
        values = {name: [metrics[name] for metrics in found if name in metrics] for name in names}
        rows.append((arm, *(_beside(values[name], name) for name in names)))
    return plain(rows)


def _beside(values: Sequence[float], metric: str) -> str:
    if not values:
        return ""
    mean, low, high = mean_interval(values)
    return number(mean, metric) + ("" if math.isnan(low) else f" ({interval(low, high, metric)})")


def plain(rows: Sequence[Sequence[str]]) -> str:
    """Rows for a terminal, the first of them the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    shown = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([shown[0], "-" * len(shown[0]), *shown[1:]])
