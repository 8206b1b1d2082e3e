"""Views: further looks at the images of a batch, which go through the net beside it and add a term to the loss.

A view draws from its own generator, so that the batch itself is the same with and without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from synthaug.diffusion.one_step import Diffusion
from synthaug.methods.base import Maker
from synthaug.methods.diffuse_denoise import DiffuseDenoise
from synthaug.settings import ContentOf, Count, Share, UserError, settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from synthaug.diffusion.denoiser import Denoiser

Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Batch:
    """A training batch as a view sees it; images are uint8 BCHW, labels B x C.

    `plain` are the images as they are stored, their middle if training crops; `images` are those after the recipe's
    transforms, `again` gives them once more with other random numbers. `variant` draws for each image one of the
    variants that were made of it beforehand (of its source, if it is a generated one), with the source's label. `mine`
    are the rows of this process.
    """

    plain: Tensor
    plain_labels: Tensor
    images: Tensor
    labels: Tensor
    again: Callable[[], tuple[Tensor, Tensor]]
    variant: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    mine: slice  # all else here is of the whole batch, so that draws do not depend on the number of processes
    denoiser: Denoiser | None


@settings(kw_only=True)
class View(ABC):
    """A further look at each image, with a loss of its own."""

    weight: Weight = 1.0

    @property
    def needs_denoiser(self) -> bool:
        return False

    @property
    def calls(self) -> float:
        """How many rows through the denoiser an image of a batch costs in the loop."""
        return 0.0

    def copies(self) -> tuple[Maker, int] | None:
        """What must be made of the training images first, and how many of each; nothing, if it works in the loop."""
        return None

    def twins(self, ids: Sequence[str]) -> list[Path] | None:
        """The files of another folder that it draws from, if it does."""
        return None

    @property
    def latest(self) -> float:
        """The latest time of DiffAug's schedule at which the denoiser is asked."""
        return 0.0

    @abstractmethod
    def rows(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """This process's added rows: images (float in [0, 1]) and labels."""

    def loss(self, clean: Tensor, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """The sum over its rows of what they cost; `clean` are the logits of the batch itself."""
        from torch.nn.functional import cross_entropy

        # summed, not averaged: each view costs 1 beside the batch's own 1, as in DiffAug's CE(clean) + CE(diffaug)
        return cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum") * self.weight


@settings(kw_only=True)
class DiffAugView(View):
    """DiffAug's twin of each image (its algorithm 1): the plain image at a random time, guessed by the denoiser.

    With `p` below 1 only so many images have one, and only those are computed. `cached` variants of each image are
    made once, at times spread evenly, and drawn from; 0 computes them in the loop. `transformed` starts from the
    transformed image, with its label, instead of the plain one.
    """

    how: Diffusion = Diffusion()
    p: Share = 1.0
    cached: Annotated[int, Field(ge=0)] = 0
    transformed: bool = False

    @model_validator(mode="after")
    def _of_the_stored(self) -> DiffAugView:
        if self.cached and self.transformed:
            raise UserError(
                "what is made beforehand is made of the plain images; cached=0 works in the loop", ("transformed",)
            )
        return self

    @property
    def needs_denoiser(self) -> bool:
        return self.how.denoise

    @property
    def calls(self) -> float:
        return self.p if self.how.denoise and not self.cached else 0.0

    def copies(self) -> tuple[Maker, int] | None:
        return (DiffuseDenoise(how=self.how), self.cached) if self.cached else None

    @property
    def latest(self) -> float:
        return self.how.high

    def rows(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        import torch

        device = batch.plain.device
        # of the chosen rows each process takes its share, so that work is even however the draw fell
        drawn = torch.rand(len(batch.plain), generator=generator, device=device) < self.p
        chosen = drawn.nonzero()[batch.mine, 0]
        if self.cached:
            images, labels = batch.variant(generator)
            return images[chosen].float() / 255, labels[chosen]
        # the published code diffuses the whole image, neither cropped nor flipped at random
        images, labels = (batch.images, batch.labels) if self.transformed else (batch.plain, batch.plain_labels)
        # t ~ U(low, high), one for each image and not for the batch
        times = self.how.times(torch.rand(len(images), generator=generator, device=device))
        noise = torch.randn(images.shape, generator=generator, device=device)  # of all rows, whoever computes them
        with torch.no_grad():  # the twin is data: the classifier is not trained through the denoiser
            made = self.how(images[chosen].float() / 255, times[chosen], batch.denoiser, noise[chosen])
        return made, labels[chosen]


@settings(kw_only=True)
class SecondView(View):
    """The image through the recipe's transforms once more: what a second look costs and gives without any noise."""

    def rows(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images, labels = batch.again()
        return images[batch.mine].float() / 255, labels[batch.mine]


@settings(kw_only=True)
class PlainView(View):
    """The plain image, unchanged: DiffAug's twin without noise, which tells denoising from a second, uncropped look."""

    # the published recipe mixes three effects: more steps, an uncropped look and the denoising itself

    def rows(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return batch.plain[batch.mine].float() / 255, batch.plain_labels[batch.mine]


@settings(kw_only=True)
class FolderView(View):
    """The image of the same name in another folder, such as those of DeepAugment (Hendrycks et al. 2021)."""

    path: ContentOf[str]

    def twins(self, ids: Sequence[str]) -> list[Path]:
        files = [Path(self.path).expanduser() / id for id in ids]
        if missing := [file for file in files if not file.is_file()]:
            raise UserError(f"{len(missing)} training images have no twin, the first is {str(missing[0])!r}")
        return files

    def rows(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images, labels = batch.variant(generator)
        return images[batch.mine].float() / 255, labels[batch.mine]


@settings(kw_only=True)
class AugMixView(View):
    """AugMix (Hendrycks et al. 2020): two mixtures of the transformed image, and the wish that the net says the same
    of all three (12 times their Jensen-Shannon divergence)."""

    weight: Weight = 12.0  # this and the rest: what DiffAug's AugMix arms were trained with
    width: Count = 3
    depth: Annotated[int, Field(ge=-1, le=10)] = -1
    severity: Annotated[int, Field(ge=1, le=10)] = 1
    alpha: Annotated[float, Field(gt=0)] = 1.0

    def rows(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        import torch

        from synthaug.classify.augmix import augmix

        # rows: first mixtures of all images, then second ones, which is how loss() takes them apart
        how: dict[str, Any] = {"width": self.width, "depth": self.depth, "severity": self.severity, "alpha": self.alpha}
        twice = [augmix(batch.images, generator, **how)[batch.mine] for _ in range(2)]
        return torch.cat(twice).float() / 255, batch.labels[batch.mine].repeat(2, 1)

    def loss(self, clean: Tensor, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        from synthaug.classify.augmix import jensen_shannon

        # 12 JSD(clean, mixture 1, mixture 2); the mixtures have no cross-entropy of their own, and a DiffAug twin is
        # none of the three
        apart: Tensor = jensen_shannon([clean, *logits.chunk(2)])
        return apart * self.weight
