"""Decoded images that processes share."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

import synthaug
from shapes import Noise, tiny
from synthaug.data import decoded
from synthaug.data.decoded import Reading, decode_all, scratch
from synthaug.data.sample import encode_image
from synthaug.settings import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 9, 7, 3), dtype=np.uint8)
IMAGES = [encode_image(pixels) for pixels in PIXELS]


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is large enough, and the folder is the test's own."""
    found = tmp_path / f"synthaug-{os.getuid()}"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(decoded, "SHARED", 1)
    monkeypatch.setattr(decoded, "AT_ONCE", 7)
    assert scratch() == found
    return found


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix not in (".lock", ".sha256"))


def test_shared_images_are_those_in_memory(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = decode_all(IMAGES, 8)
    two = decode_all(Reading(lambda id: IMAGES[int(id)], [str(n) for n in range(30)]), 8)
    monkeypatch.setattr(decoded, "SHARED", 2**40)
    memory = decode_all(IMAGES, 8)
    assert one.shape == (30, 3, 8, 8) and one.dtype == np.uint8
    assert (one == memory).all() and (two == memory).all()
    assert isinstance(one.base, np.memmap) and len(files(shared)) == 1
    assert shared.stat().st_mode & 0o077 == 0, "nobody else's"
    with pytest.raises(Exception, match="cannot identify"):
        decode_all([*IMAGES, b"no image"], 8)
    assert len(files(shared)) == 1, "and no half of one"
    assert decode_all(IMAGES[:3], 8).shape == (3, 3, 8, 8)


def test_they_are_decoded_once_and_stay_what_they_are(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    decode = decoded.decode_image

    def counted(data: bytes) -> np.ndarray:
        calls.append(1)
        time.sleep(0.01)
        return decode(data)

    monkeypatch.setattr(decoded, "decode_image", counted)
    found: list[np.ndarray] = []
    both = [threading.Thread(target=lambda: found.append(decode_all(IMAGES, 8))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(calls) == 30, "the second waited"
    before = found[1].copy()
    found[0][:] = 0  # somebody writes to his own
    assert (found[1] == before).all() and (decode_all(IMAGES, 8) == before).all() and len(calls) == 30
    decode_all(IMAGES, 9)
    decode_all(IMAGES[::-1], 8)
    assert len(calls) == 90, "another size and another order are other arrays"


@pytest.mark.parametrize("how", ["a bit", "cut", "empty", "garbage", "no seal", "another's seal"])
def test_a_damaged_one_is_decoded_again(how: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = decode_all(IMAGES, 8).copy()
    (file,) = files(shared)
    data = file.read_bytes()
    seal = file.with_suffix(".sha256")
    turned = bytearray(data)
    turned[len(data) // 2] ^= 4
    if how == "no seal":
        seal.unlink()
    elif how == "another's seal":
        seal.write_text("0" * 64)
    else:
        file.write_bytes({"a bit": bytes(turned), "cut": data[:-100], "empty": b"", "garbage": b"x" * len(data)}[how])
    assert (decode_all(IMAGES, 8) == right).all()
    assert capsys.readouterr().err == f"{file} is damaged: these images are decoded again\n"
    assert (decode_all(IMAGES, 8) == right).all() and capsys.readouterr().err == "", "once"
    assert file.read_bytes() == data


def test_what_was_used_longest_ago_makes_room_and_else_there_is_memory(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decode_all(IMAGES[:10], 8)
    (old,) = files(shared)
    decode_all(IMAGES[10:20], 8)
    (new,) = set(files(shared)) - {old}
    os.utime(old, (1, 1))
    left = shared / ".killed.npy.1.half"
    left.write_bytes(b"half")
    os.utime(left, (2, 2))
    usage = namedtuple("usage", "total used free")

    def disk(folder: object) -> object:
        """Room for two arrays, beside the tenth that stays free."""
        used = sum(file.stat().st_size for file in files(shared))
        return usage(10_000, used, 1000 + 4500 - used)

    monkeypatch.setattr(shutil, "disk_usage", disk)
    mapped = np.load(old, mmap_mode="r")
    third = decode_all(IMAGES[20:], 8)
    assert not old.exists() and new.exists() and len(files(shared)) <= 3
    assert mapped.sum() > 0, "who has it keeps it"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10_000, 9_900, 100))
    memory = decode_all(IMAGES[:9], 8)
    assert memory.shape == (9, 3, 8, 8) and third.shape == (10, 3, 8, 8)
    assert "no room in" in capsys.readouterr().err and files(shared) == []


def test_training_from_shared_images_gives_the_same_bits(shared: Path, tmp_path: Path) -> None:
    experiment = tiny(method=Noise(), k=2, steps=4)
    one = synthaug.run(experiment, home=tmp_path / "one")["metrics"]
    assert len(files(shared)) >= 2
    decoded.SHARED = 2**40
    two = synthaug.run(experiment, home=tmp_path / "two")["metrics"]
    assert {n: v for n, v in one.items() if "_s" not in n} == {n: v for n, v in two.items() if "_s" not in n}


def test_somebody_elses_folder_is_left_alone(shared: Path, tmp_path: Path) -> None:
    shutil.rmtree(shared)
    (tmp_path / "elsewhere").mkdir()
    shared.symlink_to(tmp_path / "elsewhere")
    assert scratch() is None and decode_all(IMAGES, 8).shape == (30, 3, 8, 8)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_what_somebody_is_about_to_map_stays(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_all(IMAGES, 8)
    (old,) = files(shared)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10_000, 9_900, 100))
    with decoded._held(old, wait=True):
        decode_all(IMAGES[:9], 8)
    assert old.exists()
    decode_all(IMAGES[:9], 8)
    assert not old.exists() and not old.with_suffix(".sha256").exists()


def test_an_image_that_nobody_has_looked_at_is_named(tmp_path: Path) -> None:
    """Of ImageNet none is decoded before it is its turn."""
    (tmp_path / "x.png").write_bytes(b"hello")
    read = Reading(lambda id: (tmp_path / id).read_bytes(), ["x.png", "y.png"])
    with pytest.raises(UserError, match="image 'x.png': not an image; remove or mend it"):
        decode_all(read[:1], 8)
    with pytest.raises(UserError, match="image 'y.png': cannot be read: No such file or directory"):
        decode_all(read, 8)
