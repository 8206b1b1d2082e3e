"""What may be done to the images that a diffusion model is trained on, and how it is drawn for each of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from synthaug.settings import OneOf, Share, UserError, settings

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from synthaug.diffusion.scoreaug import Omega

Positive = Annotated[float, Field(gt=0)]


@settings
class Augmentation(ABC):
    """Draws what is done to each image of a batch."""

    @property
    def mirrors(self) -> bool:
        """Whether it may mirror images."""
        return False

    @abstractmethod
    def draw(self, count: int, size: int, generator: Generator) -> Omega:
        """For images of so many pixels, on the CPU."""


# --- one or none of several ------------------------------------------------------------------------------------------


@settings
class PixelTransform(ABC):
    """One kind; `field` is the one of Omega that it draws."""

    field: ClassVar[str]

    @abstractmethod
    def values(self, count: int, size: int, generator: Generator) -> Tensor:
        """The field, a row for each image; 0 does nothing."""


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    import torch

    return low + (high - low) * torch.rand(count, generator=generator)


@settings
class Brightness(PixelTransform):
    """The noisy image times a factor between 1/most and most, even in its logarithm; nothing is clipped."""

    field: ClassVar[str] = "brightness"
    most: Annotated[float, Field(gt=1)] = 1.2

    def values(self, count: int, size: int, generator: Generator) -> Tensor:
        most = math.log(self.most)
        return _uniform(count, -most, most, generator)


@settings
class Translation(PixelTransform):
    """Shifted by whole pixels, up to a share of the size either way; zeros come in."""

    field: ClassVar[str] = "shift"
    most: Annotated[float, Field(gt=0, lt=1)] = 0.125

    def values(self, count: int, size: int, generator: Generator) -> Tensor:
        import torch

        most = int(self.most * size)
        if most == 0:
            raise UserError(f"{self.most:g} of {size} px is no whole pixel; take at least {1 / size:.3g}", ("most",))
        return torch.randint(-most, most + 1, (count, 2), generator=generator) / size


@settings
class Cutout(PixelTransform):
    """A rectangle anywhere in the image becomes zero; its height and its width are shares of the image's."""

    field: ClassVar[str] = "cutout"
    least: Share = 0.1
    most: Share = 0.5

    @model_validator(mode="after")
    def _ordered(self) -> Cutout:
        if self.least > self.most:
            raise UserError(
                f"the smallest cutout, {self.least:g}, is larger than the largest, {self.most:g}", ("least",)
            )
        return self

    def values(self, count: int, size: int, generator: Generator) -> Tensor:
        import torch

        sides = (_uniform(2 * count, self.least, self.most, generator) * size).round().clamp_min(1).view(count, 2)
        corners = (torch.rand(count, 2, generator=generator) * (size - sides + 1)).floor()
        return torch.cat([corners, sides], 1) / size


@settings
class Rotation(PixelTransform):
    """By 90, 180 or 270 degrees."""

    field: ClassVar[str] = "turns"

    def values(self, count: int, size: int, generator: Generator) -> Tensor:
        import torch

        return torch.randint(1, 4, (count,), generator=generator).float()


@settings
class Flip(PixelTransform):
    """Mirrored left to right."""

    field: ClassVar[str] = "flip"

    def values(self, count: int, size: int, generator: Generator) -> Tensor:
        import torch

        return torch.tensor([1.0, 0.0]).repeat(count, 1)


@settings
class Gamma(PixelTransform):
    """The absolute value to a power between 1/most and most; no linear transform."""

    field: ClassVar[str] = "gamma"
    most: Annotated[float, Field(gt=1)] = 1.25

    def values(self, count: int, size: int, generator: Generator) -> Tensor:
        most = math.log(self.most)
        return _uniform(count, -most, most, generator)


@settings
class Contrast(PixelTransform):
    """tanh(a x) / tanh(a) with a up to `most`; no linear transform."""

    field: ClassVar[str] = "contrast"
    most: Positive = 1.0

    def values(self, count: int, size: int, generator: Generator) -> Tensor:
        # from above 0, which would be told as nothing
        return _uniform(count, self.most / 10, self.most, generator)


