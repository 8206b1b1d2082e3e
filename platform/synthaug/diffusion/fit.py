"""The loop of diffusion training: AdamW on a loss that is a function of the step's number, so that a run that was
interrupted goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from synthaug.training import ALONE, REPORTS, STRETCH, Checkpoint, Entry, Report, World, all_losses, device_clock

# PyTorch's CPU allocator raises a plain RuntimeError with one of the last two
_FULL = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass
class Fitted:
    """How it went."""

    step: int = 0
    history: list[Entry] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # since the last report
    seconds: float = 0.0
    micro_batch: int = 0  # images in memory at once, where that may be fewer than a batch
    flops: int = 0  # of one image through the net, where that was counted


def falling(step: int) -> float:
    """The factor of the learning rate at step 1, 2, ...: EDM2's schedule, up over 100 steps and after 1,000 down like
    the root of the step's number."""
    # It does not know how long training is: a training cut short is that of fewer steps. That the rate never reaches 0
    # is made up for by the average.
    return float(min(step / 100, 1, (1000 / step) ** 0.5))


def newest_share(step: int, gamma: float = 6.94) -> float:
    """What the parameters of step 1, 2, ... count in their power-function average (EDM2, equation 127)."""
    # gamma = 6.94 is a relative width of 0.10. At step 1 all of it: what the average began as does not matter.
    return 1.0 - float((1 - 1 / step) ** (gamma + 1))


@dataclass(frozen=True)
class Average:
    """Copies of the parameters, which become their average over steps 1, 2, ...: `newest` is the share of the newest
    ones, `rate` the factor of the learning rate that goes with it."""

    parameters: Mapping[str, Tensor]
    rate: Callable[[int], float] = falling
    newest: Callable[[int], float] = newest_share


def fit(
    parameters: Mapping[str, Tensor], loss: Callable[[int], Iterable[Tensor]], *, steps: int, lr: float,
    weight_decay: float, clip: float | None, report: Report, checkpoint: Checkpoint | None = None, world: World = ALONE,
    reports: int = REPORTS, average: Average | None = None, also: Callable[[], Entry] | None = None,
    smaller: Callable[[], None] | None = None,
) -> Fitted:  # fmt: skip
    """Train `parameters` in place. `loss(step)` are parts of the batch's mean, added up over them and all processes,
    each gone before the next is made; `smaller` makes them smaller when memory has run out. `also` is what else to
    report."""
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=lr, weight_decay=weight_decay)
    kept = {"parameters": parameters} | ({} if average is None else {"average": average.parameters})
    done = _restore(kept, optimizer, checkpoint.load() if checkpoint else None)
    every = -(-steps // reports)  # rounded up: no more than `reports`

    def advance(step: int) -> Tensor:
        if average is not None:
            optimizer.param_groups[0]["lr"] = lr * average.rate(step + 1)
        found = _step(optimizer, partial(loss, step), smaller, clip, world)
        if average is not None:
            _follow(average.parameters, parameters, average.newest(step + 1))
        return found

    while done.step < steps:
        began = device_clock()
        last = min(steps, (done.step // every + 1) * every)  # of this report
        until = min(last, done.step + STRETCH)
        # Losses are read once a stretch: to read each would make a GPU wait at every step.
        done.losses += all_losses(list(map(advance, range(done.step, until))), done.step, world)
        done.step = until
        if until == last:
            entry = {"step": float(last), "train/loss": fmean(done.losses)} | (also() if also else {})
            done.losses = []
            done.history.append(entry)
        done.seconds += device_clock() - began
        if until == last:
            report(entry)
        if checkpoint and until < steps and checkpoint.due():
            checkpoint.save(_state(kept, optimizer, done))
    return done


def _follow(average: Mapping[str, Tensor], parameters: Mapping[str, Tensor], share: float) -> None:
    live = [parameters[name].detach() for name in average]
    torch._foreach_lerp_(list(average.values()), live, share)


def _state(kept: Mapping[str, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer, done: Fitted) -> dict[str, Any]:
    parts = {part: {name: value.detach() for name, value in held.items()} for part, held in kept.items()}
    return {**parts, "optimizer": optimizer.state_dict(), "done": asdict(done)}


def _restore(
    kept: Mapping[str, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer, state: dict[str, Any] | None
) -> Fitted:
    if state is None:
        return Fitted()
    with torch.no_grad():
        for part, held in kept.items():
            for name, value in held.items():
                value.copy_(state[part][name])  # in place: the net and the optimizer hold these very tensors
    optimizer.load_state_dict(state["optimizer"])
    return Fitted(**state["done"])


def _step(
    optimizer: torch.optim.Optimizer, parts: Callable[[], Iterable[Tensor]], smaller: Callable[[], None] | None,
    clip: float | None, world: World,
) -> Tensor:  # fmt: skip
    """One optimiser step with the gradients of all parts and processes added up."""
    while (loss := _gradients(optimizer, parts, smaller)) is None:
        continue  # memory ran out: from the start, in smaller parts
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    # Summed, not averaged: each process's loss is its part of the batch's mean. Clipped afterwards, by the norm of the
    # whole gradient, so that the number of processes does not matter.
    if world.size > 1:
        for parameter in parameters:
            torch.distributed.all_reduce(parameter.grad)
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    return loss


def _gradients(
    optimizer: torch.optim.Optimizer, parts: Callable[[], Iterable[Tensor]], smaller: Callable[[], None] | None
) -> Tensor | None:
    """The loss, and its gradients in the parameters; nothing where memory ran out and smaller parts may help."""
    optimizer.zero_grad()
    losses = []
    try:
        for part in parts():
            part.backward()
            losses.append(part.detach())
    except RuntimeError as error:
        if smaller is None or not out_of_memory(error):
            raise
        smaller()
        return None
    return torch.stack(losses).sum()


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error).lower() for text in _FULL)


@contextmanager
def contained(threads: int, device: torch.device) -> Iterator[None]:
    """Leave the process's random state and thread count as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if device.type == "cuda" else threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before)
