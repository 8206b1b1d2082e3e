"""What keeps a pipeline's batches full: values kept by key, and rows cut into batches that can be run together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The values made last, by key."""

    def __init__(self, size: int) -> None:
        self.size, self.values = size, OrderedDict[Hashable, T]()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value at `key`, made if it is not there."""
        # taken out and put in again: the first in the order is then the one that was not asked for longest
        value = self.values.pop(key) if key in self.values else make()
        self.values[key] = value
        if len(self.values) > self.size:
            self.values.popitem(last=False)
        return value


class Pieces:
    """Cuts the indices of rows into batches of `size` that have one start."""

    def __init__(self, starts: Sequence[Any], size: int) -> None:
        self.size = size
        # A batch goes through one list of timesteps, so that rows that start elsewhere cannot be in it.
        self.groups = [[i for i, s in enumerate(starts) if s == start] for start in sorted(set(starts))]
        self.piece: list[int] = []

    def __iter__(self) -> Iterator[list[int]]:
        while self.groups:
            pending = self.groups.pop()
            self.piece, rest = pending[: self.size], pending[self.size :]
            if rest:
                self.groups.append(rest)
            yield self.piece

    def halve(self) -> bool:
        """Put the last piece back and halve the size; False when it was a single row."""
        self.groups.append(self.piece)  # where the next one is taken from
        # half of what failed, which may have been a group's short rest, and not of what was asked for
        self.size = (len(self.piece) + 1) // 2
        return len(self.piece) > 1
