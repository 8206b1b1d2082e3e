"""The report: one static page with tables, intervals, costs, galleries and curves, that needs no server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from synthaug.evaluate import figures
from synthaug.experiment import Experiment, Sweep, Trial
from synthaug.pages import table
from synthaug.runtime.generate import open_job
from synthaug.runtime.run import NANO_NOTE, found_artefacts, is_cached, is_nano, label, metrics_of
from synthaug.runtime.store import Artefact, Store, write_bytes
from synthaug.settings import UserError, from_json, to_json

MANY = 8  # arms that can be told apart in one figure
OF_IMAGES = ("fidelity/", "leak/", "recognised/")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0;
  font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left; white-space: nowrap }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
figure { margin: 1rem 0 } figure:has(img) { display: inline-block; max-width: 24rem; margin-right: 1rem }
figcaption, .note { color: #666; font-size: .85rem }
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
        body += _table(told, baseline) + _others(told) + _quality(told) + _curves(store, done, told)
        body += _gains(store, done, told, baseline) + _found(store, done, told) + _galleries(store, done, told)
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
    note = f"{table.metric_of(told)}, {seeds} seeds, Student t intervals.{against} Costs are summed over the seeds."
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
    best = sorted(lines, key=lambda name: -np.mean([run[-1][1] for run in lines[name]]))[:MANY]
    shown = {name: runs for name, runs in lines.items() if name in best}
    which = f", of the {MANY} arms that end highest" if len(lines) > MANY else ""
    return _figure(figures.curves(shown, "validation accuracy"), f"Validation accuracy while training{which}.")


def _gains(store: Store, done: Sequence[Trial], told: Sequence[dict[str, Any]], baseline: str | None) -> str:
    """Mean accuracy per class of each arm, less that of the baseline."""
    if baseline is None:
        return ""
    by_arm: dict[str, list[list[float]]] = {}
    for trial, t in zip(done, told, strict=True):
        results = [a.manifest["result"] for a in _measured(store, trial).values()]
        for result in [result for result in results if "per_class" in result][:1]:
            values = [np.nan if v is None else v for v in result["per_class"].values()]
            by_arm.setdefault(table.name_of(t, told), []).append(values)
    if baseline not in by_arm:
        return ""
    base = np.mean(by_arm.pop(baseline), 0)
    gains = {name: list(100 * (np.mean(values, 0) - base)) for name, values in by_arm.items()}
    classes = store.open(done[0].experiment.dataset).classes
    about = f"Gain over {baseline} for each class, in points."
    if len(gains) <= MANY:
        return _figure(figures.bars(gains, classes, "points"), about)
    return _grid(classes, {name: [f"{gain:+.1f}" for gain in row] for name, row in gains.items()}, about)


def _measured(store: Store, trial: Trial) -> dict[str, Artefact]:
    """The artefacts of a trial's evaluations."""
    found = found_artefacts(store, trial.experiment)
    return {name: found[name] for name in trial.experiment.measured()}


def _others(told: Sequence[dict[str, Any]]) -> str:
    """What else was measured on the classifiers, a table for each kind."""
    names = dict.fromkeys(name for t in told for name in t["metrics"] if name not in table.PREFERRED)
    kinds = {
        "Accuracy, asked in other ways or about other images": [n for n in names if n.endswith("/top1")],
        "Outliers told from test images (AUROC)": [n for n in names if "/ood/" in n and n.count("/") == 4],
        "Certified accuracy by radius": [n for n in names if "/certified/" in n and n.count("/") == 2],
    }
    kinds = {kind: [n for n in found if not n.startswith(OF_IMAGES)] for kind, found in kinds.items()}
    return "".join(
        _grid(found, _means(told, found), f"{kind}; means over the seeds.") for kind, found in kinds.items() if found
    )


def _quality(told: Sequence[dict[str, Any]]) -> str:
    """What was measured on the generated images; arms with equal images once."""
    names = sorted({name for t in told for name in t["metrics"] if name.startswith(OF_IMAGES)})
    rows: dict[str, list[str]] = {}
    for arm, row in _means(told, names).items():
        if any(row) and row not in rows.values():
            rows[arm] = row
    about = "The generated images themselves, means over the seeds; arms that use the same images are told once."
    return _grid([name.partition("/")[2] for name in names], rows, about) if rows else ""


def _means(told: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, list[str]]:
    """Each arm's means over the seeds; nothing where it was not measured."""
    rows = {}
    for arm in dict.fromkeys(table.name_of(t, told) for t in told):
        mine = [t["metrics"] for t in told if table.name_of(t, told) == arm]
        values = [[m[name] for m in mine if name in m] for name in names]
        rows[arm] = [f"{np.mean(v):.3g}" if v else "" for v in values]
    return rows


def _found(store: Store, done: Sequence[Trial], told: Sequence[dict[str, Any]]) -> str:
    """The curves that evaluations found, all arms in one figure, and their pictures, of the first seed."""
    curves: dict[str, dict[str, Any]] = {}
    pictures = ""
    for trial, t in zip(done, told, strict=True):
        arm = table.name_of(t, told)
        for artefact in _measured(store, trial).values() if t["seed"] == told[0]["seed"] else ():
            result = artefact.manifest["result"]
            for name, curve in result.get("curves", {}).items():
                lines = curve["y"] if isinstance(curve["y"], dict) else {"": curve["y"]}
                known = curves.setdefault(name, {"x": curve["x"], "y": {}, "label": curve["label"]})
                known["y"] |= {f"{arm} {line}".strip(): y for line, y in lines.items() if line not in known["y"]}
            for name, picture in result.get("pictures", {}).items():
                pixels = figures.png_uri(figures.decoded(picture))
                pictures += _figure(f"<img src='{pixels}' alt='{escape(name)}'>", f"{name}: {arm}")
    drawn = "".join(_figure(figures.plot(curve), f"{name}, seed {told[0]['seed']}.") for name, curve in curves.items())
    return drawn + pictures


def _grid(columns: Sequence[str], rows: Mapping[str, Sequence[str]], about: str) -> str:
    """A plain table with a row for each arm."""
    head = "".join(f"<th>{escape(name)}" for name in ("arm", *columns))
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in (name, *row)) for name, row in rows.items())
    return f"<table><tr>{head}</tr>{body}</table><p class=note>{escape(about)}</p>"


def _galleries(store: Store, done: Sequence[Trial], told: Sequence[dict[str, Any]]) -> str:
    """Each set of images of the first seed once, under the name of the first arm that uses it."""
    shown: dict[str, str] = {}
    for trial, t in zip(done, told, strict=True):
        if trial.experiment.method is None or t["seed"] != told[0]["seed"]:
            continue
        job = open_job(store, trial.experiment)
        if job.node.key not in shown:
            pixels = figures.gallery(store, job, trial.experiment.k)
            caption = f"{table.name_of(t, told)}, seed {t['seed']}: a real image of each class, then its variants."
            shown[job.node.key] = _figure(f"<img src='{figures.png_uri(pixels)}' alt=gallery>", caption)
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
