"""Tiny copies of the published data sets in exactly their official layouts."""

from __future__ import annotations

import gzip
import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.io import savemat

from shapes import class_folders, paint
from synthaug.data.layouts import DOMAINS
from synthaug.data.listing import Listing
from synthaug.data.mat_layouts import LABELLED
from synthaug.data.published import PUBLISHED

WORDNETS = ("n01440764", "n02012849")
ONLY_TESTS = {f"imagenet-{kind}" for kind in ("a", "c", "d", "r", "s", "sketch")}


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


def fashion(root: Path, each: int = 3, packed: bool = True) -> Path:
    """Fashion-MNIST's IDX files with so many images a class, three times as many to train on."""
    root.mkdir(parents=True)
    for part, count in (("train", 30 * each), ("t10k", 10 * each)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for file, data in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", np.arange(count) % 10)):
            shape = b"".join(size.to_bytes(4, "big") for size in data.shape)
            content = bytes((0, 0, 8, data.ndim)) + shape + data.astype(np.uint8).tobytes()
            (root / f"{file}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    return root


def folders(
    root: Path, classes: tuple[str, ...] = ("a_b", "c"), train: int = 5, test: int = 2, held: str = "test"
) -> Path:
    class_folders(root / "train", classes, train)
    class_folders(root / held, classes, test, first=500)
    return root


def imagenet_c(root: Path, family: bool = True) -> Path:
    """ImageNet-C with three corruptions of two classes; equal names in every split, as the archives have them."""
    corruptions = {"gaussian_noise": "noise", "shot_noise": "noise", "fog": "weather"}
    for c, (corruption, of) in enumerate(corruptions.items()):
        for level in range(1, 6):
            place = root / (of if family else "") / corruption / str(level)
            for i, wordnet in enumerate((*WORDNETS, WORDNETS[0])):
                paint(place / wordnet / f"ILSVRC2012_val_{i:08d}.JPEG", 100 * c + 10 * level + i)
    return root


def imagenet_d(root: Path) -> Path:
    """ImageNet-D, whose folders do not have the same classes; the questions are for language models."""
    three = ("bath_towel", "chair", "pen")
    for i, (split, places) in enumerate({"background": (0, 1), "material": (1, 2), "texture": (0, 2)}.items()):
        class_folders(root / split, [three[place] for place in places], 2, first=10 * i)
        (root / "questions").mkdir(exist_ok=True)
        (root / "questions" / f"{split}.csv").write_text("path,question\n")
    return root


def tiny_imagenet(root: Path, train: int = 5, test: int = 2) -> Path:
    """Tiny-ImageNet with two classes, the later first in wnids.txt; its test/ has no labels and is not read."""
    found = []
    for c, wordnet in enumerate(WORDNETS):
        names = [f"{wordnet}_{i}.JPEG" for i in range(train)]
        for i, name in enumerate(names):
            paint(root / "train" / wordnet / "images" / name, 100 * c + i)
        boxes = "".join(f"{name}\t0\t1\t6\t7\n" for name in names)
        (root / "train" / wordnet / f"{wordnet}_boxes.txt").write_text(boxes)
        found += [wordnet] * test
    for i, _ in enumerate(found):
        paint(root / "val" / "images" / f"val_{i}.JPEG", 500 + i)
    lines = [f"val_{i}.JPEG\t{wordnet}\t0\t1\t6\t7\n" for i, wordnet in enumerate(found)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    paint(root / "test" / "images" / "test_0.JPEG", 900)
    (root / "wnids.txt").write_text("\n".join(reversed(WORDNETS)))
    words = ("n01440764\ttench, Tinca tinca", "n02012849\tsand crane", "n99999999\tthing")
    (root / "words.txt").write_text("\n".join(words) + "\n")
    return root


def flowers(root: Path, train: int = 2) -> Path:
    """Oxford's flowers with all 102 classes; the images of a class do not follow one another."""
    labels = np.tile(np.arange(1, 103, dtype=np.uint8), train + 2)
    for i in range(len(labels)):
        paint(root / "jpg" / f"image_{i + 1:05d}.jpg", i)
    numbers = np.arange(1, len(labels) + 1, dtype=np.uint16)
    sets = {"trnid": numbers[: 102 * train], "valid": numbers[102 * train : -102], "tstid": numbers[-102:]}
    savemat(root / "imagelabels.mat", {"labels": labels})
    savemat(root / "setid.mat", sets)
    return root


def cars(root: Path, labelled: str = "", train: int = 5) -> Path:
    """Stanford's cars with three classes."""
    (root / "devkit").mkdir(parents=True)
    names = np.array([["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "Audi R8"]], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    save_cars(root, "train", root / "devkit" / "cars_train_annos.mat", 3 * train)
    save_cars(root, "test", root / labelled / LABELLED, 6)
    return root


def save_cars(root: Path, split: str, path: Path, count: int) -> None:
    annotations = np.zeros((1, count), dtype=[("bbox_x1", object), ("class", object), ("fname", object)])
    for i in range(count):
        annotations[0, i] = (39, np.uint8(i % 3 + 1), f"{i + 1:05d}.jpg")
        paint(root / f"cars_{split}" / f"{i + 1:05d}.jpg", 1000 * (split == "test") + i)
    savemat(path, {"annotations": annotations})


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
    elif name in ("tiny-imagenet", "flowers102", "cars"):
        {"tiny-imagenet": tiny_imagenet, "flowers102": flowers, "cars": cars}[name](inner)
    elif name == "fashion":
        fashion(inner)
    elif name.startswith("cifar"):
        cifar(inner, name)
    elif name == "ffhq":
        for number in range(14):
            paint(inner / f"{number // 10:05d}" / f"{number:05d}.png", number)
    elif name == "afhqv2":
        for split, count in (("train", 5), ("test", 2)):
            class_folders(inner / split, ["cat", "dog", "wild"], count, first=100 * (split == "test"))
    elif name == "caltech101":
        class_folders(inner, ["BACKGROUND_Google", "accordion", "wild_cat"], 34)
    elif name == "imagenet-c":
        imagenet_c(inner)
    elif name == "imagenet-d":
        imagenet_d(inner)
    elif name in ONLY_TESTS:
        class_folders(inner, WORDNETS, 2)
        (inner / "README.txt").write_text("not read")
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
