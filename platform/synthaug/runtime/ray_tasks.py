"""Ray tasks: trainings side by side, each with what is computed from it; and units, where actors do not pay.

Tasks and not trials of Tune's: a sweep goes round by round, and between two rounds Tune keeps one of its processes, so
that each round would begin with seconds of imports (measured: LOG.md). A worker of Ray's is there for the next task at
once, and between two it holds no device, which generation needs then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from synthaug.progress import Progress
from synthaug.runtime import cluster
from synthaug.runtime.make import Chain, Listener, Made, Plan, Unit, make_here, said
from synthaug.runtime.order import order, received
from synthaug.runtime.ray_data import UnitActor, receipt_in
from synthaug.settings import Failed
from synthaug.stages.base import Receipt, Stage, Trained
from synthaug.training import Entry

LOOK_S = 1.0  # between two looks at how far the tasks are
MOST = 8  # processes on one GPU: more than that only wait for one another
CONTEXT = 2**29  # bytes that a process takes on a GPU beside its tensors


class Tasks:
    """What chains run as, and who counts their steps; kept from round to round."""

    def __init__(self) -> None:
        import ray

        cluster.start()
        device: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if cluster.has_gpu() else {"num_cpus": 1}
        self.memory = Memory()
        # A process is used again, with a GPU too (by default it would end with its task). A worker that is lost with
        # its node is replaced once, and goes on from its checkpoint.
        self.task: Any = ray.remote(max_calls=0, max_retries=1, **device)(run_chain)
        self.counter: Any = ray.remote(Counter).options(num_cpus=0).remote()

    def make(self, plan: Plan, chains: Sequence[Chain], listener: Listener) -> Made:
        """A task for each chain, as many at a time as there are devices."""
        import ray

        began = time.monotonic()
        # text, not pickled objects: their modules could not be imported there before the order says from where
        orders = {order(plan, chain): chain for chain in chains}
        title = "+".join(dict.fromkeys(chain[0].name for chain in chains))
        total = sum(plan.estimate(stage).units for chain in chains for stage in chain)
        waiting, running, errors, alone = list(orders), dict[Any, str](), dict[str, str](), set[str]()
        came: list[Stage[Any]] = []
        with Progress(title, "steps", total) as progress, none_left(running):
            while waiting or running:
                while waiting and len(running) < cluster.width() * self.memory.fit:
                    text = waiting.pop(0)
                    running[self._begin(text, text in alone)] = text
                while came:  # only after the next ones have begun
                    listener.came(came.pop())
                listener.idle()
                for ref in ray.wait(list(running), timeout=LOOK_S)[0]:
                    text = running.pop(ref)
                    try:
                        self.memory.saw(*ray.get(ref))
                        came += orders[text]
                    # what the chain raised, or that its process is gone: the others go on
                    except ray.exceptions.RayError as error:
                        errors[text] = said(error)
                        if "out of memory" in errors[text] and self.memory.fit > 1 and text not in alone:
                            del errors[text]
                            alone.add(text)  # once more, with a whole GPU
                            waiting.append(text)
                over = len(orders) - len(waiting) - len(running)
                progress.add(self._news(chains, listener), f"{over}/{len(orders)} trainings")
        for stage in came:
            listener.came(stage)
        return outcome_of(plan, orders, errors, time.monotonic() - began)

    def _begin(self, text: str, alone: bool) -> Any:
        """A task on its share of a device."""
        share = {"num_gpus": 1 if alone else 1 / self.memory.fit} if cluster.has_gpu() else {}
        return self.task.options(**share).remote(text, self.counter)

    def _news(self, chains: Sequence[Chain], listener: Listener) -> int:
        """How many steps there were since it was last asked; what was reported meanwhile is told."""
        import ray

        done, reports = ray.get(self.counter.news.remote())
        trained = {stage.key: stage for chain in chains for stage in chain if isinstance(stage, Trained)}
        for key, entry in reports:
            if key in trained:  # else of an earlier round, by a process that was given up
                listener.heard(trained[key], entry)
        return int(done)


def outcome_of(plan: Plan, orders: Mapping[str, Chain], said: Mapping[str, str], seconds: float) -> Made:
    """What the tasks of some orders have made, and which stages failed, and why."""
    made = Made()
    for text, chain in orders.items():
        # the first that is not there has failed; others of its chain have not been tried, or need it
        if behind := [stage for stage in chain if not plan.store.is_ready(stage)]:
            made.errors[behind[0].key] = said.get(text, "its process ended")
        made.seconds |= dict.fromkeys((stage.key for stage in chain if stage not in behind), 0.0)
    return Made(dict.fromkeys(made.seconds, seconds / max(1, len(made.seconds))), made.errors)


class Memory:
    """How many trainings fit on a GPU at once, by what those before have taken: the first has it alone."""

    def __init__(self) -> None:
        self.fit, self._most = 1, 0

    def saw(self, taken: int, whole: int) -> None:
        """What a training had at its peak of a GPU's memory; nothing without a GPU."""
        self._most = max(self._most, taken)
        if whole:
            self.fit = max(1, min(MOST, int(0.9 * whole / (1.1 * self._most + CONTEXT))))


