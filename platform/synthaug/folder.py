"""Class folders of images: which files, which classes, which split, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import UnidentifiedImageError

from synthaug.listing import Entry, Listing, hash_pixels
from synthaug.sample import decode_image
from synthaug.settings import UserError, canonical

Facts = dict[str, list[Any]]  # relative path -> [size, mtime_ns, sha256, hash of the pixels, reason why unreadable]
IGNORED = {"Thumbs.db", "desktop.ini"}
BAD_SHARE = 0.01  # more unreadable files than this stop the run
AT = ("dataset", "path")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def open_folder(root: Path, duplicates: str, class_words: dict[str, str], facts: Facts) -> Listing:
    """The data set at `root`; splits are made where there are none, with equal images kept together. `facts` are
    remembered facts of its files and are brought up to date."""
    if not root.is_dir():
        raise UserError(f"there is no folder {str(root)!r}", AT)
    given = _given_splits(root)
    classes = _classes(root, given)
    scan(root, sorted(folder.name if split else "" for split, folder in given.items()), facts)
    bad = tuple((name, fact[4]) for name, fact in sorted(facts.items()) if fact[4])
    found = {split: _entries(folder.name if split else "", classes, facts) for split, folder in given.items()}
    _refuse_bad(bad, len(facts), classes, found.get("train", found.get("", [])))
    splits, notes = _make_splits(found, duplicates)
    for split, entries in splits.items():
        if missing := set(range(len(classes))) - {e.label for e in entries}:
            names = ", ".join(repr(classes[i]) for i in sorted(missing)[:5])
            raise UserError(f"no image is left for {split} in class {names}; add at least three different images", AT)
    words = tuple(class_words.get(name, name.replace("_", " ")) for name in classes)
    good = [[name, fact[0], fact[2]] for name, fact in sorted(facts.items()) if not fact[4]]
    digest = hashlib.sha256(canonical(good)).hexdigest()
    return Listing(classes, words, splits, digest, lambda name: (root / name).read_bytes(), bad, notes)


def scan(root: Path, folders: Sequence[str], facts: Facts) -> None:
    """Bring `facts` up to date with the files in class folders below `folders`; only new or changed ones are read."""
    from concurrent.futures import ThreadPoolExecutor

    paths = (p for folder in folders for p in (root / folder).glob("*/**/*") if p.is_file() and _is_meant(p, root))
    files = {p.relative_to(root).as_posix(): p for p in sorted(paths)}
    for gone in facts.keys() - files.keys():
        del facts[gone]
    stats = {name: path.stat() for name, path in files.items()}
    new = [name for name in files if facts.get(name, [])[:2] != [stats[name].st_size, stats[name].st_mtime_ns]]
    with ThreadPoolExecutor() as pool:
        for name, fact in zip(new, pool.map(lambda name: _fact(files[name]), new), strict=True):
            facts[name] = [stats[name].st_size, stats[name].st_mtime_ns, *fact]


def _is_meant(path: Path, root: Path) -> bool:
    return path.name not in IGNORED and not any(map(_is_hidden, path.relative_to(root).parts))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and not name.startswith("..")


def _fact(path: Path) -> tuple[str, str, str]:
    """sha256 of the file, hash of its pixels, and why it cannot be used ("" when it can)."""
    data = path.read_bytes()
    sha = hashlib.sha256(data).hexdigest()
    if not data:
        return sha, "", "empty file"
    try:
        return sha, hash_pixels(decode_image(data)), ""
    except UnidentifiedImageError:
        return sha, "", "not an image"
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        return sha, "", f"cannot be decoded: {error}"


def _given_splits(root: Path) -> dict[str, Path]:
    """Split name -> folder; {"": root} when the folder holds the classes themselves."""
    folders = {p.name.lower(): p for p in root.iterdir() if p.is_dir()}
    given = {SPLITS[name]: folder for name, folder in folders.items() if name in SPLITS}
    if not {"train", "test"} & given.keys():
        return {"": root}
    if missing := {"train", "test"} - given.keys():
        raise UserError(f"{str(root)!r} has no {missing.pop()}/ folder beside {', '.join(sorted(given))}/", AT)
    return given


def _classes(root: Path, given: dict[str, Path]) -> tuple[str, ...]:
    """Sorted names of the class folders; those of train/ decide."""

    def below(folder: Path) -> list[str]:
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and not _is_hidden(p.name))

    classes = below(given.get("train", root))
    if len(classes) < 2:
        what = f"holds one class only ({classes[0]!r})" if classes else "holds no class folders"
        raise UserError(f"{str(root)!r} {what}; a classifier needs two or more folders of images", AT)
    for split, folder in given.items():
        if unknown := set(below(folder)) - set(classes):
            raise UserError(f"{split}/ has classes that train/ lacks: {', '.join(sorted(unknown))}", AT)
    return tuple(classes)


def _entries(prefix: str, classes: Sequence[str], facts: Facts) -> list[Entry]:
    """The readable images of one split; an id is the path below the data set's folder."""
    index = {name: label for label, name in enumerate(classes)}
    depth = 1 if prefix else 0
    names = (name for name, fact in facts.items() if not fact[4] and (not prefix or name.startswith(prefix + "/")))
    return [Entry(name, index[name.split("/")[depth]], facts[name][3]) for name in sorted(names)]


