"""Decoded images, so that no epoch decodes again: a small set in memory, a large one in a file that all processes of a
machine map and share, and that is there when the next trial begins."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import overload

import numpy as np

from synthaug.data.sample import decode_image, resize_image
from synthaug.progress import say

SHARED = 2**26  # bytes from which on images are shared
FREE = 0.1  # of the disk that stays free
DEAD_S = 3600  # half a file that nobody has written to for so long is nobody's
AT_ONCE = 1024  # encoded images in memory


class Reading(Sequence[bytes]):
    """Encoded images that are read when it is their turn."""

    def __init__(self, read: Callable[[str], bytes], ids: Sequence[str]) -> None:
        self.read, self.ids = read, ids

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | Sequence[bytes]:
        return Reading(self.read, self.ids[place]) if isinstance(place, slice) else self.read(self.ids[place])


def decode_all(images: Sequence[bytes], size: int) -> np.ndarray:
    """Encoded images as one uint8 N x 3 x size x size array."""
    shape = len(images), 3, size, size
    if np.prod(shape) < SHARED:
        return _fill(np.empty(shape, np.uint8), images)
    place = scratch() / f"{digest_of(images, size)}.npy"
    with _alone(place.with_suffix(".lock")):
        if not place.exists():
            if not _has_room(int(np.prod(shape))):
                say(f"no room in {place.parent} to share {np.prod(shape) / 1e9:.1f} GB of decoded images; in memory")
                return _fill(np.empty(shape, np.uint8), images)
            half = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.half")
            mapped = np.lib.format.open_memmap(half, mode="w+", dtype=np.uint8, shape=shape)
            _fill(mapped, images).flush()  # type: ignore[attr-defined]
            half.rename(place)  # whole or not at all
        os.utime(place)  # what was used last goes last
        # copied where somebody writes to it, so that the file stays what its name says
        return np.asarray(np.load(place, mmap_mode="c"))


def scratch() -> Path:
    """The folder of this machine and user; what lies there can be made again."""
    folder = Path(tempfile.gettempdir()) / f"synthaug-{os.getuid()}" / "decoded"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def digest_of(images: Sequence[bytes], size: int) -> str:
    """What an array is made of: reading takes a fraction of decoding."""
    found = sha256(f"1 {size}".encode())
    for data in images:
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.hexdigest()[:32]


def _fill(out_NCHW: np.ndarray, images: Sequence[bytes]) -> np.ndarray:
    size = out_NCHW.shape[-1]
    # Pillow lets go of the interpreter while it decodes
    with ThreadPoolExecutor() as threads:
        for first in range(0, len(images), AT_ONCE):
            some = images[first : first + AT_ONCE]
            decoded = threads.map(lambda data: resize_image(decode_image(data), size), some)
            for number, pixels in enumerate(decoded, first):
                out_NCHW[number] = pixels.transpose(2, 0, 1)  # from HWC
    return out_NCHW


def _has_room(size: int) -> bool:
    """Whether so many bytes find place; what was used longest ago makes room. Who has mapped it keeps it."""
    folder, now = scratch(), time.time()
    ages = {file: now - file.stat().st_mtime for file in folder.glob("*.npy*")}
    # what has another name is half a file: somebody is at it, or was killed
    gone = [file for file, age in ages.items() if file.suffix == ".npy" or age > DEAD_S]
    for oldest in [*sorted(gone, key=lambda file: -ages[file]), None]:
        disk = shutil.disk_usage(folder)
        if disk.free - size >= FREE * disk.total:
            return True
        if oldest is not None:
            oldest.unlink(missing_ok=True)
    return False


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """While nobody else makes it; the kernel frees it when its holder dies."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
