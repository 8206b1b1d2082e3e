"""Several small trainings on one GPU, by what they take; none is here, so its numbers are."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray

from synthaug.runtime import cluster as running
from synthaug.runtime import executors, ray_tasks
from synthaug.runtime.make import Listener
from synthaug.runtime.ray_tasks import MOST, Memory, Tasks
from synthaug.stages.base import Receipt

GIB = 2**30


def test_as_many_fit_as_the_largest_so_far_leaves_room_for() -> None:
    memory = Memory()
    assert memory.fit == 1, "nothing is known"
    memory.saw(0, 0)
    assert memory.fit == 1, "no GPU"
    memory.saw(10 * GIB, 80 * GIB)
    assert memory.fit == 6
    memory.saw(GIB, 80 * GIB)
    assert memory.fit == 6, "the largest counts"
    memory.saw(70 * GIB, 80 * GIB)
    assert memory.fit == 1
    small = Memory()
    small.saw(GIB // 2, 80 * GIB)
    assert small.fit == MOST


class Gpu:
    """A Ray of one GPU whose tasks take what they say, and fail when together they take more than there is."""

    def __init__(self, needs: dict[str, int]) -> None:
        self.needs, self.asked, self.log = needs, list[tuple[str, float]](), list[tuple[str, float]]()

    @property
    def running(self) -> list[str]:
        """Those that have their share: as Ray, in the order in which they were asked for."""
        found, used = [], 0.0
        for text, share in self.asked:
            if used + share > 1:
                break
            found, used = [*found, text], used + share
        return found

    def options(self, num_gpus: float) -> SimpleNamespace:
        def remote(text: str, counter: Any) -> str:
            self.asked.append((text, num_gpus))
            self.log.append((text, num_gpus))
            return text

        return SimpleNamespace(remote=remote)

    def wait(self, refs: list[str], timeout: float) -> tuple[list[str], list[str]]:
        first = next(text for text in refs if text in self.running)
        return [first], [text for text in refs if text != first]

    def get(self, ref: Any) -> Any:
        if not isinstance(ref, str):
            return 0, []
        full = sum(self.needs[text] for text in self.running) > 80
        self.asked = [(text, share) for text, share in self.asked if text != ref]
        if full:
            raise ray.exceptions.RayTaskError("run_chain", "", RuntimeError("CUDA out of memory"))
        return self.needs[ref] * GIB, 80 * GIB


def test_what_does_not_fit_beside_others_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"a": 15, "b": 15, "c": 15, "d": 60, "e": 15}
    gpu = Gpu(needs)
    tasks = Tasks.__new__(Tasks)
    counter = SimpleNamespace(news=SimpleNamespace(remote=lambda: None))
    tasks.task, tasks.counter, tasks.memory = gpu, counter, Memory()
    for name in ("wait", "get"):
        monkeypatch.setattr(ray, name, getattr(gpu, name))
    monkeypatch.setattr(running, "has_gpu", lambda: True)
    monkeypatch.setattr(running, "width", lambda: 1)
    monkeypatch.setattr(ray_tasks, "order", lambda plan, chain: chain[0].name)
    seen: dict[str, str] = {}
    monkeypatch.setattr(ray_tasks, "outcome_of", lambda plan, orders, errors, seconds: seen.update(errors))
    plan: Any = SimpleNamespace(estimate=lambda stage: SimpleNamespace(units=1))
    listener = Listener()
    came = list[str]()
    monkeypatch.setattr(listener, "came", lambda stage: came.append(stage.name))
    tasks.make(plan, [[SimpleNamespace(name=name)] for name in needs], listener)
    assert sorted(came) == sorted(needs), "each once, also what was tried again"
    assert gpu.log[0] == ("a", 1), "the first tells how much it takes"
    assert gpu.log[1:4] == [("b", 0.25), ("c", 0.25), ("d", 0.25)]
    again = [text for text, _ in gpu.log[5:]]
    assert not seen and again and all(share == 1 for text, share in gpu.log[5:]), gpu.log


def test_units_have_as_many_processes_as_trainings(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray has more CPU tokens than there are cores."""

    def unit(key: str, text: str, number: int) -> tuple[str, str]:
        began = time.time()
        time.sleep(0.5)
        receipt = {
            "part": str(os.getpid()),
            "sha256": f"{began} {time.time()}",
            "rows": number,
            "bytes": 0,
            "seconds": 0.5,
        }
        return json.dumps(receipt), ""

    monkeypatch.setattr(ray_tasks, "run_unit", unit)
    monkeypatch.setattr(ray_tasks, "order", lambda plan, stages: "")
    stage, plan, count = cast(Any, SimpleNamespace(key="k")), cast(Any, None), 10
    receipts = list(ray_tasks.units_by_tasks(plan, [(stage, number) for number in range(count)]))
    assert sorted(receipt.rows for receipt in receipts) == list(range(count))
    spans = [tuple(map(float, receipt.sha256.split())) for receipt in receipts]
    width = running.width()
    assert max(sum(a <= begin < b for a, b in spans) for begin, _ in spans) <= width < running.room()
    assert str(os.getpid()) not in {receipt.part for receipt in receipts}


@pytest.mark.parametrize(
    ("rounds", "here"),
    [([4, 4], [4, 4]), ([30], [1]), ([16, 3, 3], [16, 1, 0]), ([17, 3], [17, 0])],
    ids=["few", "many", "in the end it has cost as much", "at once"],
)
def test_other_processes_must_pay(rounds: list[int], here: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a second, of which other processes halve the time: 8 s of it are what two of them cost."""
    monkeypatch.setattr(executors, "PROCESS_S", 8.0)
    stage, plan = cast(Any, SimpleNamespace(key="k")), cast(Any, None)

    def made(store: Any, pending: Any) -> Iterator[Receipt]:
        yield from (Receipt("here", 0, "", 1, seconds=1.0) for _ in pending)

    monkeypatch.setattr(executors, "units_here", made)
    monkeypatch.setattr(ray_tasks, "units_by_tasks", lambda plan, rest: [Receipt("there", 0, "", 1) for _ in rest])
    for name in ("is_small", "has_started", "start"):
        monkeypatch.setattr(running, name, lambda: True)
    side = executors.SideBySide()
    found = [[r.part for r in side.units(plan, plan, [(stage, n) for n in range(count)])] for count in rounds]
    assert [parts.count("here") for parts in found] == here
    assert [len(parts) for parts in found] == rounds
