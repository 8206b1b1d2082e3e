"""Folders as people have them: each with the classes, the counts and the sentence that a person would say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shapes import class_folders, paint
from synthaug.data.dataset import Dataset
from synthaug.data.folder import Facts, _fact, contents
from synthaug.data.sample import decode_image
from synthaug.settings import UserError, canonical

AB = ["ant", "bee"]


def kaggle(root: Path) -> None:
    class_folders(root / "Training", AB, 20)
    class_folders(root / "Testing", AB, 5, first=100)


def french(root: Path) -> None:
    class_folders(root / "TRAIN", AB, 20)
    class_folders(root / "Validation", AB, 4, first=100)
    class_folders(root / "TEST", AB, 5, first=200)


def no_test(root: Path) -> None:
    class_folders(root / "train", AB, 20)
    class_folders(root / "valid", AB, 5, first=100)


def alone(root: Path) -> None:
    class_folders(root / "train", AB, 50)


def unlabelled(root: Path) -> None:
    """A competition's test images lie without classes."""
    class_folders(root / "train", AB, 50)
    for number in range(4):
        paint(root / "test" / f"{number}.png", 500 + number)


def vehicles(root: Path) -> None:
    """A train is a thing as well."""
    class_folders(root, ["bus", "car", "train"], 25)


def trials(root: Path) -> None:
    class_folders(root, ["test", "val"], 25)
    class_folders(root, ["other"], 25, first=100)


def mac(root: Path) -> None:
    class_folders(root, AB, 25)
    class_folders(root / "__MACOSX", AB, 3, first=700)
    for name in AB:
        (root / name / ".DS_Store").write_bytes(b"x")
        (root / name / "Thumbs.db").write_bytes(b"x")
        (root / name / "._0.png").write_bytes(b"x")


def sidecars(root: Path) -> None:
    class_folders(root, AB, 25)
    for number in range(10):
        (root / "ant" / f"{number}.json").write_text("{}")
    (root / "bee" / "README.TXT").write_text("bees")


def empty_class(root: Path) -> None:
    class_folders(root, AB, 25)
    (root / "cat").mkdir()


def deep(root: Path) -> None:
    """A class with folders inside, and files of any case."""
    class_folders(root / "ant", ["red", "black"], 10)
    class_folders(root, ["bee"], 25, first=100)
    (root / "bee" / "0.png").rename(root / "bee" / "0.PNG")


def loose(root: Path) -> None:
    class_folders(root, AB, 25)
    (root / "LICENSE").write_text("seen in June")
    for name in ("1.png", ".hidden.png"):
        paint(root / name, 900)


def loose_in_splits(root: Path) -> None:
    class_folders(root / "train", AB, 50)
    for place in (root, root / "train"):
        paint(place / "1.png", 900)


def twice(root: Path) -> None:
    class_folders(root, AB, 25)
    shutil.copy(root / "ant" / "3.png", root / "bee" / "same.png")


FOLDERS: dict[Callable[[Path], None], tuple[list[str], list[int], str]] = {
    kaggle: (AB, [32, 8, 10], "no val/ folder: 20 % of each class of train/ choose the model"),
    french: (AB, [40, 8, 10], ""),
    no_test: (AB, [32, 8, 10], "no test/ folder: val/ is what is tested on, 20 % of train/ choose the model"),
    alone: (AB, [60, 20, 20], "train/ alone: it is split in three"),
    unlabelled: (AB, [60, 20, 20], "train/ alone: it is split in three"),
    vehicles: (["bus", "car", "train"], [45, 15, 15], "split by the hash of the pixels"),
    trials: (["other", "test", "val"], [45, 15, 15], "split by the hash of the pixels"),
    mac: (AB, [30, 10, 10], "split by the hash of the pixels"),
    sidecars: (AB, [30, 10, 10], "left out: 11 files that are no images by their names (.json 10, .txt 1)"),
    empty_class: (AB, [30, 10, 10], "left out: empty class folders (cat)"),
    deep: (AB, [27, 9, 9], "split by the hash of the pixels"),
    loose: (AB, [30, 10, 10], "left out: 1 images beside the class folders, which have no class (1.png)"),
    loose_in_splits: (AB, [60, 20, 20], "2 images beside the class folders, which have no class (1.png, train/1.png)"),
    twice: (AB, [30, 11, 10], "1 images are in two classes, such as 'ant/3.png' and 'bee/same.png'"),
}


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_what_a_person_would_say(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    classes, counts, said = FOLDERS[make]
    listing = Dataset("folder", path=str(tmp_path)).open()
    assert list(listing.classes) == classes
    assert [len(listing.splits[split]) for split in ("train", "val", "test")] == counts
    assert listing.quarantined == () and said in "\n".join(listing.notes)


def test_another_reading_of_the_same_files_is_another_data_set(tmp_path: Path) -> None:
    """Training/ and Testing/ were two classes once: whatever was made of those must not be found again."""
    kaggle(tmp_path / "one")
    class_folders(tmp_path / "two" / "train", AB, 20)
    class_folders(tmp_path / "two" / "test", AB, 5, first=100)
    one, two = (Dataset("folder", path=str(tmp_path / name)) for name in ("one", "two"))
    for dataset, new in ((one, True), (two, False)):
        facts: Facts = {}
        listing = dataset.open(facts)
        # what the first reader called these files
        assert (listing.digest != sha256(canonical(contents(facts))).hexdigest()) == new
    (tmp_path / "two" / "test").rename(tmp_path / "two" / "Testing")
    (tmp_path / "two" / "train").rename(tmp_path / "two" / "Training")
    assert one.open().digest == two.open().digest


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.0, 1.0, [0, 128, 255]), (0.0, 255.0, [0, 128, 255]), (-4.0, 12.0, [0, 128, 255])]
)
def test_float_images_are_read_as_they_are_shown(low: float, high: float, expected: list[int], tmp_path: Path) -> None:
    values = np.linspace(low, high, 3, dtype=np.float32)
    Image.fromarray(np.tile(values, (2, 1))).save(tmp_path / "x.tiff")
    data = (tmp_path / "x.tiff").read_bytes()
    assert _fact(tmp_path / "x.tiff")[0] == f"{sha256(data).hexdigest()} by 2", "another image than it was once"
    found = decode_image(data)
    assert found.shape == (2, 3, 3) and np.abs(found[0, :, 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("case", ["both", "flat", "deeper"])
def test_what_cannot_be_guessed_is_asked(case: str, tmp_path: Path) -> None:
    if case == "both":
        class_folders(tmp_path / "train", AB, 5)
        class_folders(tmp_path / "Training", AB, 5)
        class_folders(tmp_path / "test", AB, 5)
        said = "both mean train"
    elif case == "flat":
        for number, split in enumerate(("train", "test")):
            paint(tmp_path / split / "0.png", number)
        said = "holds no class folders"
    else:
        class_folders(tmp_path / "images", AB, 5)
        said = r"holds one class only \('images'\).*is --set dataset.path=.*images meant\?"
    with pytest.raises(UserError, match=said):
        Dataset("folder", path=str(tmp_path)).open()
