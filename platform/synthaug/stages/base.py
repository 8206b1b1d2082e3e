"""Stage: something expensive, made once and kept at the hash of all that decides what comes out of it.

A stage knows its settings, its inputs by role, and from these its key; and what follows from them: how to check before
anything expensive, what it will cost, how it is made, and how to load what it left for the stages after it. Whoever
shows, makes, counts or cleans walks over stages and knows no kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from synthaug.settings import hash_of
from synthaug.training import ALONE, Checkpoint, Entry, Report, World

if TYPE_CHECKING:
    from synthaug.diffusion.denoiser import NetDenoiser
    from synthaug.diffusion.pixel_models import PlacedDenoiser
    from synthaug.evaluate.base import Result

T = TypeVar("T")


class Folder(Protocol):
    """What a finished stage left, by the names of its files."""

    def read(self, name: str) -> bytes: ...

    def size(self, name: str) -> int: ...

    def local(self, name: str = "") -> Path:
        """A file (or all of them) as a path, for libraries that open files themselves."""


@dataclass(frozen=True)
class Cost:
    """What making something will take, as far as that is known before: rows through the denoiser, images, and steps of
    the progress line."""

    units: int = 0
    images: int = 0
    calls: int = 0
    seconds: float = 0.0  # known of what was made

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.units + other.units, self.images + other.images, self.calls + other.calls, self.seconds + other.seconds
        )


@dataclass(frozen=True)
class Outcome:
    """What comes of a stage that is made in one go: its files, and what its manifest notes of it.

    `seconds` None: those that making it took. `calls` are rows through a denoiser, `counts` whatever else was counted.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    seconds: float | None = None
    calls: int = 0
    history: Sequence[Entry] = ()
    result: Result | None = None
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What comes of one unit of a mapped stage: a file, and what its receipt notes. `starts` are the noise levels at
    which its edits began, if they are edits."""

    data: bytes
    rows: int
    seconds: float | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    micro_batch: int | None = None
    starts: Sequence[float] = ()


@dataclass(frozen=True)
class Receipt:
    """What is known of a finished unit: what its part is, and what making it took, whoever made it."""

    part: str
    bytes: int
    sha256: str
    rows: int
    seconds: float = 0.0
    counters: Mapping[str, int] = field(default_factory=dict)
    micro_batch: int | None = None
    starts: Sequence[float] = ()

    @property
    def calls(self) -> int:
        """Rows through a denoiser."""
        # the word of receipts that are in homes already
        return self.counters.get("unet_calls", 0)

    @property
    def note(self) -> str:
        """What the progress line should say of it."""
        return f"micro-batch halved to {self.micro_batch}" if self.counters.get("halvings", 0) else ""


@dataclass(frozen=True)
class Loop:
    """What training is given beside its inputs."""

    report: Report
    checkpoint: Checkpoint | None = None
    world: World = ALONE


class Given:
    """The inputs of a stage, loaded when they are asked for."""

    def __init__(self, stage: Stage[Any], load: Callable[[Stage[Any]], Any]) -> None:
        self.stage, self.load = stage, load

    def __getitem__(self, role: str) -> Any:
        return self.load(self.stage.inputs[role])

    def get(self, role: str) -> Any:
        """An input that need not be there."""
        return self[role] if role in self.stage.inputs else None

    def within(self, role: str) -> Given:
        """What that input is given itself, for what it says of its own plan."""
        return Given(self.stage.inputs[role], self.load)

    def denoiser(self) -> NetDenoiser | None:
        """The denoiser in memory, if the stage has one."""
        placed: PlacedDenoiser | None = self.get("denoiser")
        return None if placed is None else placed[0].load(placed[1])


class Unmade(RuntimeError):
    """An input was asked for that is still to be made."""


class Stage(ABC, Generic[T]):
    """`kind`, `version`, the settings and the inputs decide the output; raise `version` when it changes.

    `cost` is the name under which its seconds are counted. `keyed` are the roles of the inputs that enter the key, in
    their order: all, unless an input decides nothing that the others do not. Such an input is asked for only while the
    stage has not been made.
    """

    # a word in keys and the name of a folder in the store, so it stays whatever the class is called
    kind: ClassVar[str]
    version: ClassVar[int] = 1
    name: ClassVar[str] = ""  # for people; the kind, unless it says otherwise
    cost: ClassVar[str] = ""
    there: ClassVar[bool] = False  # it need not be made: its key says what lies on the disk already
    bounds: ClassVar[bool] = False  # until it is made only the most that may come of it is known
    counted: ClassVar[bool] = False  # what it makes are the generated images that people count
    own: bool = False  # its numbers are of a measurement that the user has written
    k: int = 0  # variants of each image that are wanted, where there are variants
    keyless: ClassVar[bool] = False  # its settings are among those of its users, in the place of a key

    def __init_subclass__(cls) -> None:
        # who only inherits a kind is called as the parent is, unless it says otherwise
        if "kind" in cls.__dict__ and "name" not in cls.__dict__:
            cls.name = cls.kind

    def __init__(
        self, settings: Mapping[str, Any], inputs: Mapping[str, Stage[Any] | None], keyed: Sequence[str] | None = None
    ) -> None:
        # None: an input that this one need not have
        self.inputs = {role: stage for role, stage in inputs.items() if stage is not None}
        wanted = self.inputs if keyed is None else [role for role in keyed if role in self.inputs]
        self.keyed = [role for role in wanted if not self.inputs[role].keyless]
        self.settings = dict(settings)
        for stage in self.inputs.values():
            self.settings |= stage.settings if stage.keyless else {}

    @cached_property
    def key(self) -> str:
        # inputs by their order and not by their roles, which can be renamed without moving a key
        return hash_of([self.kind, self.version, self.settings, self.keys_of_inputs])

    @property
    def keys_of_inputs(self) -> list[str]:
        return [self.inputs[role].key for role in self.keyed]

    @property
    def helpers(self) -> list[str]:
        """The keys of inputs that are made and not in the key."""
        return [other.key for role, other in self.inputs.items() if role not in self.keyed and not other.there]

    @property
    def identity(self) -> tuple[Any, ...]:
        """Under which a process keeps what it loaded: the key, never a path."""
        return self.kind, self.key, self.k

    def __str__(self) -> str:
        return f"{self.name} {self.key[:8]}"

    def check(self, given: Given) -> None:
        """Refuse all that can be known to be wrong before anything expensive; inputs may not have been made."""

    def estimate(self, given: Given) -> Cost:
        """What making it will take; inputs may not have been made."""
        return Cost(units=1)

    def numbers(
        self, history: Sequence[Entry], result: Result | None, counts: Mapping[str, float]
    ) -> Mapping[str, float]:
        """What of its outcome people compare, under fixed names."""
        return {}

    def holds(self, result: Result | None) -> bool:
        """Whether the result that its manifest notes is one; where it is none, the stage is made anew."""
        return True

    def at_most(self, given: Given) -> T:
        """What `load` would give if it left out nothing, for plans that are made before it is; most cannot say."""
        raise Unmade(f"{self} has not been made")

    @abstractmethod
    def load(self, at: Folder, given: Given) -> T:
        """What the stages that name it as an input get."""


class Trained(Stage[T]):
    """A loop of optimiser steps, which reports, keeps its state, and may be shared by several processes."""

    reports: int  # how often it will report

    def estimate(self, given: Given) -> Cost:
        return Cost(units=self.reports)

    def entry_named(self, name: str, entry: Entry) -> Entry:
        """A report under the stage's own name among others: `finetune.2/loss`, `guide/val/top1`."""
        return {n if n == "step" else f"{name}/{n.removeprefix('train/')}": value for n, value in entry.items()}

    @abstractmethod
    def fit(self, given: Given, loop: Loop) -> Outcome:
        """Train; the same outcome whether or not it was interrupted."""


