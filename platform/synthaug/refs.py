"""REF: how people name an experiment or a sweep: experiments/file.py:function, a .json, and one row of a sweep."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from synthaug.experiment import Experiment, Sweep, read, replace
from synthaug.progress import say
from synthaug.runtime.rows import row_of
from synthaug.runtime.theirs import place_of
from synthaug.settings import UserError, did_you_mean


def import_file(file: str) -> ModuleType:
    """A file of experiments as the module that workers will import: the folder above experiments/ goes on the path."""
    path = Path(file).absolute()
    if not path.is_file():
        raise UserError(f"there is no file {file!r}")
    above = [parent for parent in path.parents if parent.name == "experiments"]
    # the module must have the name that is in its experiments' JSON (`kind`), wherever the command was given
    root = above[0].parent if above else path.parent
    parts = path.relative_to(root).with_suffix("").parts
    if dotted := [part for part in parts if "." in part]:
        raise UserError(f"{file!r} cannot be imported, as {dotted[0]!r} has a dot in its name: call it otherwise")
    name = ".".join(parts)
    # first, also of those that are there already: each folder may have helpers of the same names
    sys.path[:] = [str(root), *(path for path in sys.path if path != str(root))]
    # two folders of experiments may hold files of one name; a process knows one module of each name
    known = sys.modules.get(name)
    if known is not None and Path(str(known.__file__)).resolve() != path.resolve():
        del sys.modules[name]
    try:
        return import_module(name)
    except SystemExit as error:
        raise UserError(f"{file} ends the program when it is imported (exit {error.code})") from None
    except Exception as error:  # a file of the user's may raise anything; ours goes on as it is
        raise _theirs(file, error) from error


def _theirs(file: str, error: Exception) -> Exception:
    """An error in a file of the user's, in one line that names theirs; ours stay as they are, with their traceback."""
    if isinstance(error, SyntaxError):
        return UserError(f"{file}: {type(error).__name__}: {error}")
    if isinstance(error, UserError):
        return UserError(f"{file}: {error}")
    place = place_of(error)
    if place is None and isinstance(error, ImportError | NameError):  # a name that is not there to import
        place = file
    return error if place is None else UserError(f"{place}: {type(error).__name__}: {error}")


def may_hold_subjects(file: str) -> bool:
    """Whether a file is worth importing, which takes a second where it needs torch: not if all that it has are helpers,
    which take arguments or return nothing."""
    try:
        body = ast.parse(Path(file).read_bytes()).body
    except (SyntaxError, ValueError):
        return True  # what is wrong with it is said by who imports it
    made_here = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    return not all(_is_helper(node, made_here) for node in body)


def _is_helper(node: ast.stmt, made_here: set[str]) -> bool:
    """Whether a statement at the top of a file leaves no function that returns an experiment; when in doubt, not."""
    if isinstance(node, ast.FunctionDef):
        takes = ast.unparse(node.args) and not node.decorator_list
        return bool(node.name.startswith("_") or takes or node.returns and ast.unparse(node.returns) == "None")
    if isinstance(node, ast.Assign | ast.AnnAssign):
        made = [inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)]
        lambdas = any(isinstance(inner, ast.Lambda) for inner in ast.walk(node))
        return not lambdas and not any(isinstance(func, ast.Name) and func.id in made_here for func in made)
    if isinstance(node, ast.If):
        return "__name__" in ast.unparse(node.test) or ast.unparse(node.test).endswith("TYPE_CHECKING")
    return isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef | ast.Expr)


def subjects_in(module: ModuleType) -> dict[str, Callable[[], Any]]:
    """The functions of a file that take nothing and say that they return an Experiment or a Sweep, or say nothing."""
    found: dict[str, Callable[[], Any]] = {}
    for name, function in vars(module).items():
        # what a file has imported from another is listed there
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
            told = _returned(function)
            names = {cls.__name__ for cls in getattr(told, "__mro__", ())} | {told}
            if (told is None or names & {"Experiment", "Sweep"}) and not inspect.signature(function).parameters:
                found[name] = function
    return found


