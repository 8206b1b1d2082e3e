"""Running: what is missing of an experiment or a sweep is made, and everything is tracked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from synthaug.experiment import Experiment, Sweep, Trial
from synthaug.progress import say
from synthaug.runtime import cluster
from synthaug.runtime.executors import OneByOne, SideBySide, Workers
from synthaug.runtime.finished import Finished
from synthaug.runtime.make import Executor, Here, Made, Plan, make
from synthaug.runtime.store import Store, record_key
from synthaug.runtime.tracking import Run, Tracker, log_finished, log_history
from synthaug.settings import UserError, hash_of, to_json
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
    on Ray Tune and an experiment in this process; with 0 either does all in this process, without Ray."""
    store, name = Store(home).prepare(), name or "synthaug"
    if isinstance(subject, Sweep) and workers:
        raise UserError("the trials of a sweep train in one process each: leave --workers out, Ray uses every core")
    trials = trials_of(subject)
    plan = planned(store, [trial.experiment for trial in trials])
    todo, stages = plan.todo(), plan.stages()
    # the whole answer is in the store then, and MLflow, which takes seconds to import, is left alone
    known = store.recorded(subject, stages)
    if not todo and known is not None and is_tracked(store):
        return answer(store, subject, trials, known.run_id, known.run_ids, Made())
    began = (
        bool(todo)
        and (workers if workers is not None else isinstance(subject, Sweep))
        # it takes seconds, and runs beside the checks and the opening of MLflow
        and cluster.begin(address=address, dashboard=bool(workers))
    )
    try:
        prepare(plan, todo, trials)
        if workers and todo:
            # more than there is room for is refused before anything is tracked
            cluster.start(actors=workers, dashboard=True)
    except UserError:
        if began:  # a check that failed must not leave a Ray behind that is still starting
            cluster.stop_own()
        raise
    tracker = Tracker(store.home, name)
    store.begin(subject, stages)  # before the first file, so that a `clean` beside this run leaves it alone
    if isinstance(subject, Sweep):
        return run_sweep(plan, subject, trials, tracker, OneByOne() if workers == 0 else SideBySide())
    return run_experiment(plan, subject, tracker, Workers(workers) if workers and todo else Here())


def trials_of(subject: Experiment | Sweep) -> list[Trial]:
    """An experiment is a sweep of one trial."""
    return subject.trials() if isinstance(subject, Sweep) else [Trial("", subject.seed, {}, subject)]


def planned(store: Store, experiments: Iterable[Experiment]) -> Plan:
    """Everything that some experiments ask for."""
    plan = Plan(store)
    for experiment in experiments:
        plan.add(experiment)
    return plan


def prepare(plan: Plan, todo: Sequence[Stage[Any]], trials: Sequence[Trial]) -> None:
    """All that can be known to be wrong is said before anything expensive, and what people should know of it."""
    for stage in todo:
        stage.check(plan.store.planned(stage))
    tell(plan.store, [trial.experiment for trial in trials])


def tell(store: Store, experiments: Sequence[Experiment]) -> None:
    """What people should know before it starts: files left out, models that know little."""
    for listing in {e.dataset: store.open(e.dataset) for e in experiments}.values():
        for number, (path, reason) in enumerate(listing.quarantined[:3]):
            say(f"left out: {path} ({reason})" + (" ..." if number == 2 and len(listing.quarantined) > 3 else ""))
    for note in dict.fromkeys(note for e in experiments for note in e.notes()):
        say(f"note: {note}")
    if any(experiment.is_nano for experiment in experiments):
        say(f"note: {NANO_NOTE}")


def is_tracked(store: Store) -> bool:
    """Whether the runs that were recorded can still be there; MLflow itself takes seconds to ask."""
    return "MLFLOW_TRACKING_URI" in os.environ or (store.home / "mlflow.db").exists()


def run_experiment(plan: Plan, experiment: Experiment, tracker: Tracker, executor: Executor) -> dict[str, Any]:
    """One experiment with its run, to which trainings report as they go."""
    began, store = time.monotonic(), plan.store
    line = store.line(experiment)
    names = {stage.key: name for name, stage in line.stages().items()}
    known = store.recorded(experiment, line.results.values())
    tags = {"synthaug.kind": "experiment"}
    run = tracker.open(run_key(line.results.values()), experiment.label, tags, known=known.run_id if known else "")

    def heard(stage: Trained[Any], entry: Entry) -> None:
        run.metrics([(int(entry["step"]), stage.entry_named(names[stage.key], entry))])

    with run.told_of_its_end():
        made = make(plan, executor, heard)
        finished = Finished(store, experiment)
        # apart from the costs, which are those of making, whoever made it
        run.metrics([(0, {"time/call_s": time.monotonic() - began})])
        log_finished(run, finished, made)
    store.record(experiment, plan.stages(), run.id, tracker.name)
    return finished.answer(run.id, made)


