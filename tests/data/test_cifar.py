"""CIFAR's pickles: read to the pixel, and trusted with nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from replicas import cifar, counts
from synthaug.data.dataset import Dataset
from synthaug.data.sample import decode_image
from synthaug.settings import UserError


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_pixel_by_pixel(name: str, tmp_path: Path) -> None:
    root = cifar(tmp_path / "c", name)
    listing = Dataset(name, path=str(root)).open()
    assert listing.words == ("aquarium fish", "wolf")
    assert sum(map(sum, counts(listing).values())) == (60 if name == "cifar10" else 20)
    batch = pickle.loads((root / ("data_batch_2" if name == "cifar10" else "train")).read_bytes(), encoding="bytes")
    number = 10 + 3 if name == "cifar10" else 3
    image = decode_image(listing.read(f"{name}/train/{number}"))
    assert image.shape == (32, 32, 3)
    assert image[5, 7].tolist() == [int(batch[b"data"][3][channel * 1024 + 5 * 32 + 7]) for channel in range(3)]
    entries = listing.splits["train"] + listing.splits["val"]
    assert next(e.label for e in entries if e.id == f"{name}/train/{number}") == 1


class Bomb:
    def __reduce__(self) -> object:
        return (print, ("boom",))


@pytest.mark.parametrize(
    "made, said",
    [
        (pickle.dumps(Bomb()), "it asks for builtins.print"),
        (b"hello", "is not the official file"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, 5]}), "and their labels"),
        (pickle.dumps({b"data": np.zeros((2, 3072)), b"fine_labels": [0, 1]}), "and their labels"),
        (pickle.dumps({b"data": 1}), "fine_labels"),
    ],
)
def test_a_wrong_or_wicked_pickle_is_refused(
    made: bytes, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = cifar(tmp_path / "c", "cifar100")
    (root / "test").write_bytes(made)
    with pytest.raises(UserError, match=said):
        Dataset("cifar100", path=str(root)).open()
    assert "boom" not in capfd.readouterr().out


def test_a_cut_pickle_is_refused(tmp_path: Path) -> None:
    root = cifar(tmp_path / "c", "cifar100")
    (root / "train").write_bytes((root / "train").read_bytes()[:2000])
    with pytest.raises(UserError, match="train is not the official file: .*; unpack the archive again"):
        Dataset("cifar100", path=str(root)).open()
