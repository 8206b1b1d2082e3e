"""What of a home is not as it was written: all of it is read, and what is damaged can be set aside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from synthaug.runtime.database import NAME, trouble_of
from synthaug.runtime.disk import Disk
from synthaug.runtime.records import BEGUN, DONE, read_note
from synthaug.runtime.store import MANIFEST, Manifest, Store, harmed
from synthaug.stages.base import Receipt
from synthaug.stages.notes import noted
from synthaug.stages.shards import receipt_of

AGAIN = "made anew by the next run that needs it"
LOOSE = {
    "walls": "a search with a limit of wall time counts from now on",
    "failed": "what failed is tried again",
}  # notes about searches, by their folders


@dataclass(frozen=True)
class Damage:
    """A file below a home, what is wrong with it, and what comes of it once it is set aside."""

    file: str
    why: str
    then: str = AGAIN


def damages(store: Store) -> Iterator[Damage]:
    """All there are; a database is one, whatever is wrong in it."""
    if trouble := trouble_of(store.home / NAME):
        yield Damage(NAME, trouble, "its runs are written again from the store")
    for kind in (DONE, BEGUN):
        for file, record in store.records.found(kind).items():
            if record is None:
                yield Damage(f"store/{file}", "no record", "written again by the same command")
    for name in store.disk.list("index"):
        if read_note(store.disk, f"index/{name}") is None:
            yield Damage(f"store/index/{name}", "no index", "files are hashed again")
    for folder, then in LOOSE.items():
        for name in store.disk.list(folder):
            if read_note(store.disk, f"{folder}/{name}") is None:
                yield Damage(f"store/{folder}/{name}", "no note", then)
    for artefact in store.artefacts():
        if "/." not in artefact:  # moved aside by `clean`
            for file, why in _of(store.disk.at(artefact)):
                yield Damage(f"store/{artefact}/{file}", why)


def _of(at: Disk) -> Iterator[tuple[str, str]]:
    """Files of an artefact, and why they are no good."""
    if at.exists(MANIFEST):
        manifest = Manifest.from_json(read_note(at, MANIFEST))
        if manifest is None:
            yield MANIFEST, "no manifest"
        else:
            for name in harmed(at, manifest, verify=True):
                yield name, "other bytes than were written" if at.exists(name) else "gone"
    for name in at.list(""):
        if number := re.fullmatch(r"part-(\d+)\.json", name):
            receipt = noted(Receipt, read_note(at, name))
            suffix = "" if receipt is None else receipt.part.rpartition(".")[2]
            if receipt is None:
                yield name, "no receipt"
            elif receipt_of(at, int(number[1]), suffix, read=True) is None:
                yield name, f"{receipt.part} is gone or has other bytes than were written"


def set_aside(store: Store, damage: Damage) -> None:
    """Out of the way, with what says of it that it is there."""
    home = Disk(store.home)
    manifest = "/".join([*damage.file.split("/")[:3], MANIFEST])  # store/KIND/KEY
    part = re.search(r"/part-\d+\.json$", damage.file)
    for file in {damage.file} if part else {damage.file, manifest}:
        if home.exists(file):
            home.set_aside(file)
