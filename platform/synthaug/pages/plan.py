"""What a run would do: keys, what is cached, and what the rest will cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synthaug.data.dataset import subset
from synthaug.experiment import Experiment, Sweep
from synthaug.runtime.generate import open_job
from synthaug.runtime.store import Store
from synthaug.settings import UserError, to_json


def plan(subject: Experiment | Sweep, home: str | Path) -> dict[str, Any]:
    """Stages with key and state, the images and denoiser calls that are missing, and notes for people."""
    store = Store(home)
    experiments = [t.experiment for t in subject.trials()] if isinstance(subject, Sweep) else [subject]
    stages: dict[str, dict[str, Any]] = {}
    labels: dict[str, str] = {}  # by key: trials may know a stage by several names
    notes: list[str] = []
    for experiment in experiments:
        listing = store.open(experiment.dataset)
        subset(listing, experiment.dataset, experiment.seed)
        notes += [*listing.notes, *(f"left out: {path} ({reason})" for path, reason in listing.quarantined)]
        try:
            nodes = store.nodes(experiment)
        except UserError as error:
            notes.append(f"no key without the model: {error}")
            continue
        notes += experiment.notes()
        for name, node in nodes.items():
            stage = {"key": node.key, "path": str(store.folder(node)), "cached": store.manifest(node) is not None}
            if name in experiment.makings:
                stage |= _images(store, experiment, name)
            label = labels.setdefault(node.key, f"{name}/{node.key[:8]}") if isinstance(subject, Sweep) else name
            if label not in stages or stage.get("images", 0) > stages[label].get("images", 0):  # the largest k counts
                stages[label] = stage
    missing = {name: sum(s.get(name, 0) for s in stages.values()) for name in ("images", "calls", "bytes")}
    return {
        "trials": len(experiments),
        "stages": stages,
        "missing": missing | _seconds(store, stages),
        "notes": list(dict.fromkeys(notes)),
    }


def _images(store: Store, experiment: Experiment, stage: str) -> dict[str, Any]:
    """Images of variants 1..k that are not there, and what making them takes."""
    job = open_job(store, experiment, stage)
    missing = job.missing(store)
    images = sum(job.rows_of(number) for number in missing)
    known = store.manifest(job.node) or {}
    size = known["bytes"] / known["rows"] if known.get("rows") else _bytes_each(store)
    done = {"cached": not missing, "images": images, "calls": images * job.maker.calls()}
    return done | {"bytes": round(images * size)}


def _past(store: Store) -> list[dict[str, Any]]:
    """The receipts of this home."""
    paths = [path for stage in ("views", "generate") for path in (store.root / stage).glob("*/part-*.json")][-200:]
    return [json.loads(path.read_bytes()) for path in paths]


def _bytes_each(store: Store) -> float:
    past = _past(store)
    return float(sum(r["bytes"] for r in past) / max(1, sum(r["rows"] for r in past)))


def _seconds(store: Store, stages: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Seconds of generation on one device, from the denoiser calls a second of past shards; none, none."""
    past = [r for r in _past(store) if r["counters"].get("unet_calls")]
    if not past:
        return {}
    each = sum(r["seconds"] for r in past) / sum(r["counters"]["unet_calls"] for r in past)
    return {"seconds": round(each * sum(s.get("calls", 0) for s in stages.values()), 1)}


def describe(subject: Experiment | Sweep, found: dict[str, Any]) -> str:
    """The plan for a terminal."""
    lines = [json.dumps(to_json(subject), indent=1), ""]
    stages = found["stages"]
    for name, stage in list(stages.items())[:40]:
        state = "cached" if stage["cached"] else "to make"
        images = f", {stage['images']} images, {stage['calls']} denoiser calls" if stage.get("images") else ""
        lines.append(f"{name:12} {stage['key']}  {state}{images}")
    if len(stages) > 40:
        lines.append(f"... and {len(stages) - 40} stages more")
    missing, todo = found["missing"], sum(not stage["cached"] for stage in stages.values())
    total = f"{found['trials']} trials, {todo} of {len(stages)} stages to make"
    total += f": {missing['images']} images, {missing['calls']} denoiser calls, {missing['bytes'] / 1e6:.1f} MB"
    if missing.get("seconds"):
        total += f", about {missing['seconds']:.0f} s of generation on one device"
    return "\n".join([*lines, "", total, *found["notes"]])
