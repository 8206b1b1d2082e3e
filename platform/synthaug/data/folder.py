"""Class folders of images: which files, which classes, which split, and what is wrong with them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthaug.data.listing import Entry, Listing, hash_pixels
from synthaug.data.sample import decode_image, image_sort, why_unreadable
from synthaug.data.walk import AT, files_below, images_in, refused, sidecar, utf8, visible_folders
from synthaug.settings import UserError, canonical

Facts = dict[str, list[Any]]  # relative path -> [size, mtime_ns, sha256, hash of the pixels, reason why unreadable]
Fact = tuple[str, str, str]  # the last three
READER = 2  # of folders: facts of files that another has read are not remembered
FLOATS = {".tif", ".tiff"}  # files that may hold floats
BLOCK = 4096  # files handed to the threads at a time, so that Ctrl-C need not wait for a million
BAD_SHARE = 0.01  # more unreadable files than this stop the run
SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
OLD_SPLITS = {"train", "val", "valid", "validation", "test"}  # the names that the first reader knew


@dataclass(frozen=True)
class Files:
    """The images of a data set as its layout tells them: the classes, for each split path below the root -> class
    index, the words for classes whose names are none, and what people should know of it. `reading` is not 1 where an
    earlier reader would have told the same files otherwise."""

    classes: tuple[str, ...]
    splits: dict[str, dict[str, int]]
    words: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reading: int = 1


def open_folder(
    root: Path, duplicates: str, class_words: dict[str, str], facts: Facts, *, val_share: float = 0.2, shots: int = 0
) -> Listing:
    """The data set at `root`; splits are made where there are none, with equal images kept together. `facts` are
    remembered facts of its files and are brought up to date."""
    if not root.is_dir():
        raise UserError(f"there is no folder {str(root)!r}", AT)
    files = class_folders(root, partial=True)
    found, bad = readable(root, files, facts)
    found, notes = _tested_on(found, val_share)
    splits, more = _make_splits(found, duplicates, val_share, shots)
    # a validation set cut off the user's train/ may lack a class, whose few images `shots` kept for training
    whole = splits if "val" in found or "" in found else ("train", "test")
    for split in whole:
        if split == "val" and not val_share:
            continue
        if missing := _absent(splits[split], len(files.classes)):
            names = ", ".join(repr(files.classes[i]) for i in missing[:5])
            raise UserError(f"no image is left for {split} in class {names}; add at least three different images", AT)
    words = tuple(class_words.get(name, name.replace("_", " ")) for name in files.classes)
    about: list[Any] = contents(facts) if files.reading == 1 else [files.reading, contents(facts)]
    digest = hashlib.sha256(canonical(about)).hexdigest()
    told = (*files.notes, *_in_two_classes(found, files.classes), *notes, *more)
    return Listing(files.classes, words, splits, digest, lambda name: (root / name).read_bytes(), bad, told)


def _tested_on(found: dict[str, list[Entry]], val_share: float) -> tuple[dict[str, list[Entry]], tuple[str, ...]]:
    """The same images with something to test on."""
    if "test" in found or "" in found:
        return found, ()
    if "val" in found:
        said = f"no test/ folder: val/ is what is tested on, {100 * val_share:.0f} % of train/ choose the model"
        return {"train": found["train"], "test": found["val"]}, (said,)
    return {"": found["train"]}, ("train/ alone: it is split in three",)


def _in_two_classes(found: Mapping[str, Sequence[Entry]], classes: Sequence[str]) -> list[str]:
    """Equal images that stand for different classes: who labelled them was wrong once."""
    seen: dict[str, Entry] = {}
    pairs = [
        (seen[entry.pixels], entry) for entries in found.values() for entry in entries
        if seen.setdefault(entry.pixels, entry).label != entry.label
    ]  # fmt: skip
    shown = [f"{one.id!r} and {other.id!r}" for one, other in pairs[:1]]
    return [f"{len(pairs)} images are in two classes, such as {text}" for text in shown]


def _absent(entries: Sequence[Entry], classes: int) -> list[int]:
    return sorted(set(range(classes)) - {entry.label for entry in entries})


def class_folders(root: Path, names: Mapping[str, str] = SPLITS, *, partial: bool = False) -> Files:
    """The images of train/, val/ and test/ with class folders (`names`: folder -> split), or, under the split "", of
    class folders at `root` itself. A `partial` one may lack test/, or val/ too."""
    given = _given_splits(root, names, partial)
    classes = _classes(root, given)
    sidecars, lost = Counter[str](), list[str]()
    splits: dict[str, dict[str, int]] = {}
    for split, folder in given.items():
        splits[split] = _below(root, folder, {name: label for label, name in enumerate(classes)}, sidecars, lost)
    there = {label for named in splits.values() for label in named.values()}
    kept = [label for label in range(len(classes)) if label in there]
    notes = _beside(root, given, names) if partial else []
    if sidecars:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(sidecars.items()))
        notes.append(f"left out: {sum(sidecars.values())} files that are no images by their names ({kinds})")
    places = dict.fromkeys([root, *given.values()]) if partial else ()
    if loose := [_above(root, place) + name for place in places for name in images_in(place)]:
        notes.append(f"left out: {len(loose)} images beside the class folders, which have no class ({_few(loose)})")
    if lost:
        notes.append(f"left out: {len(lost)} links that lead nowhere or to a folder that they are in ({_few(lost)})")
    if len(kept) < len(classes) and partial:
        empty = [name for label, name in enumerate(classes) if label not in there]
        notes.append(f"left out: empty class folders ({_few(empty)})")
        place = {old: new for new, old in enumerate(kept)}
        splits = {split: {name: place[old] for name, old in named.items()} for split, named in splits.items()}
        classes = tuple(classes[old] for old in kept)
    new = any(folder.name.lower() not in OLD_SPLITS for split, folder in given.items() if split)
    return Files(classes, splits, notes=tuple(notes), reading=READER if new else 1)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _beside(root: Path, given: Mapping[str, Path], names: Mapping[str, str]) -> list[str]:
    """What people should know of the folders beside those of the splits: nothing in them is used."""
    if "" in given:
        return []
    taken = {folder.name for folder in given.values()}
    no_split = f"is no split (those here: {', '.join(f'{name}/' for name in sorted(taken))})"
    return [
        # printed whatever it is called: it is not used, so nobody need rename it
        f"left out: {os.fsencode(name).decode(errors='backslashreplace')}/, which "
        + ("has no class folders" if name.lower() in names else no_split)
        for name in visible_folders(root)
        if name not in taken and _may_hold_images(root / name)
    ]


def _may_hold_images(folder: Path) -> bool:
    try:
        return any(not sidecar(name) for name in files_below(folder, []))
    except UserError:  # nothing is read of it, so this stops nobody
        return True


def _below(
    root: Path, folder: Path, index: Mapping[str, int], sidecars: Counter[str], lost: list[str]
) -> dict[str, int]:
    """Every file in the class folders of `folder` with its class."""
    found: dict[str, int] = {}
    for name in (name for name in visible_folders(folder) if name in index):
        nowhere: list[str] = []
        for path in files_below(folder / name, nowhere):
            if suffix := sidecar(path):
                sidecars[suffix] += 1
            else:
                # a class comes from its folder, never from a file's name
                found[f"{_above(root, folder)}{name}/{path}"] = index[name]
        lost += [f"{_above(root, folder)}{name}/{path}" for path in nowhere]
    return found


def _above(root: Path, folder: Path) -> str:
    """What names of files begin with that lie in a folder."""
    return "" if folder == root else f"{folder.relative_to(root).as_posix()}/"


def readable(
    root: Path, files: Files, facts: Facts, *, decode: bool = True
) -> tuple[dict[str, list[Entry]], tuple[tuple[str, str], ...]]:
    """The readable images of each split, whose ids are their paths, and the others with the reason."""
    scan(root, {name for split in files.splits.values() for name in split}, facts, decode=decode)
    bad = tuple((name, fact[4]) for name, fact in sorted(facts.items()) if fact[4])
    # sorted, so that the order of a directory, which no two disks share, decides nothing
    found = {
        split: [Entry(name, label, facts[name][3]) for name, label in sorted(named.items()) if not facts[name][4]]
        for split, named in files.splits.items()
    }
    refuse_bad(bad, len(facts), files.classes, found.get("train", found.get("", [])))
    return found, bad


def contents(facts: Facts) -> list[list[Any]]:
    """What the readable files of a data set are, wherever they lie."""
    # (relative path, size, sha256): no time, no root, and no pixel hash, which the sha256 says already
    return [[name, fact[0], fact[2]] for name, fact in sorted(facts.items()) if not fact[4]]


def scan(root: Path, names: Iterable[str], facts: Facts, *, decode: bool = True) -> None:
    """Bring `facts` up to date with the files called `names`; only new or changed ones are read. Without `decode`
    images are told apart by their bytes."""
    stamps: dict[str, tuple[int, int]] = {}
    for name in sorted(names):
        place = f"{root}/{name}"  # joining paths would take longer than asking for their times
        with refused(place):
            stat = os.stat(place)
        # a file of the same size and time is taken to be the same: a million files cannot be hashed at every start
        stamps[name] = stat.st_size, stat.st_mtime_ns
    read = _fact if decode else _fact_of_bytes
    look(stamps, facts, lambda name: read(root / name))


def look(stamps: Mapping[str, tuple[int, int]], facts: Facts, read: Callable[[str], Fact]) -> None:
    """Bring `facts` up to date: those of images whose stamp is another are read, those of images that are gone go."""
    from concurrent.futures import ThreadPoolExecutor

    for gone in facts.keys() - stamps.keys():
        del facts[gone]
    new = [name for name, stamp in stamps.items() if facts.get(name, [])[:2] != [*stamp]]
    # threads, because reading, hashing and decoding leave the interpreter's lock
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(new), BLOCK):
            block = new[start : start + BLOCK]
            for name, fact in zip(block, pool.map(read, block), strict=True):
                size, time = stamps[name]
                # what nobody let us read is tried again: a permission changes no time
                facts[name] = [size, time if fact[0] else None, *fact]


def _fact(path: Path) -> Fact:
    return fact_of(path.read_bytes, path.suffix)


def fact_of(read: Callable[[], bytes], suffix: str) -> Fact:
    """sha256 of an image file ("" when it cannot be read), hash of its pixels, and why it cannot be used ("" when it
    can)."""
    sha = ""
    try:
        data = read()
        sha = hashlib.sha256(data).hexdigest()
        if not data:
            return sha, "", "empty file"
        pixels, sort = hash_pixels(decode_image(data)), image_sort(data) if suffix.lower() in FLOATS else ""
        return f"{sha} by {READER}" if sort == "F" else sha, pixels, ""  # those were cut at 255 once
    except Exception as error:  # every decoder has its own; what is no fault of the image is raised again
        return sha, "", why_unreadable(error)


def _fact_of_bytes(path: Path) -> Fact:
    """The same without decoding: equal files are equal images."""
    try:
        with path.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
            return sha, sha, "" if file.tell() else "empty file"
    except OSError as error:
        return "", "", why_unreadable(error)


def _given_splits(root: Path, names: Mapping[str, str], partial: bool) -> dict[str, Path]:
    """Split name -> folder; {"": root} when the folder holds the classes themselves."""
    given: dict[str, Path] = {}
    visible = visible_folders(root)
    for folder in (name for name in visible if name.lower() in names):  # Train/ is meant as train/
        split = names[folder.lower()]
        # a class may be called "train" or "val" too: what holds no folders beside some that are no splits is one
        if not visible_folders(root / folder) and not {name.lower() for name in visible} <= names.keys():
            continue
        if split in given:
            raise UserError(f"{given[split].name}/ and {folder}/ in {str(root)!r} both mean {split}", AT)
        given[split] = root / folder
    # train/ or test/ say that splits are meant
    if not {"train", "test"} & given.keys():
        return {"": root}
    needed = {"train"} if partial else {"train", "test"}
    if missing := needed - given.keys():
        raise UserError(f"{str(root)!r} has no {missing.pop()}/ folder beside {', '.join(sorted(given))}/", AT)
    if partial and not visible_folders(given.get("test", root)):
        del given["test"]  # images without classes, as competitions give them
    return given


def _classes(root: Path, given: dict[str, Path]) -> tuple[str, ...]:
    """Sorted names of the class folders; those of train/ decide."""

    def below(folder: Path) -> list[str]:
        names = visible_folders(folder)
        utf8(names, folder)
        return names

    top = given.get("train", root)
    classes = below(top)
    if len(classes) < 2:
        what = f"holds one class only ({classes[0]!r})" if classes else "holds no class folders"
        deeper = classes and len(below(top / classes[0])) > 1
        way = f"; is --set dataset.path={top / classes[0]} meant?" if deeper else ""
        raise UserError(f"{str(top)!r} {what}; a classifier needs two or more folders of images{way}", AT)
    for split, folder in given.items():
        # the other way round, a class that only train/ has, is for open_folder to refuse
        if unknown := set(below(folder)) - set(classes):
            raise UserError(f"{split}/ has classes that train/ lacks: {', '.join(sorted(unknown))}", AT)
    return tuple(classes)


def refuse_bad(bad: Sequence[tuple[str, str]], files: int, classes: Sequence[str], train: Iterable[Entry]) -> None:
    """A few unreadable files are set aside; more than 1 %, or a class without any image, stop the run."""
    shown = "; ".join(f"{name} ({reason})" for name, reason in bad[:3]) + ("; ..." if len(bad) > 3 else "")
    present = {entry.label for entry in train}
    if empty := [name for label, name in enumerate(classes) if label not in present]:
        raise UserError(f"class {empty[0]!r} has no readable image" + (f": {shown}" if bad else ""), AT)
    if len(bad) > BAD_SHARE * files:
        raise UserError(f"{len(bad)} of {files} files cannot be read, remove or mend them: {shown}", AT)


def _make_splits(
    found: dict[str, list[Entry]], duplicates: str, val_share: float, shots: int
) -> tuple[dict[str, tuple[Entry, ...]], tuple[str, ...]]:
    """train, val and test without an image in two of them; what is missing is split off by the hash of the pixels."""
    notes: list[str] = []
    if "" in found:
        train, val, test = cut(found[""], (val_share, 0.2))
        shares = f"{80 - 100 * val_share:.0f} % train, {100 * val_share:.0f} % val, 20 % test"
        notes.append(f"split by the hash of the pixels: {shares} of each class")
    else:
        test = found["test"]
        train = _without(found["train"], test, "test", duplicates, notes)
        if "val" in found:
            val = _without(found["val"], test, "test", duplicates, notes)
            train = _without(train, val, "val", duplicates, notes)
        else:
            train, val = cut(train, (val_share,), keep=shots)
            notes.append(f"no val/ folder: {100 * val_share:.0f} % of each class of train/ choose the model")
    return {"train": tuple(train), "val": tuple(val), "test": tuple(test)}, tuple(notes)


def _without(entries: list[Entry], held_out: list[Entry], split: str, duplicates: str, notes: list[str]) -> list[Entry]:
    """`entries` without those whose pixels are in `held_out`; refused unless the user asked to drop them."""
    # by pixels, because the same picture saved again is another file
    there = {e.pixels: e.id for e in held_out}
    same = [e for e in entries if e.pixels in there]
    if same and duplicates == "refuse":
        pair = f"{same[0].id!r} and {there[same[0].pixels]!r} are the same image ({len(same)} such in {split}/)"
        raise UserError(f"{pair}; --set dataset.duplicates=drop leaves them out of train", ("dataset", "duplicates"))
    if same:
        notes.append(f"{len(same)} images left out because they are in {split}/ as well")
    return [e for e in entries if e.pixels not in there]


def cut(entries: Sequence[Entry], shares: tuple[float, ...], keep: int = 0) -> list[list[Entry]]:
    """Entries in 1 + len(shares) parts, class by class, the first with at least `keep` of each class that has so
    many; equal images go to the same part, whatever their class."""
    part_of: dict[str, int] = {}  # hash of the pixels -> part
    by_class: dict[int, set[str]] = defaultdict(set)
    for entry in entries:
        by_class[entry.label].add(entry.pixels)
    for label in sorted(by_class):
        # hashes in order are a random order that is the same everywhere, and adding images moves few of the others;
        # images that an earlier class has placed stay where they are
        groups = sorted(by_class[label] - part_of.keys())
        spare = max(0, len(groups) - keep)
        # at least one of each class, so that every class is measured
        sizes = [min(spare, max(1, round(share * len(groups)))) if share else 0 for share in shares]
        for part, size in enumerate(sizes, 1):  # the last parts first, what is left is part 0
            part_of |= dict.fromkeys(groups[:size], part)
            groups = groups[size:]
        part_of |= dict.fromkeys(groups, 0)
    return [[e for e in entries if part_of[e.pixels] == part] for part in range(1 + len(shares))]
