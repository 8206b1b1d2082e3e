"""FFHQ and AFHQv2, as folders and as one zip file."""

from __future__ import annotations

import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from replicas import counts, make
from shapes import class_folders
from synthaug.data.dataset import Dataset
from synthaug.data.decoded import Reading, decode_all
from synthaug.data.folder import Facts
from synthaug.data.listing import Listing
from synthaug.data.published import PHOTO
from synthaug.data.sample import decode_image
from synthaug.settings import UserError, canonical


def zipped(folder: Path) -> Path:
    out = folder.with_suffix(".zip")
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("dataset.json", "{}")
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder).as_posix())
    return out


@pytest.mark.parametrize("name,classes,train,test", [
    ("ffhq", ("face",), [12], [2]), ("afhqv2", ("cat", "dog", "wild"), [5, 5, 5], [2, 2, 2]),
])  # fmt: skip
def test_a_folder_and_a_zip_hold_the_same(
    name: str, classes: tuple[str, ...], train: list[int], test: list[int], tmp_path: Path
) -> None:
    folder = make(name, tmp_path) / {"ffhq": "ffhq", "afhqv2": "afhq"}[name]
    archive = zipped(folder)
    both = [Dataset(name, path=str(path), val_share=0).open() for path in (folder, archive)]
    for listing in both:
        assert listing.classes == classes and counts(listing) == {"train": train, "val": [0] * len(train), "test": test}
    first, second = ({e.id: decode_image(found.read(e.id)) for e in found.splits["train"]} for found in both)
    assert first.keys() == second.keys() and all((first[id] == second[id]).all() for id in first)
    # what a zip holds decides, not where it lies
    moved = archive.rename(tmp_path / "other.zip")
    assert Dataset(name, path=str(moved), val_share=0).open().digest == both[1].digest
    with zipfile.ZipFile(moved, "a") as file:
        file.writestr("train/cat/new.png", folder.rglob("*.png").__next__().read_bytes())
    assert Dataset(name, path=str(moved), val_share=0).open().digest != both[1].digest


def test_the_last_images_of_ffhq_are_held_out(tmp_path: Path) -> None:
    listing = Dataset("ffhq", path=str(make("ffhq", tmp_path)), val_share=0).open()
    assert [e.id for e in listing.splits["test"]] == ["00001/00012.png", "00001/00013.png"]


def test_what_is_no_such_set_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "faces.zip"
    broken.write_bytes(b"PK no zip")
    with pytest.raises(UserError, match="is no zip file that can be read"):
        Dataset("ffhq", path=str(broken)).open()
    (tmp_path / "few").mkdir()
    with pytest.raises(UserError, match="0 images are there; FFHQ has 70,000"):
        Dataset("ffhq", path=str(tmp_path / "few")).open()
    with pytest.raises(UserError, match="no images of some class in train/"):
        Dataset("afhqv2", path=str(tmp_path / "few")).open()


def pets(root: Path, odd: dict[str, bytes], count: int = 40) -> Path:
    """AFHQv2 as a zip whose members are stored as they are, with odd ones."""
    images = class_folders(root / "afhq" / "train", ["cat", "dog", "wild"], count)
    class_folders(root / "afhq" / "test", ["cat", "dog", "wild"], 2, first=500)
    with zipfile.ZipFile(root / "pets.zip", "w") as file:
        for path in sorted(images.parent.rglob("*.png")):
            file.write(path, path.relative_to(images.parent).as_posix())
        for name, data in odd.items():
            file.writestr(name, data)
    return root / "pets.zip"


def opened(path: Path, facts: Facts | None = None) -> Listing:
    return Dataset("afhqv2", path=str(path), val_share=0).open(facts)


def damage(path: Path, data: bytes) -> None:
    """Turn a byte of a member, which is stored as it is."""
    whole = bytearray(path.read_bytes())
    whole[whole.index(data) + len(data) // 2] ^= 255
    path.write_bytes(whole)


def test_members_of_a_zip_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, facts = pets(tmp_path, {"__MACOSX/train/cat/._0.png": b"x", "train/dog/._1.png": b"x"}), Facts()
    found = opened(archive, facts)
    assert not found.quarantined and len(found.splits["train"]) == 120
    # what it was when nothing was looked at
    with zipfile.ZipFile(archive) as file:
        known = {info.filename: f"{info.file_size}:{info.CRC:08x}" for info in file.infolist()}
    labels = {split: [[e.id, e.label] for e in found.splits[split]] for split in ("train", "test")}
    content = [[id, known[id]] for entries in labels.values() for id, _ in entries]
    about = [found.classes, found.words, PHOTO, "", labels, content]
    assert found.digest == sha256(canonical(about)).hexdigest()
    monkeypatch.setattr("synthaug.data.folder.decode_image", lambda data: pytest.fail("decoded again"))
    assert opened(archive, facts).digest == found.digest


def test_bad_members_of_a_zip_are_set_aside(tmp_path: Path) -> None:
    archive = pets(tmp_path, {"train/cat/words.png": b"hello"})
    whole = opened(archive)
    assert whole.quarantined == (("train/cat/words.png", "not an image"),)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("train/dog/empty.png", b"")
    with pytest.raises(UserError, match=r"2 of 128 files cannot be read.*dog/empty.png \(empty file\)"):
        opened(archive)


def test_a_zip_that_is_damaged(tmp_path: Path) -> None:
    archive, facts = pets(tmp_path, {}), Facts()
    damage(archive, opened(archive, facts).read("train/cat/3.png"))
    good = opened(archive, facts)  # as far as anybody remembers
    with pytest.raises(UserError, match="'train/cat/3.png' in '.*pets.zip' cannot be decoded: Bad CRC.*again"):
        good.read("train/cat/3.png")
    with pytest.raises(UserError, match="^dataset.path: 'train/cat/3.png' in"):
        decode_all(Reading(good.read, ["train/cat/3.png"]), 8)
    ((name, reason),) = opened(archive).quarantined
    assert name == "train/cat/3.png" and "Bad CRC" in reason
