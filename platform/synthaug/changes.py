"""A copy of a settings value with fields replaced by their dotted paths, as --set and the arms of a sweep do."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from synthaug.settings import (
    Kinded,
    UserError,
    did_you_mean,
    find_class,
    from_json,
    hints_of,
    names,
    subclasses,
    to_json,
)


def jsonable(value: Any) -> Any:
    """Settings as JSON, so that a sweep equals itself after a journey as JSON."""
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return to_json(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def replace(value: Any, fields: Mapping[str, Any]) -> Any:
    """A copy of a settings value with the fields at dotted paths replaced, validated as a whole."""
    data = to_json(value)
    # by way of JSON, because a dotted path leads through several classes, and all their validators must see the whole
    for path, new in fields.items():
        # a copy: a later path may lead into it, and an arm of a sweep must stay as it is
        _set(type(value), data, path, copy.deepcopy(jsonable(new)))
    return from_json(type(value), data)


def _set(cls: type, data: Any, path: str, new: Any) -> None:
    *parents, last = path.split(".")
    here: type | None = cls  # the class whose fields come next, where JSON does not say
    for depth, name in enumerate(parents):
        if isinstance(data, list) and name.isdigit() and int(name) < len(data):
            data = data[int(name)]
            continue
        owner = _owner(here, data)
        if isinstance(data, dict) and data.get(name, data) is None:
            data[name] = _implied(owner, data, name)
        if not isinstance(data, dict) or data.get(name) is None:
            raise UserError(_no_way(cls, data, tuple(parents[:depth]), name), tuple(parents[: depth + 1]))
        if isinstance(data[name], str):  # what was named just before
            data[name] = _whole(owner, name, _named(owner, name, data[name]))
        data, here = data[name], _held(owner, name)
    owner = _owner(here, data)
    if owner is not None and hasattr(owner, "spelled"):
        last, new = owner.spelled(last, new)
    if isinstance(data, dict):
        data[last] = _bare(owner, last, new)
    elif isinstance(data, list) and last.isdigit() and int(last) < len(data):
        data[int(last)] = new
    else:
        many = f"{len(data)} of them are there" if isinstance(data, list) else f"{data!r} has no settings"
        raise UserError(f"there is no {last!r}: {many}; give {'.'.join(parents)} as a whole", tuple(path.split(".")))


def _bare(owner: type | None, name: str, new: Any) -> Any:
    """JSON for a field: where it holds one class alone, which one is not said."""
    hint = hints_of(owner, marks=True).get(name) if owner is not None else None
    if isinstance(new, dict) and isinstance(new.get("kind"), str) and hint is not None and not _says_kind(hint):
        return {key: value for key, value in new.items() if key != "kind"}
    return new


def _whole(owner: type | None, name: str, named: dict[str, str]) -> dict[str, Any]:
    """What is named, with its defaults, so that paths lead further down; as it is, if it needs more than a name."""
    hint = hints_of(owner).get(name) if owner is not None else None
    for base in [arg for arg in _flat(hint) if isinstance(arg, type) and arg.__module__ != "builtins"]:
        try:
            return to_json(from_json(base, dict(named)))
        except UserError:
            continue
    return dict(named)


def _held(owner: type | None, name: str) -> type | None:
    """The one class of settings that a field can hold, if it is one."""
    hint = hints_of(owner).get(name) if owner is not None else None
    found = [arg for arg in _flat(hint) if isinstance(arg, type) and dataclasses.is_dataclass(arg)]
    return found[0] if len(found) == 1 else None


def _says_kind(hint: Any) -> bool:
    marks = getattr(hint, "__metadata__", ())
    return any(isinstance(mark, Kinded) for mark in marks) or any(map(_says_kind, get_args(hint)))


def _owner(cls: type | None, data: Any) -> type | None:
    """The class whose fields some JSON holds."""
    kind = data.get("kind") if isinstance(data, dict) else None
    try:
        return find_class(object, kind) if isinstance(kind, str) and ":" in kind else cls
    except UserError:
        return cls


def _implied(owner: type | None, data: Any, name: str) -> Any:
    """What a field stands for that is None, where its class can say."""
    if owner is None or not hasattr(owner, "implied"):
        return None
    try:
        found: Any = from_json(owner, data).implied(name)
    except UserError:  # it is not whole yet: what is wrong with it is said in the end
        return None
    return None if found is None else to_json(found)


def _named(owner: type | None, name: str, text: str) -> dict[str, str]:
    """What a bare string names: a class or, in a field of models, a model."""
    hint = hints_of(owner).get(name) if owner is not None else None
    bases = [arg for arg in _flat(hint) if isinstance(arg, type) and dataclasses.is_dataclass(arg)]
    models = [cls for base in bases for cls in subclasses(base) if "model" in {f.name for f in dataclasses.fields(cls)}]
    if models and text not in {choice for base in bases for choice in names(base)}:
        return {"kind": f"{models[0].__module__}:{models[0].__qualname__}", "model": text}
    return {"kind": text}


def _no_way(cls: type, data: Any, above: tuple[str, ...], name: str) -> str:
    """Why a path ends at `name`: misspelt, or nothing is set there yet."""
    if not isinstance(data, dict) or name not in data:
        return f"no such setting{did_you_mean(name, list(data) if isinstance(data, dict) else [])}"
    # deeper down JSON does not tell which class a None could have become, so no choices are named
    hint = hints_of(cls)[name] if not above else Any
    bases = [arg for arg in _flat(hint) if isinstance(arg, type) and dataclasses.is_dataclass(arg)]
    choices = sorted({choice for base in bases for choice in names(base)})
    return f"is None, so it has no settings; set {name} first, one of: {', '.join(choices) or 'nothing yet'}"


def _flat(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (None, types.UnionType) and not get_args(hint):
        yield hint
    for arg in get_args(hint):
        yield from _flat(arg)
