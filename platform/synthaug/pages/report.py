"""The report: one static page with tables, intervals, costs, galleries and curves, that needs no server."""

from __future__ import annotations

import json
import shlex
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from synthaug.evaluate import figures
from synthaug.evaluate.base import Curve
from synthaug.experiment import Experiment, Sweep, Trial, read
from synthaug.pages import charts, raced, sentence, table
from synthaug.progress import say
from synthaug.runtime.disk import Disk
from synthaug.runtime.finished import Finished
from synthaug.runtime.run import NANO_NOTE
from synthaug.runtime.search import Rounds, is_ready, rounds_of
from synthaug.runtime.store import Store
from synthaug.runtime.sweeps import name_of
from synthaug.settings import UserError, to_json

PNG = "data:image/png;base64,"
MANY = 8  # arms that can be told apart in one figure
NAMED = 3  # arms that have the same images
# how the names of numbers about generated images begin
COUNTED = ("cost/", "gen/", "train/", "time/", "val/", "judge/", "slow/")  # of these the other tables tell
OF_IMAGES = ("fidelity/", "leak/", "recognised/", "memorised/", "transformed/", "faithful/")
STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #666; --line: #ddd; --paper: #fff; --shade: #f6f6f6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --soft: #999; --line: #444; --paper: #181818; --shade: #242424 }
  svg { filter: invert(.88) hue-rotate(180deg) }
}
@media print { :root { --ink: #000; --paper: #fff } details { display: none } figure, tr { break-inside: avoid } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: var(--ink); background: var(--paper) }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0;
  font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line) } td { white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: nowrap; position: sticky; left: 0;
  background: var(--paper) }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
