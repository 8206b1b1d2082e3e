"""A pool of processes on Ray Data, each of which works on one row a call."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from synthaug.runtime.cluster import actor_resources, quiet_data_context, start
from synthaug.settings import UserError


class Actor(ABC):
    """A process that keeps what it has loaded. It returns an error instead of raising it, because Ray Data keeps a
    failed pool and its devices."""

    @abstractmethod
    def work(self, row: dict[str, Any]) -> Any:
        """What comes of one row, as JSON."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        (row,) = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
        try:
            return {"done": [json.dumps(self.work(row))], "error": [""]}
        except (UserError, RuntimeError, OSError) as error:
            return {"done": [""], "error": [f"{type(error).__name__}: {error}"]}


def mapped(actor: type[Actor], rows: Sequence[dict[str, Any]], workers: int, **made_with: Any) -> Iterator[Any]:
    """What actors make of rows, as it comes; the first error of one is raised here."""
    import ray

    start(actors=workers)
    quiet_data_context()
    done = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map_batches(
        actor, fn_constructor_kwargs=made_with, batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows)), max_tasks_in_flight_per_actor=2),
        **actor_resources(),
    )  # fmt: skip
    for row in done.iter_rows():
        if row["error"]:
            kind, _, text = row["error"].partition(": ")
            raise UserError(text) if kind == UserError.__name__ else RuntimeError(row["error"])
        yield json.loads(row["done"])
