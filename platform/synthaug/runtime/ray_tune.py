"""Ray Tune: many trainings side by side, each in one process with what is computed from it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune import Callback

from synthaug.progress import Progress
from synthaug.runtime import cluster
from synthaug.runtime.make import Chain, Made, Plan, make_here
from synthaug.runtime.order import order, received
from synthaug.settings import hash_of
from synthaug.stages.base import Trained
from synthaug.training import Entry


def make_by_trials(plan: Plan, chains: Sequence[Chain]) -> Made:
    """One trial for each chain; one torch thread and one reused process each."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the sweep here, not only Tune's part of it
    from ray import tune

    began = time.monotonic()
    # text, not pickled objects: their modules could not be imported there before the order says from where
    orders = {order(plan, chain): chain for chain in chains}
    title = "+".join(dict.fromkeys(chain[0].name for chain in chains))
    total = sum(plan.estimate(stage).units for chain in chains for stage in chain)
    with Progress(title, "steps", total) as progress:
        tuner = tune.Tuner(
            # it never generates: a Ray Data job in a trial would wait for the CPUs that the trials hold
            tune.with_resources(run_trial, {"cpu": 1, "gpu": int(cluster.has_gpu())}),
            param_space={"order": tune.grid_search(list(orders))},
            # a new process costs seconds of imports, one that is used again nothing
            tune_config=tune.TuneConfig(max_concurrent_trials=cluster.width(), reuse_actors=True),
            run_config=tune.RunConfig(
                # with the time: a sweep that was stopped is run again, not restored, as the store has what was finished
                name=f"sweep-{hash_of(list(orders))[:16]}-{int(time.time())}",
                storage_path=str(plan.store.home / "ray"),
                verbose=0,  # no tables of Tune's; the line is ours
                callbacks=[ProgressCallback(progress, len(orders))],
            ),
        )
        results = tuner.fit()
        progress.add(0, f"{len(orders)} trials ended")
    # a ResultGrid has no iterator of its own
    failed = [result for result in map(results.__getitem__, range(len(results))) if result.error]
    said = {(result.config or {}).get("order", ""): str(result.error) for result in failed}
    return outcome_of(plan, orders, said, time.monotonic() - began)


def outcome_of(plan: Plan, orders: Mapping[str, Chain], said: Mapping[str, str], seconds: float) -> Made:
    """What the trials of some orders have made, and which stages failed, of those whose trials said why."""
    made = Made()
    for text, chain in orders.items():
        # the first that is not there has failed; others of its chain have not been tried, or need it
        if behind := [stage for stage in chain if not plan.store.is_ready(stage)]:
            error = said.get(text) or next(iter(said.values()), "its process ended")
            made.errors[behind[0].key] = error.strip().splitlines()[-1]
        made.seconds |= dict.fromkeys((stage.key for stage in chain if stage not in behind), 0.0)
    return Made(dict.fromkeys(made.seconds, seconds / max(1, len(made.seconds))), made.errors)


def run_trial(config: Mapping[str, Any]) -> None:
    """What a trial's process does: one chain; what its stages need is there already."""
    from ray import tune

    store, stages = received(config["order"])
    for experiment, stage in stages:

        def heard(of: Trained[Any], entry: Entry) -> None:
            tune.report({"units": 1})

        make_here(store, stage, experiment.resources.checkpoint_s, heard)
        # a training has reported its own units, and the line has one for each other stage
        if not isinstance(stage, Trained):
            tune.report({"units": 1})
    # so that each trial has a result, if all was there already as well
    tune.report({"finished": 1})


class ProgressCallback(Callback):
    """Moves the progress line; Tune pickles its callbacks, so the line itself stays behind."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total = progress, total

    def __getstate__(self) -> dict[str, Any]:
        return {"progress": None, "total": self.total}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        # asked for, not taken for granted: an exception in a callback of Tune's ends the whole sweep
        if self.progress is not None and "units" in result:
            ended = sum(other.status == "TERMINATED" for other in trials)
            self.progress.add(1, f"{ended}/{self.total} trials")
