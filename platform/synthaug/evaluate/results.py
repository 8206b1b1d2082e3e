"""What a measurement returns, looked at before it is stored and when it is read: numbers that are none, or that take
the place of others, would be compared without a word."""

from __future__ import annotations

import base64
import inspect
import io
import json
import math
import posixpath
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from synthaug.evaluate.base import Measurement, Result
from synthaug.settings import UserError, did_you_mean

LONGEST = 250  # MLflow's limit for a name
EXAMPLE = '{"metrics": {"test/mine": 0.93}}'
# numbers of what is made and trained, and of all the seeds of a point
NUMBERS = ("train/set", "val/top1", "val/loss", "denoiser/gflops", "seeds", "behind")
REPORTED = ("train/loss", "train/top1", "lr", "epoch", "step")  # while a net is trained
PREFIXES = ("cost/", "gen/", "time/", "slow/", "judge/", "guide/", "final/")
ACCURACY = ("top1", "top5", "loss", "ece")  # by which everything is compared
FAMILIES = (
    "fidelity/", "leak/", "recognised/", "memorised/", "transformed/", "faithful/", "denoising/", "answers/",
)  # fmt: skip


def check_result(measurement: Measurement, found: Any, *, own: bool) -> Result:
    """What a measurement returned, as plain JSON values; refused where it is no result, or where one of the user's
    `own` calls its numbers as the package calls others."""
    try:
        result = _result(found)
        for metric in result["metrics"] if own else ():
            if _is_taken(measurement, metric):
                said = f"the metric {metric!r}, a name that synthaug itself gives to another number"
                raise UserError(f"{said}; call it otherwise, such as {_other_name(measurement, metric)!r}")
    except UserError as error:
        raise UserError(f"{type(measurement).__name__} returned {error.message}") from None
    return result


def check_rows(measurement: Measurement, found: Any) -> list[dict[str, Any]]:
    """The same for what is found of some images, of which the result is made later."""
    name = f"{type(measurement).__name__}.rows"
    if not isinstance(found, list | tuple) or not all(isinstance(row, Mapping) for row in found):
        raise UserError(f"{name} returned {_shown(found)}, not a list with a dict for each image")
    try:
        return cast(list[dict[str, Any]], _json(found))
    except UserError as error:
        raise UserError(f"{name} returned {error.message}") from None


def _result(found: Any) -> Result:
    if not isinstance(found, Mapping) or "metrics" not in found:
        raise UserError(f'{_shown(found)}, not a dict with "metrics", such as {EXAMPLE}')
    if unknown := [name for name in found if name not in PARTS]:
        near = did_you_mean(unknown[0], list(PARTS)) if isinstance(unknown[0], str) else ""
        raise UserError(f"{unknown[0]!r}{near}, which is no part of a result; those are {', '.join(PARTS)}")
    return cast(Result, {name: PARTS[name](value) for name, value in found.items()})


def _is_taken(measurement: Measurement, metric: str) -> bool:
    """Whether the package gives that name to numbers of something else."""
    title = getattr(measurement, "title", "test")
    taken = {*NUMBERS, *REPORTED, *(f"{split}/{name}" for split in (title, "test") for name in ACCURACY)}
    # one that measures the training images calls its numbers so
    prefixes = PREFIXES if title.partition("/")[0] == "train" else (*PREFIXES, "train/")
    # who extends one of the package's own writes that one's numbers
    extends = any(c.__module__.startswith("synthaug.") and not inspect.isabstract(c) for c in type(measurement).mro()
                  if issubclass(c, Measurement))  # fmt: skip
    return metric in taken or metric.startswith(prefixes if extends else (*prefixes, *FAMILIES))


def _other_name(measurement: Measurement, metric: str) -> str:
    return f"{getattr(measurement, 'title', 'mine')}/{type(measurement).__name__.lower()}/{metric.rpartition('/')[2]}"


# --- the parts of a result --------------------------------------------------------------------------------------------


def _metrics(found: Any) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise UserError(f"{_shown(found)} as its metrics, not a dict of names and numbers, such as {EXAMPLE}")
    for name in found:
        # MLflow's rule: it takes names for paths
        if not _is_path(name) or not re.fullmatch(r"[/\w.\- :]+", name) or len(name) > LONGEST:
            said = f"letters, digits, _ - . : and spaces between single slashes, {LONGEST} characters at most"
            raise UserError(f"{_shown(name)} as the name of a metric, not {said}")
    return {name: _number(value, f"the metric {name!r}") for name, value in found.items()}


def _per_class(found: Any) -> dict[str, float | None]:
    wanted = "a dict with a number, or None, for each class"
    if not isinstance(found, Mapping) or not all(isinstance(name, str | int) for name in found):
        raise UserError(f"{_shown(found)} as per_class, not {wanted}")
    # JSON knows no other names than text
    return {str(n): None if v is None else _number(v, f"class {n!r} of per_class") for n, v in found.items()}


