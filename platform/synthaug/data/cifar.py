"""CIFAR-10 and CIFAR-100 from their python pickles, read without running what a pickle may hold."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synthaug.data.folder import AT, Facts
from synthaug.data.layouts import Found, Reader
from synthaug.data.listing import Entry, hash_pixels
from synthaug.data.sample import encode_image
from synthaug.settings import UserError


@dataclass(frozen=True)
class Cifar:
    """The files of one of the two, and what they call names and labels."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    names: bytes
    labels: bytes


CIFAR10 = Cifar(
    tuple(f"data_batch_{number}" for number in range(1, 6)), ("test_batch",), "batches.meta", b"label_names", b"labels"
)
CIFAR100 = Cifar(("train",), ("test",), "meta", b"fine_label_names", b"fine_labels")


class _Arrays(pickle.Unpickler):
    """Unpickles containers, numbers, text and arrays, and refuses everything else: a pickle may run any code."""

    def find_class(self, module: str, name: str) -> Any:
        # where numpy 1 kept it, which wrote the official files, and where numpy 2 does
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return super().find_class("numpy._core.multiarray", "_reconstruct")
        # encode: how newer pythons put down bytes for an old protocol
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def cifar(prefix: str, kind: Cifar) -> Reader:
    """CIFAR's python pickles: N x 3,072 bytes and N labels in a file. Ids begin with `prefix`."""

    def read(root: Path, facts: Facts) -> Found:
        classes = tuple(name.decode() for name in _unpickle(root / kind.meta, kind.names)[kind.names])
        pixels: dict[str, np.ndarray] = {}
        splits: dict[str, list[Entry]] = {}
        content: list[str] = []
        for split, files in (("train", kind.train), ("test", kind.test)):
            parts = [_batch(root / file, kind.labels, len(classes)) for file in files]
            pixels[split] = np.concatenate([images for images, _ in parts])  # N x 32 x 32 x 3
            labels = [label for _, part in parts for label in part]
            # an image has no name: its place in the official order is its id
            splits[split] = [
                Entry(f"{prefix}/{split}/{i}", label, hash_pixels(image))
                for i, (label, image) in enumerate(zip(labels, pixels[split], strict=True))
            ]
            # of the pixels, not of the files: pickled anew by another tool they are the same data
            content.append(hashlib.sha256(pixels[split].tobytes()).hexdigest())
        return Found(classes, splits, content, functools.partial(read_pixels, pixels))

    return read


def read_pixels(pixels: Mapping[str, np.ndarray], id: str) -> bytes:
    """The image whose id ends in split and place."""
    _, split, number = id.split("/")
    return encode_image(pixels[split][int(number)])


def _unpickle(path: Path, *keys: bytes) -> dict[bytes, Any]:
    try:
        with path.open("rb") as file:
            data = _Arrays(file, encoding="bytes").load()  # as bytes: python 2 wrote the strings
        data = {key.encode() if isinstance(key, str) else key: value for key, value in data.items()}
        return {key: data[key] for key in keys}
    except FileNotFoundError:
        raise UserError(f"there is no file {str(path)!r}; unpack the archive again", AT) from None
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the official file: {error}; unpack the archive again", AT) from None


def _batch(path: Path, labels_key: bytes, classes: int) -> tuple[np.ndarray, list[int]]:
    """Images as N x 32 x 32 x 3, and their labels."""
    data = _unpickle(path, b"data", labels_key)
    images = np.asarray(data[b"data"])
    labels = [int(label) for label in data[labels_key]]
    fits = images.dtype == np.uint8 and images.shape == (len(labels), 3072)
    if not fits or not all(0 <= label < classes for label in labels):
        raise UserError(f"{path} does not hold images of 3,072 bytes and their labels; unpack the archive again", AT)
    # a row of 3,072 bytes is the red plane, then the green, then the blue one
    images_NCHW = images.reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(images_NCHW.transpose(0, 2, 3, 1)), labels
