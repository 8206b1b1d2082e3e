"""The command line: `synthaug VERB`. Verbs parse, call the runtime, and print; they decide nothing."""

from __future__ import annotations

import atexit
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

# What is slow to import is imported by the verb that needs it: --help answers within a second.
if TYPE_CHECKING:
    from synthaug.runtime.store import Store

# plain text: what the user can mend is one line of ours, our own faults are tracebacks of Python's
app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

REF = Annotated[
    str,
    typer.Argument(metavar="REF", help="experiments/file.py:function or a .json; with :ARM one row of a sweep alone"),
]
SET = Annotated[
    list[str], typer.Option("--set", metavar="PATH=VALUE", help="replace a field, e.g. method.strength=0.5")
]
HOME = Annotated[Path, typer.Option(envvar="SYNTHAUG_HOME", help="holds the store, MLflow's database and reports")]
JSON = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout, last")]
ADDRESS = Annotated[str | None, typer.Option(help="a running Ray cluster; default: start one here when needed")]
RUNS = Path("runs")
INTERRUPTED = 130  # what typer makes of Ctrl-C


def entry() -> NoReturn:
    """The console script: our own faults, with their traceback, are code 1."""
    try:
        code = main()
    except BrokenPipeError:
        # `synthaug list | head`: who reads has enough
        code = 0
    except KeyboardInterrupt:  # while something is imported, or Ray is stopped
        code = INTERRUPTED
    # os._exit passes them by, and Ray and MLflow have some
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python would take seconds to take apart all that is loaded


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 2 for what the user can mend, 1 for our faults, 130 for Ctrl-C."""
    from synthaug.settings import Failed, UserError

    # last: what a saved JSON or a record names of one's own is found where one stands, and hides nothing
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        # not standalone: typer would print errors in its own way and end the process, that of a test, too
        code = int(app(arguments, standalone_mode=False) or 0)
    except UserError as error:
        # one line, whatever a library has put into the message
        return fail(" ".join(str(error).split()))
    except Failed as error:
        fail(" ".join(str(error).split()))
        return 1
    except typer.TyperException as error:
        return fail(f"{' '.join(error.format_message().split())} (synthaug --help tells what there is)")
    except Exception as error:  # a method or a measurement of the user's may raise anything; ours stay as they are
        from synthaug.runtime.theirs import place_of

        if (place := place_of(error)) is None:
            raise
        return fail(f"{place}: {type(error).__name__}: {' '.join(str(error).split())}")
    finally:
        _stop_ray()
    if code == INTERRUPTED:
        print("stopped; what was finished is kept, run the same command again to go on", file=sys.stderr)
    return code


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _stop_ray() -> None:
    # not imported, not started: `list` does not pay for looking
    if "synthaug.runtime.cluster" in sys.modules:
        from synthaug.runtime import cluster

        cluster.stop_own()


@contextmanager
def results_only() -> Iterator[Callable[[str], None]]:
    """Keep stdout for our results: whatever libraries and child processes print meanwhile goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr
    sys.stderr.flush()
    # the descriptor as well: C++ and child processes know nothing of sys.stdout
    saved = os.dup(1)
    os.dup2(2, 1)
    printed: list[str] = []
    try:
        yield printed.append
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        sys.stdout = out
    # only now: with --json the object is the last thing on stdout
    for text in printed:
        print(text)


# --- verbs ----------------------------------------------------------------------------------------------------------


@app.command("list")
def list_(file: Annotated[str | None, typer.Argument(metavar="[FILE]")] = None) -> None:
    """Every experiment and sweep, one line each."""
    from synthaug.refs import import_file, may_hold_subjects, subjects_in
    from synthaug.settings import UserError

    files = [file] if file else sorted(str(p) for p in Path("experiments").rglob("*.py"))
    if not files:
        raise UserError("there is no folder experiments/ here; name a file: synthaug list FILE")
    failed = 0
    for path in files:
        if file is None and ("benchmarks" in Path(path).parts or not may_hold_subjects(path)):
            continue
        try:
            known = subjects_in(import_file(path))
        except UserError as error:
            if file:
                raise
            failed = fail(str(error))  # of a whole folder one broken file hides no others
            continue
        for name, function in known.items():
            about = (inspect.getdoc(function) or "").partition("\n")[0]
            print(f"{path}:{name}  {about}")
    if failed:
        raise typer.Exit(failed)


@app.command()
def show(ref: REF, set_: SET = [], home: HOME = RUNS, as_json: JSON = False) -> None:  # noqa: B006
    """The resolved experiment, each stage's key, what is cached and what will run."""
    from synthaug.experiment import Sweep
    from synthaug.pages.plan import describe, plan
    from synthaug.refs import resolve
    from synthaug.settings import UserError, to_json

    _, subject = resolve(ref, set_)
    found = plan(subject, home)
    if as_json:
        kind = "sweep" if isinstance(subject, Sweep) else "experiment"
        print(json.dumps({kind: to_json(subject), **found}))
    else:
        print(describe(subject, found))
    if found["lacking"]:
        raise UserError(found["lacking"])


