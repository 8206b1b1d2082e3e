from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shapes import class_folders, paint
from synthaug.data.dataset import Dataset, subset
from synthaug.data.folder import Facts
from synthaug.data.sample import decode_image
from synthaug.settings import UserError


def opened(root: Path, **fields: object) -> Dataset:
    return Dataset("folder", path=str(root), **fields)


def test_digits_are_split_once_and_for_all() -> None:
    listing = Dataset("digits").open()
    assert {split: len(entries) for split, entries in listing.splits.items()} == {"test": 797, "val": 300, "train": 700}
    assert len({entry.id for entries in listing.splits.values() for entry in entries}) == 1797
    assert listing.digest == "0b7e9c32" + listing.digest[8:]
    assert decode_image(listing.read("digits/0")).shape == (32, 32, 3)


def test_shots_are_per_class_paired_by_seed_and_nested() -> None:
    dataset = Dataset("digits", shots=5)
    listing = dataset.open()
    five = subset(listing, dataset, 0)
    assert np.bincount([entry.label for entry in five]).tolist() == [5] * 10
    assert five == subset(listing, dataset, 0) != subset(listing, dataset, 1)
    assert set(subset(listing, Dataset("digits", shots=1), 0)) < set(five)
    assert set(five) <= set(listing.splits["train"])
    fixed = Dataset("digits", shots=5, subset_seed=7)
    assert subset(listing, fixed, 0) == subset(listing, fixed, 1) == subset(listing, dataset, 7)


def test_folders_are_split_without_an_image_on_both_sides(tmp_path: Path) -> None:
    class_folders(tmp_path, ["man", "woman", "a/b".replace("/", "∕"), "..."], 20)
    for i in range(10):  # the same pixels again, under other names and in another class
        paint(tmp_path / "man" / f"again{i}.bmp", i)
        paint(tmp_path / "woman" / f"twin{i}.png", i)
    listing = opened(tmp_path).open()
    parts = [{entry.pixels for entry in entries} for entries in listing.splits.values()]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    for entries in listing.splits.values():
        assert {entry.label for entry in entries} == set(range(4))


def test_labels_come_from_folders_not_from_names_that_contain_one_another(tmp_path: Path) -> None:
    names = ["man", "woman", "wo man", "mañ'\"a", "..a"]
    listing = opened(class_folders(tmp_path, names, 5)).open()
    assert list(listing.classes) == sorted(names)
    for entries in listing.splits.values():
        for entry in entries:
            assert listing.classes[entry.label] == entry.id.split("/")[0]


def test_the_digest_is_of_content_and_not_of_place_or_time(tmp_path: Path) -> None:
    one = class_folders(tmp_path / "one", ["a", "b"], 4)
    two = class_folders(tmp_path / "two", ["a", "b"], 4)
    other = class_folders(tmp_path / "other", ["a", "b"], 4, first=100)
    assert opened(one).open().digest == opened(two).open().digest != opened(other).open().digest


def test_known_facts_are_used_and_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, ["a", "b"], 4)
    facts: Facts = {}
    digest = opened(tmp_path).open(facts).digest
    monkeypatch.setattr("synthaug.data.folder._fact", lambda path: pytest.fail(f"read {path} again"))
    assert opened(tmp_path).open(facts).digest == digest
    monkeypatch.undo()
    paint(tmp_path / "a" / "0.png", 999)
    assert opened(tmp_path).open(facts).digest != digest


def test_the_same_image_in_train_and_test_is_refused_or_dropped(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", ["a", "b"], 6)
    class_folders(tmp_path / "test", ["a", "b"], 3, first=50)
    paint(tmp_path / "test" / "b" / "leak.png", 0)  # the pixels of train/a/0.png
    with pytest.raises(UserError, match=r"'train/a/0.png' and 'test/b/leak.png'.*dataset.duplicates=drop"):
        opened(tmp_path).open()
    listing = opened(tmp_path, duplicates="drop").open()
    assert "train/a/0.png" not in {entry.id for entries in listing.splits.values() for entry in entries}
    assert any("1 images left out" in note for note in listing.notes)


def test_a_few_bad_files_are_set_aside_with_their_reason(tmp_path: Path) -> None:
    class_folders(tmp_path, ["a", "b"], 150)
    good = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "a" / "cut.png").write_bytes(good[:60])
    (tmp_path / "b" / "empty.png").write_bytes(b"")
    (tmp_path / "b" / "words.png").write_bytes(b"hello")
    (tmp_path / "b" / ".DS_Store").write_bytes(b"x")
    reasons = dict(opened(tmp_path).open().quarantined)
    assert reasons["b/empty.png"] == "empty file" and reasons["b/words.png"] == "not an image"
    assert set(reasons) == {"a/cut.png", "b/empty.png", "b/words.png"}
    (tmp_path / "b" / "more.png").write_bytes(b"hello")
    with pytest.raises(UserError, match="4 of 304 files cannot be read"):
        opened(tmp_path).open()


def test_a_class_emptied_by_bad_files_stops(tmp_path: Path) -> None:
    class_folders(tmp_path, ["a", "b"], 150)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "only.png").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"class 'c' has no readable image: c/only.png \(not an image\)"):
        opened(tmp_path).open()


@pytest.mark.parametrize("case", ["missing", "empty", "one class", "no train", "file", "shots"])
def test_bad_folders_are_named(case: str, tmp_path: Path) -> None:
    root, said = tmp_path, ""
    if case == "missing":
        root, said = tmp_path / "nowhere", "there is no folder"
    elif case == "empty":
        said = "holds no class folders"
    elif case == "one class":
        class_folders(tmp_path, ["only"], 5)
        said = r"holds one class only \('only'\)"
    elif case == "no train":
        class_folders(tmp_path / "test", ["a", "b"], 5)
        said = "has no train/ folder"
    elif case == "file":
        root = tmp_path / "file"
        root.write_text("x")
        said = "there is no folder"
    elif case == "shots":
        class_folders(tmp_path, ["a", "b"], 5)
        dataset = opened(root, shots=50)
        with pytest.raises(UserError, match=r"dataset.shots: class 'a' has 3 training images, fewer than shots=50"):
            subset(dataset.open(), dataset, 0)
        return
    with pytest.raises(UserError, match=said):
        opened(root).open()


def test_glyphs_are_labelled_and_apart_from_what_the_models_saw() -> None:
    listing = Dataset("glyphs").open()
    entry = listing.splits["test"][7]
    assert decode_image(listing.read(entry.id)).shape == (32, 32, 3)
    assert len(listing.classes) == 36 and {e.label for e in listing.splits["val"]} == set(range(36))
