"""How published data sets lie on a disk: each function reads the official files of one and tells its images."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from synthaug.data.folder import Facts, Files, class_folders, contents, readable, refuse_bad
from synthaug.data.listing import Entry
from synthaug.data.walk import AT, sized, utf8, visible_folders
from synthaug.settings import UserError, canonical, seed_of

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "sketch")  # of DomainNet, beside the `real` one
WORDNET = re.compile(r"n\d{8}")
POOL = 30  # images a class of Caltech-101 are usually there to train on, all others to test
SYNSETS = "LOC_synset_mapping.txt"
SEVERITIES = "12345"  # of ImageNet-C
ANY_NAME = re.compile(r".+")
T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """A data set as it lies on the disk; `content` is what it is, as JSON."""

    classes: tuple[str, ...]
    splits: dict[str, list[Entry]]
    content: Any
    read: Callable[[str], bytes]
    words: Mapping[str, str] = field(default_factory=dict)
    bad: tuple[tuple[str, str], ...] = ()


Reader = Callable[[Path, Facts], Found]


def on_disk(layout: Callable[[Path], Files], *, decode: bool = True) -> Reader:
    """A reader for image files; a set too large to be looked through image by image is not decoded."""

    def read(root: Path, facts: Facts) -> Found:
        files = layout(root)
        found, bad = readable(root, files, facts, decode=decode)
        return Found(
            files.classes, found, contents(facts), lambda name: (root / name).read_bytes(), files.words, bad
        )  # fmt: skip

    return read


def only_tests(find: Callable[[Path], Mapping[str, Path]], names: re.Pattern[str] = WORDNET) -> Reader:
    """A reader for a set that has test images only. `find` tells the folder of each split; `names` are what its class
    folders are called. There may be millions of files: names and sizes tell what they are, and none is opened."""

    def read(root: Path, facts: Facts) -> Found:
        folders = {split: (folder, _called(folder, names)) for split, folder in sorted(find(root).items())}
        classes = tuple(sorted({name for _, inside in folders.values() for name in inside}))
        splits: dict[str, list[Entry]] = {split: [] for split in folders}
        bad: list[tuple[str, str]] = []
        content, label = hashlib.sha256(), _index(classes)
        for split, (folder, inside) in folders.items():
            for name in inside:
                place = (folder / name).relative_to(root).as_posix()
                files = sized(f"{root}/{place}")
                content.update(canonical([split, place, files]))
                for file, size in files:
                    id = f"{place}/{file}"
                    if size:
                        splits[split].append(Entry(id, label[name], id))  # unread, so its name stands for its pixels
                    else:
                        bad.append((id, "empty file"))
        count = len(bad) + sum(map(len, splits.values()))
        # a class may be absent from a split, as in ImageNet-D, but not from all of them
        refuse_bad(bad, count, classes, chain.from_iterable(splits.values()))
        told = _told_words(root)
        return Found(classes, splits, content.hexdigest(), lambda id: (root / id).read_bytes(), told, tuple(bad))

    return read


def _called(folder: Path, names: re.Pattern[str]) -> list[str]:
    """The class folders of a folder."""
    if found := [name for name in visible_folders(folder) if names.fullmatch(name)]:
        utf8(found, folder)
        return found
    like = "such as n01440764" if names is WORDNET else "of classes"
    raise UserError(f"{str(folder)!r} holds no folders {like}; unpack the archive again", AT)


def present(root: Path, files: Files) -> Files:
    """The same files, when every listed image is there, and in one split."""
    names = [name for named in files.splits.values() for name in named]
    # an archive half unpacked would go on as a smaller data set
    if missing := sorted(name for name in names if not os.path.isfile(f"{root}/{name}")):
        said = f"{len(missing)} listed images are not below {str(root)!r}, the first is {missing[0]!r}"
        raise UserError(f"{said}; unpack the archive again", AT)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{twice[0]!r} is listed for two splits; unpack the lists again", AT)
    return files


def rows(root: Path, name: str, columns: int) -> Iterator[list[str]]:
    """The lines of a list file, each cut at spaces into so many columns."""
    for number, line in enumerate(_text(root / name).splitlines(), 1):
        parts = line.split(maxsplit=columns - 1)  # the last column may hold spaces, as the names of aircraft do
        if len(parts) not in (0, columns):  # empty lines are none
            raise UserError(f"{root / name}, line {number}: {columns} columns are expected, not {line!r}", AT)
        if parts:
            yield [part.strip() for part in parts]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise UserError(f"there is no file {str(path)!r}; unpack the archive again", AT) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text; unpack the archive again", AT) from None


def _known(index: Mapping[str, T], name: str, file: Path) -> T:
    """What a name in a list file stands for, such as the index of its class."""
    if name not in index:
        raise UserError(f"{file} speaks of {name!r}, which its neighbours do not know; unpack the archive again", AT)
    return index[name]


def _index(names: Sequence[str]) -> dict[str, int]:
    return {name: label for label, name in enumerate(names)}


# --- one function for each ------------------------------------------------------------------------------------------


def cub(root: Path) -> Files:
    """CUB-200-2011: images.txt, train_test_split.txt (1 = train), classes.txt, images/."""
    folders = [folder for _, folder in rows(root, "classes.txt", 2)]
    index = _index(folders)
    paths = dict(rows(root, "images.txt", 2))
    splits: dict[str, dict[str, int]] = {"train": {}, "test": {}}
    for number, is_train in rows(root, "train_test_split.txt", 2):
        if number not in paths or is_train not in ("0", "1"):
            raise UserError(f"{root}/train_test_split.txt: {number!r} {is_train!r} is no image of images.txt", AT)
        path = paths[number]
        label = _known(index, path.partition("/")[0], root / "images.txt")
        splits["train" if is_train == "1" else "test"][f"images/{path}"] = label
    # 001.Black_footed_Albatross: the number orders the classes and is no part of their names
    classes = tuple(folder.partition(".")[2] or folder for folder in folders)
    return present(root, Files(classes, splits))


def aircraft(root: Path) -> Files:
    """FGVC-Aircraft by variant: data/variants.txt, data/images_variant_{train,val,test}.txt, data/images/."""
    data = root / "data"
    variants = tuple(_text(data / "variants.txt").splitlines())
    index = _index(variants)
    splits: dict[str, dict[str, int]] = {}
    # the protocol trains on `train` and not on trainval, so the official val can choose the model
    for split in ("train", "val", "test"):
        name = f"images_variant_{split}.txt"
        listed = rows(data, name, 2)
        splits[split] = {f"data/images/{image}.jpg": _known(index, variant, data / name) for image, variant in listed}
    return present(root, Files(variants, splits))


def caltech(root: Path) -> Files:
    """Caltech-101: the benchmark's train/ and test/ with class folders, or the class folders of the official archive
    without the one of backgrounds, of which 30 images a class (at least one fewer than there are) may be trained on."""
    files = class_folders(root)
    kept = [label for label, name in enumerate(files.classes) if name != "BACKGROUND_Google"]
    new = {old: label for label, old in enumerate(kept)}
    splits = {s: {name: new[old] for name, old in named.items() if old in new} for s, named in files.splits.items()}
    if "" in splits:
        label_of = splits[""]
        # the archive has no official split: this one is a function of the names alone
        names = sorted(label_of, key=lambda name: seed_of("caltech101", name))
        pool: set[str] = set()
        for label in range(len(kept)):
            members = [name for name in names if label_of[name] == label]
            pool.update(members[: min(POOL, len(members) - 1)])
        splits = {
            "train": {name: label_of[name] for name in names if name in pool},
            "test": {name: label_of[name] for name in names if name not in pool},
        }
    return Files(tuple(files.classes[old] for old in kept), splits)


def imagenet(root: Path) -> Files:
    """ImageNet or a part of its classes: train/ and val/ with class folders; val/ (else test/) is the test set. Words
    for WordNet ids are those of LOC_synset_mapping.txt, there or up to three folders above, or, of all 1,000 classes,
    torchvision's."""
    # the labels of the official test images were never published, so its val/ is what everybody tests on
    files = class_folders(root, {"train": "train", "val" if (root / "val").is_dir() else "test": "test"})
    return Files(files.classes, files.splits, _synsets(root, files.classes))