.answer { font-size: 1.1rem; border-left: 4px solid #4c72b0; padding-left: .8rem }
figure { margin: 1rem 0 } figure:has(img) { display: inline-block; max-width: 24rem; margin-right: 1rem }
figcaption, .note { color: var(--soft); font-size: .85rem }
img { image-rendering: pixelated; max-width: 100% } svg { max-width: 100%; height: auto }
pre { background: var(--shade); padding: .7rem; overflow: auto; font-size: .8rem }
@media (max-width: 40rem) {
  body { font-size: 14px; margin: 1rem auto } th, td { padding: .2rem .4rem }
  th:first-child, td:first-child { max-width: 9rem; white-space: normal }
}
"""


@dataclass(frozen=True)
class FinishedTrial:
    """A finished trial as the report tells it: `name` is its arm, and its point where the arm has several; `row` is
    what tables take, and `--json` prints."""

    name: str
    trial: Trial
    finished: Finished
    row: dict[str, Any]


def write_report(store: Store, subjects: Mapping[str, Experiment | Sweep], out: Path | None = None) -> Path:
    """A page about experiments and sweeps by name; what has not been run is named as such. One of several that cannot
    be read any more, because its data are gone or its images damaged, is left out and named."""
    parts = []
    for name, subject in subjects.items():
        try:
            parts.append(_section(store, name, subject))
        except UserError as error:
            if len(subjects) == 1:
                raise
            say(f"left out of the report: {name} ({error})")
            parts.append(f"<h2>{escape(name)}</h2><p>Left out: {escape(str(error))}</p>")
    title = "synthaug report"
    made = time.strftime("%Y-%m-%d %H:%M")
    # style and pictures are in the page itself: one file, that can be sent to somebody
    page = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    page += f"<title>{title}</title><style>{STYLE}</style>"
    page += f"<h1>{title}</h1><p class=note>made {made} from {escape(store.home.name)}</p>" + "".join(parts) + "</html>"
    out = out or store.home / "reports" / "report.html"
    Disk(out.parent).write(out.name, page.encode())
    return out


def recorded_subjects(store: Store) -> dict[str, Experiment | Sweep]:
    """Everything that was run in this home, by name."""
    found = {}
    for record in store.records.all():
        title = f"{record.name} {record.run_id[:8]}"
        try:
            found[title] = read(record.subject)
        except UserError as error:
            say(f"left out of the report: {title} ({error}); name it: synthaug report REF")
    if not found:
        if store.records.all():
            raise UserError(
                f"of what was run in {str(store.home)!r} nothing can be read here; name it: synthaug report REF"
            )
        raise UserError(f"nothing has been run in {str(store.home)!r} yet: synthaug run REF")
    return found


def _section(store: Store, name: str, subject: Experiment | Sweep) -> str:
    rounds = rounds_of(store, subject)
    # unfinished trials have no numbers yet; the others need not wait for them
    ready = {job: trial for job, trial in rounds.trials.items() if is_ready(store, trial.experiment)}
    known = [Finished(store, trial.experiment) for trial in ready.values()]
    rows = [
        {"arm": t.arm or t.experiment.label, "seed": t.seed, "fields": t.fields, "metrics": f.metrics, "point": job[0]}
        for (job, t), f in zip(ready.items(), known, strict=True)
    ]
    names = [table.name_of(row, rows) for row in rows]
    finished = list(map(FinishedTrial, names, ready.values(), known, rows))
    body = f"<h2>{escape(name)}</h2>"
    if not ready:
        say(f"nothing of {name} has been run in {store.home}")
    if len(ready) < len(rounds.trials):
        left = len(rounds.trials) - len(ready)
        body += f"<p>{left} of {len(rounds.trials)} trials have not been run yet, or have failed.</p>"
    if finished:
        of = figures.colours(names)
        body += _answer(rounds, rows, of) + _costs(finished) + _others(finished) + _quality(finished)
        body += _curves(finished, of) + _gains(finished, rounds, of) + _found(finished) + _galleries(finished, rounds)
    body += _notes(store, rounds.experiments)
    return body + _commands(name, subject, rounds)


def _commands(name: str, subject: Experiment | Sweep, rounds: Rounds) -> str:
    """The settings as a file, and for each row the command that runs it again from that file."""
    text = json.dumps(to_json(subject), indent=1)
    file = "".join(c if c.isalnum() else "_" for c in name.split()[0]) + ".json"
    link = f"<a download={file} href='data:application/json;base64,{b64encode(text.encode()).decode()}'>{file}</a>"
    commands = [f"synthaug run {file}"]
    if isinstance(subject, Sweep):
        seeds: dict[int, list[int]] = {}
        for row, seed in rounds.trials:
            seeds.setdefault(row, []).append(seed)
        for row, place in enumerate(rounds.places):
            which = f" --set seeds={json.dumps(seeds[row], separators=(',', ':'))}" if row in seeds else ""
            commands.append(f"synthaug run {shlex.quote(f'{file}:{name_of(rounds, place)}')}{which}")
    shown = f"<p class=note>Save {link}; all of it, then each row alone:</p><pre>{escape(chr(10).join(commands))}</pre>"
    shown = f"<details><summary>commands that run it again</summary>{shown}</details>"
    return shown + f"<details><summary>settings</summary><pre>{escape(text)}</pre></details>"


def _answer(rounds: Rounds, rows: Sequence[dict[str, Any]], of: Mapping[str, str]) -> str:
    """The answer in words, the tables behind it, and what they look like."""
    sweep, metric = rounds.subject if isinstance(rounds.subject, Sweep) else None, rounds.metric
    if rounds.course is None:
        found, metric = table.lines(rows, sweep), table.metric_of(rows, sweep)
        said = sentence.of_comparison(found, sweep) if sweep is not None else ""
        seeds = len({row["seed"] for row in rows})
        about = [f"{metric}, {seeds} seeds, Student t intervals", table.note(found, sweep)]
        body = _lines(found, [*about, "costs are summed over the seeds."])
    else:
        fresh = raced.fresh(rounds, rows)
        found = table.lines(fresh, sweep, among=rows) if fresh else []
        said = sentence.of_search(rounds, found, fresh)
        head, points = raced.table(rounds)
        body = _lines(found, [raced.about_fresh(rounds), table.note(found, sweep)]) if found else ""
        body += _grid(head[1:], {row: cells for row, *cells in points}, raced.about_race(rounds))
    if drawn := charts.against_cost(found, of):
        body += _figure(drawn, "What it costs: no arm beats those on the line in both.")
    if sweep is not None:
        for title, drawn in charts.heat_maps(charts.cells_of(rounds, rows, metric), list(sweep.space), metric):
            body += _figure(drawn, f"{title}: {metric}, means with half their intervals.")
    return (f"<p class=answer>{escape(said)}</p>" if said else "") + body


def _lines(found: Sequence[table.Line], about: Sequence[str]) -> str:
    rows = {name: row for name, *row in map(table.cells, found)}
    return _grid(table.header(found)[1:], rows, "; ".join(filter(None, about)))


def _costs(finished: Sequence[FinishedTrial]) -> str:
    """The seconds of each kind of stage, a seed's mean."""
    names = sorted({n for one in finished for n in one.finished.metrics if n.startswith("cost/") and n.endswith("_s")})
    rows = _means(finished, names)
    columns = [name.removeprefix("cost/").removesuffix("_s") for name in names]
    return _grid(columns, rows, "Seconds a seed by kind of stage, whoever made it; shared stages count for all.")


def _curves(finished: Sequence[FinishedTrial], of: Mapping[str, str]) -> str:
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    for one in finished:
        if one.trial.experiment.recipe is None:
            continue
        history = one.finished.history(one.finished.line.classifier)
        if points := [(entry["step"], entry["val/top1"]) for entry in history if "val/top1" in entry]:
            lines.setdefault(one.name, []).append(points)
    if not lines:
        return ""
    # more lines than colours could not be told apart
    best = sorted(lines, key=lambda name: -np.mean([run[-1][1] for run in lines[name]]))[:MANY]
    shown = {name: runs for name, runs in lines.items() if name in best}
    which = f", of the {MANY} arms that end highest" if len(lines) > MANY else ""
    return _figure(figures.curves(shown, of, "validation accuracy"), f"Validation accuracy while training{which}.")


def _gains(finished: Sequence[FinishedTrial], rounds: Rounds, of: Mapping[str, str]) -> str:
    """Mean accuracy per class of each arm, less that of its baseline at the same point."""
    sweep = rounds.subject if isinstance(rounds.subject, Sweep) else None
    if rounds.course is not None:  # of a search those that ran on the same fresh seeds
        course = rounds.course
        finished = [f for f in finished if f.row["point"] in course.compared and f.trial.seed in course.final]
    found: dict[tuple[str, str], list[list[float]]] = {}
    named: dict[str, tuple[str, str]] = {}
    for one in finished:
        results = [result for result in one.finished.results.values() if "per_class" in result]
        named[one.name] = one.row["arm"], table.point_of(one.row, sweep)
        for result in results[:1]:  # of several the one that was asked for first
            # None: no image of that class was looked at
            values = [np.nan if v is None else v for v in result["per_class"].values()]
            found.setdefault(named[one.name], []).append(values)
    gains: dict[str, list[float]] = {}
    for name, (arm, point) in named.items():
        base = () if sweep is None else sweep.compared(arm)[:1]
        place = table.beside(found, base[0], point) if base else None
        if place is not None and (arm, point) in found:
            gains[name] = list(100 * (np.mean(found[arm, point], 0) - np.mean(found[place], 0)))
    if sweep is None or not gains:
        return ""
    first = finished[0].finished
    classes = first.store.open(first.experiment.dataset).classes
    about = f"Gain over {'its baseline' if sweep.against else sweep.baseline} for each class, in points."
    if len(gains) <= MANY:
        return _figure(figures.bars(gains, of, classes, "points"), about)
    return _grid(classes, {name: [f"{gain:+.1f}" for gain in row] for name, row in gains.items()}, about)


def _others(finished: Sequence[FinishedTrial]) -> str:
    """What else was measured on the classifiers, a table for each kind."""
    names = dict.fromkeys(name for one in finished for name in one.finished.metrics if name not in table.PREFERRED)
    kinds = {
        "Accuracy, asked in other ways or about other images": [n for n in names if n.endswith("/top1")],
        "Outliers told from test images (AUROC)": [n for n in names if "/ood/" in n and n.count("/") == 4],
        "Certified accuracy by radius": [n for n in names if "/certified/" in n and n.count("/") == 2],
        "The denoisers themselves": [n for n in names if n.startswith(("denoising/", "answers/"))],
    }
    told = {name for found in kinds.values() for name in found}
    # a measurement of one's own may call its numbers anything
    kinds["Whatever else was measured"] = [n for n in names if n not in told and not n.startswith(COUNTED)]
    # those have a table of their own (`_quality`)
    kinds = {kind: [n for n in found if not n.startswith(OF_IMAGES)] for kind, found in kinds.items()}
    return "".join(
        _grid(found, _means(finished, found), f"{kind}; means over the seeds.")
        for kind, found in kinds.items()
        if found
    )


def _quality(finished: Sequence[FinishedTrial]) -> str:
    """What was measured on the generated images; arms with equal images once."""
    names = sorted({name for one in finished for name in one.finished.metrics if name.startswith(OF_IMAGES)})
    rows: dict[str, list[str]] = {}
    for arm, row in _means(finished, names).items():
        if any(row) and row not in rows.values():
            rows[arm] = row
    about = "The generated images themselves, means over the seeds; arms that use the same images are told once."
    return _grid([name.partition("/")[2] for name in names], rows, about) if rows else ""


def _means(finished: Sequence[FinishedTrial], names: Sequence[str]) -> dict[str, list[str]]:
    """Each arm's means over the seeds; nothing where it was not measured."""
    by_arm: dict[str, list[Mapping[str, float]]] = {}
    for one in finished:
        by_arm.setdefault(one.name, []).append(one.finished.metrics)
    rows = {}
    for arm, mine in by_arm.items():
        values = [[m[name] for m in mine if name in m] for name in names]
        rows[arm] = [f"{np.mean(v):.3g}" if v else "" for v in values]
    return rows


def _found(finished: Sequence[FinishedTrial]) -> str:
    """The curves that evaluations found, all arms in one figure, and their pictures, of the first seed."""
    curves: dict[str, Curve] = {}
    lines: dict[str, dict[str, list[float]]] = {}
    pictures, seed = "", finished[0].trial.seed
    for one in finished:
        for result in one.finished.results.values() if one.trial.seed == seed else ():
            for name, curve in result.get("curves", {}).items():
                # one line without a name, or several with theirs
                own = curve["y"] if isinstance(curve["y"], dict) else {"": curve["y"]}
                shared = lines.setdefault(name, {})
                # a line that is of no arm, such as a limit, is drawn once
                shared |= {f"{one.name} {line}".strip(): y for line, y in own.items() if line not in shared}
                curves[name] = {"x": curve["x"], "y": shared, "label": curve["label"]}
            for name, picture in result.get("pictures", {}).items():
                pictures += _figure(f"<img src='{PNG}{picture}' alt='{escape(name)}'>", f"{name}: {one.name}")
    drawn = "".join(_figure(figures.plot(curve), f"{name}, seed {seed}.") for name, curve in curves.items())
    return drawn + pictures


def _grid(columns: Sequence[str], rows: Mapping[str, Sequence[str]], about: str) -> str:
    """A plain table with a row for each arm."""
    head = "".join(f"<th>{escape(name)}" for name in ("arm", *columns))
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in (name, *row)) for name, row in rows.items())
    return f"<table><tr>{head}</tr>{body}</table><p class=note>{escape(about)}</p>"