def run_key(results: Iterable[Stage[Any]]) -> str:
    """A run belongs to everything that its experiment makes."""
    return hash_of([stage.key for stage in results])


# --- sweeps -----------------------------------------------------------------------------------------------------------


def run_sweep(
    plan: Plan, sweep: Sweep, trials: Sequence[Trial], tracker: Tracker, executor: Executor
) -> dict[str, Any]:
    """Every trial of a sweep, tracked below one parent run."""
    began, store = time.monotonic(), plan.store
    known = store.recorded(sweep, [s for t in trials for s in store.line(t.experiment).results.values()])
    tags = {"synthaug.kind": "sweep"}
    parent = tracker.open(record_key(sweep), f"sweep {tracker.name}", tags, known=known.run_id if known else "")
    parent.json("sweep.json", to_json(sweep))
    with parent.told_of_its_end():
        missing = sum(not is_ready(store, trial.experiment) for trial in trials)
        if missing:
            say(f"{len(trials) - missing} of {len(trials)} trials are in the store, {missing} to run")
        # one walk over the results of all trials: what several need is made once
        made = make(plan, executor)
        # here and not in the trials: the driver alone writes to MLflow, whose database is one file of sqlite
        run_ids = log_trials(store, tracker, parent, trials, made, known.run_ids if known else ())
        # only now: the trials that ended well are logged, and need not be run again
        if made.errors:
            failed = sum(not is_ready(store, trial.experiment) for trial in trials)
            first = next(iter(made.errors.values()))
            raise RuntimeError(f"{failed} of {len(trials)} trials failed, the first with: {first}")
    parent.metrics([(0, {"time/call_s": time.monotonic() - began})])
    parent.end()
    store.record(sweep, plan.stages(), parent.id, tracker.name, run_ids)
    return answer(store, sweep, trials, parent.id, run_ids, made)


def is_ready(store: Store, experiment: Experiment) -> bool:
    """Whether nothing would have to be made."""
    return all(map(store.is_ready, store.stages(experiment).values()))


def log_trials(
    store: Store, tracker: Tracker, parent: Run, trials: Sequence[Trial], made: Made, earlier: Sequence[str] = ()
) -> list[str]:
    """A child run for each trial, with all its numbers or marked as failed; their ids in order, which is that of the
    `earlier` ones of a record."""
    # one question for all children, not one each
    known = tracker.runs(parent.id)
    ids = []
    for trial, before in zip(trials, earlier or [""] * len(trials), strict=True):
        key = run_key(store.line(trial.experiment).results.values())
        if key not in known:
            tags = {"synthaug.kind": "trial", "arm": trial.arm}
            known[key] = tracker.open(key, f"{trial.arm} {trial.experiment.label}", tags, parent.id, before)
        run = known[key]
        if not is_ready(store, trial.experiment):
            run.end("FAILED")
        # of a finished one all is there: MLflow would add every point once more
        elif not run.finished:
            run.params({"arm": trial.arm})
            finished = Finished(store, trial.experiment)
            log_history(run, finished)
            log_finished(run, finished, made)
        ids.append(run.id)
    return ids


def answer(
    store: Store, subject: Experiment | Sweep, trials: Sequence[Trial], run_id: str, run_ids: Sequence[str], made: Made
) -> dict[str, Any]:
    """What `--json` prints."""
    if isinstance(subject, Experiment):
        return Finished(store, subject).answer(run_id, made)
    listed: list[dict[str, Any]] = []
    stages: dict[str, Any] = {}
    for trial, id in zip(trials, run_ids, strict=True):
        finished = Finished(store, trial.experiment)
        who = {"arm": trial.arm, "seed": trial.seed, "fields": trial.fields, "run_id": id}
        listed.append(who | {"metrics": finished.said(made)})
        # trials share stages, so the key tells these apart, not the trial
        stages |= {f"{name}/{stage['key'][:8]}": stage for name, stage in finished.summary(made).items()}
    accuracies = [trial["metrics"]["val/top1"] for trial in listed if "val/top1" in trial["metrics"]]
    metrics = {"trials": float(len(listed))} | ({"best/val/top1": max(accuracies)} if accuracies else {})
    found = {"run_id": run_id, "experiment": to_json(subject), "stages": stages}
    return found | {"metrics": metrics, "trials": listed}
