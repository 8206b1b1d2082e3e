"""Settings: frozen validated values that travel as JSON, and the seeds and hashes made of them."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib
import json
import pkgutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_args

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


@functools.cache  # a sweep of thousands of points asks tens of thousands of times
def hints_of(cls: type, marks: bool = False) -> dict[str, Any]:
    """The annotations of a class, bare or with their marks."""
    return typing.get_type_hints(cls, include_extras=marks)


_adapter: Callable[[type], TypeAdapter[Any]] = functools.cache(TypeAdapter)  # as above
PACKAGES: set[str] = set()  # by name, those that have settings of their own


class UserError(ValueError):
    """A mistake that the user can mend: shown as one line, exit code 2."""

    def __init__(self, message: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(": ".join(filter(None, [".".join(path), message])))
        self.message, self.path = message, path


class Failed(RuntimeError):
    """What could not be finished, said in one line: no mistake that was seen beforehand, exit code 1."""


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
        PACKAGES.add(cls.__module__.partition(".")[0])
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


class Kinded:
    """Marks a field that holds any subclass of its annotated base; its JSON carries the class."""

    def __get_pydantic_core_schema__(self, base: Any, _: Any) -> core_schema.CoreSchema:
        # no untagged union: pydantic loads one as its first fitting member and drops what only a subclass has, silently
        write = core_schema.plain_serializer_function_ser_schema(to_json)
        return core_schema.no_info_plain_validator_function(functools.partial(_validate, base), serialization=write)


_NOT_KEYED, _BY_CONTENT = "not in the key", "a file that enters the key by its content"
_KEY_NAME = "_key_name"
OneOf = Annotated[T, Kinded()]
NotKeyed = Annotated[T, _NOT_KEYED]
ContentOf = Annotated[T, _BY_CONTENT]


def key_name(cls: type) -> str:
    """What keys call a class: a name of its own, not inherited, or where it lies."""
    return str(cls.__dict__.get(_KEY_NAME, f"{cls.__module__}:{cls.__qualname__}"))


def to_json(value: Any) -> dict[str, Any]:
    """Plain JSON of a settings value, its class named first."""
    # where the class lies now, for loading; keys use `key_name`, which stays when it moves
    kind = f"{type(value).__module__}:{type(value).__qualname__}"
    return {"kind": kind, **_adapter(type(value)).dump_python(value, mode="json")}


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
        return cast(T, _adapter(cls).validate_python(data))
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
        near = did_you_mean(path[-1], fields) if fields else "; it has none: are its fields below @settings?"
        return UserError(f"no such setting of {owner.__name__}{near}", path)
    # what is missing has no value to show, and a validator's message says what it needs to
    got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    return UserError(first["msg"].removeprefix("Value error, ") + got, path)


def class_at(cls: type, path: tuple[str, ...]) -> type:
    """The settings class annotated at `path` below `cls`."""
    for name in path:
        hint = hints_of(cls)[name]
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
    hints = hints_of(cls, marks=True)
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
