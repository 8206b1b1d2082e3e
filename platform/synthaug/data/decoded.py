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
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import overload

import numpy as np

from synthaug.data.sample import decode_image, resize_image, why_unreadable
from synthaug.progress import say
from synthaug.settings import UserError

SHARED = 2**26  # bytes from which on images are shared
FREE = 0.1  # of the disk that stays free
DEAD_S = 3600  # half a file that nobody has written to for so long is nobody's
SEAL = ".sha256"  # a file beside each
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
        if isinstance(place, slice):
            return Reading(self.read, self.ids[place])
        with _told(self.ids[place]):
            return self.read(self.ids[place])


def decode_all(images: Sequence[bytes], size: int) -> np.ndarray:
    """Encoded images as one uint8 N x 3 x size x size array."""
    shape = len(images), 3, size, size
    if np.prod(shape) < SHARED or (folder := scratch()) is None:
        return _fill(np.empty(shape, np.uint8), images)
    place = folder / f"{digest_of(images, size)}.npy"
    with _held(place, wait=True):
        if place.exists() and not _is_whole(place):
            say(f"{place} is damaged: these images are decoded again")
            place.unlink()
        if not place.exists() and not _write(place, images, shape):
            say(f"no room in {folder} to share {np.prod(shape) / 1e9:.1f} GB of decoded images; in memory")
            return _fill(np.empty(shape, np.uint8), images)
        os.utime(place)  # what was used last goes last
        # copied where somebody writes to it, so that the file stays what its name says
        return np.asarray(np.load(place, mmap_mode="c"))


def scratch() -> Path | None:
    """The folder of this machine and user, for what can be made again; none where somebody else has taken the name."""
    folder = Path(tempfile.gettempdir()) / f"synthaug-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder if folder.lstat().st_uid == os.getuid() and not folder.is_symlink() else None


def _write(place: Path, images: Sequence[bytes], shape: tuple[int, ...]) -> bool:
    """Whole or not at all; False where there is no room."""
    if not _has_room(place.parent, int(np.prod(shape))):
        return False
    half = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.half")
    try:
        mapped = np.lib.format.open_memmap(half, mode="w+", dtype=np.uint8, shape=shape)
        try:
            with half.open("r+b") as file:  # a map of what is not there ends a process when the disk is full
                os.posix_fallocate(file.fileno(), 0, half.stat().st_size)
        except OSError:
            return False
        _fill(mapped, images).flush()  # type: ignore[attr-defined]
        seal = _digest(half)
        half.rename(place)
        place.with_suffix(SEAL).write_text(seal)  # who is killed before it has an array that is decoded again
        return True
    finally:
        half.unlink(missing_ok=True)


def _is_whole(place: Path) -> bool:
    """Whether a file has the bytes that were written; read whole, as training will read it."""
    seal = place.with_suffix(SEAL)
    return seal.is_file() and seal.read_text() == _digest(place)


def _digest(place: Path) -> str:
    with place.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def digest_of(images: Sequence[bytes], size: int) -> str:
    """What an array is made of: reading takes a fraction of decoding."""
    found = sha256(f"1 {size}".encode())
    for data in images:
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.hexdigest()[:32]


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What fails with an image of the user's names it: of the largest sets none is looked at before it is its turn."""
    try:
        yield
    except UserError:  # which has named it
        raise
    except Exception as error:  # every decoder has its own; `why_unreadable` raises again what is no fault of an image
        if not name:
            raise
        raise UserError(f"image {name!r}: {why_unreadable(error)}; remove or mend it") from None


def _decoded(data: bytes, size: int, name: str) -> np.ndarray:
    with _told(name):
        return resize_image(decode_image(data), size)


def _fill(out_NCHW: np.ndarray, images: Sequence[bytes]) -> np.ndarray:
    size = out_NCHW.shape[-1]
    # Pillow lets go of the interpreter while it decodes
    with ThreadPoolExecutor() as threads:
        for first in range(0, len(images), AT_ONCE):
            some = images[first : first + AT_ONCE]
            names = some.ids if isinstance(some, Reading) else [""] * len(some)
            decoded = threads.map(lambda data, name: _decoded(data, size, name), some, names)
            for number, pixels in enumerate(decoded, first):
                out_NCHW[number] = pixels.transpose(2, 0, 1)  # from HWC
    return out_NCHW


def _has_room(folder: Path, size: int) -> bool:
    """Whether so many bytes find place; what was used longest ago makes room. Who has mapped it keeps it."""
    for oldest in [*_oldest(folder), None]:
        disk = shutil.disk_usage(folder)
        if disk.free - size >= FREE * disk.total:
            return True
        if oldest is not None:
            with _held(oldest, wait=False) as free:
                if free:  # and nobody is about to map it
                    oldest.unlink(missing_ok=True)
                    oldest.with_suffix(SEAL).unlink(missing_ok=True)
    return False


def _oldest(folder: Path) -> list[Path]:
    """What could go, first what was used longest ago. Half a file is somebody's at work, unless he was killed."""
    ages = dict[Path, float]()
    for file in folder.glob("*.npy*"):
        with suppress(FileNotFoundError):
            ages[file] = time.time() - file.stat().st_mtime
    gone = [file for file, age in ages.items() if file.suffix == ".npy" or (file.suffix == ".half" and age > DEAD_S)]
    return sorted(gone, key=lambda file: -ages[file])


@contextmanager
def _held(place: Path, wait: bool) -> Iterator[bool]:
    """While nobody else has it, or whether that is so; the kernel frees it when its holder dies."""
    with place.with_suffix(".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
