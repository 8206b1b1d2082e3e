"""Outliers: what they show, that what chooses is never what is reported on, and what is wrong with a folder."""

import numpy as np
import pytest
from PIL import Image

from shapes import paint
from synthaug.data.dataset import Dataset
from synthaug.data.sample import decode_image
from synthaug.evaluate.outliers import (
    Folder,
    Letters,
    Noise,
    Outliers,
    Textures,
    blobs,
    checker,
    grating,
    image_files,
)
from synthaug.settings import UserError, from_json, keyed, parts, to_json

MADE = [Letters(count=30), Noise(count=30), Noise(law="gaussian", count=30), Textures(count=30)]


@pytest.fixture
def folder(tmp_path):
    for number in range(40):
        paint(tmp_path / "zoo" / "abc"[number % 3] / f"{number}.png", number)
    return tmp_path / "zoo"


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.parametrize("source", MADE, ids=lambda source: source.name)
def test_images_are_reproducible_distinct_and_in_one_part(source):
    val, test = source.images(32, "val"), source.images(32, "test")
    for images in (val, test):
        assert images.shape == (30, 3, 32, 32) and images.dtype == np.uint8 and images.flags.c_contiguous
        assert len(rows(images)) == 30 and images.std() > 20
    assert not rows(val) & rows(test)
    assert np.array_equal(source.images(32, "test"), test)
    assert source.images(17, "val").shape == (30, 3, 17, 17)
    assert from_json(Outliers, to_json(source)) == source


@pytest.mark.parametrize("kind", [Letters, Textures])
def test_more_images_only_add(kind):
    assert np.array_equal(kind(count=6).images(32, "val"), kind(count=9).images(32, "val")[:6])


def test_letters_are_letters_of_their_split():
    listing = Dataset("glyphs").open()
    known = {
        decode_image(listing.read(entry.id)).transpose(2, 0, 1).tobytes(): listing.classes[entry.label]
        for entry in listing.splits["val"]
    }
    letters = {known[image.tobytes()] for image in Letters(count=200).images(32, "val")}
    assert letters == set("ABCDEFGHJKLMNPQRSTUVWXYZ")
    assert len(Letters(count=10_000, without="BCDEFGHIJKLMNOPQRSTUVWXYZ").images(32, "test")) == 50
    with pytest.raises(UserError, match="leaves no letter"):
        Letters(without="ABCDEFGHIJKLMNOPQRSTUVWXYZ").images(32, "val")


def test_noise_has_its_law():
    uniform, gaussian = (Noise(law=law, count=50).images(32, "test").ravel() / 255 for law in ("uniform", "gaussian"))
    assert uniform.mean() == pytest.approx(0.5, abs=0.01) and uniform.std() == pytest.approx(12**-0.5, abs=0.01)
    assert gaussian.mean() == pytest.approx(0.5, abs=0.01) and gaussian.std() == pytest.approx(0.24, abs=0.01)
    assert np.abs(np.corrcoef(uniform[:-1], uniform[1:])[0, 1]) < 0.02
    assert not rows(Noise(seed=1).images(8, "val")) & rows(Noise().images(8, "val"))


def test_textures_are_what_they_are_called():
    plane = np.stack(np.meshgrid(*[np.linspace(-1, 1, 64)] * 2))
    rng = np.random.default_rng(0)
    wave, board, spots = grating(plane, rng), checker(plane, rng), blobs(plane, rng)
    assert np.ptp(wave, axis=0).max() < 1e-12 < 0.9 < np.ptp(wave)  # along the second axis nothing changes
    assert set(np.unique(board)) == {0.0, 1.0} and 0.3 < board.mean() < 0.7
    assert (spots.min(), spots.max()) == (0, 1)
    assert np.abs(np.diff(spots, axis=0)).max() < 0.3  # smooth
    assert not rows(Textures(seed=1, count=9).images(16, "val")) & rows(Textures(count=9).images(16, "val"))


def test_a_folder_is_read_at_any_depth(folder):
    paint(folder / ".thumbs" / "a.png", 1)
    paint(folder / ".hidden.png", 1)
    (folder / "README.txt").write_text("not an image")
    Image.new("L", (40, 20), 200).save(folder / "a" / "wide.JPG", "JPEG")
    files = image_files(folder)
    assert list(files) == sorted(files) and len(files) == 41 and "a/wide.JPG" in files
    val, test = (Folder(str(folder)).images(8, part) for part in ("val", "test"))
    assert len(val) + len(test) == 41 and 2 <= len(val) <= 16 and not rows(val) & rows(test)
    everything = {decode_image(path.read_bytes()).transpose(2, 0, 1).tobytes() for path in files.values()}
    assert len(rows(val) & everything) + len(rows(test) & everything) == 40  # all but the wide one, which is squashed


def test_parts_belong_to_names_not_to_places(folder):
    before = {part: rows(Folder(str(folder)).images(8, part)) for part in ("val", "test")}
    few = Folder(str(folder), count=3).images(8, "test")
    paint(folder / "new.png", 99)
    moved = folder.rename(folder.parent / "moved here")
    after = {part: rows(Folder(str(moved)).images(8, part)) for part in ("val", "test")}
    assert all(before[part] <= after[part] for part in before)
    assert sum(map(len, after.values())) == sum(map(len, before.values())) + 1
    assert len(few) == 3 and rows(few) <= before["test"]
    assert Folder(str(moved)).name == "moved_here"


def test_bad_folders(tmp_path, folder):
    with pytest.raises(UserError, match="there is no folder .*nowhere"):
        Folder(str(tmp_path / "nowhere")).images(8, "val")
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    with pytest.raises(UserError, match="empty' has no images"):
        Folder(str(tmp_path / "empty")).images(8, "test")
    paint(tmp_path / "one" / "a.png", 0)
    missing = [part for part in ("val", "test") if _refuses(Folder(str(tmp_path / "one")), part)]
    assert len(missing) == 1
    (folder / "a" / "torn.png").write_bytes((folder / "a" / "0.png").read_bytes()[:60])
    (folder / "a" / "none.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"(torn|none).png' cannot be decoded"):
        for part in ("val", "test"):
            Folder(str(folder)).images(8, part)


def _refuses(source: Outliers, part: str) -> bool:
    try:
        source.images(8, part)
    except UserError as error:
        assert "has no image for" in str(error)
        return True
    return False


def test_a_folder_enters_a_key_by_its_content(folder):
    asked = Folder(str(folder), count=7)
    assert keyed(asked) == keyed(Folder("elsewhere", count=7)) and "path" not in keyed(asked)
    assert ("path", folder) in list(parts(asked))