@app.command()
def run(
    ref: REF,
    set_: SET = [],  # noqa: B006
    home: HOME = RUNS,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="generation actors, and train workers; 0: all in this process, a sweep as well"),
    ] = None,
    address: ADDRESS = None,
    as_json: JSON = False,
) -> None:
    """Run an experiment or a sweep: makes what is missing, in order."""
    from synthaug.refs import resolve

    name, subject = resolve(ref, set_)
    with results_only() as result:
        # imported in here, because libraries speak on import, too
        from synthaug.pages.summary import summary
        from synthaug.runtime.run import run as run_it

        answer = run_it(subject, home=home, workers=workers, address=address, name=name)
        result(json.dumps(answer) if as_json else summary(name, subject, answer, home))


@app.command()
def report(
    refs: Annotated[list[str] | None, typer.Argument(metavar="[REF ...]")] = None,
    set_: SET = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="the page to write; default: HOME/reports/report.html")] = None,
    home: HOME = RUNS,
) -> None:
    """A static page: table with intervals and paired tests, cost, galleries, curves."""
    from synthaug.pages.report import recorded_subjects, write_report
    from synthaug.refs import named, resolve
    from synthaug.settings import UserError

    if set_ and not refs:
        raise UserError("--set changes what a REF names, and there is none: synthaug report REF --set ...")
    store = _used(home)
    subjects = named([(ref, *resolve(ref, set_)) for ref in refs]) if refs else recorded_subjects(store)
    print(write_report(store, subjects, out))


@app.command()
def export(
    ref: REF,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new or empty folder")],
    set_: SET = [],  # noqa: B006
    home: HOME = RUNS,
    real: Annotated[bool, typer.Option("--real/--no-real", help="the real images of each split beside them")] = True,
) -> None:
    """The generated images and the real ones as ImageFolders with metadata.csv, for people who train elsewhere."""
    from synthaug.pages.export import export_images
    from synthaug.refs import resolve

    _, subject = resolve(ref, set_)
    with results_only() as result:
        result(export_images(subject, folder, home, real=real))


@app.command()
def predict(
    ref: REF,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a folder of images")],
    set_: SET = [],  # noqa: B006
    home: HOME = RUNS,
) -> None:
    """What the trained classifier of an experiment says of other images, as CSV."""
    from synthaug.pages.predict import predict as predict_them
    from synthaug.refs import resolve

    _, subject = resolve(ref, set_)
    for line in predict_them(subject, folder, home):
        print(line)


@app.command()
def ui(
    home: HOME = RUNS,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """The MLflow server on the right store, on 127.0.0.1."""
    from synthaug.runtime.serve import serve

    serve(home, port)


@app.command()
def doctor(
    home: HOME = RUNS,
    deep: Annotated[bool, typer.Option("--deep", help="read all of HOME instead: which files are damaged?")] = False,
    mend: Annotated[bool, typer.Option("--mend", help="set them aside, so that runs make them anew")] = False,
) -> None:
    """Versions, devices, memory, disk, Ray, MLflow, models: what is wrong and how to mend it."""
    from synthaug.pages.doctor import examine, examine_files

    failed = 0
    if deep or mend:
        _used(home)
    for name, well, text in examine_files(home, mend) if deep or mend else examine(home):
        print(f"{'ok  ' if well else 'BAD '} {name}: {text}")
        failed += not well
    if failed:
        raise typer.Exit(1)


@app.command()
def clean(
    home: HOME = RUNS,
    yes: Annotated[bool, typer.Option("--yes", help="remove them; without it they are only named")] = False,
) -> None:
    """Unfinished artefacts and those that no run refers to."""
    store = _used(home)
    found = store.unneeded()
    for name, why in found:
        size = store.disk.size(name) / 1e6
        done = "would remove" if not yes else "removed" if store.remove(name, why) else "left, as it is in use,"
        print(f"{done} {store.disk.local(name)} ({why}, {size:.1f} MB)")
    if not found:
        print("nothing to clean")
    elif not yes:
        print("synthaug clean --yes removes them")


def _used(home: Path) -> Store:
    """The store of a home that is there: who only looks makes none."""
    from synthaug.runtime.store import Store
    from synthaug.settings import UserError

    if not (home / "store").is_dir():
        raise UserError(f"nothing has been run in {str(home)!r} yet: synthaug run REF, or name another --home")
    return Store(home).prepare()


if __name__ == "__main__":
    entry()
