"""The store: every artefact at the hash of what made it, and what a process has loaded of them."""

from __future__ import annotations

import itertools
import json
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from synthaug.data.dataset import Dataset
from synthaug.data.folder import Facts
from synthaug.data.listing import Listing
from synthaug.diffusion.batches import Recent
from synthaug.evaluate.base import Result
from synthaug.experiment import Experiment, Sweep, read
from synthaug.runtime.disk import Disk
from synthaug.settings import UserError, hash_of, keyed, to_json
from synthaug.stages.base import Cost, Given, Mapped, Outcome, Part, Receipt, Stage, Unmade, noted
from synthaug.stages.data import SUBSET, Thing, files_behind, identity
from synthaug.stages.line import Line, line_of
from synthaug.stages.shards import part_name, receipt_name, receipt_of

LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "ray", "mlflow", "numpy", "pyarrow")
MANIFEST = "manifest.json"
LOADED = 8  # artefacts that a process keeps in memory; most are small, or read their files when they are asked
Say = Callable[[str], None]


@dataclass(frozen=True)
class Manifest:
    """What is noted of a finished artefact, last of all: its stage, what making it gave and took, and what made it."""

    stage: str
    key: str
    version: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    helpers: Sequence[str] = ()
    made: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    denoiser_calls: int = 0
    history: Sequence[dict[str, float]] = ()
    result: Result | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Flat, as it always was; what is empty is left out."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "counts"}
        return {name: value for name, value in named.items() if value not in (None, (), [])} | dict(self.counts)

    @classmethod
    def from_json(cls, data: Any) -> Manifest | None:
        """A manifest, or nothing where the file is none."""
        if not isinstance(data, dict) or not {"stage", "key"} <= data.keys():
            return None
        # what is no field is something that the stage counted: the file is flat
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data and name != "counts"}
        return cls(**known, counts={name: value for name, value in data.items() if name not in known})


@dataclass(frozen=True)
class Record:
    """What was run: the subject as JSON, the artefacts behind it, and its runs in MLflow."""

    artefacts: Sequence[str]
    subject: Mapping[str, Any] = field(default_factory=dict)  # of what has only begun it is not noted
    run_id: str = ""
    name: str = "synthaug"
    run_ids: Sequence[str] = ()  # of the trials
    point_ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.artefacts, list):  # `clean` asks it what must stay
            raise TypeError("a record names its artefacts")


