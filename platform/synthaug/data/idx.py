"""Fashion-MNIST from its four IDX files, gzipped or not."""

from __future__ import annotations

import functools
import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from synthaug.data.cifar import read_pixels
from synthaug.data.folder import AT, Facts
from synthaug.data.layouts import Found
from synthaug.data.listing import Entry, hash_pixels
from synthaug.settings import UserError

FASHION = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
AGAIN = "download them again"
PARTS = {"train": "train", "test": "t10k"}  # what the files of a split begin with


def fashion(root: Path, facts: Facts) -> Found:
    """A file of N x 28 x 28 bytes and one of N labels for each split. Ids are the places in the official order."""
    pixels: dict[str, np.ndarray] = {}
    splits: dict[str, list[Entry]] = {}
    content: list[str] = []
    for split, part in PARTS.items():
        grey = _read(root / f"{part}-images-idx3-ubyte", 3)
        labels = _read(root / f"{part}-labels-idx1-ubyte", 1)
        if len(grey) != len(labels) or len(grey) == 0 or labels.max(initial=0) >= len(FASHION):
            raise UserError(f"the labels of {part} in {str(root)!r} are not those of its images; {AGAIN}", AT)
        if grey.shape[1:] != (28, 28):
            raise UserError(f"the images of {part} in {str(root)!r} are no 28 x 28 pixels; {AGAIN}", AT)
        pixels[split] = np.broadcast_to(grey[..., None], (*grey.shape, 3))  # as RGB, without three copies
        splits[split] = [
            Entry(f"fashion/{split}/{i}", int(label), hash_pixels(image))
            for i, (label, image) in enumerate(zip(labels, grey, strict=True))
        ]
        # of the pixels, not of the files: gzipped or not they are the same data
        content.append(hashlib.sha256(grey.tobytes()).hexdigest())
    return Found(FASHION, splits, content, functools.partial(read_pixels, pixels))


def _read(path: Path, axes: int) -> np.ndarray:
    """The bytes of an IDX file as an array of so many axes."""
    packed = path.with_name(f"{path.name}.gz")
    try:
        data = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except FileNotFoundError:
        raise UserError(f"there is no file {path.name!r} and no {packed.name!r} in {str(path.parent)!r}", AT) from None
    except (OSError, EOFError, zlib.error):
        raise UserError(f"{packed} is damaged; {AGAIN}", AT) from None
    # 0, 0, 8 (unsigned bytes), how many axes; then each axis as four bytes, the highest first
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    body = data[4 + 4 * axes :]
    if data[:4] != bytes((0, 0, 8, axes)) or len(body) != math.prod(shape):
        raise UserError(f"{path} is no IDX file of bytes with {axes} axes; {AGAIN}", AT)
    return np.frombuffer(body, np.uint8).reshape(shape)
