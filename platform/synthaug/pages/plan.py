"""What a run would do: keys, what is cached, and what the rest will cost."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random as Dice
from typing import Any

from synthaug.experiment import Experiment, Sweep
from synthaug.runtime.search import Rounds, rounds_of
from synthaug.runtime.store import Store, alike
from synthaug.search.searchers import RandomSearch, spread
from synthaug.settings import UserError, keyed
from synthaug.stages.base import Cost, Mapped, Stage, Unmade, once

PAST = 200  # receipts from which the speed of this home is known
WIDE = 118  # columns
# seconds of a denoiser row, with all that an image costs beside it, at a size in pixels, and where that was measured
ROW_S = {"nano:": (0.0015, 32, "a CPU core"), "stable-diffusion-v1-5": (0.0038, 512, "an H200")}


def plan(subject: Experiment | Sweep, home: str | Path) -> dict[str, Any]:
    """Stages with key and state, the images and denoiser calls that are missing, and notes for people."""
    store = Store(home)
    rounds = rounds_of(store, subject)
    past = Past(store)
    data = {experiment.dataset: store.open(experiment.dataset) for experiment in rounds.experiments}
    notes = [note for listing in data.values() for note in (*listing.notes, *listing.left_out())]
    labels, stages, lacking = _stages(store, rounds)
    notes += [note for experiment in rounds.experiments for note in experiment.notes()]
    found = {labels[stage.key]: todo_of(store, stage, past) for stage in stages}
    told = [(stage, found[labels[stage.key]]) for stage in stages]
    todo = [(stage, Cost(calls=about["calls"])) for stage, about in told if not about["cached"]]
    missing = {name: sum(about[name] for _, about in told) for name in ("images", "calls", "bytes")}
    if isinstance(subject, Sweep) and subject.space:
        notes += _of_space(store, subject)
    if rounds.course is not None and rounds.jobs:
        notes.append(f"a search: shown are {rounds.course.trainings} trainings that it had and its next round")
    return {
        "data": list(dict.fromkeys(listing.summary(dataset.name) for dataset, listing in data.items())),
        "trials": len(rounds.trials),
        "lacking": lacking,
        "stages": found,
        "missing": missing | past.seconds(todo),
        "guess": _guess(rounds.experiments, missing["calls"]),
        "notes": list(dict.fromkeys(notes)),
    }


def _stages(store: Store, rounds: Rounds) -> tuple[dict[str, str], list[Stage[Any]], str]:
    """The stages of some trials with their names by key, and what a model lacks that is not on this machine."""
    labels: dict[str, str] = {}  # trials may know a stage by several names
    wanted: list[Stage[Any]] = []
    lacking = ""
    for experiment in rounds.experiments:
        store.check_subset(experiment)
        try:
            stages = store.stages(experiment)
        except UserError as error:  # what can be said without it is said
            lacking = lacking or str(error)
            continue
        wanted += stages.values()
        for name, stage in stages.items():
            labels.setdefault(stage.key, f"{name}/{stage.key[:8]}" if isinstance(rounds.subject, Sweep) else name)
    # trials share stages: of those with one key the one that asks for most is what will be made
    return labels, once(wanted), lacking


def _of_space(store: Store, sweep: Sweep) -> list[str]:
    """Which fields of a space cost images, and which only trainings: whether the images' key moves with them."""
    points = spread(sweep.makers, sweep.space, RandomSearch(samples=12))
    dear, cheap = list[str](), list[str]()
    # a field that is there at few points may be at none of these
    for name, domain in ((n, d) for n, d in sweep.space.items() if any(n in point for _, point in points)):
        arm, point = next((arm, point) for arm, point in points if name in point)
        keys = set()
        for number in range(8):
            with suppress(UserError):  # what does not go together, or a model that is not here
                made = sweep.makers[arm](point | {name: domain.draw(Dice(number))})
                images = store.line(made).generated
                keys.add(None if images is None else images.key)
        (dear if len(keys) > 1 else cheap).append(name)
    told = {"each value costs images": dear, "no new images for another value, but of more variants": cheap}
    return [f"{', '.join(names)}: {what}" for what, names in told.items() if names]


def todo_of(store: Store, stage: Stage[Any], past: Past) -> dict[str, Any]:
    """A stage as `show` tells it: what of it is missing, and what making that takes."""
    given, cached, cost = store.planned(stage), store.is_ready(stage), Cost()
    # which units there are is known only once the inputs are
    if not cached and isinstance(stage, Mapped) and all(map(store.is_made, stage.inputs.values())):
        cost = sum((stage.measure(unit, given) for unit in store.missing(stage)), Cost())
    elif not cached:
        with suppress(Unmade):  # hangs on what an input will give: not known before that is made
            cost = stage.estimate(given)
    found = {"key": stage.key, "path": str(store.at(stage).local()), "cached": cached}
    if any(other.bounds and not store.is_made(other) for other in stage.inputs.values()):
        found["at most"] = True
    return found | {"images": cost.images, "calls": cost.calls, "bytes": round(cost.images * past.bytes_each(stage))}