@settings
class Clip(PixelTransform):
    """Cut off at an absolute value between `least` and twice that; no linear transform."""

    field: ClassVar[str] = "clip"
    least: Positive = 1.0

    def values(self, count: int, size: int, generator: Generator) -> Tensor:
        return 1 / _uniform(count, self.least, 2 * self.least, generator)


@settings
class Jpeg(PixelTransform):
    """What JPEG of a quality between `least` and 95 loses of each channel; no linear transform."""

    field: ClassVar[str] = "jpeg"
    least: Annotated[int, Field(ge=1, lt=95)] = 25

    def values(self, count: int, size: int, generator: Generator) -> Tensor:
        import torch

        quality = _uniform(count, self.least, 95, generator)
        # the rule of the Independent JPEG Group, from a quality to a multiple of the table
        return torch.where(quality < 50, 50 / quality, (100 - quality) / 50)


PAPER = (Brightness(), Translation(), Cutout(), Rotation())
Transforms = Annotated[tuple[OneOf[PixelTransform], ...], Field(min_length=1)]


@settings
class OneOrNone(Augmentation):
    """ScoreAug's own: one of the transforms or none, each as likely."""

    transforms: Transforms = PAPER

    @field_validator("transforms")
    @classmethod
    def _told_apart(cls, transforms: tuple[PixelTransform, ...]) -> tuple[PixelTransform, ...]:
        fields = [transform.field for transform in transforms]
        if twice := [type(t).__name__ for t in transforms if fields.count(t.field) > 1]:
            raise UserError(f"{twice[0]} stands there twice, or beside one that does the same")
        return transforms

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(type(transform).__name__.lower() for transform in self.transforms)

    @property
    def mirrors(self) -> bool:
        return any(isinstance(transform, Flip) for transform in self.transforms)

    def draw(self, count: int, size: int, generator: Generator) -> Omega:
        import torch

        which = torch.randint(len(self.transforms) + 1, (count,), generator=generator)  # the last: none
        return self.chosen(which, size, generator)

    def chosen(self, which: Tensor, size: int, generator: Generator) -> Omega:
        """The transform of each image by its number."""
        from synthaug.diffusion.scoreaug import Omega

        drawn = {t.field: t.values(len(which), size, generator) for t in self.transforms}
        rows = {t.field: which == number for number, t in enumerate(self.transforms)}
        return Omega(**{name: part * rows[name].view(-1, *[1] * (part.ndim - 1)) for name, part in drawn.items()})


# --- each by its own chance ------------------------------------------------------------------------------------------


@settings
class Flips(Augmentation):
    """Mirrored left to right, every other image."""

    @property
    def mirrors(self) -> bool:
        return True

    def draw(self, count: int, size: int, generator: Generator) -> Omega:
        import torch

        from synthaug.diffusion.scoreaug import Omega

        across = torch.randint(2, (count,), generator=generator)
        return Omega(flip=torch.stack([across, torch.zeros_like(across)], 1).float())


@settings
class EDMPipe(Augmentation):
    """The geometry of EDM's augmentation: sizes, turns, stretches and moves, each with chance p, and mirror images:
    left to right every other one, upside down every other one with chance p."""

    p: Share = 0.12
    flips: bool = True

    @property
    def mirrors(self) -> bool:
        return self.flips

    def draw(self, count: int, size: int, generator: Generator) -> Omega:
        import torch

        from synthaug.diffusion.scoreaug import Omega
        from synthaug.diffusion.warp import LEAST

        if size < LEAST:
            raise UserError(f"EDMPipe resamples images of {LEAST} px or more, not {size}")

        def normal() -> Tensor:
            return torch.randn(count, generator=generator)

        def turn() -> Tensor:
            return _uniform(count, -math.pi, math.pi, generator)

        def chance(p: float) -> Tensor:
            return torch.rand(count, generator=generator) < p

        across, down = torch.randint(2, (2, count), generator=generator)
        flip = torch.stack([across, down * chance(self.p)], 1).float() * self.flips
        enlarged, turned, stretched = normal() * chance(self.p), turn() * chance(self.p), normal() * chance(self.p)
        axis, right, down, moved = turn() * chance(0.5), normal(), normal(), chance(self.p)
        told = torch.stack([enlarged, turned, stretched, axis, right * moved, down * moved], 1)
        return Omega(flip=flip, warp=told)
