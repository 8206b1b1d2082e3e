"""What a run would do: keys, what is cached, and what the rest will cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthaug.experiment import Experiment, Sweep
from synthaug.runtime.run import trials_of
from synthaug.runtime.store import Store
from synthaug.settings import UserError, to_json
from synthaug.stages.base import Cost, Mapped, Stage, Unmade

PAST = 200  # receipts from which the speed of this home is known
SHOWN = 40  # stages that are listed one by one


@dataclass(frozen=True)
class Todo:
    """A stage as `show` tells it: what of it is missing, and what making that takes."""

    key: str
    path: str
    cached: bool
    cost: Cost
    bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        found = {"key": self.key, "path": self.path, "cached": self.cached}
        return found | {"images": self.cost.images, "calls": self.cost.calls, "bytes": self.bytes}


def plan(subject: Experiment | Sweep, home: str | Path) -> dict[str, Any]:
    """Stages with key and state, the images and denoiser calls that are missing, and notes for people."""
    store = Store(home)
    trials = trials_of(subject)
    past = Past(store)
    found: dict[str, Todo] = {}
    labels: dict[str, str] = {}  # by key: trials may know a stage by several names
    most: dict[str, Stage[Any]] = {}
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
        for name, stage in stages.items():
            # trials share stages: of those with one key the one that asks for most is what will be made
            known = most.get(stage.key)
            if known is None or stage.wants_more(known):
                most[stage.key] = stage
                label = f"{name}/{stage.key[:8]}" if isinstance(subject, Sweep) else name
                found[labels.setdefault(stage.key, label)] = todo_of(store, stage, past)
    missing = [todo for todo in found.values() if not todo.cached]
    return {
        "trials": len(trials),
        "stages": {label: todo.to_json() for label, todo in found.items()},
        "missing": total(missing) | past.seconds(missing),
        "notes": list(dict.fromkeys(notes)),
    }


def todo_of(store: Store, stage: Stage[Any], past: Past) -> Todo:
    """What of a stage is missing. Of a mapped one that is part there only the rest counts."""
    given, place = store.planned(stage), str(store.at(stage).local())
    if store.is_ready(stage):
        return Todo(stage.key, place, True, Cost())
    try:
        cost = stage.estimate(given)
    except Unmade:
        cost = Cost()  # hangs on what an input will give: not known before that is made
    # which units there are is known only once the inputs are
    if isinstance(stage, Mapped) and all(map(store.is_made, stage.inputs.values())):
        cost = sum((stage.measure(unit, given) for unit in store.missing(stage)), Cost())
    return Todo(stage.key, place, False, cost, round(cost.images * past.bytes_each(stage)))


def total(missing: Iterable[Todo]) -> dict[str, Any]:
    """What all of it takes."""
    costs = sum((todo.cost for todo in missing), Cost())
    return {"images": costs.images, "calls": costs.calls, "bytes": sum(todo.bytes for todo in missing)}


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

    def seconds(self, missing: Iterable[Todo]) -> dict[str, float]:
        """Seconds of generation on one device, from the denoiser calls a second of past shards; none, none."""
        past = [receipt for receipt in self.spent if receipt.calls]
        # past receipts tell how long images take, not how long training does
        calls = sum(todo.cost.calls for todo in missing if todo.cost.images)
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
        state += f", {stage['images']} images" if stage["images"] else ""
        state += f", {stage['calls']} denoiser calls" if stage["calls"] else ""
        lines.append(f"{name:12} {stage['key']}  {state}")
    if len(stages) > SHOWN:
        lines.append(f"... and {len(stages) - SHOWN} stages more")
    missing, todo = found["missing"], sum(not stage["cached"] for stage in stages.values())
    said = f"{found['trials']} trials, {todo} of {len(stages)} stages to make"
    said += f": {missing['images']} images, {missing['calls']} denoiser calls, {missing['bytes'] / 1e6:.1f} MB"
    if missing.get("seconds"):
        said += f", about {missing['seconds']:.0f} s of generation on one device"
    return "\n".join([*lines, "", said, *found["notes"]])
