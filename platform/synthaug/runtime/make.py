"""Making: the stages behind some experiments, each key once, in waves whose inputs are there."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

from synthaug.experiment import Experiment
from synthaug.progress import Progress, say
from synthaug.runtime.disk import Disk
from synthaug.runtime.store import Damaged, Store
from synthaug.runtime.theirs import told
from synthaug.stages.base import Computed, Cost, Loop, Mapped, Receipt, Stage, Trained, closure, once
from synthaug.training import ALONE, Entry, Report, World, device_clock

Heard = Callable[[Trained[Any], Entry], None]
Chain = Sequence[Stage[Any]]  # stages that one process makes one after another


class Listener:
    """Who is told of what is made while it is made; this one does nothing about it."""

    def heard(self, stage: Trained[Any], entry: Entry) -> None:
        """What a training reports, where it runs in this process or is shared by several."""

    def came(self, stage: Stage[Any]) -> None:
        """It is there now. The work of others goes on meanwhile, that of this process does not."""

    def idle(self) -> None:
        """Others are at work, and this process only waits for them."""


class Plan:
    """Stages to be made with all that they are made from, and for each an experiment that it belongs to: what goes to
    another process is that experiment's JSON and a key."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sinks: list[Stage[Any]] = []
        self.owner: dict[str, Experiment] = {}
        self.read: set[str] = set()  # keys of what will be loaded in the end

    def add(self, experiment: Experiment, sinks: Iterable[Stage[Any]] | None = None) -> Plan:
        """All results of an experiment, or some of its stages, which will be loaded."""
        self.store.check_subset(experiment)
        wanted = list(self.store.line(experiment).results.values() if sinks is None else sinks)
        if sinks is not None:
            self.read |= {stage.key for sink in wanted for stage in (sink, *sink.inputs.values())}
        self.sinks += wanted
        for stage in closure(wanted):
            self.owner.setdefault(stage.key, experiment)  # equal keys are equal stages: any owner will do
        return self

    def stages(self) -> list[Stage[Any]]:
        """Each key once, inputs first."""
        return once(closure(self.sinks, self.store.helps))

    def todo(self) -> list[Stage[Any]]:
        """What is missing. What somebody will read now is looked at whole, and missing too if it is damaged."""
        while True:
            try:
                stages = self.stages()
                missing = {stage.key for stage in stages if not self.store.is_ready(stage)}
                users = [stage for stage in stages if stage.key in missing]
                read = self.read | {key for stage in users for key in _read_by(stage)}
                for stage in stages:
                    # what was finished and is missing all the same has lost a file
                    lost = stage.key in missing and not isinstance(stage, Mapped) and self.store.is_made(stage)
                    if lost or stage.key in read - missing:
                        self.store.verify(stage)
                return users
            except Damaged as damage:
                self.store.void(damage)  # once: it is missing then, and so is what cannot be known without it

    def estimate(self, stage: Stage[Any]) -> Cost:
        return stage.estimate(self.store.planned(stage))


def _read_by(stage: Stage[Any]) -> Iterator[str]:
    """The keys of what making a stage reads: its inputs, and those behind a choice among them."""
    for other in stage.inputs.values():
        yield other.key
        if isinstance(other, Computed):
            yield from _read_by(other)


@dataclass
class Made:
    """What a call had to do: the seconds by key of what it made, and why some could not be."""

    seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def add(self, other: Made) -> None:
        self.seconds |= other.seconds
        self.errors |= other.errors


