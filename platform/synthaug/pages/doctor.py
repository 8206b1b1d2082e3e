"""Is this machine fit to run? Each line says what was found and, if it is bad, how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from synthaug.runtime.damage import damages, set_aside
from synthaug.runtime.database import NAME, trouble_of
from synthaug.runtime.disk import ASIDE
from synthaug.runtime.run import rewrite
from synthaug.runtime.store import LIBRARIES, Store
from synthaug.runtime.tracking import Tracker
from synthaug.settings import UserError
from synthaug.weights import embedded_names

Finding = tuple[str, bool, str]


def examine(home: Path) -> Iterator[Finding]:
    """Findings as (name, is it well, text)."""
    # one by one, so that what is known is told while Ray starts
    yield "python", sys.version_info >= (3, 11), f"{sys.version.split()[0]} (needs 3.11 or newer)"
    for name in LIBRARIES:
        yield _library(name)
    yield _device()
    yield from _room(home)
    yield _home(home)
    yield _nano()
    yield _ray()


def _library(name: str) -> Finding:
    try:
        return name, True, version(name)
    except PackageNotFoundError:
        return name, False, "is not installed; run make setup"


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return "device", True, f"{torch.cuda.device_count()} x {', '.join(names)}"
    return "device", True, f"no GPU; {os.cpu_count()} CPU cores: fine for the nano models, slow for real ones"


def _room(home: Path) -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "memory", memory >= 4, f"{memory:.0f} GiB" + ("" if memory >= 4 else "; the demo needs 4")
    # the home need not be there yet
    place = next(p for p in (home.absolute(), *home.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free / 2**30
    yield (
        "disk",
        free >= 2,
        f"{free:.0f} GiB free at {place}" + ("" if free >= 2 else "; free some, or choose another --home"),
    )
    if Path("/dev/shm").exists():
        # Ray keeps its objects there; docker gives a container 64 MB unless it is told otherwise
        shared = shutil.disk_usage("/dev/shm").total / 2**30
        advice = (
            "" if shared >= 1 else "; Ray's object store falls back to disk: start the container with --shm-size=4g"
        )
        yield "shared memory", shared >= 1, f"{shared:.1f} GiB in /dev/shm{advice}"


def _home(home: Path) -> Finding:
    try:
        there = Store(home).prepare().home
    except UserError as error:
        return "home", False, str(error)
    if trouble := trouble_of(there / NAME):
        return "home", False, f"{there / NAME}: {trouble}; the next run sets it aside and writes it again"
    return "home", True, f"{there} can be written"


def _nano() -> Finding:
    missing = {"nano:sd", "nano:clip", "nano:ddpm", "nano:lcm", "nano:pix2pix"} - set(embedded_names())
    if missing:
        return "models", False, f"{', '.join(sorted(missing))} did not come with the package: install it again"
    return "models", True, f"embedded: {', '.join(embedded_names())}"


def _ray() -> Finding:
    """Start Ray and run one task, because that is what fails on odd machines."""
    from synthaug.runtime import cluster

    try:
        answered, tokens = cluster.answers()
    except (UserError, RuntimeError, OSError, TimeoutError) as error:
        return "ray", False, f"does not run a task: {error}; is HOME writable, is a firewall in the way of localhost?"
    return "ray", answered, f"started with {tokens} CPU tokens and ran a task"


def examine_files(home: Path, mend: bool) -> Iterator[Finding]:
    """Everything that a home holds, read and compared with what was noted of it; to `mend` is to set aside what is
    damaged."""
    store = Store(home).prepare()
    found = list(damages(store))
    for damage in found:
        if damage.gone:
            yield damage.file, True, f"{damage.why}; {damage.then}"
        elif not mend:
            yield damage.file, False, f"{damage.why}; once set aside (--mend) {damage.then}"
        elif damage.file == NAME:
            _ = Tracker(store.home, "synthaug").client  # opens it, and says what it does
            rewrite(store)
            yield damage.file, True, f"{damage.why}; {damage.then}"
        else:
            set_aside(store, damage)
            yield damage.file, True, f"{damage.why}; set aside in {store.home / ASIDE}, {damage.then}"
    if not found:
        yield "files", True, f"all of {store.home} is as it was written"
