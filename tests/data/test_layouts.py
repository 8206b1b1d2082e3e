"""Each official layout: which of its lists are followed, and what is said when they are broken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicas import WORDNETS, aircraft, counts, cub, domainnet, folders, imagenet_c, imagenet_d, semi_inat
from shapes import class_folders
from synthaug.data.dataset import Dataset
from synthaug.data.layouts import DOMAINS
from synthaug.data.listing import Listing
from synthaug.data.published import IMAGENET_D
from synthaug.settings import UserError
from synthaug.stages.data import Pictures
from synthaug.stages.evaluate import places_of


def test_cub_follows_its_lists_and_not_its_names(tmp_path: Path) -> None:
    listing = Dataset("cub", path=str(cub(tmp_path)), val_share=0.5).open()
    assert listing.classes == ("Crow", "Fish_Crow") and listing.words == ("Crow", "Fish Crow")
    assert counts(listing) == {"train": [3, 3], "val": [3, 3], "test": [3, 3]}
    labels = {e.id.split("/")[1]: e.label for entries in listing.splits.values() for e in entries}
    assert labels == {"001.Crow": 0, "002.Fish_Crow": 1}
    test = {int(e.id.rpartition("_")[2].removesuffix(".jpg")) for e in listing.splits["test"]}
    assert test == {7, 8, 9, 16, 17, 18}, "those with a 0 in train_test_split.txt"


@pytest.mark.parametrize(
    "file, text, said",
    [
        ("images.txt", "1\n", "images.txt, line 1: 2 columns are expected, not '1'"),
        ("images.txt", "1 003.Owl/x.jpg\n", "speaks of '003.Owl', which its neighbours do not know"),
        ("train_test_split.txt", "99 1\n", "'99' '1' is no image of images.txt"),
        ("train_test_split.txt", "1 2\n", "'1' '2' is no image of images.txt"),
        ("classes.txt", b"\xff\xfe\x00", "classes.txt is no text"),
    ],
)
def test_broken_lists_are_named_with_the_line(file: str, text: str | bytes, said: str, tmp_path: Path) -> None:
    root = cub(tmp_path)
    (root / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said):
        Dataset("cub", path=str(root)).open()


def test_a_listed_image_that_is_not_there_stops(tmp_path: Path) -> None:
    next(cub(tmp_path).glob("images/001.Crow/*")).unlink()
    with pytest.raises(UserError, match="1 listed images are not below .*, the first is 'images/001.Crow/Crow_000"):
        Dataset("cub", path=str(tmp_path)).open()


def test_an_image_listed_for_training_and_testing_stops(tmp_path: Path) -> None:
    domainnet(tmp_path)
    first = (tmp_path / "real_train.txt").read_text().splitlines()[0]
    with (tmp_path / "real_test.txt").open("a") as file:
        file.write(first + "\n")
    with pytest.raises(UserError, match=f"{first.split()[0]!r} is listed for two splits"):
        Dataset("domainnet", path=str(tmp_path)).open()


def test_aircraft_trains_on_train_alone(tmp_path: Path) -> None:
    listing = Dataset("aircraft", path=str(aircraft(tmp_path))).open()
    assert listing.classes == ("707-320", "F-16A/B", "Falcon 2000")
    assert counts(listing) == {"train": [3] * 3, "val": [3] * 3, "test": [3] * 3}
    assert not any("validation" in note for note in listing.notes), "it has an official validation split"


@pytest.mark.parametrize(
    "annotation, records", [("annotation.json", "annotations"), ("annotation_v2.json", "categories")]
)
def test_semi_inat_is_one_set_of_images_at_three_levels(annotation: str, records: str, tmp_path: Path) -> None:
    semi_inat(tmp_path, annotation, records)
    species, family, order = (
        Dataset(f"semi_inat_{level}", path=str(tmp_path)).open() for level in ("species", "family", "order")
    )
    assert species.classes == ("Apis mellifera", "Bombus terrestris", "Quercus robur", "Vespa crabro")
    assert (family.classes, order.classes) == (("Apidae", "Fagaceae", "Vespidae"), ("Fagales", "Hymenoptera"))
    assert counts(species)["test"] == [2] * 4 and counts(family)["test"] == [4, 2, 2]
    assert counts(order)["train"] == [4, 12] and counts(order)["val"] == [1, 3]
    label = {e.id: e.label for e in order.splits["test"]}
    assert (label["val/2/0.png"], label["val/3/0.png"]) == (1, 0)
    assert len({listing.digest for listing in (species, family, order)}) == 3, "equal images, other labels"


@pytest.mark.parametrize(
    "text, said",
    [(None, "there is no annotation.json"), ("[]", "does not hold the taxonomy"), ("{", "does not hold the taxonomy")],
)
def test_semi_inat_without_a_taxonomy_stops(text: str | None, said: str, tmp_path: Path) -> None:
    (semi_inat(tmp_path) / "annotation.json").unlink()
    if text is not None:
        (tmp_path / "annotation.json").write_text(text)
    with pytest.raises(UserError, match=said):
        Dataset("semi_inat_order", path=str(tmp_path)).open()


@pytest.mark.parametrize("lists", ["", "splits"])
def test_domainnet_trains_on_real_and_tests_on_what_is_there(lists: str, tmp_path: Path) -> None:
    domainnet(tmp_path, lists)
    listing = Dataset("domainnet", path=str(tmp_path)).open()
    assert listing.words == ("aircraft carrier", "t-shirt")
    assert listing.splits.keys() == {"train", "val", "test", *(f"test/{domain}" for domain in DOMAINS)}
    for split, entries in listing.splits.items():
        domain = split.partition("/")[2] or "real"
        assert {e.id.partition("/")[0] for e in entries} == {domain}
        assert all(("_test" in e.id) == split.startswith("test") for e in entries), "each from its own list"
    (tmp_path / lists / "quickdraw_test.txt").unlink()
    assert "test/quickdraw" not in Dataset("domainnet", path=str(tmp_path)).open().splits


@pytest.mark.parametrize(
    "name, lines, said",
    [
        ("real_train.txt", "real/t-shirt/real_001_train0.jpg 1\n", "does not number its classes from 0"),
        ("real_train.txt", "real/t-shirt/real_001_train0.jpg one\n", "'one' of .* is no number of a class"),
        ("sketch_test.txt", "sketch/t-shirt/sketch_001_test0.jpg 7\n", "number a class 7 that real_train.txt lacks"),
    ],
)
def test_domainnet_lists_must_agree(name: str, lines: str, said: str, tmp_path: Path) -> None:
    (domainnet(tmp_path) / name).write_text(lines)
    with pytest.raises(UserError, match=said):
        Dataset("domainnet", path=str(tmp_path)).open()


def test_caltech_from_the_archive_keeps_30_a_class_to_train_on(tmp_path: Path) -> None:
    class_folders(tmp_path, ["BACKGROUND_Google", "accordion", "wild_cat"], 34)
    listing = Dataset("caltech101", path=str(tmp_path), shots=25).open()
    assert listing.classes == ("accordion", "wild_cat") and listing.words == ("accordion", "wild cat")
    assert counts(listing) == {"train": [25, 25], "val": [5, 5], "test": [4, 4]}, "25 shots leave 5 of 30 to choose on"
    label = {e.id: e.label for entries in listing.splits.values() for e in entries}
    assert label["wild_cat/0.png"] == 1 and len(label) == 68
    protocol = folders(tmp_path / "protocol", ("accordion", "wild_cat"))
    assert counts(Dataset("caltech101", path=str(protocol)).open())["test"] == [2, 2]


@pytest.mark.parametrize("family", [True, False])
def test_imagenet_c_has_a_split_for_each_severity(family: bool, tmp_path: Path) -> None:
    imagenet_c(tmp_path, family)
    (tmp_path / "checksums.txt").write_text("not read")
    listing = Dataset("imagenet-c", path=str(tmp_path)).open()
    assert listing.classes == listing.words == WORDNETS
    corruptions = ("gaussian_noise", "shot_noise", "fog")
    assert listing.splits.keys() == {f"{name}/{level}" for name in corruptions for level in range(1, 6)}
    assert all(by_class == [2, 1] for by_class in counts(listing).values())
    place = "noise/shot_noise/4" if family else "shot_noise/4"
    assert {e.id for e in listing.splits["shot_noise/4"] if e.label == 1} == {
        f"{place}/n02012849/ILSVRC2012_val_00000001.JPEG"
    }
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\n")
    assert Dataset("imagenet-c", path=str(tmp_path)).open().words == ("tench", "n02012849")


def test_imagenet_d_knows_the_classes_of_all_its_folders(tmp_path: Path) -> None:
    listing = Dataset("imagenet-d", path=str(imagenet_d(tmp_path))).open()
    assert listing.classes == ("bath_towel", "chair", "pen") and listing.words[0] == "bath towel"
    assert counts(listing) == {"background": [2, 2, 0], "material": [0, 2, 2], "texture": [2, 0, 2]}


def test_imagenet_d_calls_the_classes_of_imagenet_otherwise() -> None:
    """Where both have the same word for a class, it is the same class."""
    from torchvision.models import ResNet50_Weights

    names, learned = ResNet50_Weights.IMAGENET1K_V1.meta["categories"], [f"n{number:08d}" for number in range(1000)]
    assert len(IMAGENET_D) == 113 and len({place for places in IMAGENET_D.values() for place in places}) == 125
    same = [name for name in IMAGENET_D if name.replace("_", " ") in names]
    assert len(same) > 40 and all(names.index(name.replace("_", " ")) in IMAGENET_D[name] for name in same)
    assert [names[place] for place in IMAGENET_D["pen"]] == ["ballpoint", "quill", "fountain pen"]
    assert places_of(named("imagenet-d", "bath_towel", "chair"), learned) == [(434,), (423, 559, 765)]
    for ours, name in ((learned[:999], "imagenet-d"), (learned, "imagenet-r")):
        with pytest.raises(UserError, match=f"1 classes of {name} were not learned, the first is 'pen'"):
            places_of(named(name, "pen"), ours)


def named(name: str, *classes: str) -> Pictures:
    """A data set of which only the classes are known."""
    return Pictures(Dataset(name, path="nowhere"), Listing(classes, classes, {}, "", lambda _: b""))


def test_test_sets_are_told_apart_by_names_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their millions of files are not opened, and what lies beside the class folders is left alone."""
    for wordnet in WORDNETS:
        (tmp_path / wordnet).mkdir()
        for i in range(60):
            (tmp_path / wordnet / f"{i}.jpg").write_bytes(b"one")
    for other in ("__MACOSX", ".git", "n1"):
        (tmp_path / other).mkdir()
    dataset = Dataset("imagenet-r", path=str(tmp_path))
    monkeypatch.setattr("synthaug.data.folder.decode_image", lambda data: pytest.fail("decoded"))
    monkeypatch.setattr(Path, "open", lambda *args: pytest.fail("opened"))
    before = dataset.open()
    assert counts(before) == {"test": [60, 60]}
    (tmp_path / WORDNETS[0] / ".0.jpg.swp").touch()
    (tmp_path / WORDNETS[0] / "Thumbs.db").touch()
    assert dataset.open().digest == before.digest
    first, digests = tmp_path / WORDNETS[0] / "0.jpg", {before.digest}
    os.truncate(first, 2)
    digests.add(dataset.open().digest)
    first.rename(first.with_name("00.jpg"))
    digests.add(dataset.open().digest)
    os.truncate(first.with_name("00.jpg"), 0)
    found = dataset.open()
    assert found.quarantined == (("n01440764/00.jpg", "empty file"),) and counts(found) == {"test": [59, 60]}
    assert len(digests | {found.digest}) == 4
    os.truncate(tmp_path / WORDNETS[1] / "0.jpg", 0)
    with pytest.raises(UserError, match=r"2 of 120 files cannot be read, .*: n01440764/00.jpg \(empty file\); n0201"):
        dataset.open()


@pytest.mark.parametrize(
    "name, folder, said",
    [
        ("imagenet-c", "n01440764", "holds no folders such as gaussian_noise/1; unpack"),
        ("imagenet-c", "noise/gaussian_noise/1/tench", "gaussian_noise/1' holds no folders such as n01440764; unpack"),
        ("imagenet-a", "tench", "holds no folders such as n01440764; unpack"),
        ("imagenet-d", "background", "/material' is not there; imagenet-d needs a folder with background, material"),
    ],
)
def test_test_sets_without_class_folders_stop(name: str, folder: str, said: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=said):
        Dataset(name, path=str(tmp_path)).open()