def _refuse_bad(bad: Sequence[tuple[str, str]], files: int, classes: Sequence[str], train: Sequence[Entry]) -> None:
    """A few unreadable files are set aside; more than 1 %, or a class without any image, stop the run."""
    shown = "; ".join(f"{name} ({reason})" for name, reason in bad[:3]) + ("; ..." if len(bad) > 3 else "")
    present = {entry.label for entry in train}
    if empty := [name for label, name in enumerate(classes) if label not in present]:
        raise UserError(f"class {empty[0]!r} has no readable image" + (f": {shown}" if bad else ""), AT)
    if len(bad) > BAD_SHARE * files:
        raise UserError(f"{len(bad)} of {files} files cannot be read, remove or mend them: {shown}", AT)


def _make_splits(
    found: dict[str, list[Entry]], duplicates: str
) -> tuple[dict[str, tuple[Entry, ...]], tuple[str, ...]]:
    """train, val and test without an image in two of them; what is missing is split off by the hash of the pixels."""
    notes: list[str] = []
    if "" in found:
        train, val, test = _cut(found[""], (0.2, 0.2))
        notes.append("split by the hash of the pixels: 60 % train, 20 % val, 20 % test of each class")
    else:
        test = found["test"]
        train = _without(found["train"], test, "test", duplicates, notes)
        if "val" in found:
            val = _without(found["val"], test, "test", duplicates, notes)
            train = _without(train, val, "val", duplicates, notes)
        else:
            train, val = _cut(train, (0.2,))
            notes.append("no val/ folder: 20 % of each class of train/ choose the model")
    return {"train": tuple(train), "val": tuple(val), "test": tuple(test)}, tuple(notes)


def _without(entries: list[Entry], held_out: list[Entry], split: str, duplicates: str, notes: list[str]) -> list[Entry]:
    """`entries` without those whose pixels are in `held_out`; refused unless the user asked to drop them."""
    there = {e.pixels: e.id for e in held_out}
    same = [e for e in entries if e.pixels in there]
    if same and duplicates == "refuse":
        pair = f"{same[0].id!r} and {there[same[0].pixels]!r} are the same image ({len(same)} such in {split}/)"
        raise UserError(f"{pair}; --set dataset.duplicates=drop leaves them out of train", ("dataset", "duplicates"))
    if same:
        notes.append(f"{len(same)} images left out because they are in {split}/ as well")
    return [e for e in entries if e.pixels not in there]


def _cut(entries: list[Entry], shares: tuple[float, ...]) -> list[list[Entry]]:
    """Entries in 1 + len(shares) parts, class by class; equal images go to the same part, whatever their class."""
    part_of: dict[str, int] = {}
    by_class: dict[int, set[str]] = defaultdict(set)
    for entry in entries:
        by_class[entry.label].add(entry.pixels)
    for label in sorted(by_class):
        groups = sorted(by_class[label] - part_of.keys())
        sizes = [max(1, round(share * len(groups))) for share in shares]
        for part, size in enumerate(sizes, 1):
            part_of |= dict.fromkeys(groups[:size], part)
            groups = groups[size:]
        part_of |= dict.fromkeys(groups, 0)
    return [[e for e in entries if part_of[e.pixels] == part] for part in range(1 + len(shares))]
