"""The table of published data sets: every one opens whole, and says what it lacks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from replicas import ONLY_TESTS, counts, cub, folders, make, semi_inat
from synthaug.data.dataset import KNOWN, Dataset, subset
from synthaug.data.published import PUBLISHED
from synthaug.data.sample import decode_image
from synthaug.settings import UserError, keyed


@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() - ONLY_TESTS))
def test_every_set_opens_apart_and_whole(name: str, tmp_path: Path) -> None:
    outside = Dataset(name, path=str(make(name, tmp_path)), shots=2)
    listing = outside.open()
    ids = [entry.id for entries in listing.splits.values() for entry in entries]
    assert len(ids) == len(set(ids)) and {"train", "val", "test"} <= listing.splits.keys()
    pixels = [{entry.pixels for entry in listing.splits[split]} for split in ("train", "val", "test")]
    assert not (pixels[0] & pixels[1] or pixels[0] & pixels[2] or pixels[1] & pixels[2])
    for split, by_class in counts(listing).items():
        assert all(by_class), f"{split} lacks a class"
    assert decode_image(listing.read(ids[0])).ndim == 3
    shot = subset(listing, outside, 0)
    assert set(shot) <= set(listing.splits["train"])
    assert Counter(e.label for e in shot) == dict.fromkeys(range(len(listing.classes)), 2)
    inside = Dataset(name, path=str(tmp_path / PUBLISHED[name].folder), shots=2)
    assert inside.open().digest == listing.digest and [e.id for e in subset(inside.open(), inside, 0)] == [
        e.id for e in shot
    ]


@pytest.mark.parametrize("name", sorted(ONLY_TESTS))
def test_test_sets_open_and_are_not_trained_on(name: str, tmp_path: Path) -> None:
    outside = Dataset(name, path=str(make(name, tmp_path)))
    facts: dict[str, list[object]] = {}
    listing = outside.open(facts)
    assert not {"train", "val"} & listing.splits.keys() and not facts and not listing.notes
    ids = [entry.id for entries in listing.splits.values() for entry in entries]
    assert len(ids) == len(set(ids)) and decode_image(listing.read(ids[-1])).shape == (8, 8, 3)
    assert {e.label for entries in listing.splits.values() for e in entries} == set(range(len(listing.classes)))
    inside = Dataset(name, path=str(tmp_path / PUBLISHED[name].folder)).open()
    assert (inside.digest, inside.splits) == (listing.digest, listing.splits)
    for shots in (None, 2):
        with pytest.raises(UserError, match=f"dataset.name: {name} has only test images; name it as the data set of"):
            subset(listing, Dataset(name, shots=shots), 0)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_is_missing_is_named_with_the_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if PUBLISHED[name].package:  # it may be installed here
        monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(PUBLISHED[name], package="/nowhere"))
    with pytest.raises(UserError, match=f"dataset.path: {name} does not come with the package; --set dataset.path=DIR"):
        Dataset(name).open()
    with pytest.raises(UserError, match=f"'{tmp_path}/nowhere' is not there; {name} needs a folder with"):
        Dataset(name, path=str(tmp_path / "nowhere")).open()
    for need in PUBLISHED[name].needs[:1]:
        with pytest.raises(UserError, match=f"'{tmp_path}/{need}' is not there; {name} needs a folder with"):
            Dataset(name, path=str(tmp_path)).open()


def test_the_table_knows_the_protocol() -> None:
    assert {name: known.shots for name, known in PUBLISHED.items() if known.shots} == {
        "caltech101": (25,), "cifar100": (100,), "imagenet100": (250,), "imagenet1k": (25,), "cub": (1, 5, 10),
        "aircraft": (1, 5, 10), "blood": (5, 25), "skin": (10, 50), "domainnet": (20,),
    }  # fmt: skip
    assert KNOWN.keys() == {"folder", "digits", "glyphs", *PUBLISHED}
    assert Dataset("cub").kind_word == "bird" and Dataset("aircraft").kind_word == "aircraft"
    assert Dataset("blood").templates == ("a microscopic blood cell image of {}",)
    assert Dataset("domainnet").templates == ("a real image of a {}",)
    assert Dataset("digits").templates == Dataset("cub").templates == ("a photo of a {}",)
    assert (Dataset("digits").kind_word, Dataset("folder", super_class="dog").kind_word) == ("", "dog")


def test_what_the_user_sets_goes_before_the_table() -> None:
    dataset = Dataset("cub", prompt="a {}", super_class="")
    assert (dataset.templates, dataset.kind_word) == (("a {}",), "")
    assert keyed(Dataset("cub")) == {"kind": "synthaug.dataset:Dataset", "name": "cub"}
    assert keyed(dataset) == {"kind": "synthaug.dataset:Dataset", "name": "cub", "prompt": "a {}", "super_class": ""}


def test_equal_images_on_both_sides_are_counted_and_kept(tmp_path: Path) -> None:
    root = cub(tmp_path)
    train, test = (root / "images" / "001.Crow" / f"Crow_{i:04d}_{i + 1}.jpg" for i in (0, 8))
    test.write_bytes(train.read_bytes())
    listing = Dataset("cub", path=str(root), val_share=0).open()
    assert "1 training images are in the test set as well" in listing.notes
    assert counts(listing) == {"train": [6, 6], "val": [0, 0], "test": [3, 3]}


def test_large_sets_are_told_apart_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path, held="val")
    monkeypatch.setattr("synthaug.data.folder.decode_image", lambda data: pytest.fail("decoded"))
    listing = Dataset("imagenet100", path=str(tmp_path)).open()
    assert counts(listing) == {"train": [4, 4], "val": [1, 1], "test": [2, 2]}
    monkeypatch.undo()
    (tmp_path / "train" / "c" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"remove or mend them: train/c/0.png \(empty file\)"):
        Dataset("imagenet100", path=str(tmp_path)).open()


def test_validation_never_takes_what_the_shots_need(tmp_path: Path) -> None:
    root = str(folders(tmp_path / "five", ("ig", "monocyte")))
    for shots, train in ((None, 4), (4, 4), (5, 5)):
        for name in ("blood", "folder"):
            dataset = Dataset(name, path=root, shots=shots)
            listing = dataset.open()
            assert counts(listing) == {"train": [train] * 2, "val": [5 - train] * 2, "test": [2, 2]}
            assert len(subset(listing, dataset, 0)) == 2 * (shots or train)
    assert counts(Dataset("folder", path=root, val_share=0).open())["val"] == [0, 0]
    with pytest.raises(UserError, match="class 'ig' has 5 training images, fewer than shots=6"):
        subset(Dataset("blood", path=root, shots=6).open(), Dataset("blood", shots=6), 0)


def test_the_only_image_of_a_class_is_trained_on(tmp_path: Path) -> None:
    root = folders(tmp_path)
    for i in range(1, 5):
        (root / "train" / "c" / f"{i}.png").unlink()
    assert counts(Dataset("skin", path=str(root)).open()) == {"train": [4, 1], "val": [1, 0], "test": [2, 2]}


def test_a_file_is_no_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "archive.tar").write_bytes(b"x")
    for name in ("caltech101", "cub"):
        with pytest.raises(UserError, match="archive.tar' is not there; .* needs a folder with"):
            Dataset(name, path=str(tmp_path / "archive.tar")).open()


def test_words_come_from_the_user_then_the_files_then_the_table(tmp_path: Path) -> None:
    skin = str(folders(tmp_path / "skin", ("MEL", "nv")))
    assert Dataset("skin", path=skin).open().words == ("melanoma", "melanocytic nevus")
    assert Dataset("skin", path=skin, class_words=(("nv", "mole"),)).open().words == ("melanoma", "mole")
    ids = ("n01440764", "n02012849")
    root = folders(tmp_path / "a" / "b" / "CLS-LOC", ids, held="val")
    with pytest.raises(
        UserError, match="2 classes have no words, the first is 'n01440764'; put LOC_synset_mapping.txt"
    ):
        Dataset("imagenet100", path=str(root)).open()
    given = tuple(zip(ids, ("tench", "crane"), strict=True))
    assert Dataset("imagenet100", path=str(root), class_words=given).open().words == ("tench", "crane")
    (tmp_path / "a" / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn02012849 crane\n")
    assert Dataset("imagenet100", path=str(root)).open().words == ("tench", "crane")
    assert Dataset("imagenet100", path=str(root), class_words=((ids[1], "bird"),)).open().words == ("tench", "bird")


def test_all_of_imagenet_takes_the_words_of_torchvision(tmp_path: Path) -> None:
    from synthaug.data.layouts import _synsets

    ids = [f"n{number:08d}" for number in range(1000)]
    words = _synsets(tmp_path, ids)
    assert (words[ids[0]], words[ids[134]], words[ids[999]]) == ("tench", "crane bird", "toilet tissue")
    assert _synsets(tmp_path, ids[:100]) == {}


def test_facts_are_shared_by_the_names_of_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    semi_inat(tmp_path)
    facts: dict[str, list[object]] = {}
    Dataset("semi_inat_species", path=str(tmp_path)).open(facts)
    monkeypatch.setattr("synthaug.data.folder._fact", lambda path: pytest.fail(f"read {path} again"))
    assert Dataset("semi_inat_order", path=str(tmp_path)).open(facts).classes == ("Fagales", "Hymenoptera")
