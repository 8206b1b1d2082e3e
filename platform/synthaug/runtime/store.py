"""The store: every artefact at the hash of what made it, and what a process has loaded of them."""

from __future__ import annotations

import itertools
import json
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from synthaug.data.dataset import Dataset
from synthaug.data.folder import READER, Facts
from synthaug.data.listing import Listing
from synthaug.diffusion.batches import Recent
from synthaug.evaluate.base import Result
from synthaug.experiment import Experiment
from synthaug.progress import say
from synthaug.runtime.disk import Disk
from synthaug.runtime.records import Records, read_note, read_or_say
from synthaug.settings import UserError, hash_of
from synthaug.stages.base import Cost, Given, Mapped, Outcome, Part, Receipt, Stage, Unmade
from synthaug.stages.data import SUBSET, Thing, files_behind, identity
from synthaug.stages.line import Line, line_of
from synthaug.stages.notes import MEND, noted, sealed
from synthaug.stages.shards import part_name, receipt_name, receipt_of

LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "ray", "mlflow", "numpy", "pyarrow")
MANIFEST = "manifest.json"
LOADED = 8  # artefacts that a process keeps in memory; most are small, or read their files when they are asked


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
    files: Mapping[str, str] | None = None  # with their SHA-256; None: of an older version, which noted none
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


class Damaged(UserError):
    """A finished stage that is not as it was written; `harm` says what of it, as the subject of a sentence."""

    def __init__(self, stage: Stage[Any], harm: str, home: Path) -> None:
        super().__init__(f"{stage}: {harm} damaged; {MEND.format(home=home)}")
        self.stage, self.harm = stage, harm


