"""Ray Data: units of mapped stages made by a pool of actors, each of which keeps its models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from synthaug.runtime import cluster
from synthaug.runtime.make import Plan, Unit, make_unit
from synthaug.runtime.order import order, received
from synthaug.runtime.store import Store
from synthaug.settings import UserError
from synthaug.stages.base import Mapped, Receipt


class UnitActor:
    """A process that keeps what it has opened and makes one unit a call. It returns an error instead of raising it,
    because Ray Data keeps a failed pool and its devices."""

    def __init__(self, orders: Mapping[str, str]) -> None:
        self.orders = orders
        self.opened: tuple[str, Store, Mapped[Any], Any] | None = None  # one stage's models in memory at a time

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        try:
            receipt = self.make(str(batch["key"][0]), int(batch["unit"][0]))
            return {"receipt": [json.dumps(asdict(receipt))], "error": [""]}
        except Exception as error:  # whatever it is: one that passes through Ray Data is 60 lines
            # text, as the receipt is: what crosses the object store is a line either way
            return {"receipt": [""], "error": [f"{type(error).__name__}: {error}"]}

    def make(self, key: str, unit: int) -> Receipt:
        if self.opened is None or self.opened[0] != key:
            store, [(_, stage)] = received(self.orders[key])
            assert isinstance(stage, Mapped)
            self.opened = key, store, stage, stage.open(store.given(stage))
        _, store, stage, opened = self.opened
        return make_unit(store, stage, unit, opened)


def units_by_actors(plan: Plan, store: Store, pending: Sequence[Unit], actors: int) -> Iterator[Receipt]:
    """Receipts as they come from the pool; images never enter the object store."""
    import ray

    actors = cluster.fitting(actors)
    cluster.quiet_data_context()
    # Short texts: large constructor arguments go to the object store, and an actor that is started again after a node
    # was lost may not find them there.
    orders = {stage.key: order(plan, [stage]) for stage, _ in pending}
    rows = [{"key": stage.key, "unit": unit} for stage, unit in pending]
    # one or the other: Ray documents both together as experimental
    device: dict[str, Any] = {"num_gpus": 1} if cluster.has_gpu() else {"num_cpus": 1}
    # One block for each unit: Ray gathers small rows into one block, which would be one task for one actor. Its own
    # checkpoints are not used: they know blocks, which are others in each run; what is pending is said by receipts.
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        UnitActor, fn_constructor_kwargs={"orders": orders}, batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows)), max_tasks_in_flight_per_actor=2),
        **device,
    )  # fmt: skip
    for row in done.iter_rows():
        yield receipt_in(row["receipt"], row["error"])


def receipt_in(text: str, error: str) -> Receipt:
    """What an actor has answered of a unit."""
    if error:
        # what the user can mend stays so: one line, and code 2
        kind, _, said = error.partition(": ")
        raise UserError(said) if kind == UserError.__name__ else RuntimeError(error)
    return Receipt(**json.loads(text))
