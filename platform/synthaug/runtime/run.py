"""Running: what is missing of an experiment or a sweep is made, and everything is tracked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from synthaug.experiment import Experiment, Sweep, read
from synthaug.progress import say
from synthaug.runtime import cluster, database
from synthaug.runtime.disk import told_if_full
from synthaug.runtime.executors import OneByOne, SideBySide, Workers
from synthaug.runtime.finished import Finished
from synthaug.runtime.make import Executor, Here, Listener, Made, Plan, make
from synthaug.runtime.records import Record
from synthaug.runtime.search import Rounds
from synthaug.runtime.store import Store
from synthaug.runtime.sweeps import answer, run_sweep
from synthaug.runtime.tracking import Tracker, log_finished, origin, run_key
from synthaug.settings import UserError
from synthaug.stages.base import Stage, Trained
from synthaug.training import Entry

NANO_NOTE = "nano models know only letters and digits: good for trying things out, not for other images"


def run(
    subject: Experiment | Sweep,
    *,
    home: str | Path = "runs",
    workers: int | None = None,
    address: str | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Make what is missing of an experiment or a sweep, and return what `--json` prints. Without `workers` a sweep runs
    on Ray, its trainings side by side, and an experiment in this process; with 0 either does all in this process,
    without Ray. With more, each training is shared by so many processes, one training at a time."""
    if address and workers is None and isinstance(subject, Experiment):
        raise UserError("--address: an experiment runs in this process unless --workers says how many there are to be")
    store, name = Store(home).prepare(), name or "synthaug"
    rounds = Rounds(store, subject).replay()
    plan = planned(store, rounds.experiments)
    todo, stages = plan.todo(), plan.stages()
    # the whole answer is in the store then, and MLflow, which takes seconds to import, is left alone
    known = store.records.of(subject, stages)
    if not todo and not rounds.jobs and known is not None and is_tracked(store):
        return known_answer(rounds, known)
    began = (
        bool(todo)
        and (workers if workers is not None else isinstance(subject, Sweep))
        # it takes seconds, and runs beside the checks and the opening of MLflow
        and cluster.begin(address=address, dashboard=bool(workers))
    )
    try:
        prepare(plan, todo, rounds.experiments)
        if workers and todo:
            # more than there is room for is refused before anything is tracked
            cluster.start(actors=workers, dashboard=True)
    except UserError:
        if began:  # a check that failed must not leave a Ray behind that is still starting
            cluster.stop_own()
        raise
    with told_if_full():
        found = _made(plan, todo, rounds, name, workers)
        rewrite(store, subject)
    return found


def _made(plan: Plan, todo: Sequence[Stage[Any]], rounds: Rounds, name: str, workers: int | None) -> dict[str, Any]:
    """What is missing, made and tracked."""
    store, subject = plan.store, rounds.subject
    tracker = Tracker(store.home, name)
    # before the first file, so that a `clean` beside this run leaves it alone
    store.records.begin(subject, plan.stages())
    alone: Executor = Workers(workers) if workers and (todo or rounds.jobs) else Here()
    if isinstance(subject, Sweep):
        return run_sweep(plan, rounds, tracker, SideBySide() if workers is None else OneByOne(alone))
    return run_experiment(plan, subject, tracker, alone)


def rewrite(store: Store, tracked: Experiment | Sweep | None = None) -> None:
    """Where MLflow's database was damaged and is new, track again what was run to its end but is not there yet."""
    mark = store.home / database.REWRITE
    if not mark.exists():
        return
    records = store.records.all()
    say(f"writing the runs of {len(records)} records to MLflow again")
    for record in records:
        try:
            subject = read(record.subject)
            if subject == tracked:
                continue
            rounds = Rounds(store, subject).replay()
            plan = planned(store, rounds.experiments)
            if rounds.jobs or plan.todo():
                continue  # of an older version, or damaged: whoever runs it again has it tracked
        except UserError:
            continue
        tracker = Tracker(store.home, record.name)
        if isinstance(subject, Sweep):
            run_sweep(plan, rounds, tracker, Here())
        else:
            run_experiment(plan, subject, tracker, Here())
    mark.unlink(missing_ok=True)


def known_answer(rounds: Rounds, known: Record) -> dict[str, Any]:
    """What a run of the same subject has found."""
    if isinstance(rounds.subject, Experiment):
        return Finished(rounds.store, rounds.subject).answer(known.run_id, Made())
    return answer(rounds, known.run_id, known.run_ids, known.point_ids, Made())


def planned(store: Store, experiments: Iterable[Experiment]) -> Plan:
    """Everything that some experiments ask for."""
    plan = Plan(store)
    for experiment in experiments:
        plan.add(experiment)
    return plan


def prepare(plan: Plan, todo: Sequence[Stage[Any]], experiments: Sequence[Experiment]) -> None:
    """What people should know is said before anything else, and all that can be known to be wrong before anything
    expensive."""
    tell(plan.store, experiments)
    for stage in todo:
        stage.check(plan.store.planned(stage))


def tell(store: Store, experiments: Sequence[Experiment]) -> None:
    """What people should know before it starts: what the data are, files left out, models that know little."""
    data = {e.dataset: store.open(e.dataset) for e in experiments}
    told = [
        line for d, listing in data.items() for line in (listing.summary(d.name), *listing.notes, *listing.left_out())
    ]
    for line in dict.fromkeys(told):
        say(line)
    for note in dict.fromkeys(note for e in experiments for note in e.notes()):
        say(f"note: {note}")
    if any(experiment.is_nano for experiment in experiments):
        say(f"note: {NANO_NOTE}")


def is_tracked(store: Store) -> bool:
    """Whether the runs that were recorded can still be there; MLflow itself takes seconds to ask."""
    if "MLFLOW_TRACKING_URI" in os.environ:
        return True
    there = store.home / database.NAME
    return there.exists() and not (store.home / database.REWRITE).exists() and not database.trouble_of(there)


def run_experiment(plan: Plan, experiment: Experiment, tracker: Tracker, executor: Executor) -> dict[str, Any]:
    """One experiment with its run, to which trainings report as they go."""
    began, store = time.monotonic(), plan.store
    line = store.line(experiment)
    names = {stage.key: name for name, stage in line.stages().items()}
    known = store.records.of(experiment, line.results.values())
    tags = {"synthaug.kind": "experiment"} | origin()
    run = tracker.open(run_key(line.results.values()), experiment.label, tags, known=known.run_id if known else "")

    class Curves(Listener):
        def heard(self, stage: Trained[Any], entry: Entry) -> None:
            run.curve([(int(entry["step"]), stage.entry_named(names[stage.key], entry))])

    with run.told_of_its_end():
        made = make(plan, executor, Curves())
        finished = Finished(store, experiment)
        # apart from the costs, which are those of making, whoever made it
        run.metrics([(0, {"time/call_s": time.monotonic() - began})])
        log_finished(run, finished, made)
    store.records.end(experiment, plan.stages(), run.id, tracker.name)
    return finished.answer(run.id, made)
