"""Optimisers as settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from synthaug.settings import settings

if TYPE_CHECKING:
    import torch

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Below1 = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(ABC):
    """How weights are updated; `lr` is the peak of the schedule."""

    @abstractmethod
    def build(self, params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimiser over `params`."""


@settings
class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    # UniDiffDA's fine-grained rows: 0.1 and 5e-4, no Nesterov; others of its tables differ in lr and weight decay
    lr: Positive = 0.1
    momentum: Below1 = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-4

    def build(self, params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.SGD(
            params, self.lr, self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay, fused=True
        )


@settings
class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    lr: Positive = 1e-3
    weight_decay: NotNegative = 0.05
    betas: tuple[Below1, Below1] = (0.9, 0.999)

    def build(self, params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.AdamW(params, self.lr, self.betas, weight_decay=self.weight_decay, fused=True)
