"""What `clean` takes away, and what it leaves to those at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from making import made_in, place_of
from shapes import Noise, tiny
from synthaug.experiment import Experiment
from synthaug.runtime.store import Store
from synthaug.settings import UserError


@pytest.fixture
def subject() -> Experiment:
    return tiny(method=Noise(), k=1)


@pytest.fixture
def made(home: Path, subject: Experiment) -> tuple[Store, str, Path]:
    """A store with images that no run refers to, what these are called, and where they lie."""
    store, _ = made_in(home, subject, "generate")
    folder = place_of(store, subject, "generate")
    return store, f"generate/{folder.name}", folder


def test_what_a_run_has_begun_to_use_stays(made: tuple[Store, str, Path], subject: Experiment) -> None:
    store, name, folder = made
    stages = list(store.stages(subject).values())
    assert store.unneeded() == [(name, "no run refers to it")]
    store.records.begin(subject, stages)
    assert store.unneeded() == [] and store.records.of(subject, stages) is None and store.records.all() == []
    assert not store.remove(name, "no run refers to it") and folder.exists(), "it was asked about a moment too early"
    store.records.end(subject, stages, "x", "synthaug")
    assert store.unneeded() == [] and len(store.records.all()) == 1 and store.records.all("begun") == []


@pytest.mark.parametrize("kind", ["record", "begun"])
def test_as_long_as_a_record_is_damaged_nothing_goes(
    kind: str, made: tuple[Store, str, Path], subject: Experiment
) -> None:
    """What it needed cannot be told from what nobody needs."""
    store, name, folder = made
    stages = list(store.stages(subject).values())
    store.records.begin(subject, stages)
    if kind == "record":
        store.records.end(subject, stages, "x", "synthaug")
    (note,) = (store.home / "store" / kind).glob("*.json")
    note.write_bytes(note.read_bytes().replace(b"0", b"1", 1))
    for ask in (store.unneeded, lambda: store.remove(name, "no run refers to it")):
        with pytest.raises(UserError, match=f"{note} is damaged.*run its command again"):
            ask()
    assert folder.exists()
    store.records.end(subject, stages, "x", "synthaug")
    assert store.unneeded() == [], "the same command has written it anew"


def test_what_somebody_is_making_stays(made: tuple[Store, str, Path], subject: Experiment) -> None:
    store, name, folder = made
    stage = store.stages(subject)["generate"]
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()
    ((found, why),) = store.unneeded()
    assert found == name and why == "unfinished"
    with store.making([stage]):
        assert not store.remove(name, why) and folder.exists()
    (folder / "manifest.json").write_bytes(manifest)
    assert not store.remove(name, why) and folder.exists(), "it was finished while we looked"
    assert store.remove(name, "no run refers to it") and not folder.exists() and store.unneeded() == []
