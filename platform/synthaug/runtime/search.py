"""Sweeps: the images that the trials need are made once, then Ray Tune runs the trials that are not in the store."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from synthaug.experiment import Experiment, Sweep, Trial
from synthaug.progress import Progress, say
from synthaug.runtime import cluster
from synthaug.runtime.adapters import diffusion_stages, reports_of, stages_of
from synthaug.runtime.evaluate import evaluate_stages, filter_stage
from synthaug.runtime.generate import make_images
from synthaug.runtime.place import arrived, sent
from synthaug.runtime.run import (
    found_artefacts,
    is_cached,
    is_ready,
    is_tracked,
    label,
    log_finished,
    metrics_of,
    run_key,
    tell,
    under,
)  # fmt: skip
from synthaug.runtime.store import Store
from synthaug.runtime.tracking import Run, Tracker
from synthaug.runtime.train import train_stage
from synthaug.settings import canonical, hash_of, to_json


def run_sweep(store: Store, sweep: Sweep, name: str, address: str | None) -> dict[str, Any]:
    """Every trial of a sweep, tracked below one parent run."""
    started = time.monotonic()
    trials = sweep.trials()
    todo = [trial for trial in trials if not is_ready(store, trial.experiment)]
    subject, nodes = to_json(sweep), [node for t in trials for node in store.nodes(t.experiment).values()]
    known = store.recorded(subject, nodes)
    if known and not todo and is_tracked(store):
        return answer(store, sweep, trials, known["run_id"], known["run_ids"])
    tell(store, [trial.experiment for trial in trials])
    tracker = Tracker(store.home, name)
    store.begin(subject, nodes)
    parent = tracker.open(hash_of(subject), f"sweep {name}", {"synthaug.kind": "sweep"})
    parent.json("sweep.json", subject)
    errors: list[str] = []
    with parent.told_of_its_end():
        if todo:
            say(f"{len(trials) - len(todo)} of {len(trials)} trials are in the store, {len(todo)} to run")
            errors = _make(store, todo, address)
        run_ids = _log(store, tracker, parent, trials)
        if errors:
            raise RuntimeError(f"{len(errors)} of {len(trials)} trials failed, the first with: {errors[0]}")
    parent.metrics([(0, {"time/call_s": time.monotonic() - started})])
    parent.end()
    store.record(subject, nodes, {"run_id": parent.id, "run_ids": run_ids, "name": name})
    return answer(store, sweep, trials, parent.id, run_ids)


def answer(store: Store, sweep: Sweep, trials: Sequence[Trial], run_id: str, run_ids: Sequence[str]) -> dict[str, Any]:
    """What `--json` prints of a sweep."""
    told: list[dict[str, Any]] = []
    stages: dict[str, Any] = {}
    for trial, id in zip(trials, run_ids, strict=True):
        found = found_artefacts(store, trial.experiment)
        metrics = metrics_of(store, trial.experiment, found)
        told.append({"arm": trial.arm, "seed": trial.seed, "fields": trial.fields, "run_id": id, "metrics": metrics})
        stages |= {f"{name}/{artefact.node.key[:8]}": artefact.summary() for name, artefact in found.items()}
    best = max((t["metrics"].get("val/top1", 0.0) for t in told), default=0.0)
    metrics = {"best/val/top1": best, "trials": float(len(told))}
    return {"run_id": run_id, "experiment": to_json(sweep), "stages": stages, "metrics": metrics, "trials": told}


def _make(store: Store, todo: Sequence[Trial], address: str | None) -> list[str]:
    """What the trials need first, with the whole cluster and each thing once, so that no trial waits with a device in
    its hand; then the trials, of which some may fail."""
    cluster.start(address=address)
    experiments = [trial.experiment for trial in todo]
    filtered = [e for e in experiments if e.filter is not None]
    judges = [e.real_only() for e in experiments if e.asks_judge]
    if errors := _tune(store, [(e, "denoiser") for e in (*experiments, *judges) if e.trains_denoiser]):
        return errors
    if errors := _tune(store, [(e, "guide") for e in experiments if e.guide is not None]):
        return errors
    for level in range(max(len(e.tuning) for e in experiments)):
        if errors := _tune(store, [(e, stages_of(e)[level]) for e in experiments if len(e.tuning) > level]):
            return errors
    make_images(store, [*experiments, *judges], cluster.width(), say)
    if errors := _tune(store, [(judge, "train") for judge in judges]):
        return errors
    for experiment in filtered:
        filter_stage(store, experiment, say)
    return _tune(store, [(trial.experiment, "train") for trial in todo], measure=True)


def _tune(store: Store, wanted: Sequence[tuple[Experiment, str]], *, measure: bool = False) -> list[str]:
    """Ray Tune over stages that train, each once, and with `measure` their evaluations: in process, one torch thread
    and one reused process each. The errors of some."""
    jobs = {_job_key(store, experiment, stage, measure): (experiment, stage) for experiment, stage in wanted}
    if not jobs:
        return []
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the sweep here, not only Tune's part of it
    from ray import tune

    from synthaug.runtime.watch import Watcher

    places = [{"place": sent(store, e), "stage": stage, "measure": measure} for e, stage in jobs.values()]
    texts = [canonical(place).decode() for place in places]
    title = next(iter(jobs.values()))[1].partition(".")[0]
    total = sum(_steps_of(store, experiment, stage, measure) for experiment, stage in jobs.values())
    with Progress("trials" if measure else title, "steps", total) as progress:
        tuner = tune.Tuner(
            tune.with_resources(run_trial, cluster.trial_resources()),
            param_space={"job": tune.grid_search(texts)},
            tune_config=tune.TuneConfig(max_concurrent_trials=cluster.width(), reuse_actors=True),
            run_config=tune.RunConfig(
                name=f"sweep-{hash_of(texts)[:16]}-{int(time.time())}",
                storage_path=str(store.home / "ray"),
                verbose=0,
                callbacks=[Watcher(progress)],
            ),
        )
        results = tuner.fit()
    return [str(error).strip().splitlines()[-1] for error in results.errors]


def _job_key(store: Store, experiment: Experiment, stage: str, measure: bool) -> str:
    """What a trial makes: one stage, and behind a trained classifier its evaluations."""
    nodes = store.nodes(experiment)
    return run_key(nodes) if measure else nodes[stage].key


def _steps_of(store: Store, experiment: Experiment, stage: str, measure: bool) -> int:
    """How often a trial will report: while it trains, unless that is done, and after each of its measurements."""
    trained = store.manifest(store.nodes(experiment)[stage]) is not None
    measured = len(experiment.measured()) if measure else 0
    return measured + (0 if trained else reports_of(experiment, stage))


def run_trial(config: Mapping[str, Any]) -> None:
    """What a trial process does: train and evaluate, or fine-tune; images are there already."""
    from ray import tune

    job = json.loads(config["job"])
    store, experiment = arrived(job["place"])
    train_stage(store, experiment, tune.report, _silent, stage=job["stage"])
    if job["measure"]:
        evaluate_stages(store, experiment, _silent, measured=lambda: tune.report({"measured": 1}))
    tune.report({"finished": 1})


def _silent(_: str) -> None:
    """A trial's process has nobody to talk to."""


def _log(store: Store, tracker: Tracker, parent: Run, trials: Sequence[Trial]) -> list[str]:
    """A child run for each trial, with all its numbers or marked as failed; their ids in order."""
    known = tracker.runs(parent.id)
    ids = []
    for trial in trials:
        key = run_key(store.nodes(trial.experiment))
        if key not in known:
            tags = {"synthaug.kind": "trial", "arm": trial.arm}
            known[key] = tracker.open(key, f"{trial.arm} {label(trial.experiment)}", tags, parent.id)
        run = known[key]
        if not is_cached(store, trial.experiment):
            run.end("FAILED")
        elif not run.finished:
            found = found_artefacts(store, trial.experiment)
            run.params({"arm": trial.arm})
            for stage in (*diffusion_stages(trial.experiment), "train"):
                history = found[stage].manifest["history"]
                run.metrics([(int(entry["step"]), under(stage, entry)) for entry in history])
            log_finished(run, store, trial.experiment, found, metrics_of(store, trial.experiment, found))
        ids.append(run.id)
    return ids
