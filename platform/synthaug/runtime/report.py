"""The report: one static page with tables, intervals, costs, galleries and curves, that needs no server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from synthaug.experiment import Experiment, Sweep, Trial
from synthaug.runtime import figures, table
from synthaug.runtime.generate import open_job
from synthaug.runtime.run import NANO_NOTE, found_artefacts, is_cached, is_nano, label, metrics_of
from synthaug.runtime.store import Store, write_bytes
from synthaug.settings import UserError, from_json, to_json

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
figure { margin: 1rem 0 } figcaption, .note { color: #666; font-size: .85rem }
img { image-rendering: pixelated; max-width: 100% } svg { max-width: 100%; height: auto }
pre { background: #f6f6f6; padding: .7rem; overflow: auto; font-size: .8rem }
"""


def write_report(store: Store, subjects: Mapping[str, Experiment | Sweep], out: Path | None = None) -> Path:
    """A page about experiments and sweeps by name; what has not been run is named as such."""
    parts = [_section(store, name, subject) for name, subject in subjects.items()]
    title = "synthaug report"
    made = time.strftime("%Y-%m-%d %H:%M")
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
    page += f"<h1>{title}</h1><p class=note>made {made} from {escape(store.home.name)}</p>" + "".join(parts) + "</html>"
    out = out or store.home / "reports" / "report.html"
    write_bytes(out, page.encode())
    return out


def recorded_subjects(store: Store) -> dict[str, Experiment | Sweep]:
    """Everything that was run in this home, by name."""
    found: dict[str, Experiment | Sweep] = {}
    for record in store.records():
        is_sweep = record["subject"]["kind"].endswith(":Sweep")
        subject = from_json(Sweep, record["subject"]) if is_sweep else from_json(Experiment, record["subject"])
        found[f"{record.get('name', 'synthaug')} {record['run_id'][:8]}"] = subject
    if not found:
        raise UserError(f"nothing has been run in {str(store.home)!r} yet: synthaug run REF")
    return found


def _section(store: Store, name: str, subject: Experiment | Sweep) -> str:
    if isinstance(subject, Experiment):
        trials = [Trial("", subject.seed, {}, subject)]
        baseline = None
    else:
        trials, baseline = subject.trials(), subject.baseline
    done = [trial for trial in trials if is_cached(store, trial.experiment)]
    body = f"<h2>{escape(name)}</h2>"
    if len(done) < len(trials):
        body += f"<p>{len(trials) - len(done)} of {len(trials)} trials have not been run yet.</p>"
    if done:
        told = [_told(store, trial) for trial in done]
        body += _table(told, baseline) + _curves(store, done, told) + _gains(store, done, told, baseline)
        body += _galleries(store, done, told)
    return (
        body
        + _notes(store, [t.experiment for t in trials])
        + f"<details><summary>settings</summary><pre>{_pretty(subject)}</pre></details>"
    )


def _told(store: Store, trial: Trial) -> dict[str, Any]:
    metrics = metrics_of(store, trial.experiment, found_artefacts(store, trial.experiment))
    arm = trial.arm or label(trial.experiment)
    return {"arm": arm, "seed": trial.seed, "fields": trial.fields, "metrics": metrics}


def _table(told: Sequence[dict[str, Any]], baseline: str | None) -> str:
    head = "".join(f"<th>{escape(name)}" for name in table.HEADER)
    rows = [table.cells(line) for line in table.lines(told, baseline)]
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    seeds = len({t["seed"] for t in told})
    against = (
        f" Differences are paired by seed, to {escape(baseline)}; p-values are Holm-corrected." if baseline else ""
    )
    note = f"{table.METRIC}, {seeds} seeds, Student t intervals.{against} Costs are summed over the seeds."
    return f"<table><tr>{head}</tr>{body}</table><p class=note>{note}</p>"


def _curves(store: Store, done: Sequence[Trial], told: Sequence[dict[str, Any]]) -> str:
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    for trial, t in zip(done, told, strict=True):
        history = found_artefacts(store, trial.experiment)["train"].manifest["history"]
        points = [(entry["step"], entry["val/top1"]) for entry in history if "val/top1" in entry]
        if points:
            lines.setdefault(table.name_of(t, told), []).append(points)
    if not lines:
        return ""
    return _figure(figures.curves(lines, "validation accuracy"), "Validation accuracy while training.")


def _gains(store: Store, done: Sequence[Trial], told: Sequence[dict[str, Any]], baseline: str | None) -> str:
    """Mean accuracy per class of each arm, less that of the baseline."""
    if baseline is None:
        return ""
    by_arm: dict[str, list[list[float]]] = {}
    for trial, t in zip(done, told, strict=True):
        result = found_artefacts(store, trial.experiment)["evaluate"].manifest["result"]
        if "per_class" not in result:
            return ""
        by_arm.setdefault(table.name_of(t, told), []).append(
            [np.nan if v is None else v for v in result["per_class"].values()]
        )
    if baseline not in by_arm:
        return ""
    base = np.mean(by_arm.pop(baseline), 0)
    gains = {name: list(100 * (np.mean(values, 0) - base)) for name, values in by_arm.items()}
    classes = store.open(done[0].experiment.dataset).classes
    drawn = figures.bars(gains, classes, "points")
    return _figure(drawn, f"Gain over {baseline} for each class, in points.")


def _galleries(store: Store, done: Sequence[Trial], told: Sequence[dict[str, Any]]) -> str:
    shown: dict[str, str] = {}
    for trial, t in zip(done, told, strict=True):
        name = table.name_of(t, told)
        if trial.experiment.method is not None and name not in shown:
            pixels = figures.gallery(store, open_job(store, trial.experiment), trial.experiment.k)
            caption = f"{name}, seed {t['seed']}: a real image of each class, then its variants."
            shown[name] = _figure(f"<img src='{figures.png_uri(pixels)}' alt=gallery>", caption)
    return "".join(shown.values())


def _figure(drawn: str, caption: str) -> str:
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


def _notes(store: Store, experiments: Sequence[Experiment]) -> str:
    """What a reader must know: embedded models, split-off sets, files that were left out."""
    notes = []
    if any(map(is_nano, experiments)):
        notes.append(NANO_NOTE)
    listings = {e.dataset: store.open(e.dataset) for e in experiments}
    for listing in listings.values():
        notes += [*listing.notes, *(f"left out: {path} ({reason})" for path, reason in listing.quarantined)]
    return (
        "<ul>" + "".join(f"<li class=note>{escape(note)}" for note in dict.fromkeys(notes)) + "</ul>" if notes else ""
    )


def _pretty(subject: Experiment | Sweep) -> str:
    import json

    return escape(json.dumps(to_json(subject), indent=1))
