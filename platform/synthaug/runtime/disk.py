"""The disk: the only one that touches files of artefacts. Another storage is another class with these few methods."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from synthaug.settings import UserError

ASIDE = "damaged"  # the folder of what was set aside
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, no quota left, larger than allowed


@contextmanager
def told_if_full() -> Iterator[None]:
    """Whatever a library makes of a full disk (SQLite's, Ray's, plain) is one line of ours."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library has a class of its own for it; what is not about space goes on
        if not _is_full(error):
            raise
        raise UserError(f"the disk is full: free some space and run the same command again ({error!s:.80})") from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in FULL or "disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class Disk:
    """Files below a folder, by names with slashes. Whatever is written is there whole, or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def probe(self) -> None:
        """Fail if nothing can be written there, or where the folder would be made."""
        # by writing, as permissions say nothing of read-only mounts; under a name of its own, as others may try as well
        place = next(place for place in (self.root, *self.root.parents) if place.exists())
        probe = place / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"")
        probe.unlink()

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where there is no such folder."""
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Beside its place first, then renamed: a reader sees the old file or the new one."""
        place = self.root / name
        # In the same folder, because a rename is whole only within a file system. Under a name of its own, because two
        # can write at once: a worker that was given up for lost, and the one that does its work again.
        temporary = place.with_name(f".{place.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else the name could outlive the bytes in a power cut
            os.replace(temporary, place)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if error.errno not in FULL:
                raise UserError(f"cannot write {place}: {error.strerror}") from None
            said = f"the disk is full ({place.parent}): free some space and run the same command again"
            raise UserError(said) from None

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def size(self, name: str) -> int:
        """The bytes of a file, or of all files in a folder."""
        place = self.root / name
        if place.is_dir():
            return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        return place.stat().st_size

    def remove(self, name: str) -> None:
        """A file or a whole folder; nothing is fine too."""
        place = self.root / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def remove_empty(self, name: str) -> None:
        """A folder in which nothing is, or nobody has put anything meanwhile."""
        with suppress(OSError):
            (self.root / name).rmdir()

    def move_aside(self, name: str) -> str:
        """Give a file or a folder another name beside it, at once and whole, and say which."""
        # a name with a dot in front is no key: `clean` finds what was left under it, everybody else passes it by
        place = Path(name)
        aside = str(place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}"))
        os.replace(self.root / name, self.root / aside)
        return aside

    def set_aside(self, name: str) -> Path:
        """Move a file to where it harms nobody, under a name that is free there, and say where."""
        place = self.root / ASIDE / name
        place.parent.mkdir(parents=True, exist_ok=True)
        numbered = (place.with_name(f"{place.name}.{n}" if n else place.name) for n in itertools.count())
        free = next(one for one in numbered if not one.exists())
        os.replace(self.root / name, free)
        return free

    def local(self, name: str = "") -> Path:
        """A file or a folder as a path, for libraries that open files themselves."""
        return self.root / name if name else self.root

    def at(self, name: str) -> Disk:
        """A folder of this disk as one of its own."""
        return Disk(self.root / name)

    @contextmanager
    def lock(self, name: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a name alone; `waiting` is called once when somebody else holds it. The kernel frees it when its holder
        dies."""
        place = self.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        # the file stays when the lock goes: who removed it would leave those who wait with a lock on a file that nobody
        # else can open
        with place.open("a") as file:
            if not _taken(file.fileno()):
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def lock_if_free(self, name: str) -> Iterator[bool]:
        """Hold a name alone if nobody else does; whether that was so."""
        with (self.root / name).open("a") as file:
            yield _taken(file.fileno())


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
