"""Fashion-MNIST's IDX files: read to the pixel, gzipped or not, and refused when they are damaged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from replicas import fashion
from synthaug.data.dataset import Dataset
from synthaug.data.listing import Entry, Listing
from synthaug.data.published import PUBLISHED
from synthaug.data.sample import decode_image
from synthaug.settings import UserError


def test_it_is_read_pixel_by_pixel_from_where_a_package_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, plain = fashion(tmp_path / "a"), fashion(tmp_path / "b", packed=False)
    monkeypatch.setitem(PUBLISHED, "fashion", dataclasses.replace(PUBLISHED["fashion"], package=str(packed)))
    found, other = Dataset("fashion").open(), Dataset("fashion", path=str(plain)).open()
    assert found.digest == other.digest and found.splits == other.splits
    raw = (plain / "t10k-images-idx3-ubyte").read_bytes()
    image = decode_image(found.read("fashion/test/7"))
    assert image.shape == (28, 28, 3) and (image == image[..., :1]).all()
    assert image[5, 9].tolist() == [raw[16 + 7 * 784 + 5 * 28 + 9]] * 3
    assert next(entry.label for entry in found.splits["test"] if entry.id == "fashion/test/7") == 7
    assert found.words[9] == "ankle boot"


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda data: data[:-1], "t10k-labels-idx1-ubyte is no IDX file of bytes with 1 axes; download"),
        (lambda data: b"hello", "t10k-labels-idx1-ubyte is no IDX file"),
        (lambda data: data[:-1] + b"\x0a", "the labels of t10k in .* are not those of its images"),
    ],
)
def test_a_damaged_file_is_refused(damage: object, said: str, tmp_path: Path) -> None:
    labels = fashion(tmp_path / "a", packed=False) / "t10k-labels-idx1-ubyte"
    labels.write_bytes(damage(labels.read_bytes()))  # type: ignore[operator]
    with pytest.raises(UserError, match=said):
        Dataset("fashion", path=str(labels.parent)).open()


def test_a_cut_or_missing_file_is_refused(tmp_path: Path) -> None:
    packed = fashion(tmp_path / "a") / "train-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:100])
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz is damaged; download them again"):
        Dataset("fashion", path=str(tmp_path / "a")).open()
    packed.unlink()
    with pytest.raises(
        UserError, match="there is no file 'train-images-idx3-ubyte' and no 'train-images-idx3-ubyte.gz'"
    ):
        Dataset("fashion", path=str(tmp_path / "a")).open()


def test_some_images_of_a_split_are_among_more_of_them() -> None:
    listing = Dataset("digits").open()
    some, more = listing.split("test:50"), listing.split("test:200")
    assert len(some) == 50 and set(some) < set(more) < set(listing.splits["test"])
    assert [e for e in listing.splits["test"] if e in set(some)] == list(some)  # in the split's own order
    assert listing.split("test") == listing.splits["test"]
    assert np.bincount([e.label for e in more]).min() >= 10  # of every class some
    for name in ("test:0", "test:798", "test:x", "test:", "tset:5"):
        with pytest.raises(UserError, match="too few for|has no split"):
            listing.split(name)


def test_some_images_are_drawn_and_not_the_first() -> None:
    """Folders come class by class: the first of a split would be of one class."""
    entries = tuple(Entry(f"{label}/{i}", label, "") for label in range(5) for i in range(40))
    listing = Listing(("a",) * 5, ("a",) * 5, {"test": entries}, "", lambda id: b"")
    assert np.bincount([entry.label for entry in listing.split("test:50")], minlength=5).min() >= 4
