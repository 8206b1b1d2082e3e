"""Where stages are made when one process is not enough: a run with workers, and a sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from synthaug.progress import say
from synthaug.runtime import cluster
from synthaug.runtime.make import Chain, Executor, Here, Listener, Made, MakeUnits, Plan, Unit, fill, said, units_here
from synthaug.runtime.store import Store
from synthaug.stages.base import Mapped, Receipt, Stage, Trained
from synthaug.training import Entry

if TYPE_CHECKING:
    from synthaug.runtime.ray_tasks import Tasks

PROCESS_S = 8.0  # what a process costs before its first image, measured: imports and the models


class Workers:
    """With so many processes: units go to actors, each training is shared by all of them."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, plan: Plan, wave: Sequence[Chain], listener: Listener) -> Made:
        from synthaug.runtime.ray_data import units_by_actors

        if isinstance(wave[0][0], Mapped):
            # a wave holds mapped stages only, or none (`next_wave`)
            return mapped(plan, wave, partial(units_by_actors, plan, actors=self.workers), listener)
        made = Made()
        # one after another, because each training has all of the workers
        for stage in [stage for chain in wave for stage in chain]:
            if isinstance(stage, Trained):
                made.add(self._fit(plan, stage, listener))
            else:
                made.add(Here().run(plan, [[stage]], listener))
        return made

    def _fit(self, plan: Plan, stage: Trained[object], listener: Listener) -> Made:
        from synthaug.runtime.ray_train import fit_by_workers

        began = time.monotonic()
        # the driver holds the lock for all: its workers train, and the first of them closes the stage
        with plan.store.making([stage]) as missing:
            if missing:
                fit_by_workers(plan, stage, self.workers, listener.heard)
        for made in missing:
            listener.came(made)
        return Made({stage.key: time.monotonic() - began} if missing else {})


class OneByOne:
    """Many experiments one after another, of which one that fails does not stop the others."""

    def __init__(self, each: Executor) -> None:
        self.each = each

    def run(self, plan: Plan, wave: Sequence[Chain], listener: Listener) -> Made:
        made = Made()
        # mapped stages are one batch of work, and all else is a chain at a time
        for some in [wave] if isinstance(wave[0][0], Mapped) else [[chain] for chain in wave]:
            made.add(apart(plan, some, self.each.run, listener))
        return made


def apart(
    plan: Plan, wave: Sequence[Chain], run: Callable[[Plan, Sequence[Chain], Listener], Made], listener: Listener
) -> Made:
    """Chains together; where that fails each for itself, so that one that cannot be made leaves the others."""
    later, made = Later(listener), Made()
    try:
        made.add(run(plan, wave, later))
    except cluster.NoRay:
        raise
    # settings that do not fit, a loss that diverges, memory that runs out; anything else is a fault of ours
    except (ValueError, RuntimeError) as error:
        if len(wave) == 1:
            failed = next(stage for stage in wave[0] if not plan.store.is_ready(stage))
            made.errors[failed.key] = said(error)
        else:
            for chain in wave:
                made.add(apart(plan, [chain], run, listener))
    later.tell()
    return made


class Later(Listener):
    """What has come is told when asked for: an error of who listens is no error of a chain."""

    def __init__(self, listener: Listener) -> None:
        self.listener, self.waiting = listener, list[Stage[Any]]()

    def heard(self, stage: Trained[Any], entry: Entry) -> None:
        self.listener.heard(stage, entry)

    def came(self, stage: Stage[Any]) -> None:
        self.waiting.append(stage)

    def tell(self) -> None:
        for stage in self.waiting:
            self.listener.came(stage)


class SideBySide:
    """Many experiments side by side: trainings go to tasks, and units to actors, or to tasks where those do not pay."""

    tasks: Tasks | None = None
    alone: OneByOne | None = None  # where Ray does not start here
    here_s = 0.0  # what units have taken in this process

    def run(self, plan: Plan, wave: Sequence[Chain], listener: Listener) -> Made:
        if self.alone is None:
            try:
                return self._run(plan, wave, listener)
            except cluster.NoRay as error:
                say(f"{error}; going on without it, one after another in this process")
                self.alone = OneByOne(Here())
        return self.alone.run(plan, wave, listener)

    def _run(self, plan: Plan, wave: Sequence[Chain], listener: Listener) -> Made:
        if isinstance(wave[0][0], Mapped):
            return apart(plan, wave, self._mapped, listener)
        from synthaug.runtime.ray_tasks import Tasks

        self.tasks = self.tasks or Tasks()
        return self.tasks.make(plan, wave, listener)

    def _mapped(self, plan: Plan, wave: Sequence[Chain], listener: Listener) -> Made:
        return mapped(plan, wave, partial(self.units, plan), listener)

    def units(self, plan: Plan, store: Store, pending: Sequence[Unit]) -> Iterator[Receipt]:
        """By a pool of actors; on one machine without a GPU here as long as other processes do not pay, then by
        those of trainings: actors would start anew for each round of a search."""
        from synthaug.runtime.ray_data import units_by_actors
        from synthaug.runtime.ray_tasks import units_by_tasks

        done, took, alone = 0, 0.0, cluster.is_small()
        # two processes halve the time, once they have started: what has been lost by doing without, or will be in this
        # round, is weighed against that
        for receipt in units_here(store, pending) if alone and self.here_s / 2 <= PROCESS_S else ():
            done, took, self.here_s = done + 1, took + receipt.seconds, self.here_s + receipt.seconds
            yield receipt
            left = took / done * (len(pending) - done)
            if cluster.has_started() and max(self.here_s, left) / 2 > PROCESS_S:
                break
        if done < len(pending):
            cluster.start()
            rest = pending[done:]
            yield from units_by_tasks(plan, rest) if alone else units_by_actors(plan, store, rest, cluster.width())


def mapped(plan: Plan, wave: Sequence[Chain], make_units: MakeUnits, listener: Listener) -> Made:
    """All units of a wave as one batch of work, under the locks of its stages."""
    began = time.monotonic()
    stages = [stage for chain in wave for stage in chain if isinstance(stage, Mapped)]
    with plan.store.making(stages) as missing:
        fill(plan.store, [stage for stage in missing if isinstance(stage, Mapped)], make_units)
    for stage in missing:
        listener.came(stage)
    # a batch of work is not timed stage by stage, so each has an equal part of it
    return Made(dict.fromkeys((stage.key for stage in missing), (time.monotonic() - began) / max(1, len(missing))))
