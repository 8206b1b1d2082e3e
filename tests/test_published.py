"""Tiny copies of the published data sets in exactly their official layouts."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shapes import class_folders, paint
from synthaug.dataset import KNOWN, Dataset, subset
from synthaug.layouts import DOMAINS
from synthaug.listing import Listing
from synthaug.published import PUBLISHED
from synthaug.sample import decode_image
from synthaug.settings import UserError, keyed


def cub(root: Path, train: int = 6, test: int = 3) -> Path:
    """CUB-200-2011 with two classes, one of them with the name of the other inside."""
    folders = ["001.Crow", "002.Fish_Crow"]
    images, split, number = [], [], 0
    for folder in folders:
        for i in range(train + test):
            number += 1
            images.append(f"{number} {folder}/{folder[4:]}_{i:04d}_{number}.jpg")
            split.append(f"{number} {int(i < train)}")
            paint(root / "images" / images[-1].split()[1], number)
    (root / "images.txt").write_text("\n".join(images) + "\n")
    (root / "train_test_split.txt").write_text("\n".join(split) + "\n")
    (root / "classes.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(folders, 1)))
    return root


def aircraft(root: Path, each: int = 3) -> Path:
    """FGVC-Aircraft with variants that hold spaces and slashes."""
    variants = ["707-320", "F-16A/B", "Falcon 2000"]
    (root / "data").mkdir(parents=True)
    (root / "data" / "variants.txt").write_text("\n".join(variants) + "\n")
    number = 34309
    for split in ("train", "val", "test"):
        lines = []
        for variant in variants:
            for _ in range(each):
                number += 1
                lines.append(f"{number:07d} {variant}")
                paint(root / "data" / "images" / f"{number:07d}.jpg", number)
        (root / "data" / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    (root / "data" / "images_variant_trainval.txt").write_text("not read\n")
    return root


def semi_inat(root: Path, annotation: str = "annotation.json", records: str = "annotations") -> Path:
    """Semi-iNat with four species of three families of two orders; species by epithet and by both words."""
    taxa = [("Apis", "mellifera", "Apidae", "Hymenoptera"), ("Bombus", "Bombus terrestris", "Apidae", "Hymenoptera")]
    taxa += [("Vespa", "crabro", "Vespidae", "Hymenoptera"), ("Quercus", "robur", "Fagaceae", "Fagales")]
    keys = ("genus", "species", "family", "order")
    told = [{"class_id": i, **dict(zip(keys, taxon, strict=True))} for i, taxon in enumerate(taxa)]
    class_folders(root / "l_train", ["0", "1", "2", "3"], 5)
    class_folders(root / "val", ["0", "1", "2", "3"], 2, first=100)
    (root / annotation).write_text(json.dumps({"info": {}, records: told, "unlabeled_taxa": []}))
    return root


def domainnet(root: Path, lists: str = "", domains: tuple[str, ...] = ("real", *DOMAINS)) -> Path:
    """DomainNet with two classes; the train lists of the other domains are there and not read."""
    (root / lists).mkdir(parents=True, exist_ok=True)
    for d, domain in enumerate(domains):
        for split, count in (("train", 5), ("test", 2)):
            lines = []
            for label, name in enumerate(["aircraft_carrier", "t-shirt"]):
                for i in range(count):
                    lines.append(f"{domain}/{name}/{domain}_{label:03d}_{split}{i}.jpg {label}")
                    paint(root / lines[-1].split()[0], 1000 * d + 100 * label + 10 * (split == "test") + i)
            (root / lists / f"{domain}_{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def cifar(root: Path, name: str, each: int = 5) -> Path:
    """Pickles as python 2 wrote them: byte strings for keys, arrays by way of numpy.core."""
    root.mkdir(parents=True)
    labels, fine = (b"labels", b"label_names") if name == "cifar10" else (b"fine_labels", b"fine_label_names")
    files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if name == "cifar10" else ["train", "test"]
    for number, file in enumerate(files):
        pixels = np.random.default_rng(number).integers(0, 256, (2 * each, 3072), dtype=np.uint8)
        data = {b"data": pixels, labels: [i % 2 for i in range(2 * each)], b"coarse_labels": [0], b"batch_label": b"x"}
        (root / file).write_bytes(pickle.dumps(data, protocol=2).replace(b"cnumpy._core.", b"cnumpy.core."))
    meta = {fine: [b"aquarium_fish", b"wolf"]}
    (root / ("batches.meta" if name == "cifar10" else "meta")).write_bytes(pickle.dumps(meta, protocol=2))
    return root


def folders(
    root: Path, classes: tuple[str, ...] = ("a_b", "c"), train: int = 5, test: int = 2, held: str = "test"
) -> Path:
    class_folders(root / "train", classes, train)
    class_folders(root / held, classes, test, first=500)
    return root


def make(name: str, root: Path) -> Path:
    """A copy of a data set by its name, in the folder that its archive makes."""
    inner = root / PUBLISHED[name].folder
    if name == "cub":
        cub(inner)
    elif name == "aircraft":
        aircraft(inner)
    elif name.startswith("semi_inat"):
        semi_inat(inner)
    elif name == "domainnet":
        domainnet(inner)
    elif name.startswith("cifar"):
        cifar(inner, name)
    elif name == "caltech101":
        class_folders(inner, ["BACKGROUND_Google", "accordion", "wild_cat"], 34)
    elif name.startswith("imagenet"):
        folders(inner, held="val")
    else:
        folders(inner, ("ig" if name == "blood" else "mel", "other"))
    return root


def counts(listing: Listing) -> dict[str, list[int]]:
    """Images of each class, split by split."""
    classes = range(len(listing.classes))
    counted = {split: Counter(e.label for e in entries) for split, entries in listing.splits.items()}
    return {split: [count[label] for label in classes] for split, count in counted.items()}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
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


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_is_missing_is_named_with_the_layout(name: str, tmp_path: Path) -> None:
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
    assert Dataset("blood").template.format("monocyte") == "a microscopic blood cell image of monocyte"
    assert Dataset("domainnet").template == "a real image of a {}"
    assert Dataset("digits").template == Dataset("cub").template == "a photo of a {}"
    assert (Dataset("digits").kind_word, Dataset("folder", super_class="dog").kind_word) == ("", "dog")


def test_what_the_user_sets_goes_before_the_table() -> None:
    dataset = Dataset("cub", prompt="a {}", super_class="")
    assert (dataset.template, dataset.kind_word) == ("a {}", "")
    assert keyed(Dataset("cub")) == {"kind": "synthaug.dataset:Dataset", "name": "cub"}
    assert keyed(dataset) == {"kind": "synthaug.dataset:Dataset", "name": "cub", "prompt": "a {}", "super_class": ""}


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


def test_equal_images_on_both_sides_are_counted_and_kept(tmp_path: Path) -> None:
    root = cub(tmp_path)
    train, test = (root / "images" / "001.Crow" / f"Crow_{i:04d}_{i + 1}.jpg" for i in (0, 8))
    test.write_bytes(train.read_bytes())
    listing = Dataset("cub", path=str(root), val_share=0).open()
    assert "1 training images are in the test set as well" in listing.notes
    assert counts(listing) == {"train": [6, 6], "val": [0, 0], "test": [3, 3]}


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


def test_large_sets_are_told_apart_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path, held="val")
    monkeypatch.setattr("synthaug.folder.decode_image", lambda data: pytest.fail("decoded"))
    listing = Dataset("imagenet100", path=str(tmp_path)).open()
    assert counts(listing) == {"train": [4, 4], "val": [1, 1], "test": [2, 2]}
    monkeypatch.undo()
    (tmp_path / "train" / "c" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"remove or mend them: train/c/0.png \(empty file\)"):
        Dataset("imagenet100", path=str(tmp_path)).open()


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


def test_caltech_from_the_archive_keeps_30_a_class_to_train_on(tmp_path: Path) -> None:
    class_folders(tmp_path, ["BACKGROUND_Google", "accordion", "wild_cat"], 34)
    listing = Dataset("caltech101", path=str(tmp_path), shots=25).open()
    assert listing.classes == ("accordion", "wild_cat") and listing.words == ("accordion", "wild cat")
    assert counts(listing) == {"train": [25, 25], "val": [5, 5], "test": [4, 4]}, "25 shots leave 5 of 30 to choose on"
    label = {e.id: e.label for entries in listing.splits.values() for e in entries}
    assert label["wild_cat/0.png"] == 1 and len(label) == 68
    protocol = folders(tmp_path / "protocol", ("accordion", "wild_cat"))
    assert counts(Dataset("caltech101", path=str(protocol)).open())["test"] == [2, 2]


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
    from synthaug.layouts import _synsets

    ids = [f"n{number:08d}" for number in range(1000)]
    words = _synsets(tmp_path, ids)
    assert (words[ids[0]], words[ids[134]], words[ids[999]]) == ("tench", "crane bird", "toilet tissue")
    assert _synsets(tmp_path, ids[:100]) == {}


def test_facts_are_shared_by_the_names_of_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    semi_inat(tmp_path)
    facts: dict[str, list[object]] = {}
    Dataset("semi_inat_species", path=str(tmp_path)).open(facts)
    monkeypatch.setattr("synthaug.folder._fact", lambda path: pytest.fail(f"read {path} again"))
    assert Dataset("semi_inat_order", path=str(tmp_path)).open(facts).classes == ("Fagales", "Hymenoptera")
