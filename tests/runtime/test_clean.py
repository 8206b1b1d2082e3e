"""What `clean` takes away, and what it leaves to those at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from shapes import Noise, tiny
from synthaug.runtime.generate import make_images
from synthaug.runtime.store import Store
from synthaug.settings import to_json


def quiet(_: str) -> None: ...


@pytest.fixture
def made(home: Path) -> tuple[Store, Path]:
    """A store with images that no run refers to."""
    store = Store(home).prepare()
    (artefact,) = make_images(store, [tiny(method=Noise(), k=1)], 0, quiet).values()
    return store, artefact.path


def test_what_a_run_has_begun_to_use_stays(made: tuple[Store, Path]) -> None:
    store, folder = made
    subject = tiny(method=Noise(), k=1)
    nodes = list(store.nodes(subject).values())
    assert store.unneeded() == [(folder, "no run refers to it")]
    store.begin(to_json(subject), nodes)
    assert store.unneeded() == [] and store.recorded(to_json(subject), nodes) is None and store.records() == []
    assert not store.remove(folder, "no run refers to it") and folder.exists(), "it was asked about a moment too early"
    store.record(to_json(subject), nodes, {"run_id": "x"})
    assert store.unneeded() == [] and len(store.records()) == 1 and store.records("begun") == []


def test_what_somebody_is_making_stays(made: tuple[Store, Path]) -> None:
    store, folder = made
    node = store.nodes(tiny(method=Noise(), k=1))["generate"]
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()
    ((found, why),) = store.unneeded()
    assert found == folder and why == "unfinished"
    with store.lock(node, quiet):
        assert not store.remove(folder, why) and folder.exists()
    (folder / "manifest.json").write_bytes(manifest)
    assert not store.remove(folder, why) and folder.exists(), "it was finished while we looked"
    assert store.remove(folder, "no run refers to it") and not folder.exists() and store.unneeded() == []