def _confusion(found: Any) -> list[list[int]]:
    rows = found if isinstance(found, list | tuple) else ()
    if not rows or not all(isinstance(row, list | tuple) and len(row) == len(rows) for row in rows):
        raise UserError(f"{_shown(found)} as confusion, not as many equally long lists as there are classes{_LISTS}")
    return [_counts(row) for row in rows]


def _counts(row: Sequence[Any]) -> list[int]:
    if _kinds(row) == {int} and min(row) >= 0:  # of a thousand classes there are a million
        return list(row)
    found = [_number(count, "a count of confusion") for count in row]
    if wrong := [count for count in found if count < 0 or count != int(count)]:
        raise UserError(f"{_shown(wrong[0])} as a count of confusion")
    return [int(count) for count in found]


def _curve(found: Any, what: str) -> dict[str, Any]:
    label = found.get("label") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or set(found) != {"x", "y", "label"}:
        raise UserError(f"{_shown(found)} as {what}, not a dict of x, y and label")
    if not isinstance(label, list | tuple) or len(label) != 2 or _kinds(label) != {str}:
        raise UserError(f"{_shown(label)} as the label of {what}, not what x is and what y is, two texts")
    x, named = _numbers(found["x"], f"x of {what}"), isinstance(found["y"], Mapping)
    lines = {str(n): _numbers(y, f"y of {what}") for n, y in (found["y"] if named else {"": found["y"]}).items()}
    for y in lines.values():
        if len(y) != len(x):
            raise UserError(f"{len(y)} numbers as y of {what}, and {len(x)} as its x")
    return {"x": x, "y": lines if named else lines[""], "label": list(label)}


def _picture(found: Any, what: str) -> str:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(found, validate=True)), formats=["PNG"]) as image:
            image.verify()  # all of it is there; pixels take longer
    except Exception:  # whatever Pillow makes of bytes that are no image
        raise UserError(f"{_shown(found)} as {what}, not a PNG in base64, as figures.png makes it") from None
    return found if isinstance(found, str) else found.decode()


def _titled(each: Callable[[Any, str], Any], part: str) -> Callable[[Any], dict[str, Any]]:
    """Whatever there is of several, each under a title, which becomes the name of a file."""

    def read(found: Any) -> dict[str, Any]:
        if not isinstance(found, Mapping) or not all(_is_path(name) and len(name.encode()) < LONGEST for name in found):
            raise UserError(f"{_shown(found)} as {part}, not a dict by titles that can be names of files")
        return {name: each(value, f"{name!r} of {part}") for name, value in found.items()}

    return read


def _pairs(found: Any) -> list[dict[str, float]]:
    if not isinstance(found, list | tuple) or not all(isinstance(pair, Mapping) for pair in found):
        raise UserError(f"{_shown(found)} as pairs, not a list of dicts of numbers")
    return [{str(name): _number(value, f"{name!r} of a pair") for name, value in pair.items()} for pair in found]


def _about(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise UserError(f"{_shown(found)} as about, not a dict")
    return cast(Mapping[str, Any], _json(found, " in about"))


PARTS: dict[str, Callable[[Any], Any]] = {
    "metrics": _metrics, "per_class": _per_class, "confusion": _confusion, "about": _about,
    "pictures": _titled(_picture, "pictures"), "curves": _titled(_curve, "curves"), "pairs": _pairs,
}  # fmt: skip
_LISTS = " (.tolist() makes them of an array)"


# --- plain values -----------------------------------------------------------------------------------------------------


def _number(value: Any, what: str) -> float:
    plain = _scalar(value)
    # a bool, which Python takes for 1, is none
    if type(plain) is bool or not isinstance(plain, int | float) or not _is_finite(plain):
        raise UserError(f"{_shown(value)} as {what}, not a finite number")
    return int(plain) if isinstance(plain, int) else float(plain)


def _numbers(found: Any, what: str) -> list[float]:
    if not isinstance(found, list | tuple):
        raise UserError(f"{_shown(found)} as {what}, not a list of numbers{_LISTS}")
    return [_number(value, f"a number in {what}") for value in found]


def _scalar(value: Any) -> Any:
    """What a scalar of numpy or torch holds; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _json(found: Any, where: str = "") -> Any:
    """As it will be read again."""

    def plain(value: Any) -> Any:
        if (held := _scalar(value)) is value:
            raise UserError(f"{_shown(value)}{where}, which JSON does not know{_LISTS}")
        return held

    try:
        return json.loads(json.dumps(found, default=plain, allow_nan=False))
    except UserError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # names that are no text, NaN, what holds itself
        raise UserError(f"what is no JSON{where} ({error})") from None


def _is_path(name: Any) -> bool:
    """Whether a name stays what it is where it is taken for a path."""
    return (
        isinstance(name, str) and posixpath.normpath(name) == name and name != "." and "\0" not in name
        and not name.startswith(("..", "/"))
    )  # fmt: skip


def _kinds(values: Iterable[Any]) -> set[type]:
    return set(map(type, values))


def _shown(value: Any) -> str:
    """A value in an error: what it is, and as much of it as goes into one line."""
    if value is None:
        return "None"
    return f"{type(value).__name__} {' '.join(reprlib.repr(value).split())}"
