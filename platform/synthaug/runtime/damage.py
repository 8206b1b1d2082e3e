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
    gone: bool = False  # nothing is left of it that could be set aside


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
    named = {name for record in store.records.all() for name in record.artefacts}
    for artefact in sorted(name for name in named if not store.disk.exists(f"{name}/{MANIFEST}")):
        yield Damage(f"store/{artefact}", "not there, though a run that has ended names it", gone=True)
    for artefact in store.artefacts():
        if "/." not in artefact:  # moved aside by `clean`
            at = store.disk.at(artefact)
            yield from (Damage(f"store/{artefact}/{file}", why) for file, why in _of(at))
            if lost := _without_receipt(at):
                yield Damage(f"store/{artefact}", f"the receipts of {lost} of its images are not there", gone=True)


def _of(at: Disk) -> Iterator[tuple[str, str]]:
    """Files of an artefact, and why they are no good."""
    if at.exists(MANIFEST):
        manifest = Manifest.from_json(read_note(at, MANIFEST))
        if manifest is None:
            yield MANIFEST, "no manifest"
        else:
            for name in harmed(at, manifest, verify=True):
                yield name, "other bytes than were written" if at.exists(name) else "gone"
    for name, (number, receipt) in _receipts(at).items():
        if receipt is None:
            yield name, "no receipt"
        elif receipt_of(at, number, receipt.part.rpartition(".")[2], read=True) is None:
            yield name, f"{receipt.part} is gone or has other bytes than were written"


def _receipts(at: Disk) -> dict[str, tuple[int, Receipt | None]]:
    """The number of each and what it says, None of those that are damaged."""
    found = {name: re.fullmatch(r"part-(\d+)\.json", name) for name in at.list("")}
    return {name: (int(number[1]), noted(Receipt, read_note(at, name))) for name, number in found.items() if number}


def _without_receipt(at: Disk) -> int:
    """How many of the images that a manifest counts no receipt does, damaged ones apart."""
    manifest = Manifest.from_json(read_note(at, MANIFEST))
    receipts = [receipt for _, receipt in _receipts(at).values()]
    if manifest is None or None in receipts:
        return 0
    wanted = int(manifest.counts.get("rows", 0))
    return max(0, wanted - sum(receipt.rows for receipt in receipts if receipt))


def set_aside(store: Store, damage: Damage) -> None:
    """Out of the way, with what says of it that it is there."""
    home = Disk(store.home)
    manifest = "/".join([*damage.file.split("/")[:3], MANIFEST])  # store/KIND/KEY
    part = re.search(r"/part-\d+\.json$", damage.file)
    for file in {damage.file} if part else {damage.file, manifest}:
        if home.exists(file):
            home.set_aside(file)
