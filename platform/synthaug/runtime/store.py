"""The store: every artefact at the hash of what made it, written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from synthaug.data.dataset import Dataset
from synthaug.data.folder import Facts
from synthaug.data.listing import Listing
from synthaug.experiment import STAGES, Experiment, Node, files_behind, identity
from synthaug.settings import UserError, hash_of
from synthaug.weights import Weights

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "ray", "mlflow", "numpy", "pyarrow")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Artefact:
    """A finished stage: where it lies, what its manifest says, and what this call had to do for it."""

    node: Node
    path: Path
    manifest: dict[str, Any]
    cached: bool
    seconds: float

    def summary(self) -> dict[str, Any]:
        return {"key": self.node.key, "path": str(self.path), "cached": self.cached, "seconds": round(self.seconds, 3)}


class Store:
    """Artefacts below `home`/store, written so that being killed at any moment loses nothing finished."""

    def __init__(self, home: str | Path) -> None:
        self.home = Path(home).expanduser().absolute()
        self.root = self.home / "store"
        self._known: dict[Dataset | Weights | Path, Any] = {}  # opened or hashed by this process already
        self._nodes: dict[Experiment, dict[str, Node]] = {}

    def prepare(self) -> Store:
        """Make the home, or say why that cannot be."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"cannot write to the home {str(self.home)!r}: {error.strerror}; choose one with --home DIR"
            ) from None
        return self

    # --- stages ---

    def nodes(self, experiment: Experiment) -> dict[str, Node]:
        """The stages of an experiment, by what its data and models are when this process first asks."""
        if experiment not in self._nodes:
            self._nodes[experiment] = experiment.nodes(self.identify)
        return self._nodes[experiment]

    def folder(self, node: Node) -> Path:
        return self.root / node.stage / node.key

    def manifest(self, node: Node) -> dict[str, Any] | None:
        manifest: dict[str, Any] | None = read_json(self.folder(node) / "manifest.json")
        return manifest

    def stage(self, node: Node, make: Callable[[Path], dict[str, Any]], say: Say) -> Artefact:
        """The artefact of `node`: found, or made under its lock by `make(folder)`, which returns what to note of it."""
        wanted = {node.key: (node, lambda manifest: True)}
        return self.stages(wanted, lambda missing: {node.key: make(self.folder(node))}, say)[node.key]

    def stages(
        self,
        wanted: Mapping[str, tuple[Node, Callable[[dict[str, Any]], bool]]],
        make: Callable[[list[Node]], Mapping[str, dict[str, Any]]],
        say: Say,
    ) -> dict[str, Artefact]:
        """Several artefacts that are made together: those whose manifest is missing or not `ready` go to `make`."""
        started = time.monotonic()
        if missing := self._missing(wanted):
            with ExitStack() as locks:
                for key in sorted(missing):  # one order for everybody, so that no two wait for each other
                    locks.enter_context(self.lock(missing[key], say))
                missing = self._missing({key: wanted[key] for key in missing})
                for node in missing.values():
                    self.folder(node).mkdir(parents=True, exist_ok=True)
                notes = make(list(missing.values())) if missing else {}
                for key, node in missing.items():
                    self._close(node, notes[key])
        seconds = time.monotonic() - started
        found = {}
        for key, (node, _) in wanted.items():
            manifest = self.manifest(node)
            assert manifest is not None
            made = key in missing
            found[key] = Artefact(node, self.folder(node), manifest, not made, seconds / len(missing) if made else 0.0)
        return found

    def _missing(self, wanted: Mapping[str, tuple[Node, Callable[[dict[str, Any]], bool]]]) -> dict[str, Node]:
        manifests = {key: (node, self.manifest(node), ready) for key, (node, ready) in wanted.items()}
        return {
            key: node for key, (node, manifest, ready) in manifests.items() if manifest is None or not ready(manifest)
        }

    def _close(self, node: Node, notes: dict[str, Any]) -> None:
        about = {"stage": node.stage, "key": node.key, "version": node.version, "settings": node.settings}
        about |= {"inputs": [i.key for i in node.inputs], "made": environment()}
        write_json(self.folder(node) / "manifest.json", about | notes)

    @contextmanager
    def lock(self, node: Node, say: Say) -> Iterator[None]:
        """One process at a time makes an artefact; the kernel frees the lock when its holder dies."""
        path = self.root / node.stage / f"{node.key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, lambda: say(f"{node.stage} {node.key[:8]}: another process is making it, waiting")):
            yield

    # --- shards: a part file named by its bytes, and a receipt that is written last ---

    def write_part(self, folder: Path, number: int, data: bytes, receipt: dict[str, Any]) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        name = f"part-{number:05d}-{digest[:8]}.parquet"
        receipt = receipt | {"part": name, "bytes": len(data), "sha256": digest}
        write_bytes(folder / name, data)
        write_json(folder / f"part-{number:05d}.json", receipt)
        return receipt

    def receipt(self, folder: Path, number: int, *, read: bool = False) -> dict[str, Any] | None:
        """The receipt of a shard whose part is as it says; with `read` its bytes are hashed as well."""
        receipt = read_json(folder / f"part-{number:05d}.json")
        if not isinstance(receipt, dict) or not {"part", "bytes", "sha256", "rows"} <= receipt.keys():
            return None
        part = folder / Path(str(receipt["part"])).name
        honest = part.name == f"part-{number:05d}-{str(receipt['sha256'])[:8]}.parquet"
        if not (honest and part.is_file() and part.stat().st_size == receipt["bytes"]):
            return None
        if read and hashlib.sha256(part.read_bytes()).hexdigest() != receipt["sha256"]:
            return None
        return receipt

    def read_part(self, folder: Path, receipt: Mapping[str, Any]) -> bytes:
        return (folder / Path(str(receipt["part"])).name).read_bytes()

    # --- what data and models are ---

    def open(self, dataset: Dataset) -> Listing:
        """A data set; the facts of a folder's files are remembered by path, size and mtime."""
        if dataset not in self._known:
            self._known[dataset] = self._open(dataset)
        listing: Listing = self._known[dataset]
        return listing

    def _open(self, dataset: Dataset) -> Listing:
        if dataset.path is None:
            return dataset.open()
        place = self.root / "index" / f"{hash_of([dataset.name, str(Path(dataset.path).expanduser().resolve())])}.json"
        facts: Facts = read_json(place) or {}
        known = json.dumps(facts)
        try:
            return dataset.open(facts)
        finally:
            if json.dumps(facts) != known:
                write_json(place, facts)

    def identify(self, thing: Dataset | Weights | Path) -> str:
        """The digest of a data set's content, or of a model's weights (remembered by path, size and mtime)."""
        if isinstance(thing, Dataset):
            return self.open(thing).digest
        if thing not in self._known:
            stats = [
                (name, str(file), (stat := file.stat()).st_size, stat.st_mtime_ns)
                for name, file in files_behind(thing).items()
            ]
            place = self.root / "index" / f"model-{hash_of(stats)}.json"
            known = read_json(place) or {"identity": identity(thing)}
            if not place.exists():
                write_json(place, known)
            self._known[thing] = known["identity"]
        return str(self._known[thing])

    # --- records of what was run, for report and clean ---

    def begin(self, subject: dict[str, Any], nodes: Sequence[Node]) -> None:
        """Note what a run is about to make and use, so that `clean` leaves it alone."""
        write_json(self._place(subject, "begun"), {"artefacts": _names(nodes)})

    def record(self, subject: dict[str, Any], nodes: Sequence[Node], more: dict[str, Any]) -> None:
        write_json(self._place(subject), {"subject": subject, "artefacts": _names(nodes)} | more)
        self._place(subject, "begun").unlink(missing_ok=True)

    def recorded(self, subject: dict[str, Any], nodes: Sequence[Node]) -> dict[str, Any] | None:
        """What was noted when the same subject, with the same content behind it, was run to its end."""
        known: dict[str, Any] | None = read_json(self._place(subject))
        return known if known and known["artefacts"] == _names(nodes) else None

    def _place(self, subject: dict[str, Any], kind: str = "record") -> Path:
        return self.root / kind / f"{hash_of(subject)}.json"

    def records(self, kind: str = "record") -> list[dict[str, Any]]:
        return [r for p in sorted((self.root / kind).glob("*.json")) if (r := read_json(p)) is not None]

    def unneeded(self) -> list[tuple[Path, str]]:
        """Artefacts that were never finished, or that no run refers to, finished or begun."""
        wanted, folders = self._wanted(), [p for s in STAGES for p in sorted((self.root / s).glob("*")) if p.is_dir()]
        return [(folder, why) for folder in folders if (why := _unneeded(folder, wanted))]

    def _wanted(self) -> set[str]:
        return {name for kind in ("record", "begun") for record in self.records(kind) for name in record["artefacts"]}

    def remove(self, folder: Path, why: str) -> bool:
        """Take an artefact away, unless somebody is at work on it or has finished it meanwhile."""
        assert self.root in folder.parents
        with folder.with_suffix(".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if _unneeded(folder, self._wanted()) != why:
                return False
            (folder / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(folder)
            return True


def _unneeded(folder: Path, wanted: set[str]) -> str:
    """Why an artefact could go, or nothing."""
    if not (folder / "manifest.json").exists():
        return "unfinished"
    return "" if f"{folder.parent.name}/{folder.name}" in wanted else "no run refers to it"


def _names(nodes: Sequence[Node]) -> list[str]:
    """The artefacts of some nodes and of all that they are made from."""
    found, pending = set(), list(nodes)
    while pending:
        node = pending.pop()
        pending += node.inputs
        found |= {f"{node.stage}/{node.key}"} if node.stage in STAGES else set()
    return sorted(found)


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the file `path` alone; `waiting` is called once when somebody else holds it."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_bytes(path: Path, data: bytes) -> None:
    """The one way anything is written: whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in FULL:
            raise
        raise UserError(f"the disk is full ({path.parent}): free some space and run the same command again") from None


def write_json(path: Path, data: Any) -> None:
    write_bytes(path, json.dumps(data, indent=1, sort_keys=True).encode())


def read_json(path: Path) -> Any:
    """The JSON at `path`, or None when there is none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def environment() -> dict[str, Any]:
    """What made an artefact, for the manifest; it is not part of the key."""
    made = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "python": platform.python_version()}
    return made | {"machine": platform.machine(), "libraries": {name: version(name) for name in LIBRARIES}}
