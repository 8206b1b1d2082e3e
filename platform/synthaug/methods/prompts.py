"""Prompt policies (UniDiffDA, section 4.1): what is said of an image beside its class."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Literal

from synthaug.methods.base import Context, Row, pick
from synthaug.settings import ContentOf, settings


@settings
class Prompts(ABC):
    """A way to word the prompts of a method."""

    @abstractmethod
    def __call__(self, row: Row, context: Context) -> Row:
        """The row with its final prompt."""


@settings
class Plain(Prompts):
    """The class and nothing else."""

    def __call__(self, row: Row, context: Context) -> Row:
        return row


@settings
class SuffixDream(Prompts):
    """A phrase that somebody imagined for the class that is asked for, drawn anew for each image. `table` is a JSON
    file (data/suffixes.py); None: the one that comes with the package, for digits."""

    table: ContentOf[str | None] = None

    def __call__(self, row: Row, context: Context) -> Row:
        phrases = context.table(self.table).of_class(context.names[row.target])
        # with replacement, where Diff-II draws without: there may be fewer phrases than variants
        return with_suffix(row, pick(phrases, row.seed, "dream"))


@settings
class SuffixExchange(Prompts):
    """What was seen on another training image: of the whole set, or of the class that is asked for."""

    table: ContentOf[str | None] = None
    among: Literal["set", "class"] = "set"  # the paper speaks of "within the training set"

    def __call__(self, row: Row, context: Context) -> Row:
        ids = context.peers[row.target] if self.among == "class" else context.everybody
        # Never its own, which would be no exchange; an image that is alone has no other.
        others = [id for id in ids if id != row.source] or [row.source]
        return with_suffix(row, context.table(self.table).of_image(pick(others, row.seed, "exchange")))


def with_suffix(row: Row, suffix: str) -> Row:
    return dataclasses.replace(row, prompt=f"{row.prompt}, {suffix}")  # "a photo of a <class>, <suffix>"
