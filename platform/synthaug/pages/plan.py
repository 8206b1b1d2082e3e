"""What a run would do: keys, what is cached, and what the rest will cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from random import Random as Dice
from typing import Any

from synthaug.experiment import Experiment, Sweep
from synthaug.runtime.search import rounds_of
from synthaug.runtime.store import Store
from synthaug.search.searchers import RandomSearch, spread
from synthaug.settings import UserError, to_json
from synthaug.stages.base import Cost, Mapped, Stage, Unmade, once

PAST = 200  # receipts from which the speed of this home is known
SHOWN = 40  # stages that are listed one by one


def plan(subject: Experiment | Sweep, home: str | Path) -> dict[str, Any]:
    """Stages with key and state, the images and denoiser calls that are missing, and notes for people."""
    store = Store(home)
    rounds = rounds_of(store, subject)
    trials = list(rounds.trials.values())
    past = Past(store)
    labels: dict[str, str] = {}  # by key: trials may know a stage by several names
    wanted: list[Stage[Any]] = []
    notes: list[str] = []
    for experiment in (trial.experiment for trial in trials):
        listing = store.open(experiment.dataset)
        notes += [*listing.notes, *(f"left out: {path} ({reason})" for path, reason in listing.quarantined)]
        store.check_subset(experiment)
        try:
            stages = store.stages(experiment)
        # a model that is not on this machine: what can be said without it is said
        except UserError as error:
            notes.append(f"no key without the model: {error}")
            continue
        notes += experiment.notes()
        wanted += stages.values()
        for name, stage in stages.items():
            labels.setdefault(stage.key, f"{name}/{stage.key[:8]}" if isinstance(subject, Sweep) else name)
    # trials share stages: of those with one key the one that asks for most is what will be made
    found = {labels[stage.key]: todo_of(store, stage, past) for stage in once(wanted)}
    missing = {name: sum(todo[name] for todo in found.values()) for name in ("images", "calls", "bytes")}
    if isinstance(subject, Sweep) and subject.space:
        notes += _of_space(store, subject)
    if rounds.course is not None and rounds.jobs:
        notes.append(f"a search: shown are {rounds.course.trainings} trainings that it had and its next round")
    return {
        "trials": len(trials),
        "stages": found,
        "missing": missing | past.seconds(found.values()),
        "notes": list(dict.fromkeys(notes)),
    }


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

    def bytes_each(self, stage: Stage[Any]) -> float:
        """Of this stage's own images, or else of all."""
        # a stage that wants more variants now has images from before
        manifest = self.store.manifest(stage)
        if manifest is not None and manifest.counts.get("rows"):
            return float(manifest.counts["bytes"] / manifest.counts["rows"])
        rows = sum(receipt.rows for receipt in self.spent)
        return sum(receipt.bytes for receipt in self.spent) / rows if rows else 0.0

    def seconds(self, stages: Iterable[dict[str, Any]]) -> dict[str, float]:
        """Seconds of generation on one device, from the denoiser calls a second of past shards; none, none."""
        past = [receipt for receipt in self.spent if receipt.calls]
        # past receipts tell how long images take, not how long training does
        calls = sum(stage["calls"] for stage in stages if stage["images"])
        if not past:
            return {}
        each = sum(receipt.seconds for receipt in past) / sum(receipt.calls for receipt in past)
        return {"seconds": round(each * calls, 1)}


def describe(subject: Experiment | Sweep, found: dict[str, Any]) -> str:
    """The plan for a terminal."""
    lines = [json.dumps(to_json(subject), indent=1), ""]
    stages = found["stages"]
    for name, stage in list(stages.items())[:SHOWN]:
        state = "cached" if stage["cached"] else "to make"
        most = "at most " if stage.get("at most") else ""
        state += f", {most}{stage['images']} images" if stage["images"] else ""
        state += f", {stage['calls']} denoiser calls" if stage["calls"] else ""
        lines.append(f"{name:12} {stage['key']}  {state}")
    if len(stages) > SHOWN:
        lines.append(f"... and {len(stages) - SHOWN} stages more")
    missing, todo = found["missing"], sum(not stage["cached"] for stage in stages.values())
    said = f"{found['trials']} trials, {todo} of {len(stages)} stages to make"
    said += ", at most" if any(stage.get("at most") for stage in stages.values()) else ""
    said += f": {missing['images']} images, {missing['calls']} denoiser calls, {missing['bytes'] / 1e6:.1f} MB"
    if missing.get("seconds"):
        said += f", about {missing['seconds']:.0f} s of generation on one device"
    return "\n".join([*lines, "", said, *found["notes"]])