def _galleries(finished: Sequence[FinishedTrial], rounds: Rounds) -> str:
    """Each set of images of the first seed once, the winner's first, with the names of all that use it."""
    winner = None if rounds.course is None else rounds.course.winner
    # what was generated, not what a filter has left of it
    mine = [one for one in finished if one.finished.line.generated and one.trial.seed == finished[0].trial.seed]
    sets: dict[str, list[FinishedTrial]] = {}
    for one in sorted(mine, key=lambda one: one.row["point"] != winner):
        images = one.finished.line.generated
        assert images is not None
        sets.setdefault(images.key, []).append(one)
    shown = ""
    for first, *others in sets.values():
        # those that use most variants of each image show all that the others have
        most = max((first, *others), key=lambda one: one.trial.experiment.k)
        images = most.finished.line.generated
        assert images is not None
        if lines := most.finished.store.load(images).gallery(most.trial.experiment.k):
            names = ", ".join(one.name for one in (first, *others)[:NAMED])
            names += f" and {len(others) + 1 - NAMED} more" if len(others) >= NAMED else ""
            about = f"{names}, seed {first.trial.seed}: a real image of each class, then its variants."
            shown += _figure(f"<img src='{PNG}{figures.png(figures.gallery(lines))}' alt=gallery>", about)
    return shown


def _figure(drawn: str, caption: str) -> str:
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


def _notes(store: Store, experiments: Sequence[Experiment]) -> str:
    """What a reader must know: embedded models, split-off sets, files that were left out."""
    notes = []
    if any(experiment.is_nano for experiment in experiments):
        notes.append(NANO_NOTE)
    listings = {e.dataset: store.open(e.dataset) for e in experiments}
    for listing in listings.values():
        notes += [*listing.notes, *listing.left_out()]
    return (
        "<ul>" + "".join(f"<li class=note>{escape(note)}" for note in dict.fromkeys(notes)) + "</ul>" if notes else ""
    )
