"""Spaces: the values that fields of an experiment may take, and how points of them are chosen."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from random import Random as Dice
from typing import Annotated, Any

from pydantic import Field, model_validator

from synthaug.settings import Count, UserError, seed_of, settings


@settings
class Domain(ABC):
    """The values that one field of an experiment may take."""

    @abstractmethod
    def draw(self, dice: Dice) -> Any: ...


@settings
class Choice(Domain):
    """Any of the listed values."""

    values: Annotated[tuple[Any, ...], Field(min_length=1)]

    def draw(self, dice: Dice) -> Any:
        return dice.choice(self.values)


@settings
class Uniform(Domain):
    """Between low and high, on a grid of `step`, because each distinct value of a generation knob costs images."""

    low: float
    high: float
    step: Annotated[float, Field(gt=0)] = 0.05

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if not self.low < self.high:
            raise UserError(f"low={self.low} must be below high={self.high}")
        return self

    def draw(self, dice: Dice) -> Any:
        # whole steps from low, rounded: 0.15000000000000002 would be another key than 0.15
        steps = round((self.high - self.low) / self.step)
        return round(min(self.low + self.step * dice.randint(0, steps), self.high), 10)  # the last step may pass high


@settings
class Searcher(ABC):
    """How points of a space are chosen."""

    @abstractmethod
    def points(self, space: Mapping[str, Domain]) -> Iterator[dict[str, Any]]: ...


@settings
class Grid(Searcher):
    """Every combination of the listed values."""

    def points(self, space: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
        values = []
        for name, domain in space.items():
            if not isinstance(domain, Choice):
                raise UserError(
                    f"a grid needs a list of values for {name!r}, not {domain}; or use RandomSearch", ("space",)
                )
            values.append(domain.values)
        for combination in itertools.product(*values):
            yield dict(zip(space, combination, strict=True))


@settings
class RandomSearch(Searcher):
    """`samples` independent draws that depend on `seed` only."""

    samples: Count = 20
    seed: int = 0

    def points(self, space: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
        for number in range(self.samples):
            # each draw by itself: of more samples the first are those of fewer, and what was made for them is found
            dice = Dice(seed_of(self.seed, "search", number))
            yield {name: domain.draw(dice) for name, domain in space.items()}
