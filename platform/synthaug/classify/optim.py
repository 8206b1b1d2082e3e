"""Optimisers and schedules of their rate, as settings; and SAM."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Field, model_validator

from synthaug.settings import OneOf, Share, UserError, settings

if TYPE_CHECKING:
    import torch

    Stepping: TypeAlias = "torch.optim.Optimizer | SAM"

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Below1 = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(ABC):
    """How weights are updated; `lr` is the peak of the schedule."""

    @abstractmethod
    def build(self, params: Iterable[torch.nn.Parameter]) -> Stepping:
        """The torch optimiser over `params`, or what takes steps as one does."""

    @property
    def plain(self) -> Optimizer:
        """It without what stands around it."""
        return self


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


@settings
class SharpnessAware(Optimizer):
    """SAM (Foret et al. 2021): two passes a step, the gradient being that of the worst point within `rho`. `adaptive`
    measures that distance in units of each weight (ASAM, Kwon et al. 2021, whose rho is ten times larger or more)."""

    # that of the paper on SAM
    base: OneOf[Optimizer] = SGD()
    rho: Positive = 0.05
    adaptive: bool = False

    @model_validator(mode="after")
    def _once(self) -> SharpnessAware:
        if isinstance(self.base, SharpnessAware):
            raise UserError("SAM of SAM is none; its base is a plain optimiser", ("base",))
        return self

    @property
    def plain(self) -> Optimizer:
        return self.base

    def build(self, params: Iterable[torch.nn.Parameter]) -> SAM:
        given = list(params)
        base = self.base.build(given)
        assert not isinstance(base, SAM)
        return SAM(given, base, self.rho, adaptive=self.adaptive)


class SAM:
    """Steps of `base_optimizer` by the gradient at w + e, where e = rho g / |g| (adaptive: rho T^2 g / |T g|, T = |w| +
    0.01) and g is the gradient at w.

    `step(closure)` calls the closure twice; it must clear the gradients, and may add them up over parts of a batch.
    What else passes draw or change (masks of dropout, statistics of batch norm) is the closure's to keep the same.
    """

    ETA = 0.01  # of ASAM: weights of nearly 0 move too

    def __init__(
        self, params: Iterable[torch.nn.Parameter], base_optimizer: torch.optim.Optimizer, rho: float, *,
        adaptive: bool = False,
    ) -> None:  # fmt: skip
        given = [p for item in params for p in (item["params"] if isinstance(item, dict) else [item])]
        self.params, self.base_optimizer, self.rho, self.adaptive = given, base_optimizer, rho, adaptive

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.base_optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base_optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any]) -> Any:
        """One step; what the closure returned of the weights themselves, and not of the worst point."""
        import torch

        with torch.enable_grad():
            loss = closure()
        moved: list[torch.Tensor] = [p for p in self.params if p.grad is not None]
        with torch.no_grad():
            # kept and put back, because what is added and taken off again is not to the bit what it was
            before = [p.clone() for p in moved]
            torch._foreach_add_(moved, self.ascent(moved))
        try:
            with torch.enable_grad():
                closure()
        finally:
            with torch.no_grad():
                torch._foreach_copy_(moved, before)
        self.base_optimizer.step()
        return loss

    def ascent(self, params: list[torch.Tensor]) -> list[torch.Tensor]:
        """e, of norm rho (in the units of the weights where adaptive); 0 where the gradient is 0."""
        import torch

        grads = [p.grad for p in params if p.grad is not None]
        scales = [p.abs() + self.ETA for p in params] if self.adaptive else None
        scaled = grads if scales is None else list(torch._foreach_mul(scales, grads))
        # squares of half precision would be 0, or more than it has numbers for
        wide = [g.float() if g.dtype.itemsize < 4 else g for g in scaled]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(wide)))
        # without asking the device which it is
        length = torch.where(norm > 0, self.rho / norm, torch.zeros_like(norm))
        steps = wide if scales is None else torch._foreach_mul(scales, wide)
        return [step.to(p) for step, p in zip(torch._foreach_mul(steps, length), params, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.base_optimizer.load_state_dict(state)


# --- schedules of the rate ------------------------------------------------------------------------------------------


@settings
class Schedule(ABC):
    """The share of the peak rate at each step, after the warm-up of a recipe."""

    @abstractmethod
    def share(self, done: float) -> float:
        """It, where `done` of the way from the end of the warm-up (0) to the end (1) is behind."""


@settings
class Cosine(Schedule):
    """A cosine to 0."""

    def share(self, done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))


@settings
class Steps(Schedule):
    """Multiplied by `factor` at each of some shares of the way; without any the rate stays as it is."""

    at: tuple[Share, ...] = (0.5, 0.75)  # of 200 epochs after 100 and 150
    factor: Positive = 0.1

    def share(self, done: float) -> float:
        return self.factor ** sum(done >= place for place in self.at)
