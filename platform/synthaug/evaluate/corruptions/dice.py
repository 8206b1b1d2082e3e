"""What all corruptions share: random numbers that belong to images, and strengths that belong to sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SMALL = 84  # the geometric mean of 32 and 224: up to here the table for 32 is the nearer one


class Dice:
    """A generator for each image. Drawn on the CPU, so that a GPU corrupts alike."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self.generators]).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        return self._each(lambda generator: torch.randn(shape, generator=generator))

    def uniform(self, *shape: int, low: float = 0, high: float = 1) -> Tensor:
        return low + (high - low) * self._each(lambda generator: torch.rand(shape, generator=generator))

    def integers(self, *shape: int, low: int, high: int) -> Tensor:
        """From `low` to `high` - 1."""
        return self._each(lambda generator: torch.randint(low, high, shape, generator=generator))

    def poisson(self, rates: Tensor) -> Tensor:
        # each image has rates of its own: the generators are asked in the order of the rows
        rows = iter(rates.cpu())
        return self._each(lambda generator: torch.poisson(next(rows), generator))


@dataclass(frozen=True)
class Corruption:
    """`apply` takes images (float BCHW in [0, 1]), dice and a row of a table; what leaves [0, 1] is cut afterwards."""

    apply: Callable[..., Tensor]
    small: tuple[tuple[float, ...], ...]  # CIFAR-10-C
    large: tuple[tuple[float, ...], ...]  # ImageNet-C

    def strength(self, size: int, severity: int) -> tuple[float, ...]:
        return (self.small if size <= _SMALL else self.large)[severity - 1]


def each(*values: float) -> tuple[tuple[float, ...], ...]:
    """A table of corruptions with one number."""
    return tuple((value,) for value in values)
