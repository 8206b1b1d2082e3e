"""Nothing in a folder vanishes without a line: links, folders that nobody may read, names that are no text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shapes import class_folders, paint
from synthaug.cli import main
from synthaug.data.dataset import Dataset
from synthaug.data.folder import SPLITS
from synthaug.data.folder import class_folders as layout
from synthaug.data.listing import Listing
from synthaug.settings import UserError

AB = ["ant", "bee"]


def opened(root: Path | str, **fields: Any) -> Listing:
    return Dataset("folder", path=str(root), **fields).open()


def ids(listing: Listing) -> set[str]:
    return {entry.id for entries in listing.splits.values() for entry in entries}


def test_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = opened(class_folders(tmp_path, AB, 5))
    monkeypatch.chdir(tmp_path)
    here = opened(".")
    assert here.digest == there.digest and here.splits == there.splits and here.read("ant/0.png")
    for name in ("folder", "cub", "fashion"):
        with pytest.raises(UserError, match="--set dataset.path=DIR"):
            Dataset(name, path="").open()


@pytest.mark.parametrize("closed", ["", "bee", "bee/in", "link"])
def test_what_nobody_may_read_is_refused(closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, [*AB, "bee/in"], 5)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "bee")
    (tmp_path / "ant" / "link").symlink_to(paint_one(tmp_path.parent / "out" / "x.png").parent)
    place, real = tmp_path / (closed if closed != "link" else "ant/link"), os.scandir

    def scandir(folder: Any) -> Any:
        if os.path.realpath(folder) == os.path.realpath(place):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="cannot read '.*': Permission denied"):
        opened(tmp_path)


def paint_one(file: Path) -> Path:
    paint(file, 900)
    return file


def test_what_systems_keep_to_themselves_stops_nobody(tmp_path: Path) -> None:
    class_folders(tmp_path, AB, 5)
    before = opened(tmp_path)
    (tmp_path / "lost+found").mkdir()
    assert opened(tmp_path).digest == before.digest and opened(tmp_path).classes == ("ant", "bee")


def test_folders_behind_links_are_read(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", ["ant", "ant/red"], 5)
    class_folders(tmp_path / "disk", ["bee", "far", "far/off"], 5, first=100)
    (root / "bee").symlink_to(tmp_path / "disk" / "bee")
    before = opened(root)
    (root / "ant" / "a").symlink_to(root / "ant" / "red")  # read already, by its own name
    assert opened(root).digest == before.digest and ids(opened(root)) == ids(before)
    (tmp_path / "disk" / "bee" / "more").symlink_to(tmp_path / "disk" / "far")
    (tmp_path / "disk" / "bee" / "again").symlink_to(tmp_path / "disk" / "far")
    found = opened(root)
    assert found.digest != before.digest and len(ids(found)) == 25
    assert {id.split("/")[1] for id in ids(found) - ids(before)} == {"again"} and "bee/again/off/0.png" in ids(found)


def test_links_that_lead_nowhere_or_round_are_told(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", [*AB, "ant/in"], 5)
    (tmp_path / "disk").mkdir()
    before = opened(root)
    (root / "ant" / "in" / "up").symlink_to(root)
    (root / "ant" / "self").symlink_to(root / "ant" / "self")
    (root / "bee" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "bee" / "out").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(root / "bee")
    found = opened(root)
    assert found.digest == before.digest and ids(found) == ids(before)
    said = "left out: 4 links that lead nowhere or to a folder that they are in (ant/self, ant/in/up, "
    assert said + "bee/gone.png, bee/out/back)" in found.notes


def test_folders_beside_the_splits_are_told(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", AB, 10)
    class_folders(tmp_path / "test", AB, 3, first=100)
    before = opened(tmp_path)
    class_folders(tmp_path / "dev", AB, 3, first=200)
    paint(tmp_path / "val" / "flat.png", 500)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "notes.txt").write_text("no images")
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    paint(tmp_path / os.fsdecode(b"caf\xe9") / "x.png", 600)
    found = opened(tmp_path)
    assert found.digest == before.digest and found.splits == before.splits
    assert [note for note in found.notes if note not in before.notes] == [
        "left out: caf\\xe9/, which is no split (those here: test/, train/)",
        "left out: dev/, which is no split (those here: test/, train/)",
        "left out: val/, which has no class folders",
    ]
    assert not layout(tmp_path, SPLITS).notes, "of published sets, nobody looks into what lies beside them"


@pytest.mark.parametrize("where", ["class", "inside", "file"])
def test_names_that_are_no_text_are_refused(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folders(tmp_path, AB, 5)
    name, folder = (
        os.fsdecode(b"caf\xe9"),
        {"class": tmp_path, "inside": tmp_path / "ant", "file": tmp_path / "bee"}[where],
    )
    paint(folder / (f"{name}.png" if where == "file" else f"{name}/0.png"), 900)
    own = Path(__file__).parents[2] / "experiments" / "own_images.py"
    assert main(["show", f"{own}:plain", "--set", f"dataset.path={tmp_path}", "--home", str(tmp_path / ".home")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(r"error: dataset.path: b'caf\xe9") and line.endswith("is no name in UTF-8; rename it")