class Store:
    """Artefacts below `home`/store, written so that being killed at any moment loses nothing finished."""

    def __init__(self, home: str | Path) -> None:
        self.home = Path(home).expanduser().absolute()
        self.disk = Disk(self.home / "store")
        self._identified: dict[Thing, Any] = {}  # opened or hashed by this process already
        self._lines: dict[Experiment, Line] = {}  # worked out once: sweeps ask for them thousands of times
        self._loaded = Recent[Any](LOADED)  # by identity

    def prepare(self) -> Store:
        """Make the home, or say why that cannot be."""
        try:
            self.disk.prepare()
        except OSError as error:
            said = f"cannot write to the home {str(self.home)!r}: {error.strerror}; choose one with --home DIR"
            raise UserError(said) from None
        self._refile()
        return self

    # --- artefacts ---

    def line(self, experiment: Experiment) -> Line:
        """The stages of an experiment, by what its data and models are when this process first asks."""
        if experiment not in self._lines:
            self._lines[experiment] = line_of(experiment, self)
        return self._lines[experiment]

    def made(self, key: str) -> Path:
        """The folder of the finished stage whose key begins so."""
        found = [
            f"{kind}/{name}" for kind in self.disk.list("") for name in self.disk.list(kind)
            if key and name.startswith(key) and self.disk.exists(f"{kind}/{name}/{MANIFEST}")
        ]  # fmt: skip
        if len(found) != 1:
            said = f"{len(found)} finished stages of this home have a key that begins with {key!r}"
            raise UserError(f"{said}; `synthaug show` tells the keys", ("denoiser", "model"))
        return self.disk.at(found[0]).local()

    def stages(self, experiment: Experiment) -> dict[str, Stage[Any]]:
        """The stages of an experiment by name."""
        return self.line(experiment).stages(self.helps)

    def check_subset(self, experiment: Experiment) -> None:
        """Refuse a data set that has not as many images as are to be trained on."""
        self.load(self.line(experiment).data).entries(SUBSET, experiment.seed)

    def at(self, stage: Stage[Any]) -> Disk:
        return self.disk.at(f"{stage.kind}/{stage.key}")

    def manifest(self, stage: Stage[Any]) -> Manifest | None:
        return Manifest.from_json(self.read_json(f"{stage.kind}/{stage.key}/{MANIFEST}"))

    def is_made(self, stage: Stage[Any]) -> bool:
        """Whether it was finished, for whatever was wanted of it then."""
        return stage.there or self.manifest(stage) is not None

    def helps(self, stage: Stage[Any], helper: Stage[Any]) -> bool:
        """Whether an input that is not in its key helps to make a stage, or did: homes of older versions have filters
        that no stage of scores helped to make, and what was made without is neither found with it nor paid for."""
        manifest = self.manifest(stage)
        return manifest is None or (helper.key in manifest.helpers and self.is_made(helper))

    def is_ready(self, stage: Stage[Any], *, verify: bool = False) -> bool:
        """Whether all that is wanted of it is there; to `verify` is to hash its parts as well."""
        if stage.there:
            return True
        if self.manifest(stage) is None:
            return False
        if not isinstance(stage, Mapped):
            return True
        # which units there are is known only once the inputs are
        return all(map(self.is_made, stage.inputs.values())) and not self.missing(stage, verify=verify)

    def missing(self, stage: Mapped[Any], *, verify: bool = False) -> list[int]:
        """The units that are not there in full."""
        at = self.at(stage)
        units = stage.units(self.given(stage))
        return [unit for unit in units if receipt_of(at, unit, stage.suffix, read=verify) is None]

    def receipts(self, stage: Mapped[Any]) -> list[Receipt]:
        """Those of the units that are wanted and there."""
        at = self.at(stage)
        found = (receipt_of(at, unit, stage.suffix) for unit in stage.units(self.given(stage)))
        return [receipt for receipt in found if receipt is not None]

    def past(self, most: int) -> Iterator[Receipt]:
        """Receipts of this home, of whatever stage: what things took here."""
        places = (f"{name}/{file}" for name in self._artefacts() for file in self.disk.list(name))
        # a sample of them, since a home may hold millions
        named = (place for place in places if re.search(r"/part-\d+\.json$", place))
        for place in itertools.islice(named, most):
            if (receipt := noted(Receipt, self.read_json(place))) is not None:
                yield receipt

    def spent(self, stage: Stage[Any]) -> Cost:
        """What making a finished stage took; of a mapped one what is wanted of it, though others may want more."""
        if isinstance(stage, Mapped):
            receipts = self.receipts(stage)
            return sum((Cost(images=r.rows, calls=r.calls, seconds=r.seconds) for r in receipts), Cost())
        manifest = self.manifest(stage)
        return Cost() if manifest is None else Cost(calls=manifest.denoiser_calls, seconds=manifest.seconds)

    def given(self, stage: Stage[Any]) -> Given:
        """The inputs of a stage."""
        return Given(stage, self.load)

    def planned(self, stage: Stage[Any]) -> Given:
        """The same before they are made, as far as plans need them."""

        def load(other: Stage[Any]) -> Any:
            return self.load(other) if self.is_made(other) else other.at_most(self.planned(other))

        return Given(stage, load)

    def load(self, stage: Stage[Any]) -> Any:
        """What a finished stage gives to others; kept by what it is, never by where it lies."""

        def load() -> Any:
            if not self.is_made(stage):
                raise Unmade(f"{stage} has not been made")
            return stage.load(self.at(stage), self.given(stage))

        return self._loaded.get(stage.identity, load)

    # --- making them ---

    @contextmanager
    def making(self, stages: Sequence[Stage[Any]], say: Say) -> Iterator[list[Stage[Any]]]:
        """Those of some stages that are not ready, while nobody else makes them."""
        with ExitStack() as locks:
            for stage in sorted(stages, key=lambda stage: stage.key):  # one order for all: no two wait for each other
                waiting = f"{stage}: another process is making it, waiting"
                locks.enter_context(
                    self.disk.lock(f"{stage.kind}/{stage.key}.lock", lambda text=waiting: say(text))  # type: ignore[misc]
                )
            # asked again now that nobody else is at work: they may have been made while we waited
            yield [stage for stage in stages if not self.is_ready(stage, verify=True)]

    def write_part(self, stage: Mapped[Any], unit: int, part: Part, seconds: float) -> Receipt:
        """A unit of a stage: the part, and last its receipt."""
        at, digest = self.at(stage), sha256(part.data).hexdigest()
        receipt = Receipt(
            part_name(unit, digest, stage.suffix), len(part.data), digest, part.rows,
            seconds if part.seconds is None else part.seconds, part.counters, part.micro_batch, part.starts,
        )  # fmt: skip
        at.write(receipt.part, part.data)  # a name of other bytes is another, so no reader's part changes
        at.write(receipt_name(unit), _json(asdict(receipt)))
        return receipt

    def close(self, stage: Stage[Any], outcome: Outcome, seconds: float) -> None:
        """The files of a stage, and last its manifest."""
        at = self.at(stage)
        for name, data in outcome.files.items():
            at.write(name, data)
        took = seconds if outcome.seconds is None else outcome.seconds
        manifest = Manifest(
            stage.kind, stage.key, stage.version, stage.settings, stage.keys_of_inputs, stage.helpers, environment(),
            took, outcome.calls, list(outcome.history), outcome.result, outcome.counts,
        )  # fmt: skip
        at.write(MANIFEST, _json(manifest.to_json()))  # what lies there without it is nobody's, and is made again

    # --- what data and models are ---

    def open(self, dataset: Dataset) -> Listing:
        """A data set; the facts of a folder's files are remembered by path, size and mtime."""
        if dataset not in self._identified:
            self._identified[dataset] = self._open(dataset)
        listing: Listing = self._identified[dataset]
        return listing

    def _open(self, dataset: Dataset) -> Listing:
        if dataset.path is None:
            return dataset.open()
        place = f"index/{hash_of([dataset.name, str(Path(dataset.path).expanduser().resolve())])}.json"
        facts: Facts = self.read_json(place) or {}
        known = json.dumps(facts)
        try:
            return dataset.open(facts)
        finally:
            # also if it ended in an error: files that were read by then need not be read again
            if json.dumps(facts) != known:
                self.disk.write(place, _json(facts))

    def identify(self, thing: Thing) -> str:
        """The digest of a data set's content, or of a model's weights (remembered by path, size and mtime)."""
        if isinstance(thing, Dataset):
            return self.open(thing).digest
        if thing not in self._identified:
            # gigabytes of weights are not hashed anew each time; who changes a file changes its size or mtime
            stats = [
                (name, str(file), (stat := file.stat()).st_size, stat.st_mtime_ns)
                for name, file in files_behind(thing).items()
            ]
            place = f"index/model-{hash_of(stats)}.json"
            known = self.read_json(place)
            if not isinstance(known, dict) or "identity" not in known:
                known = {"identity": identity(thing)}
                self.disk.write(place, _json(known))
            self._identified[thing] = known["identity"]
        return str(self._identified[thing])

    # --- records of what was run, for report and clean ---

    def begin(self, subject: Experiment | Sweep, stages: Iterable[Stage[Any]]) -> None:
        """Note what a run is about to make and use, so that `clean` leaves it alone."""
        self.disk.write(self._place(subject, "begun"), _json({"artefacts": names(stages)}))

    def record(
        self, subject: Experiment | Sweep, stages: Iterable[Stage[Any]], run_id: str, name: str,
        run_ids: Sequence[str] = (), point_ids: Sequence[str] = (),
    ) -> None:  # fmt: skip
        done = Record(names(stages), to_json(subject), run_id, name, run_ids, point_ids)
        self.disk.write(self._place(subject), _json(asdict(done)))
        # last: at each moment one of the two names the artefacts
        self.disk.remove(self._place(subject, "begun"))

    def recorded(self, subject: Experiment | Sweep, stages: Iterable[Stage[Any]]) -> Record | None:
        """What was noted when the same subject, with the same content behind it, was run to its end, if all of these
        stages were among what it made or found."""
        known = noted(Record, self.read_json(self._place(subject)))
        return known if known and set(names(stages)) <= set(known.artefacts) else None

    def records(self, kind: str = "record") -> list[Record]:
        found = (self.read_json(f"{kind}/{name}") for name in self.disk.list(kind) if name.endswith(".json"))
        return [record for data in found if (record := noted(Record, data)) is not None]

    def _place(self, subject: Experiment | Sweep, kind: str = "record") -> str:
        return f"{kind}/{record_key(subject)}.json"

    def _refile(self) -> None:
        """Records used to be named by all of their JSON, which moved with every class and grew with every field."""
        if self.disk.exists("record/keyed"):
            return
        for name in [name for name in self.disk.list("record") if name.endswith(".json")]:
            known = noted(Record, self.read_json(f"record/{name}"))
            try:
                place = None if known is None else self._place(read(known.subject))
            except UserError:
                continue  # of a class that is not here: it stays, and stays readable
            if known is not None and place != f"record/{name}":
                # written before the old one goes: who is killed between the two has it twice, and does this again
                self.disk.write(str(place), _json(asdict(known)))
                self.disk.remove(f"record/{name}")
        self.disk.write("record/keyed", b"")

    # --- cleaning ---

    def unneeded(self) -> list[tuple[str, str]]:
        """Artefacts that were never finished, or that no run refers to, finished or begun; each with the reason."""
        wanted = self._wanted()
        return [(name, why) for name in self._artefacts() if (why := self._unneeded(name, wanted))]

    def _artefacts(self) -> Iterator[str]:
        """Every artefact there is, of whatever kind: a folder whose name is a key."""
        for kind in self.disk.list(""):
            for key in self.disk.list(kind):
                # with a dot: moved aside by a `clean` that did not come to its end
                if (len(key) == 32 or key.startswith(".")) and self.disk.local(f"{kind}/{key}").is_dir():
                    yield f"{kind}/{key}"

    def _wanted(self) -> set[str]:
        return {name for kind in ("record", "begun") for record in self.records(kind) for name in record.artefacts}

    def _unneeded(self, name: str, wanted: set[str]) -> str:
        """Why an artefact could go, or nothing."""
        if name.partition("/")[2].startswith(".") or not self.disk.exists(f"{name}/{MANIFEST}"):
            return "unfinished"
        return "" if name in wanted else "no run refers to it"

    def remove(self, name: str, why: str) -> bool:
        """Take an artefact away, unless somebody is at work on it or has finished it meanwhile."""
        with self.disk.lock_if_free(f"{name}.lock") as free:
            # asked again under the lock: since they were listed, a run may have begun to use it
            if not free or self._unneeded(name, self._wanted()) != why:
                return False
            self.disk.remove(self.disk.move_aside(name))  # aside first: being killed here leaves no half an artefact
            return True

    def read_json(self, name: str) -> Any:
        """The JSON at a place, or None when there is none that can be read."""
        try:
            return json.loads(self.disk.read(name))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
            return None


def names(stages: Iterable[Stage[Any]]) -> list[str]:
    """The artefacts of some stages and of all that they are made from."""
    return sorted({f"{stage.kind}/{stage.key}" for stage in stages})


def record_key(subject: Experiment | Sweep) -> str:
    """What records and runs of a subject are named by: as keys are, with where things lie beside it. A sweep is its
    trials: what its arms replace is JSON, which would move with every class."""
    if isinstance(subject, Experiment):
        return hash_of(keyed(subject, places=True))
    if subject.is_search:  # what its trials are is known at its end
        return hash_of([keyed(subject, places=True)])
    trials = [hash_of([t.arm, t.seed, keyed(t.experiment, places=True)]) for t in subject.trials()]
    more = [subject.controls, subject.against] if subject.controls or subject.against else []
    return hash_of([subject.baseline, sorted(trials), *more])  # records are written with their arms in another order


def _json(data: Any) -> bytes:
    return json.dumps(data, indent=1, sort_keys=True).encode()


def environment() -> dict[str, Any]:
    """What made an artefact, for the manifest; it is not part of the key."""
    made = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "python": platform.python_version()}
    return made | {"machine": platform.machine(), "libraries": {name: version(name) for name in LIBRARIES}}