class Mapped(Stage[T]):
    """Made unit by unit, each on its own, in whatever process; each unit leaves a part and a receipt."""

    suffix: ClassVar[str] = "parquet"

    @abstractmethod
    def units(self, given: Given) -> Sequence[int]:
        """The units that are wanted, in the order in which they are best made."""

    @abstractmethod
    def measure(self, unit: int, given: Given) -> Cost:
        """What one unit will take."""

    def estimate(self, given: Given) -> Cost:
        return sum((self.measure(unit, given) for unit in self.units(given)), Cost())

    def open(self, given: Given) -> Any:
        """What a process keeps while it makes units; by default its inputs."""
        return given

    @abstractmethod
    def make(self, unit: int, opened: Any) -> Part:
        """One unit; the same bytes wherever and whenever."""

    def close(self, at: Folder, given: Given, receipts: Sequence[Receipt]) -> Outcome:
        """What the manifest notes once all wanted units are there, of which these are the receipts."""
        return Outcome(seconds=sum(r.seconds for r in receipts), calls=sum(r.calls for r in receipts))


class Computed(Stage[T]):
    """What is left: made in one go."""

    @abstractmethod
    def compute(self, given: Given) -> Outcome:
        """Make it."""


def closure(
    stages: Iterable[Stage[Any]], helps: Callable[[Stage[Any], Stage[Any]], bool] = lambda stage, helper: True
) -> Iterator[Stage[Any]]:
    """Some stages and all that they are made from, inputs first, each object once; nothing that is there anyway. An
    input that is not in the key of a stage is left out where it does not help to make it, or did not."""
    seen: set[int] = set()
    # Depth first: a stage is entered, what it is made from is put above it, and it is given out when it comes up again.
    pending: list[tuple[Stage[Any], bool]] = [(stage, False) for stage in reversed(list(stages))]
    while pending:
        stage, entered = pending.pop()
        if entered:
            yield stage
        # by object and not by key: of two with one key `once` chooses the one that asks for more
        elif id(stage) not in seen:
            seen.add(id(stage))
            if not stage.there:
                pending.append((stage, True))
            for other in reversed(stage.inputs.values()):
                if other.there or other.key in stage.keys_of_inputs or helps(stage, other):
                    pending.append((other, False))


def once(stages: Iterable[Stage[Any]]) -> list[Stage[Any]]:
    """Each key once, where it first stands; of those with equal keys the one that asks for most."""
    found: dict[str, Stage[Any]] = {}
    for stage in stages:
        known = found.get(stage.key)
        found[stage.key] = stage if known is None or stage.k > known.k else known
    return list(found.values())
