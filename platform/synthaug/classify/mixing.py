"""How synthetic images are used: what makes up an epoch, as indices into real ++ synthetic (UniDiffDA, section 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from synthaug.settings import Share, UserError, settings

if TYPE_CHECKING:
    import torch


class Utilize(ABC):
    """One way to use synthetic images in training."""

    @abstractmethod
    def epoch(
        self, n_real: int, source_of_synthetic: torch.Tensor | Sequence[int], *, generator: torch.Generator
    ) -> torch.Tensor:
        """One epoch in random order; index n_real + j is synthetic image j, made from real `source_of_synthetic[j]`."""


@settings
class Concat(Utilize):
    """Every real and every synthetic image once: N (1 + k)."""

    def epoch(
        self, n_real: int, source_of_synthetic: torch.Tensor | Sequence[int], *, generator: torch.Generator
    ) -> torch.Tensor:
        import torch

        # at equal epochs (1 + k) times the steps of the others: compare at equal steps
        return torch.randperm(n_real + len(source_of_synthetic), generator=generator)


@settings
class Replace(Utilize):
    """Every synthetic image once and no real one: N k."""

    def epoch(
        self, n_real: int, source_of_synthetic: torch.Tensor | Sequence[int], *, generator: torch.Generator
    ) -> torch.Tensor:
        import torch

        if len(source_of_synthetic) == 0:
            raise UserError("Replace trains on synthetic images only, and there are none; set a method and k >= 1")
        return n_real + torch.randperm(len(source_of_synthetic), generator=generator)


@settings
class LocalRandomReplace(Utilize):
    """Each real image, with probability p, becomes one of its own variants (Eq. 6): N."""

    p: Share = 0.5

    def epoch(
        self, n_real: int, source_of_synthetic: torch.Tensor | Sequence[int], *, generator: torch.Generator
    ) -> torch.Tensor:
        import torch

        order = torch.randperm(n_real, generator=generator)
        replaced = torch.rand(n_real, generator=generator) < self.p
        # a share of each image's own number of variants, which differ where a filter dropped some
        lot = torch.rand(n_real, generator=generator, dtype=torch.float64)
        source = torch.as_tensor(source_of_synthetic, dtype=torch.long)
        if len(source) == 0:  # no method, so nothing to replace by
            return order
        assert int(source.min()) >= 0 and int(source.max()) < n_real, "a synthetic image without its real one"
        # sorted by source, the variants of real image i are by_source[first[i] : first[i] + count[i]]
        by_source = torch.argsort(source)
        count = torch.bincount(source, minlength=n_real)
        first = count.cumsum(0) - count
        pick = (first + (lot * count).long()).clamp_(max=len(source) - 1)  # count 0 is not used, but must be an index
        variant = n_real + by_source[pick]
        # an image without variants stays real whatever was drawn, as in DA-Fusion's own code
        chosen = torch.where(replaced & (count > 0), variant, torch.arange(n_real))
        return chosen[order]


@settings
class GlobalRandomReplace(Utilize):
    """Each real image, with probability p, becomes any synthetic image with that one's label (Eq. 7): N."""

    p: Share = 0.5

    def epoch(
        self, n_real: int, source_of_synthetic: torch.Tensor | Sequence[int], *, generator: torch.Generator
    ) -> torch.Tensor:
        import torch

        order = torch.randperm(n_real, generator=generator)
        replaced = torch.rand(n_real, generator=generator) < self.p
        if len(source_of_synthetic) == 0:
            return order
        # U(S) with replacement: whose variant it is does not matter, so an image without any is replaced too
        pick = torch.randint(len(source_of_synthetic), (n_real,), generator=generator)
        # `order` is random already and the draws are independent of it, so the places that are replaced need no order
        return torch.where(replaced, n_real + pick, order)