def _returned(function: Callable[..., Any]) -> Any:
    """What a function says that it returns: a class, or its name where that is imported for type checkers alone; None
    where it says nothing."""
    written = inspect.get_annotations(function)
    if "return" not in written:
        return None
    try:
        # `-> None` is no class that fits
        return inspect.get_annotations(function, eval_str=True)["return"] or "None"
    except Exception:  # it may name anything, and so may its arguments
        return str(written["return"]).rpartition(".")[2]


def resolve(ref: str, changes: list[str]) -> tuple[str, Experiment | Sweep]:
    """The name and the value behind REF, with --set applied."""
    file, colon, rest = ref.partition(":")
    if file.endswith(".json"):
        if not Path(file).is_file():
            raise UserError(f"there is no file {file!r}")
        name, row = Path(file).stem, rest
        subject = _at(file, lambda: read(_subject_in(Path(file).read_bytes())))
    else:
        function, _, row = rest.partition(":")
        file = file if file.endswith(".py") else f"{file}.py"
        known = subjects_in(import_file(file))
        if not colon or function not in known:
            hint = did_you_mean(function, list(known)) if function else f"; it has: {', '.join(known) or 'none'}"
            raise UserError(f"{ref!r} names no experiment{hint}")
        name, subject = f"{Path(file).stem}:{function}", _called(ref, file, known[function])
    if row:
        if not isinstance(subject, Sweep):
            raise UserError(f"{ref!r}: only a sweep has rows, and {name} is one experiment")
        sweep = subject
        name, subject = f"{name}:{row}", _at(ref, lambda: row_of(sweep, row))
    fields = dict(_change(text) for text in changes)
    if isinstance(subject, Sweep):
        if "seed" in fields:
            raise UserError(f"{ref}: seed: a sweep has seeds; --set seeds=[{fields['seed']}]")
        # what is no field of the sweep itself is meant for its base: --set recipe.steps=10
        own = {path: value for path, value in fields.items() if path.partition(".")[0] in Sweep.__dataclass_fields__}
        for path in fields:
            if path not in own and (arms := [arm for arm, changes in subject.arms.items() if path in changes]):
                say(f"note: {path} is set by {', '.join(arms[:4])}{', ...' if len(arms) > 4 else ''} as before")
        fields = own | {f"base.{path}": value for path, value in fields.items() if path not in own}
    elif subject.method is None and "method" not in fields:
        for path in fields.keys() & {"k", "utilize"}:
            say(f"note: {path} is about generated images, and no method makes any")
    return name, _at(ref, lambda: replace(subject, fields)) if fields else subject


def named(found: Sequence[tuple[str, str, Experiment | Sweep]]) -> dict[str, Experiment | Sweep]:
    """Subjects by their names, by their REFs where two are called alike."""
    counts = Counter(name for _, name, _ in found)
    return {name if counts[name] == 1 else ref: subject for ref, name, subject in found}


def _subject_in(text: bytes) -> Any:
    """The JSON of a subject, or the one in what `show --json` and `run --json` print and in the store's records."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f"is no JSON: {error}") from None
    around = [name for name in ("experiment", "sweep", "subject") if isinstance(data, dict) and name in data]
    return data[around[0]] if around and "dataset" not in data else data


def _called(ref: str, file: str, function: Callable[[], Any]) -> Experiment | Sweep:
    """What a function of the user's gives."""
    try:
        subject = function()
    except UserError as error:
        raise UserError(f"{ref}: {error}") from None
    except SystemExit as error:
        raise UserError(f"{ref} ends the program (exit {error.code})") from None
    except Exception as error:  # as above
        raise _theirs(file, error) from error
    if not isinstance(subject, Experiment | Sweep):
        raise UserError(f"{ref} returns {type(subject).__name__}, not an Experiment or a Sweep")
    return subject


def _at(ref: str, make: Callable[[], Any]) -> Any:
    """What `make` gives; an error names the REF it belongs to."""
    try:
        return make()
    except UserError as error:
        raise UserError(f"{ref}: {error}") from None


def _change(text: str) -> tuple[str, Any]:
    """`path=value`: the value is JSON, else a string."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UserError(f"--set needs path=value, got {text!r}")
    as_python = {"None": None, "True": True, "False": False}
    if value in as_python:
        return path, as_python[value]
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value  # utilize=Replace needs no quotes
