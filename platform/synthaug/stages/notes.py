"""Notes: the small JSON files that say what is known of an artefact or a run, each with a digest of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from typing import Any, TypeVar

T = TypeVar("T")
DIGEST = "digest"  # of all else in the note
MEND = "`synthaug doctor --deep --mend --home {home}` sets aside what is damaged, and `synthaug run` makes it anew"


def sealed(data: Mapping[str, Any]) -> bytes:
    """A note as it is written."""
    plain = json.loads(json.dumps(data))  # as it will be read: with names as text, which sorts otherwise than numbers
    # in their own order: in another one the arms of a search are another search
    return json.dumps(plain | {DIGEST: _digest(plain)}, indent=1).encode()


def unsealed(note: bytes) -> Any:
    """What a note says, or None where it is damaged. Those of older versions have no digest and are trusted."""
    try:
        data = json.loads(note)
    except (ValueError, RecursionError):  # neither JSON nor UTF-8
        return None
    if not isinstance(data, dict):
        return None
    if DIGEST not in data:
        return data
    digest = data.pop(DIGEST)
    return data if digest == _digest(data) else None


def noted(cls: type[T], data: Any) -> T | None:
    """A note (a receipt, a record) as it was read, or nothing where the file is none."""
    try:
        # of an older version what is missing has its default, of a newer one what is not known is passed by
        return cls(**{field.name: data[field.name] for field in fields(cls) if field.name in data})  # type: ignore[arg-type]
    except TypeError:  # no mapping, or one that lacks what every note has
        return None


def _digest(data: Mapping[str, Any]) -> str:
    # without an indent: Python writes one thirty times more slowly, and notes are read by the thousand
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
