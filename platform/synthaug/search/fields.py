"""Which fields of a space are there at a point: none that lies in something absent, none that decides nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from synthaug.settings import UserError

Fields = dict[str, Any]
Make = Callable[[Mapping[str, Any]], Any]  # a settings value with some fields replaced


def decides(value: Any, path: str) -> bool:
    """Whether a settings value has something at a dotted path that decides anything. Its class may name what does not,
    as it stands, in `idle`."""
    for name in path.split("."):
        if isinstance(value, list | tuple):
            value = value[int(name)] if name.isdigit() and int(name) < len(value) else None
            continue
        if name in getattr(value, "idle", ()):
            return False
        name = getattr(value, "ALSO", {}).get(name, name)
        if not dataclasses.is_dataclass(value) or name not in {field.name for field in dataclasses.fields(value)}:
            return False
        found = getattr(value, name)
        # what a method brings itself has settings too
        value = value.implied(name) if found is None and hasattr(value, "implied") else found
    return True


def fits(make: Make, point: Mapping[str, Any], name: str) -> bool:
    """Whether a field is there at a point, as far as that has been chosen; what does not go together has none."""
    try:
        return decides(make(point), name)
    except UserError:
        return False


def ripe(waiting: Collection[str], there: Callable[[str], bool]) -> list[str]:
    """Those of the fields that wait which can be chosen now: they are there, and what they lie in does not wait."""
    free = [name for name in waiting if not any(name.startswith(f"{other}.") for other in waiting)]
    return [name for name in free if there(name)]


def settled(make: Make, drawn: Mapping[str, Any]) -> Fields:
    """What of a drawn point is there, in the order of the space."""
    kept: Fields = {}

    def there(name: str) -> bool:
        return fits(make, kept, name)

    while found := ripe([name for name in drawn if name not in kept], there):
        kept.update({name: drawn[name] for name in found})
    value = make(kept)  # what is wrong with the values themselves is said here
    return {name: drawn[name] for name in drawn if name in kept and decides(value, name)}
