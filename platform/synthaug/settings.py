"""Settings: frozen validated values that travel as JSON, and the seeds and hashes made of them."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import hashlib
import importlib
import json
import pkgutil
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import pydantic
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import core_schema

T = TypeVar("T")


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # which Python takes for 1
        raise ValueError(f"a number is needed, not {str(value).lower()}")
    return value


Count = Annotated[int, pydantic.BeforeValidator(_no_bool), pydantic.Field(ge=1)]
Share = Annotated[float, pydantic.BeforeValidator(_no_bool), pydantic.Field(ge=0, le=1)]


class UserError(ValueError):
    """A mistake that the user can mend: shown as one line, exit code 2."""

    def __init__(self, message: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(": ".join(filter(None, [".".join(path), message])))
        self.message, self.path = message, path


@dataclass_transform(frozen_default=True)
def settings(cls: type[T] | None = None, /, *, kw_only: bool = False, key: str | None = None) -> Any:
    """A frozen pydantic dataclass that refuses unknown fields and explains mistakes in one line.

    `key` is what keys and old JSON call the class, where that is not `module:Class`: the name under which it was first
    published. So a class can move to another file without costing anybody a cache.
    """
    # NaN and infinity have no place in JSON, and `canonical` refuses them: better here, where the field is known
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    make = pydantic.dataclasses.dataclass(frozen=True, kw_only=kw_only, config=config)

    def made(cls: type[T]) -> Any:
        found = _explained(make(cls))
        if key is not None:
            # on the class itself, so that a subclass is not called like its parent in keys
            setattr(found, _KEY_NAME, key)
        return found

    return made if cls is None else made(cls)


def _explained(cls: Any) -> Any:
    # for values that are made in Python; what comes as JSON is explained by `_validate`
    validate = cls.__init__

    @functools.wraps(validate)
    def __init__(self: Any, *args: Any, **fields: Any) -> None:
        try:
            validate(self, *args, **fields)
        except ValidationError as error:
            raise explain(error, type(self)) from None

    cls.__init__ = __init__
    return cls


class _Kinded:
    """Marks a field that holds any subclass of its annotated base; its JSON carries the class."""

    def __get_pydantic_core_schema__(self, base: Any, _: Any) -> core_schema.CoreSchema:
        # no untagged union: pydantic loads one as its first fitting member and drops what only a subclass has, silently
        write = core_schema.plain_serializer_function_ser_schema(to_json)
        return core_schema.no_info_plain_validator_function(functools.partial(_validate, base), serialization=write)


_NOT_KEYED, _BY_CONTENT = "not in the key", "a file that enters the key by its content"
_KEY_NAME = "_key_name"
OneOf = Annotated[T, _Kinded()]
NotKeyed = Annotated[T, _NOT_KEYED]
ContentOf = Annotated[T, _BY_CONTENT]


def key_name(cls: type) -> str:
    """What keys call a class: a name of its own, not inherited, or where it lies."""
    return str(cls.__dict__.get(_KEY_NAME, f"{cls.__module__}:{cls.__qualname__}"))


def to_json(value: Any) -> dict[str, Any]:
    """Plain JSON of a settings value, its class named first."""
    # where the class lies now, for loading; keys use `key_name`, which stays when it moves
    kind = f"{type(value).__module__}:{type(value).__qualname__}"
    return {"kind": kind, **TypeAdapter(type(value)).dump_python(value, mode="json")}


def from_json(base: type[T], data: Any) -> T:
    """The settings value that `data` describes: a value, a class name, or a mapping with a `kind`."""
    try:
        return _validate(base, data)
    except ValidationError as error:
        raise explain(error, base) from None


def _validate(base: type[T], data: Any) -> T:
    if isinstance(data, base):
        return data
    if isinstance(data, str):
        data = {"kind": data}
    if not isinstance(data, dict):
        raise UserError(f"needs a {base.__name__}, got {data!r}; choices: {', '.join(names(base))}")
    data = dict(data)
    cls = find_class(base, data.pop("kind")) if "kind" in data else base
    if cls.__dict__.get("__abstractmethods__"):
        raise UserError(f'needs "kind", one of {", ".join(names(base))}')
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        raise explain(error, cls) from None


def subclasses(base: type[T]) -> Iterator[type[T]]:
    """Every concrete class below `base` (and itself); a folder of variants is imported whole."""
    # a variant in a file that nobody has imported yet would be missing among the choices
    if base.__module__.endswith(".base"):
        package = importlib.import_module(base.__module__.rpartition(".")[0])
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    pending: list[type[T]] = [base]
    while pending:
        cls: type[T] = pending.pop()
        pending += cls.__subclasses__()
        if not getattr(cls, "__abstractmethods__", None):
            yield cls


def names(base: type[Any]) -> list[str]:
    return sorted(cls.__name__ for cls in subclasses(base))


def find_class(base: type[T], kind: str) -> type[T]:
    """The subclass of `base` called `kind`: `module:Class` as it is or was, or a bare name looked up below `base`."""
    module, colon, name = kind.partition(":")
    if not colon:
        for cls in subclasses(base):
            if cls.__name__ == kind:
                return cls
        raise UserError(f"no {base.__name__} is called {kind!r}{did_you_mean(kind, names(base))}")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, SyntaxError, NameError, TypeError, ValueError):
        # it has moved since, or is of a file that is not here or cannot be read just now
        found = next((cls for cls in subclasses(base) if key_name(cls) == kind), None)
        if found is None:
            raise UserError(f"there is no class {kind!r}") from None
    # JSON comes from anywhere: what it names must be of the kind that the field holds
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{kind} is no {base.__name__}; choices: {', '.join(names(base))}")
    return found


def did_you_mean(word: str, choices: list[str]) -> str:
    """`; did you mean x?`, or the choices when nothing is near."""
    near = difflib.get_close_matches(word, choices, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else f"; choices: {', '.join(choices) or 'none'}"


def explain(error: ValidationError, cls: type) -> UserError:
    """The first complaint of pydantic as one line with the path of the field and a way out."""
    # one line for people: the next complaint shows when this one is mended; a wrong name may be why one is missing
    first = min(error.errors(include_url=False), key=lambda found: found["type"] != "unexpected_keyword_argument")
    path = tuple(str(part) for part in first["loc"])
    inner = first.get("ctx", {}).get("error")
    # raised by a validator of ours deeper down: its path continues this one
    if isinstance(inner, UserError):
        return UserError(inner.message, path + inner.path)
    if first["type"] == "unexpected_keyword_argument":
        owner = class_at(cls, path[:-1])
        fields = [field.name for field in dataclasses.fields(owner)]
        return UserError(f"no such setting of {owner.__name__}{did_you_mean(path[-1], fields)}", path)
    # what is missing has no value to show, and a validator's message says what it needs to
    got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    return UserError(first["msg"].removeprefix("Value error, ") + got, path)


def class_at(cls: type, path: tuple[str, ...]) -> type:
    """The settings class annotated at `path` below `cls`."""
    for name in path:
        hint = get_type_hints(cls)[name]
        cls = next(arg for arg in (hint, *get_args(hint)) if isinstance(arg, type) and dataclasses.is_dataclass(arg))
    return cls


def keyed(value: Any, *, places: bool = False) -> Any:
    """What of a value enters a key: no field at its default, none marked NotKeyed, no name of a file.

    With `places` the marked ones enter too: the name of a record, which tells two folders apart, and yet stays the same
    when a class moves or is given a new field.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        left_out = set() if places else {_NOT_KEYED, _BY_CONTENT}
        given = {f: getattr(value, f.name) for f, marks in _fields(type(value)) if not left_out & marks}
        # a new field at its default leaves every older key as it was
        found = {f.name: keyed(v, places=places) for f, v in given.items() if v != _default(f)}
        return {"kind": key_name(type(value))} | found
    if isinstance(value, dict):
        return {key: keyed(item, places=places) for key, item in value.items()}
    # tuples and lists alike, as in JSON
    return [keyed(item, places=places) for item in value] if isinstance(value, list | tuple) else value


