"""What is asked about, and what is printed of it."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shapes import class_folders, paint, tiny
from synthaug.data.dataset import Dataset
from synthaug.pages import predict as page
from synthaug.settings import UserError


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with a classifier that says "a" of everything."""
    pictures = SimpleNamespace(size=lambda wanted: 8, listing=SimpleNamespace(classes=("a", "b")))
    loaded: dict[str, Any] = {"model": Says(), "data": pictures}
    store = SimpleNamespace(
        line=lambda subject: SimpleNamespace(classifier="model", data="data"),
        is_made=lambda stage: True, load=loaded.__getitem__,
    )  # fmt: skip
    monkeypatch.setattr(page, "Store", lambda home: store)


class Says(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.said = torch.nn.Parameter(torch.tensor([9.0, 0.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.said.repeat(len(images), 1)


def asked(folder: Path) -> list[str]:
    first, *rows = csv.reader(page.predict(tiny(), folder, "home"))
    assert first == ["file", "class", "probability"] and {row[1] for row in rows} == {"a"}
    return [row[0] for row in rows]


def test_what_training_takes_is_asked_about(trained: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folders(tmp_path, ["a", "..x", "..."], 10)
    outside = tmp_path.parent / f"{tmp_path.name} outside"
    paint(outside / "0.png", 900)
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / "no suffix")
    (tmp_path / "a" / "link").symlink_to(outside)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    paint(tmp_path / ".hidden" / "0.png", 901)
    listing = Dataset("folder", path=str(tmp_path)).open()
    found = asked(tmp_path)
    assert len(found) == 31 and found == sorted(e.id for entries in listing.splits.values() for e in entries)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [Image.DecompressionBombError("bomb"), PermissionError(13, "no"), RuntimeError("x")])
def test_an_image_that_cannot_be_used_is_told(
    error: Exception, trained: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class_folders(tmp_path, ["a"], 3)
    (tmp_path / "a" / "odd.png").write_bytes(b"odd")
    decode = page.decode_image

    def odd(data: bytes) -> np.ndarray:
        if data == b"odd":
            raise error
        return decode(data)

    monkeypatch.setattr(page, "decode_image", odd)
    assert asked(tmp_path) == ["a/0.png", "a/1.png", "a/2.png"]
    assert "left out: a/odd.png (cannot be " in capsys.readouterr().err


def test_folders_that_cannot_be_asked_about(trained: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no images, at any depth"):
        asked(tmp_path)
    paint(tmp_path / os.fsdecode(b"caf\xe9") / "0.png", 1)
    with pytest.raises(UserError, match=r"^b'caf\\xe9' in .* is no name in UTF-8"):
        asked(tmp_path)


@pytest.mark.parametrize("name", ["plain.png", 'a,"b".png', "two\nlines.png", "back\rwards.png"])
def test_a_line_of_csv_is_read_back(name: str) -> None:
    line = page._line(name, "a", "0.5000")

    assert list(csv.reader(io.StringIO(line + "\n", newline=""))) == [[name, "a", "0.5000"]]