class Store:
    """Artefacts below `home`/store, written so that being killed at any moment loses nothing finished."""

    def __init__(self, home: str | Path) -> None:
        self.home = Path(home).expanduser().absolute()
        self.disk = Disk(self.home / "store")
        self.records = Records(self.disk)
        self._identified: dict[Thing, Any] = {}  # opened or hashed by this process already
        self._lines: dict[Experiment, Line] = {}  # worked out once: sweeps ask for them thousands of times
        self._loaded = Recent[Any](LOADED)  # by identity

    def prepare(self) -> Store:
        """Say at once if the home cannot be written; it is made with its first file."""
        try:
            self.disk.probe()
        except OSError as error:
            said = f"cannot write to the home {str(self.home)!r}: {error.strerror}; choose one with --home DIR"
            raise UserError(said) from None
        if self.disk.exists(""):
            self.records.refile()
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
        found = Manifest.from_json(self.read_json(f"{stage.kind}/{stage.key}/{MANIFEST}"))
        return found if found is not None and stage.holds(found.result) else None

    def is_made(self, stage: Stage[Any]) -> bool:
        """Whether it was finished, for whatever was wanted of it then."""
        return stage.there or self.manifest(stage) is not None

    def helps(self, stage: Stage[Any], helper: Stage[Any]) -> bool:
        """Whether an input that is not in its key helps to make a stage, or did: homes of older versions have filters
        that no stage of scores helped to make, and what was made without is neither found with it nor paid for."""
        manifest = self.manifest(stage)
        # a damaged one is to be made anew, one that was taken away is not
        return manifest is None or (helper.key in manifest.helpers and self.at(helper).exists(MANIFEST))

    def is_ready(self, stage: Stage[Any], *, verify: bool = False) -> bool:
        """Whether all that is wanted of it is there; to `verify` is to hash its parts as well."""
        if stage.there:
            return True
        if (manifest := self.manifest(stage)) is None:
            return False
        if not isinstance(stage, Mapped):
            return not harmed(self.at(stage), manifest, verify=verify)
        try:
            return not self.missing(stage, verify=verify)
        except (Unmade, Damaged):
            return False  # which units there are is known only once the inputs are, and what those are made from

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
        places = (f"{name}/{file}" for name in self.artefacts() for file in self.disk.list(name))
        # a sample of them, since a home may hold millions
        named = (place for place in places if re.search(r"/part-\d+\.json$", place))
        for place in itertools.islice(named, most):
            if (receipt := noted(Receipt, self.read_json(place))) is not None:
                yield receipt

    def usual(self, most: int) -> dict[str, float]:
        """The mean seconds of stages of this home that are alike (`alike`), those made unit by unit left out."""
        took: dict[str, list[float]] = {}
        for name in itertools.islice(self.artefacts(), most):
            manifest = Manifest.from_json(self.read_json(f"{name}/{MANIFEST}"))
            if manifest is not None and "rows" not in manifest.counts:
                took.setdefault(alike(manifest.stage, manifest.settings), []).append(manifest.seconds)
        return {sort: sum(seconds) / len(seconds) for sort, seconds in took.items()}

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
            if (manifest := self.manifest(stage)) is None and not stage.there:
                raise Unmade(f"{stage} has not been made")
            if manifest and not isinstance(stage, Mapped) and harmed(self.at(stage), manifest, verify=True):
                raise Damaged(stage, self.harm(stage), self.home)
            try:
                return stage.load(self.at(stage), self.given(stage))
            except (UserError, Unmade):
                raise
            except Exception as error:
                if manifest is None or manifest.files is not None:
                    raise
                # its manifest is of an older version, which noted no digests
                raise Damaged(stage, f"what cannot be read ({error}) is", self.home) from error

        return self._loaded.get(stage.identity, load)

    # --- making them ---

    @contextmanager
    def making(self, stages: Sequence[Stage[Any]]) -> Iterator[list[Stage[Any]]]:
        """Those of some stages that are not ready, while nobody else makes them."""
        with ExitStack() as locks:
            for stage in sorted(stages, key=lambda stage: stage.key):  # one order for all: no two wait for each other
                waiting = f"{stage}: another process is making it, waiting"
                locks.enter_context(
                    self.disk.lock(f"{stage.kind}/{stage.key}.lock", lambda text=waiting: say(text))  # type: ignore[misc]
                )
            # asked again now that nobody else is at work: they may have been made while we waited
            missing = [stage for stage in stages if not self.is_ready(stage, verify=True)]
            for stage in missing:
                if harm := self.harm(stage):
                    say(f"{stage}: {harm} damaged, made anew")
            yield missing

    def verify(self, stage: Stage[Any]) -> None:
        """Refuse a finished stage that is not as it was written."""
        if not self.is_ready(stage, verify=True):
            raise Damaged(stage, self.harm(stage), self.home)

    def void(self, damage: Damaged) -> None:
        """Have what is damaged made anew, unless somebody is at work on it already: as if it had not been finished."""
        stage = damage.stage
        with self.disk.lock_if_free(f"{stage.kind}/{stage.key}.lock") as free:
            at = self.at(stage)
            if not free:
                raise damage
            if isinstance(stage, Mapped) and self.manifest(stage) is not None:
                for unit in self.missing(stage, verify=True):
                    at.remove(receipt_name(unit))
            else:
                at.remove(MANIFEST)
        say(f"{stage}: {damage.harm} damaged, made anew")
        self._loaded = Recent(LOADED)  # others may have been made of it

    def harm(self, stage: Stage[Any]) -> str:
        """What of a stage that was finished is not as it was written: the subject of a sentence, or nothing."""
        at, manifest = self.at(stage), self.manifest(stage)
        if manifest is None:
            return f"{MANIFEST} is" if at.exists(MANIFEST) else ""
        if not isinstance(stage, Mapped):
            return ", ".join(found) + " is" if (found := harmed(at, manifest, verify=True)) else ""
        bad = [unit for unit in self.missing(stage, verify=True) if at.exists(receipt_name(unit))]
        return f"{len(bad)} of its parts {'are' if len(bad) > 1 else 'is'}" if bad else ""

    def write_part(self, stage: Mapped[Any], unit: int, part: Part, seconds: float) -> Receipt:
        """A unit of a stage: the part, and last its receipt."""
        at, digest = self.at(stage), sha256(part.data).hexdigest()
        receipt = Receipt(
            part_name(unit, digest, stage.suffix), len(part.data), digest, part.rows,
            seconds if part.seconds is None else part.seconds, part.counters, part.micro_batch, part.starts,
        )  # fmt: skip
        at.write(receipt.part, part.data)  # a name of other bytes is another, so no reader's part changes
        at.write(receipt_name(unit), sealed(asdict(receipt)))
        return receipt

    def close(self, stage: Stage[Any], outcome: Outcome, seconds: float) -> None:
        """The files of a stage, and last its manifest."""
        at = self.at(stage)
        for name, data in outcome.files.items():
            at.write(name, data)
        took = seconds if outcome.seconds is None else outcome.seconds
        manifest = Manifest(
            stage.kind, stage.key, stage.version, stage.settings, stage.keys_of_inputs, stage.helpers, environment(),
            took, outcome.calls, list(outcome.history), outcome.result,
            {name: sha256(data).hexdigest() for name, data in outcome.files.items()}, outcome.counts,
        )  # fmt: skip
        at.write(MANIFEST, sealed(manifest.to_json()))  # what lies there without it is nobody's, and is made again

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
        place = f"index/{hash_of([dataset.name, str(Path(dataset.path).expanduser().resolve()), READER])}.json"
        facts: Facts = read_or_say(self.disk, place, "its files are looked at again") or {}
        known = json.dumps(facts)
        try:
            return dataset.open(facts)
        finally:
            # also if it ended in an error: files that were read by then need not be read again
            if json.dumps(facts) != known:
                self.disk.write(place, sealed(facts))

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
            known = read_or_say(self.disk, place, "its files are hashed again")
            if known is None or "identity" not in known:
                known = {"identity": identity(thing)}
                self.disk.write(place, sealed(known))
            self._identified[thing] = known["identity"]
        return str(self._identified[thing])

    # --- cleaning ---

    def unneeded(self) -> list[tuple[str, str]]:
        """Artefacts that were never finished, or that no run refers to, finished or begun; each with the reason."""
        wanted = self.records.wanted()
        return [(name, why) for name in self.artefacts() if (why := self._unneeded(name, wanted))]

    def artefacts(self) -> Iterator[str]:
        """Every artefact there is, of whatever kind: a folder whose name is a key."""
        for kind in self.disk.list(""):
            for key in self.disk.list(kind):
                # with a dot: moved aside by a `clean` that did not come to its end
                if (len(key) == 32 or key.startswith(".")) and self.disk.local(f"{kind}/{key}").is_dir():
                    yield f"{kind}/{key}"

    def _unneeded(self, name: str, wanted: set[str]) -> str:
        """Why an artefact could go, or nothing."""
        if name.partition("/")[2].startswith(".") or not self.disk.exists(f"{name}/{MANIFEST}"):
            return "unfinished"
        return "" if name in wanted else "no run refers to it"

    def remove(self, name: str, why: str) -> bool:
        """Take an artefact away, unless somebody is at work on it or has finished it meanwhile."""
        with self.disk.lock_if_free(f"{name}.lock") as free:
            # asked again under the lock: since they were listed, a run may have begun to use it
            if not free or self._unneeded(name, self.records.wanted()) != why:
                return False
            self.disk.remove(self.disk.move_aside(name))  # aside first: being killed here leaves no half an artefact
            return True

    def read_json(self, name: str) -> Any:
        """What a note says, or None when there is none that can be read."""
        return read_note(self.disk, name)


def alike(kind: str, settings: Mapping[str, Any]) -> str:
    """What stages have in common that take about as long: all but whose images and which seed."""
    return hash_of([kind, {name: value for name, value in settings.items() if name not in ("seed", "k", "utilize")}])


def harmed(at: Disk, manifest: Manifest, *, verify: bool) -> list[str]:
    """Files that are not there as the manifest has them; to `verify` is to hash them as well."""

    def is_whole(name: str, digest: str) -> bool:
        return at.exists(name) and not (verify and sha256(at.read(name)).hexdigest() != digest)

    return [name for name, digest in (manifest.files or {}).items() if not is_whole(name, digest)]


def environment() -> dict[str, Any]:
    """What made an artefact, for the manifest; it is not part of the key."""
    made = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "python": platform.python_version()}
    return made | {"machine": platform.machine(), "libraries": {name: version(name) for name in LIBRARIES}}
