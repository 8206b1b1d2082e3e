"""Spaces: the values that fields of an experiment may take."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from random import Random as Dice
from typing import Annotated, Any

from pydantic import Field, model_validator

from synthaug.settings import UserError, settings


@settings(key="synthaug.space:Domain")
class Domain(ABC):
    """The values that one field of an experiment may take."""

    @abstractmethod
    def draw(self, dice: Dice) -> Any: ...


@settings(key="synthaug.space:Choice")
class Choice(Domain):
    """Any of the listed values."""

    values: Annotated[tuple[Any, ...], Field(min_length=1)]

    @property
    def ordered(self) -> bool:
        """Whether neighbours in the list are neighbours in what they do: numbers that rise."""
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)
        return numbers and list(self.values) == sorted(self.values)

    def draw(self, dice: Dice) -> Any:
        return dice.choice(self.values)


@settings(key="synthaug.space:Uniform")
class Uniform(Domain):
    """Between low and high, on a grid of `step`, because each distinct value of a generation knob costs images."""

    low: float
    high: float
    step: Annotated[float, Field(gt=0)] = 0.05

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if not self.low < self.high:
            raise UserError(f"low={self.low} must be below high={self.high}")
        if abs(self.steps * self.step - (self.high - self.low)) > 1e-6 * self.step or not self.steps:
            raise UserError(f"steps of {self.step} do not lead from {self.low} to {self.high}; set step")
        return self

    @property
    def steps(self) -> int:
        return round((self.high - self.low) / self.step)

    def at(self, number: int) -> float:
        """The value after so many steps."""
        # whole steps from low, rounded: 0.15000000000000002 would be another key than 0.15
        return round(min(self.low + self.step * number, self.high), 10)  # the last step may pass high

    def draw(self, dice: Dice) -> Any:
        return self.at(dice.randint(0, self.steps))


@settings
class LogUniform(Domain):
    """Between low and high by their logarithm, to two digits: learning rates, weight decays."""

    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> LogUniform:
        if not self.low < self.high:
            raise UserError(f"low={self.low} must be below high={self.high}")
        return self

    def near(self, value: float) -> float:
        """The value that is used: two digits, so that draws that differ in nothing that matters are one point."""
        return min(max(float(f"{value:.2g}"), self.low), self.high)

    def draw(self, dice: Dice) -> Any:
        return self.near(math.exp(dice.uniform(math.log(self.low), math.log(self.high))))
