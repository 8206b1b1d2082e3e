"""Shards: a unit of a mapped stage is a part file named by its bytes, and a receipt, written last, that names it."""

from __future__ import annotations

from hashlib import sha256

from synthaug.settings import UserError
from synthaug.stages.base import Folder, Receipt
from synthaug.stages.notes import MEND, noted, unsealed


def receipt_name(number: int) -> str:
    return f"part-{number:05d}.json"


def part_name(number: int, digest: str, suffix: str) -> str:
    # named by its bytes: another outcome is another file, and never changes one that somebody is reading
    return f"part-{number:05d}-{digest[:8]}.{suffix}"


def receipt_of(at: Folder, number: int, suffix: str, *, read: bool = False) -> Receipt | None:
    """The receipt of a unit whose part is as it says: there, and as long; with `read` its bytes are hashed as well."""
    try:
        found = noted(Receipt, unsealed(at.read(receipt_name(number))))
        if found is None or found.part != part_name(number, found.sha256, suffix):
            return None  # a name of somebody's own could lead out of the folder
        # cheap, because it is asked of all units of each run
        if at.size(found.part) != found.bytes:
            return None
        if read and sha256(at.read(found.part)).hexdigest() != found.sha256:
            return None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found


def _home(at: Folder) -> str:
    """That of an artefact: HOME/store/KIND/KEY."""
    return str(at.local().parents[2])


def read_part(at: Folder, number: int, suffix: str) -> bytes:
    """The bytes of a unit, refused if they are not those that were written."""
    # hashed below in any case: what was damaged since it was written must not be trained on
    receipt = receipt_of(at, number, suffix)
    data = b"" if receipt is None else at.read(receipt.part)
    if receipt is None or sha256(data).hexdigest() != receipt.sha256:
        raise UserError(f"shard {number} in {at.local()} is damaged or missing; {MEND.format(home=_home(at))}")
    return data
