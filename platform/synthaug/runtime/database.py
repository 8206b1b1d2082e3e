"""MLflow's database in a home: made whole or not at all, set aside when it is broken, and at home where the home is."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from synthaug.progress import say
from synthaug.runtime.disk import Disk
from synthaug.settings import UserError

NAME = "mlflow.db"
RECORDS = "store/record"  # what was run
REWRITE = "mlflow.rewrite"  # a file that is there as long as runs are to be written again
TABLES = {"alembic_version", "experiments", "runs", "metrics", "params", "tags"}


def prepare(home: Path) -> None:
    """Make a database where there is none that works; under the tracker's lock."""
    disk, database = Disk(home), home / NAME
    if trouble := trouble_of(database):
        disk.write(REWRITE, b"")  # before it goes: who is killed here writes the runs again all the same
        aside = disk.set_aside(NAME)
        for suffix in ("-wal", "-shm", "-journal"):
            if disk.exists(f"{NAME}{suffix}"):
                disk.set_aside(f"{NAME}{suffix}")
        say(f"{database} is damaged ({trouble}): it lies in {aside} now, and its runs are written again from the store")
    if not database.exists():
        if not disk.exists(REWRITE) and any(name.endswith(".json") for name in disk.list(RECORDS)):
            disk.write(REWRITE, b"")
            say(f"{database} is gone: its runs are written again from the store")
        _make(home)
    _bring_along(home)


def trouble_of(database: Path) -> str:
    """What is wrong with the database of a home, or nothing; that there is none is well."""
    if not database.exists():
        return ""
    try:
        # not to read only: who was killed within a transaction has left a journal, from which this restores it
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
            (found,) = connection.execute("pragma quick_check(1)").fetchone()
            there = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            revisions = connection.execute("select * from alembic_version").fetchall() if there >= TABLES else []
    except sqlite3.OperationalError as error:
        if any(text in str(error) for text in ("locked", "unable to open", "readonly")):
            return ""  # it may be in good order: whoever writes to it will be told
        return str(error)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return str(error)
    if found != "ok":
        return " ".join(str(found).split())
    return "" if revisions else "it lacks tables"


def _make(home: Path) -> None:
    """The first question makes the tables, and MLflow cannot go on with a half of them: made aside, then renamed."""
    from mlflow import MlflowClient

    new = home / f"{NAME}.new"
    new.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
    os.replace(new, home / NAME)


def upgrade(home: Path) -> None:
    """Bring one of an older MLflow up to date: in a copy, which takes its place once it is whole."""
    new = home / f"{NAME}.new"
    shutil.copyfile(home / NAME, new)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{new}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{home / NAME} is of another MLflow, and cannot be brought to the one installed here: {last}")
    os.replace(new, home / NAME)


def _bring_along(home: Path) -> None:
    """MLflow notes where artifacts lie by whole paths: those of a home that was moved or copied follow it."""
    here = f"{(home / 'artifacts').as_uri()}/"
    with closing(sqlite3.connect(home / NAME)) as connection, connection:
        places = [place for (place,) in connection.execute("select artifact_location from experiments")]
        # of the home's own experiments only, whose place ends as `Tracker.experiment` has it
        there = {f"{head}/artifacts/" for head, cut, tail in (str(p).rpartition("/artifacts/") for p in places) if cut}
        for old in there - {here}:
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                    (here, len(old) + 1, len(old), old),
                )