def _told_words(root: Path) -> dict[str, str]:
    """WordNet id -> the first of its words, as the file tells."""
    for folder in (root, *root.absolute().parents[:3]):
        if (folder / SYNSETS).is_file():
            # n01440764 tench, Tinca tinca: a prompt takes one of them
            return {wordnet: names.partition(",")[0] for wordnet, names in rows(folder, SYNSETS, 2)}
    return {}


def _synsets(root: Path, classes: Sequence[str]) -> dict[str, str]:
    if words := _told_words(root):
        return words
    # torchvision has the names in the order of the sorted ids, without the ids: of fewer classes none can be found
    if len(classes) != 1000 or not all(map(WORDNET.fullmatch, classes)):
        return {}
    from torchvision.models import ResNet50_Weights  # takes seconds

    return dict(zip(classes, ResNet50_Weights.IMAGENET1K_V1.meta["categories"], strict=True))


def tiny_imagenet(root: Path) -> Files:
    """Tiny-ImageNet: wnids.txt, words.txt, train/{wnid}/images/, val/val_annotations.txt, val/images/; val/ is the test
    set, because the labels of the official one were never published."""
    # sorted, as those of ImageNet are: wnids.txt has them in no order
    classes = tuple(sorted(name for (name,) in rows(root, "wnids.txt", 1)))
    index, words = _index(classes), dict(rows(root, "words.txt", 2))
    for name in classes:
        _known(words, name, root / "wnids.txt")
    listed = rows(root / "val", "val_annotations.txt", 6)  # with a box, in the last four columns
    test = {f"val/images/{row[0]}": _known(index, row[1], root / "val" / "val_annotations.txt") for row in listed}
    train = {image: index[name] for name in classes for image in _tiny_train(root, name)}
    first = {name: words[name].partition(",")[0] for name in classes}
    return present(root, Files(classes, {"train": train, "test": test}, first))