class Past:
    """What this home knows of how fast things are, and how large images become."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.spent = list(store.past(PAST))
        self.usual = store.usual(PAST)

    def bytes_each(self, stage: Stage[Any]) -> float:
        """Of this stage's own images, or else of all."""
        # a stage that wants more variants now has images from before
        manifest = self.store.manifest(stage)
        if manifest is not None and manifest.counts.get("rows"):
            return float(manifest.counts["bytes"] / manifest.counts["rows"])
        rows = sum(receipt.rows for receipt in self.spent)
        return sum(receipt.bytes for receipt in self.spent) / rows if rows else 0.0

    def seconds(self, todo: Iterable[tuple[Stage[Any], Cost]]) -> dict[str, Any]:
        """What some stages will take on one device, as far as such stages have been made in this home: of images by
        their denoiser calls, of others as long as the mean of those that are set alike; and the names of the others."""
        past = [receipt for receipt in self.spent if receipt.calls]
        each = sum(r.seconds for r in past) / sum(r.calls for r in past) if past else None
        total, unknown = 0.0, set[str]()
        for stage, cost in todo:
            usual = self.usual.get(alike(stage.kind, stage.settings))
            if isinstance(stage, Mapped) and cost.calls:
                usual = None if each is None else each * cost.calls
            total += usual or 0.0
            unknown |= set() if usual is not None else {stage.name}
        return {"seconds": round(total, 1), "unknown": sorted(unknown)}


def _guess(experiments: Iterable[Experiment], calls: int) -> str:
    """What the images take where none have been made yet; nothing for models that nobody has measured."""
    backbones = {e.generator for e in experiments if e.generator is not None and e.denoiser is None}
    known = [
        (backbone.resolution, *told) for backbone in backbones for part, told in ROW_S.items() if part in backbone.model
    ]
    if not calls or len(backbones) != 1 or not known:
        return ""
    size, seconds, usual, where = known[0]
    return f"{_long(calls * seconds * ((size or usual) / usual) ** 2)} of {where}"


def _what(subject: Experiment | Sweep) -> list[str]:
    """The settings that are not at their defaults, a line each."""
    about = keyed(subject, places=True)
    base = about.pop("base", {}) if isinstance(subject, Sweep) else {}
    if about.get("arms"):
        about["arms"] = f"{len(about['arms'])}: {' | '.join(about['arms'])}"  # what each replaces is in the JSON
    told = {n: v for n, v in (base | about).items() if n != "kind" and v not in ([], {})}
    indent = " " * 13
    return [
        "\n".join(textwrap.wrap(f"{name:12} {_brief(value)}", WIDE, subsequent_indent=indent, max_lines=3))
        for name, value in told.items()
    ]


def _brief(value: Any) -> str:
    """A value as Python would write it, by its class's own name."""
    if isinstance(value, dict):
        cls = str(value.get("kind", "")).rpartition(":")[2]
        inner = ", ".join(f"{name}={_brief(item)}" for name, item in value.items() if name != "kind")
        return f"{cls}({inner})" if inner or not cls else cls
    if isinstance(value, list):
        return ", ".join(map(_brief, value)) if len(value) == 1 else f"({', '.join(map(_brief, value))})"
    return str(value)


def _state(stages: Sequence[Mapping[str, Any]]) -> str:
    """How far some stages of one kind are, and what the rest takes."""
    todo = [stage for stage in stages if not stage["cached"]]
    if len(stages) == 1:
        state = "to make" if todo else "cached"
    else:
        state = f"{len(todo)} of {len(stages)} to make" if todo else f"{len(stages)} cached"
    most = "at most " if any(stage.get("at most") for stage in todo) else ""
    for name, what in (("images", "images"), ("calls", "denoiser calls")):
        if count := sum(stage[name] for stage in todo):
            state += f", {most}{count} {what}"
    return state


def describe(subject: Experiment | Sweep, found: dict[str, Any]) -> str:
    """The plan for a terminal."""
    lines, stages = [*found["data"], "", *_what(subject), ""], found["stages"]
    if isinstance(subject, Sweep):
        groups: dict[str, list[dict[str, Any]]] = {}
        for name, stage in stages.items():
            groups.setdefault(name.partition("/")[0], []).append(stage)
        lines += [f"{name:12} {_state(group)}" for name, group in groups.items()]
    else:
        lines += [f"{name:12} {stage['key']}  {_state([stage])}" for name, stage in stages.items()]
    missing, todo = found["missing"], sum(not stage["cached"] for stage in stages.values())
    said = f"{todo} of {len(stages)} stages to make"
    if isinstance(subject, Sweep):
        said = f"{found['trials']} trials, {said}"
    most = "at most " if any(stage.get("at most") for stage in stages.values()) else ""
    for name, what in (("images", "images"), ("calls", "denoiser calls")):
        said += f", {most}{missing[name]} {what}" if missing[name] else ""
    said += f", {missing['bytes'] / 1e6:.1f} MB" if missing["bytes"] else ""
    return "\n".join([*lines, "", said, *_time(missing, found["guess"]), *found["notes"]])


def _time(missing: Mapping[str, Any], guess: str) -> list[str]:
    """How long it will take, as far as this home knows."""
    if not missing["seconds"]:
        guessed = f"; a guess for the images alone: {guess}" if guess else ""
        said = f"how long it takes is not known before such stages have been made here{guessed}"
        return [said] * bool(missing["unknown"])
    beside = f", {', '.join(missing['unknown'])} not counted" if missing["unknown"] else ""
    return [f"about {_long(missing['seconds'])} on one device, as such stages took here{beside}"]


def _long(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes / 60:.1f} h" if minutes > 90 else f"{minutes:.0f} min" if minutes > 2 else f"{seconds:.0f} s"
