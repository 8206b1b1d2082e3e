"""What every training loop is given beside its settings and data: where to keep its state, and who else trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from synthaug.settings import Failed

if TYPE_CHECKING:
    from torch import Tensor

Entry = dict[str, float]
Report = Callable[[Entry], None]
REPORTS = 10  # of a training that has no evaluations
STRETCH = 50  # steps between two looks at whether a checkpoint is due


class Checkpoint(Protocol):
    """Where an unfinished run is kept. `save` must write before it returns: the state goes on changing."""

    def load(self) -> dict[str, Any] | None: ...

    def due(self) -> bool: ...

    def save(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class World:
    """This process among those that train together; with size > 1 torch.distributed is initialised already."""

    rank: int = 0
    size: int = 1

    @property
    def mine(self) -> slice:
        """The rows of a batch that are this process's share."""
        return slice(self.rank, None, self.size)


ALONE = World()


def all_losses(losses: list[Tensor], first: int, world: World) -> list[float]:
    """The losses of the steps from `first` on, each added up over all processes."""
    import torch

    values = torch.stack(losses)
    if world.size > 1:
        torch.distributed.all_reduce(values)
    if not bool(values.isfinite().all()):
        step = first + int(values.isfinite().logical_not().nonzero()[0]) + 1
        raise Failed(f"the training loss is {values[step - first - 1].item()} at step {step}; lower the lr")
    return list(map(float, values.double()))


def device_clock() -> float:
    """Seconds that this process has had of its device: of the processor where it computes there, which neither waiting
    nor a busy machine makes more, else by the clock. Differences of it are what artefacts cost."""
    import torch

    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def reports_in(steps: int) -> int:
    """How often a training of so many steps reports: REPORTS times, or as often as whole steps allow."""
    every = -(-steps // REPORTS)
    return -(-steps // every)
