"""FFHQ and AFHQv2, as folders and as one zip file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from replicas import counts, make
from synthaug.data.dataset import Dataset
from synthaug.data.sample import decode_image
from synthaug.settings import UserError


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