def run_chain(text: str, counter: Any) -> tuple[int, int]:
    """What a worker does: one chain; what its stages need is there already. The bytes that it took of a GPU, and those
    that there are."""
    import torch

    global _opened
    _opened = None  # a training needs the memory, and models are read again in a second
    if gpu := torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    store, stages = received(text)
    for experiment, stage in stages:

        def heard(of: Trained[Any], entry: Entry) -> None:
            counter.hear.remote(of.key, dict(entry))

        make_here(store, stage, experiment.resources.checkpoint_s, heard)
        # a training has reported its own units, and the line has one for each other stage
        if not isinstance(stage, Trained):
            counter.step.remote()
    if not gpu:
        return 0, 0
    taken = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()  # this process stays, and others use the same GPU
    return taken, torch.cuda.get_device_properties(0).total_memory


# --- units ------------------------------------------------------------------------------------------------------------

_opened: UnitActor | None = None  # what this process made last, with its models


def units_by_tasks(plan: Plan, pending: Sequence[Unit]) -> Iterator[Receipt]:
    """Receipts as they come from as many processes as trainings run in."""
    import ray

    orders = {stage.key: order(plan, [stage]) for stage, _ in pending}
    task: Any = ray.remote(max_calls=0, max_retries=1, num_cpus=1)(run_unit)
    waiting, running, width = deque(pending), dict[Any, Unit](), cluster.width()
    with none_left(running):
        while waiting or running:
            while waiting and len(running) < width:
                stage, unit = waiting.popleft()
                running[task.remote(stage.key, orders[stage.key], unit)] = stage, unit
            (ref, *_), _ = ray.wait(list(running))
            stage, unit = running.pop(ref)
            try:
                answer = ray.get(ref)
            except ray.exceptions.RayError as error:  # what a unit raises comes as text: its process is gone
                raise Failed(f"{stage}, unit {unit}: {said(error)}") from error
            yield receipt_in(*answer)


@contextmanager
def none_left(running: Mapping[Any, Any]) -> Iterator[None]:
    """Whatever ends this early ends the tasks that still run."""
    import ray

    try:
        yield
    finally:
        for ref in running:
            ray.cancel(ref)


def run_unit(key: str, text: str, unit: int) -> tuple[str, str]:
    """What a worker does: one unit, as an actor would; it keeps what it has opened for the next one."""
    global _opened
    if _opened is None or _opened.orders != {key: text}:
        _opened = UnitActor({key: text})
    answer = _opened({"key": [key], "unit": [unit]})
    return answer["receipt"][0], answer["error"][0]


# --- steps ------------------------------------------------------------------------------------------------------------


class Counter:
    """Steps that tasks have done, and what trainings report."""

    def __init__(self) -> None:
        self.done = 0
        self.reports: list[tuple[str, Entry]] = []

    def step(self) -> None:
        self.done += 1

    def hear(self, key: str, entry: Entry) -> None:
        self.done += 1
        self.reports.append((key, entry))

    def news(self) -> tuple[int, list[tuple[str, Entry]]]:
        """Those since it was last asked."""
        found = self.done, self.reports
        self.done, self.reports = 0, []
        return found