def _tiny_train(root: Path, wordnet: str) -> list[str]:
    """The training images of a class: those of its list of boxes, or of its folder if the list was not kept."""
    folder = root / "train" / wordnet
    if not (folder / "images").is_dir():
        raise UserError(f"there is no folder {str(folder / 'images')!r}; unpack the archive again", AT)
    boxes = f"{wordnet}_boxes.txt"
    has_list = (folder / boxes).is_file()
    names = [row[0] for row in rows(folder, boxes, 5)] if has_list else [n for n, _ in sized(str(folder / "images"))]
    return [f"train/{wordnet}/images/{name}" for name in names]


def class_root(root: Path) -> dict[str, Path]:
    """The class folders are at the root: ImageNet-R, -A, -Sketch and Stylized ImageNet."""
    return {"test": root}


def imagenet_c(root: Path) -> dict[str, Path]:
    """ImageNet-C: {corruption}/{severity}/, there or in the folder of its family; `gaussian_noise/1` is a split."""
    # in the folders of their families (noise/, blur/, ...), or moved out of them
    near = [root / name for name in visible_folders(root)]
    places = near + [place / name for place in near for name in visible_folders(place)]
    found = {f"{p.name}/{level}": p / level for p in places for level in SEVERITIES if (p / level).is_dir()}
    if not found:
        raise UserError(f"{str(root)!r} holds no folders such as gaussian_noise/1; unpack the archives again", AT)
    return found


def imagenet_d(root: Path) -> dict[str, Path]:
    """ImageNet-D of Zhang et al. (2024): what is unusual in its images is a split each."""
    return {name: root / name for name in ("background", "material", "texture")}


def semi_inat(root: Path, level: str) -> Files:
    """Semi-iNat 2021 by species, family or order: l_train/ and val/ with a folder for each class_id of annotation.json
    (or annotation_v2.json); the official val/ is the test set, because it has labels."""
    taxa = {str(taxon["class_id"]): taxon for taxon in _taxa(root)}
    files = class_folders(root, {"l_train": "train", "val": "test"})
    if unknown := set(files.classes) - taxa.keys():
        raise UserError(f"the annotations in {str(root)!r} do not know the class_id {min(unknown)!r}", AT)
    # species share families and families share orders: several folders become one class
    names = [_taxon(taxa[id], level) for id in files.classes]
    classes = sorted(set(names))
    label = [classes.index(name) for name in names]
    splits = {split: {name: label[old] for name, old in named.items()} for split, named in files.splits.items()}
    return Files(tuple(classes), splits)


def _taxa(root: Path) -> list[dict[str, Any]]:
    """The records of the classes; the two versions of the file keep them under different names."""
    path = next((p for p in (root / "annotation_v2.json", root / "annotation.json") if p.is_file()), None)
    if path is None:
        raise UserError(f"there is no annotation.json in {str(root)!r}; put it beside l_train/ and val/", AT)
    try:
        data = json.loads(path.read_bytes())
        taxa = data.get("categories") or data["annotations"]
        return [{key: taxon[key] for key in ("class_id", "family", "genus", "order", "species")} for taxon in taxa]
    except (ValueError, LookupError, AttributeError, TypeError):
        raise UserError(f"{path} does not hold the taxonomy of the classes; download it again", AT) from None


def _taxon(taxon: Mapping[str, Any], level: str) -> str:
    """What a class is called at a level; a species has two words."""
    name = str(taxon[level])
    return f"{taxon['genus']} {name}" if level == "species" and " " not in name else name


def domainnet(root: Path) -> Files:
    """DomainNet: {domain}_train.txt and {domain}_test.txt (there or in splits/), {domain}/{class}/; trained on the
    domain `real`. The tests of the other domains that are there are the splits test/clipart and so on."""
    lists = root / "splits" if (root / "splits").is_dir() else root
    train = _listed(lists, "real_train.txt")
    # real/{class}/{image}.jpg {number}: the lists number the classes, the folders name them
    folders = {label: name.split("/")[1] for name, label in train.items() if name.count("/") >= 2}
    if sorted(folders) != list(range(len(folders))) or set(train.values()) != folders.keys():
        raise UserError(f"{lists / 'real_train.txt'} does not number its classes from 0; unpack the lists again", AT)
    splits = {"train": train, "test": _listed(lists, "real_test.txt")}
    # the protocol trains on `real` and tests on all six domains
    for domain in DOMAINS:
        if (lists / f"{domain}_test.txt").is_file():
            splits[f"test/{domain}"] = _listed(lists, f"{domain}_test.txt")
    if unknown := {label for named in splits.values() for label in named.values()} - folders.keys():
        raise UserError(f"the test lists in {str(lists)!r} number a class {min(unknown)} that real_train.txt lacks", AT)
    return present(root, Files(tuple(folders[label] for label in range(len(folders))), splits))


def _listed(root: Path, name: str) -> dict[str, int]:
    """path -> number of the class."""
    found = {}
    for path, label in rows(root, name, 2):
        if not label.isdigit():
            raise UserError(f"{root / name}: {label!r} of {path!r} is no number of a class", AT)
        found[path] = int(label)
    return found