def said(error: BaseException) -> str:
    """One line of what went wrong in a chain: Ray's errors hold what its processes raised, and end with its line."""
    lines = str(getattr(error, "cause", None) or error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


class Executor(Protocol):
    """Where stages are made: in this process, or by one of Ray's libraries for each shape."""

    def run(self, plan: Plan, wave: Sequence[Chain], listener: Listener) -> Made: ...


def make(plan: Plan, executor: Executor, listener: Listener | None = None) -> Made:
    """Make what is missing. A training or a computation that failed is left out with all that needs it, and the rest
    goes on; a unit of something mapped that cannot be made ends the call."""
    made = Made()
    todo = plan.todo()
    # what failed stays in `todo`: whatever waits for it is never ready, and it ends when nothing else is left
    while wave := next_wave(todo, made.errors):
        made.add(executor.run(plan, wave, listener or Listener()))
        tried = {stage.key for chain in wave for stage in chain}
        # behind one that failed in its chain others may not have been tried yet: the next wave does
        todo = [stage for stage in todo if stage.key not in tried or not plan.store.is_ready(stage)]
    return made


def next_wave(todo: Sequence[Stage[Any]], failed: Mapping[str, str]) -> list[Chain]:
    """What can be made now, each chain by one process. What is mapped comes first and has all devices. A training is
    followed at once by what is computed from it alone, and computations about one thing stay together, so that their
    process need not load it again."""
    missing = {stage.key for stage in todo}
    waits = {stage.key: {other.key for other in stage.inputs.values()} & missing for stage in todo}
    ready = [stage for stage in todo if not waits[stage.key] and stage.key not in failed]
    if mapped := [[stage] for stage in ready if isinstance(stage, Mapped)]:
        return list(mapped)
    chains: dict[str, list[Stage[Any]]] = {}
    home: dict[str, str] = {}  # the chain of each stage
    # inputs stand first in `todo`, so the chains that lead to a stage are known when it comes
    for stage in (stage for stage in todo if stage.key not in failed and waits[stage.key] <= home.keys()):
        behind = {home[key] for key in waits[stage.key]}
        # what it is about: the classifier, the images; not the data, which all are about
        about = [stage.inputs[role].key for role in stage.keyed if not stage.inputs[role].there]
        name = behind.pop() if behind else about[0] if about and isinstance(stage, Computed) else stage.key
        # Empty now if at most one chain leads here: what needs two waits for the next wave. So does a training that
        # needs something first, which begins a chain of its own there.
        if not behind and (isinstance(stage, Computed) or not waits[stage.key]):
            chains.setdefault(name, []).append(stage)
            home[stage.key] = name
    return list(chains.values())


# --- in this process --------------------------------------------------------------------------------------------------


class Here:
    """Everything in this process, one after another."""

    def run(self, plan: Plan, wave: Sequence[Chain], listener: Listener) -> Made:
        made = Made()
        for stage in [stage for chain in wave for stage in chain]:
            began = time.monotonic()
            if make_here(plan.store, stage, plan.owner[stage.key].resources.checkpoint_s, listener.heard):
                made.seconds[stage.key] = time.monotonic() - began
                listener.came(stage)
        return made


def make_here(store: Store, stage: Stage[Any], checkpoint_s: float, heard: Heard) -> bool:
    """One stage whose inputs are there, unless another process has made it meanwhile; whether it was made here."""
    with store.making([stage]) as missing:
        if not missing:
            return False
        if isinstance(stage, Mapped):
            fill(store, [stage], units_here)
        elif isinstance(stage, Trained):
            fit(store, stage, checkpoint_s, heard)
        else:
            assert isinstance(stage, Computed)
            began = device_clock()
            with told(stage):
                outcome = stage.compute(store.given(stage))
            store.close(stage, outcome, device_clock() - began)
        return True


# --- trained


def fit(store: Store, stage: Trained[Any], checkpoint_s: float, heard: Heard) -> None:
    """A training with its progress line."""
    with Progress(stage.name, "reports", stage.reports) as progress:

        def report(entry: Entry) -> None:
            heard(stage, entry)
            progress.add(1, note_of(entry))

        train(store, stage, checkpoint_s, report, ALONE)


def train(store: Store, stage: Trained[Any], checkpoint_s: float, report: Report, world: World) -> None:
    """A training with its checkpoint; of several processes the first writes."""
    began = device_clock()
    checkpoint = FileCheckpoint(store.at(stage), checkpoint_s, writes=world.rank == 0)
    # shared, it must end as an error here: the other processes wait for this one until Ray sees that it has failed
    with told(stage) if world.size == 1 else nullcontext():
        outcome = stage.fit(store.given(stage), Loop(report, checkpoint, world))
    if world.rank == 0:
        store.close(stage, outcome, device_clock() - began)
        # after the manifest: whoever is killed between the two has finished, and only left a file over
        store.at(stage).remove(checkpoint.NAME)


class FileCheckpoint:
    """The state of a training in its own artefact, at most every `every_s` seconds."""

    NAME = "checkpoint.pt"
    SEAL = b"\nsha256 of the above: "  # behind the state, with its digest

    def __init__(self, at: Disk, every_s: float, writes: bool = True) -> None:
        self.at, self.every_s, self.writes = at, every_s, writes
        self.last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        import torch

        if not self.at.exists(self.NAME):
            return None
        state, mark, digest = self.at.read(self.NAME).rpartition(self.SEAL)
        try:
            if mark and digest != sha256(state).digest():
                raise ValueError("other bytes than were written")
            # To the CPU: a run may go on elsewhere than it began; weights only: nothing but plain values and tensors.
            # One of an older version has no seal, and is all behind where it would be.
            found: dict[str, Any] = torch.load(io.BytesIO(state or digest), map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, LookupError, EOFError, OSError, pickle.UnpicklingError) as error:
            if self.writes:
                said = " ".join(str(error).split()) or type(error).__name__
                say(f"{self.at.local(self.NAME)} is damaged ({said:.60}): this training starts again")
            return None
        return found

    def due(self) -> bool:
        return self.writes and time.monotonic() - self.last >= self.every_s

    def save(self, state: dict[str, Any]) -> None:
        import torch

        out = io.BytesIO()
        torch.save(state, out)
        data = out.getvalue()
        # whole or not at all: who is killed here goes on from the one before
        self.at.write(self.NAME, data + self.SEAL + sha256(data).digest())
        self.last = time.monotonic()


def note_of(entry: Entry) -> str:
    """What the progress line says of a report."""
    val = f", val {entry['val/top1']:.1%}" if "val/top1" in entry else ""
    loss = f", loss {entry['train/loss']:.3g}" if "train/loss" in entry else ""
    return f"step {entry['step']:.0f}{loss}{val}"


# --- mapped

Unit = tuple[Mapped[Any], int]
MakeUnits = Callable[[Store, Sequence[Unit]], Iterator[Receipt]]


def fill(store: Store, stages: Sequence[Mapped[Any]], make_units: MakeUnits) -> None:
    """Make every unit without a valid receipt, one batch of work for all stages, and close them."""
    # hashed: a unit whose part was damaged is made again
    pending = [(stage, unit) for stage in stages for unit in store.missing(stage, verify=True)]
    costs = [stage.measure(unit, store.given(stage)) for stage, unit in pending]
    # the line moves by images and tells what is left by denoiser calls as well, because those take the time
    rows, effort = sum(cost.units for cost in costs), sum(cost.units + cost.calls for cost in costs)
    title = "+".join(dict.fromkeys(stage.name for stage in stages))
    with Progress(title, "images", rows, effort) as progress:
        for receipt in make_units(store, pending) if pending else ():
            progress.add(receipt.rows, receipt.note, receipt.rows + receipt.calls)
    for stage in stages:
        with told(stage):
            outcome = stage.close(store.at(stage), store.given(stage), store.receipts(stage))
        # no seconds of this call: a mapped stage took what its receipts say, whoever made them
        store.close(stage, outcome, 0.0)


def units_here(store: Store, pending: Sequence[Unit]) -> Iterator[Receipt]:
    """Units made in this process, stage by stage."""
    opened: tuple[str, Any] | None = None  # one stage's models in memory at a time
    for stage, unit in pending:
        if opened is None or opened[0] != stage.key:
            opened = stage.key, stage.open(store.given(stage))
        yield make_unit(store, stage, unit, opened[1])


def make_unit(store: Store, stage: Mapped[Any], unit: int, opened: Any) -> Receipt:
    """One unit, wherever it is made."""
    began = device_clock()
    with told(stage):
        part = stage.make(unit, opened)
    return store.write_part(stage, unit, part, device_clock() - began)