@functools.cache  # keys of a large sweep ask some hundred thousand times
def _fields(cls: type) -> tuple[tuple[dataclasses.Field[Any], frozenset[str]], ...]:
    """The fields of a settings class with their marks."""
    hints = get_type_hints(cls, include_extras=True)
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return tuple(
        (field, frozenset(mark for mark in marks[field.name] if isinstance(mark, str)))
        for field in dataclasses.fields(cls)
    )


def parts(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every settings value inside a value, and every file that one names (as a Path), by their dotted paths."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield path, value
        for field, marks in _fields(type(value)):
            inner, place = getattr(value, field.name), f"{path}.{field.name}".lstrip(".")
            # the name of a file: who asks wants to know what it holds
            if _BY_CONTENT in marks and inner is not None:
                yield place, Path(inner).expanduser()
            else:
                yield from parts(inner, place)
    elif isinstance(value, list | tuple | dict):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from parts(item, f"{path}.{name}".lstrip("."))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    # what is declared by pydantic's Field(...) has its default inside of that
    return getattr(field.default, "default", field.default)


def canonical(data: Any) -> bytes:
    """One byte string for equal JSON."""
    # sorted and without spaces: neither the order of fields nor the layout of a file changes a key
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_of(data: Any) -> str:
    """32 hex digits of what `data` says."""
    # 128 bits: short enough for the name of a folder, and no two meet by chance
    return hashlib.sha256(canonical(data)).hexdigest()[:32]


def seed_of(*parts: Any) -> int:
    """63 bits of randomness that belong to `parts` (JSON values) and to nothing else."""
    # not `canonical`: with other bytes here every image would be drawn from other noise than before
    digest = hashlib.blake2b(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# --- a copy with some fields replaced ---------------------------------------------------------------------------------


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
    hint = get_type_hints(owner, include_extras=True).get(name) if owner is not None else None
    if isinstance(new, dict) and isinstance(new.get("kind"), str) and hint is not None and not _says_kind(hint):
        return {key: value for key, value in new.items() if key != "kind"}
    return new


def _whole(owner: type | None, name: str, named: dict[str, str]) -> dict[str, Any]:
    """What is named, with its defaults, so that paths lead further down; as it is, if it needs more than a name."""
    hint = get_type_hints(owner).get(name) if owner is not None else None
    for base in [arg for arg in _flat(hint) if isinstance(arg, type) and arg.__module__ != "builtins"]:
        try:
            return to_json(from_json(base, dict(named)))
        except UserError:
            continue
    return dict(named)


def _held(owner: type | None, name: str) -> type | None:
    """The one class of settings that a field can hold, if it is one."""
    hint = get_type_hints(owner).get(name) if owner is not None else None
    found = [arg for arg in _flat(hint) if isinstance(arg, type) and dataclasses.is_dataclass(arg)]
    return found[0] if len(found) == 1 else None


def _says_kind(hint: Any) -> bool:
    marks = getattr(hint, "__metadata__", ())
    return any(isinstance(mark, _Kinded) for mark in marks) or any(map(_says_kind, get_args(hint)))


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
    hint = get_type_hints(owner).get(name) if owner is not None else None
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
    hint = get_type_hints(cls)[name] if not above else Any
    bases = [arg for arg in _flat(hint) if isinstance(arg, type) and dataclasses.is_dataclass(arg)]
    choices = sorted({choice for base in bases for choice in names(base)})
    return f"is None, so it has no settings; set {name} first, one of: {', '.join(choices) or 'nothing yet'}"


def _flat(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (None, types.UnionType) and not get_args(hint):
        yield hint
    for arg in get_args(hint):
        yield from _flat(arg)
