"""The layouts of Tiny-ImageNet, Oxford's flowers and Stanford's cars: what is read, and what is said of damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from replicas import WORDNETS, cars, counts, flowers, tiny_imagenet
from synthaug.data.dataset import Dataset
from synthaug.data.mat_layouts import FLOWERS, LABELLED
from synthaug.data.sample import decode_image
from synthaug.settings import UserError


def test_tiny_imagenet_tests_on_val_and_speaks_in_words(tmp_path: Path) -> None:
    grey = tiny_imagenet(tmp_path) / "val" / "images" / "val_0.JPEG"
    Image.fromarray(np.full((8, 8), 7, dtype=np.uint8)).save(grey)
    listing = Dataset("tiny-imagenet", path=str(tmp_path)).open()
    assert (listing.classes, listing.words) == (WORDNETS, ("tench", "sand crane"))
    assert counts(listing) == {"train": [4, 4], "val": [1, 1], "test": [2, 2]}
    assert {e.id: e.label for e in listing.splits["test"]}["val/images/val_2.JPEG"] == 1
    assert decode_image(listing.read("val/images/val_0.JPEG")).shape == (8, 8, 3)
    for boxes in tmp_path.glob("train/*/*.txt"):  # copies without them are about
        boxes.unlink()
    assert Dataset("tiny-imagenet", path=str(tmp_path)).open().digest == listing.digest


def test_flowers_follow_the_three_official_sets(tmp_path: Path) -> None:
    listing = Dataset("flowers102", path=str(flowers(tmp_path))).open()
    assert counts(listing) == {"train": [2] * 102, "val": [1] * 102, "test": [1] * 102}
    assert listing.words[:2] == ("pink primrose", "hard-leaved pocket orchid") and len(set(listing.words)) == 102
    assert {e.id: e.label for e in listing.splits["val"]}["jpg/image_00206.jpg"] == 1
    assert Dataset("flowers102").kind_word == "flower" and not any("validation" in note for note in listing.notes)


def test_the_names_of_the_flowers_are_those_that_torchvision_has() -> None:
    from torchvision.datasets import Flowers102

    # the one question mark is the page's own
    assert tuple(name.removesuffix("?") for name in Flowers102.classes) == FLOWERS


@pytest.mark.parametrize("labelled", ["", "devkit"])
def test_cars_take_the_labels_of_their_tests_from_either_place(labelled: str, tmp_path: Path) -> None:
    listing = Dataset("cars", path=str(cars(tmp_path, labelled))).open()
    assert listing.words == ("AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "Audi R8")
    assert counts(listing) == {"train": [4] * 3, "val": [1] * 3, "test": [2] * 3}
    assert {e.id: e.label for e in listing.splits["test"]}["cars_test/00002.jpg"] == 1
    assert Dataset("cars").kind_word == "car"


def with_mat(path: Path, **values: Any) -> None:
    """The same MATLAB file with other variables in it."""
    kept = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    savemat(path, kept | values)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


MAKE = {"tiny-imagenet": tiny_imagenet, "flowers102": flowers, "cars": cars}
TRAIN, BOXES = "train/n01440764", "train/n01440764/n01440764_boxes.txt"


@pytest.mark.parametrize(
    "name, file, damage, said",
    [
        ("tiny-imagenet", f"{TRAIN}/images/n01440764_3.JPEG", Path.unlink, "the first is 'train/.*_3.JPEG'; unpack"),
        ("tiny-imagenet", "val/images/val_3.JPEG", Path.unlink, "1 listed images are not below .*val_3.JPEG'; unpack"),
        ("tiny-imagenet", TRAIN, lambda p: p.rename(p.with_name("x")), "no folder '.*n01440764/images'; unpack"),
        ("tiny-imagenet", BOXES, lambda p: p.write_text("a b\n"), "boxes.txt, line 1: 5 columns are expected"),
        ("tiny-imagenet", "words.txt", lambda p: p.write_text("n02012849\tcrane\n"), "wnids.txt speaks of 'n01440764'"),
        (
            "tiny-imagenet",
            "val/val_annotations.txt",
            lambda p: p.write_text("val_0.JPEG n99999999 0 1 6 7\n"),
            "val_annotations.txt speaks of 'n99999999', which its neighbours do not know; unpack",
        ),
        ("tiny-imagenet", "val/val_annotations.txt", Path.unlink, "val_annotations.txt' is not there; tiny-imagenet"),
        ("flowers102", "jpg/image_00003.jpg", Path.unlink, "the first is 'jpg/image_00003.jpg'; unpack"),
        ("flowers102", "imagelabels.mat", Path.unlink, "imagelabels.mat' is not there; flowers102 needs a folder"),
        ("flowers102", "imagelabels.mat", lambda p: with_mat(p, labels=[103] * 408), "speaks of class 103, but .* 102"),
        ("flowers102", "imagelabels.mat", lambda p: with_mat(p, labels=[0] * 408), "speaks of class 0, but .* 102"),
        ("flowers102", "imagelabels.mat", lambda p: with_mat(p, labels=["a"]), "damaged, or not the file of this name"),
        ("flowers102", "setid.mat", lambda p: with_mat(p, tstid=[409]), "speaks of image 409, which imagelabels.mat"),
        ("flowers102", "setid.mat", lambda p: with_mat(p, tstid=[0]), "speaks of image 0, which imagelabels.mat"),
        ("flowers102", "setid.mat", lambda p: with_mat(p, tstid=[1]), "'jpg/image_00001.jpg' is listed for two splits"),
        ("flowers102", "setid.mat", lambda p: savemat(p, {"x": 1}), "setid.mat is damaged, or not .*; download it"),
        ("cars", "cars_test/00004.jpg", Path.unlink, "1 listed images are not below .*'cars_test/00004.jpg'; unpack"),
        ("cars", LABELLED, Path.unlink, "withlabels.mat is neither in .* nor in its devkit/; download it to either"),
        ("cars", LABELLED, lambda p: savemat(p, {"annotations": 3}), "withlabels.mat is damaged, or not"),
        ("cars", LABELLED, lambda p: p.write_bytes(b"version https://git-lfs"), "withlabels.mat is damaged, or not"),
        ("cars", LABELLED, lambda p: p.write_bytes(b""), "withlabels.mat is damaged, or not"),
        ("cars", "devkit/cars_train_annos.mat", cut, "cars_train_annos.mat is damaged, or not the file of this name"),
        ("cars", "devkit/cars_train_annos.mat", Path.unlink, "cars_train_annos.mat' is not there; cars needs a folder"),
        (
            "cars",
            "devkit/cars_meta.mat",
            lambda p: with_mat(p, class_names=np.array(["Audi R8", "Ram"], dtype=object)),
            "cars_train_annos.mat speaks of class 3, but there are 2; download it again",
        ),
    ],
)
def test_damage_is_one_line_with_a_way_out(
    name: str, file: str, damage: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    damage(MAKE[name](tmp_path) / file)
    with pytest.raises(UserError, match=said) as caught:
        Dataset(name, path=str(tmp_path)).open()
    assert caught.value.path == ("dataset", "path") and "\n" not in caught.value.message
