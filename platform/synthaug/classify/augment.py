"""Classic augmentation of a training batch: uint8 images and soft labels in, the same out; every image draws its own.

Random numbers come from torch's global generator, which the training loop seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from synthaug.settings import Count, Share, UserError, settings

if TYPE_CHECKING:
    import torch


class Transform(ABC):
    """A random change of a batch of images (uint8 BCHW) and of their labels (B x C, rows sum to 1)."""

    @abstractmethod
    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The changed batch; the arguments stay as they are."""


@settings
class RandomCrop(Transform):
    """A window of `size` (None: the image's own) of the image padded with black; evaluation cuts the centre."""

    padding: Annotated[int, Field(ge=0)] = 4
    size: Count | None = None

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch
        from torch.nn.functional import pad

        n = len(images)
        high = self.size or images.shape[2]
        wide = self.size or images.shape[3]
        padded = pad(images, [self.padding] * 4)
        if padded.shape[2] < high or padded.shape[3] < wide:
            raise UserError(f"RandomCrop: size {self.size} is larger than the padded image {tuple(padded.shape[2:])}")
        windows = padded.unfold(2, high, 1).unfold(3, wide, 1)  # a view: B C rows columns high wide
        # drawn on the CPU, so that every device crops alike
        row = torch.randint(windows.shape[2], (n,)).to(images.device)
        column = torch.randint(windows.shape[3], (n,)).to(images.device)
        # one index beside each image: no loop, and only the chosen windows are copied
        return windows[torch.arange(n, device=images.device), :, row, column], labels


@settings
class HorizontalFlip(Transform):
    """Left becomes right with probability p."""

    p: Share = 0.5

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        flipped = (torch.rand(len(images)) < self.p).to(images.device)
        return torch.where(flipped[:, None, None, None], images.flip(3), images), labels


@settings
class TrivialAugment(Transform):
    """TrivialAugment, wide space (Mueller & Hutter 2021): one operation of 14 at one of 31 strengths for each image."""

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        from synthaug.classify import policy

        # the published grid of strengths: 0, 1/30, ..., 1 of the largest
        level = torch.randint(policy.BINS, (len(images),)) / (policy.BINS - 1)
        return policy.apply(images, *policy.draw(level), policy.WIDE), labels


@settings
class RandAugment(Transform):
    """RandAugment (Cubuk et al. 2020): `num_ops` random operations, all at strength `magnitude` of 30."""

    num_ops: Count = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        from synthaug.classify import policy

        level = torch.full((len(images),), self.magnitude / (policy.BINS - 1))
        reach = policy.moderate(width=images.shape[3], height=images.shape[2])
        for _ in range(self.num_ops):
            # with replacement, as published: an image may be given one operation twice
            images = policy.apply(images, *policy.draw(level), reach)
        return images, labels


@settings
class Mixup(Transform):
    """Mixup (Zhang et al. 2018): with probability p, the batch is blended with itself moved by one (rounded)."""

    alpha: Annotated[float, Field(gt=0)] = 1.0
    p: Share = 0.5

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch
        from torchvision.transforms import v2

        if torch.rand(()) >= self.p:
            return images, labels
        # torchvision blends in place, which whole numbers do not take
        mixed, labels = v2.MixUp(alpha=self.alpha)(images.float(), labels)
        return mixed.round_().to(torch.uint8), labels


@settings
class CutMix(Transform):
    """CutMix (Yun et al. 2019): with probability p, the batch gets one box of itself moved by one."""

    alpha: Annotated[float, Field(gt=0)] = 1.0
    p: Share = 0.5

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch
        from torchvision.transforms import v2

        if torch.rand(()) >= self.p:
            return images, labels
        # labels go by the pixels that are left of each image, after the box was cut at the border
        return v2.CutMix(alpha=self.alpha)(images, labels)  # type: ignore[no-any-return]
