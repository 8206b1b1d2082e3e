"""What is done to a test image before a classifier sees it: corrupted, noised and denoised, led back to the training
domain. It knows no classifier, so whoever asks for the same shares it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from synthaug.data.sample import Label, Sample
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.one_step import STEPS, Diffusion, sigma_at
from synthaug.methods.base import Context, Maker, Models, Row
from synthaug.methods.diffuse_denoise import diffused, pieces
from synthaug.settings import Count, Share, seed_of, settings

if TYPE_CHECKING:
    from torch import Tensor

    from synthaug.diffusion.denoiser import Denoiser

Corruption = tuple[str, Annotated[int, Field(ge=1, le=5)]]  # its name and its severity


@settings(kw_only=True)
class Adaptation(Maker):
    """Some changed copies of a test image; the image is corrupted first, if `corruption` says so."""

    lossless: ClassVar[bool] = True
    corruption: Corruption | None = None

    @property
    def needs_denoiser(self) -> bool:
        return True

    @property
    @abstractmethod
    def variants(self) -> int:
        """How many copies of an image there are."""

    @abstractmethod
    def adapt(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Sequence[np.ndarray]:
        """The copies of images that are corrupted already."""

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return Row(
            sample.id, sample.target, sample.target, variant, "", 0.0, seed_of("adapt", sample.id, variant)
        )  # fmt: skip

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        seen = corrupted(self.corruption, np.stack(images).transpose(0, 3, 1, 2), [row.source for row in rows])
        made = self.adapt(rows, list(seen.transpose(0, 2, 3, 1)), models)
        return made, [((row.target, 1.0),) for row in rows]


@settings(kw_only=True)
class AtTimes(Adaptation):
    """DiffAug's guesses at an image from several times, each under noise of its own, whatever the other times are."""

    version: ClassVar[int] = 3
    times: Annotated[tuple[Share, ...], Field(min_length=1)]
    how: Diffusion = Diffusion()

    @property
    def needs_denoiser(self) -> bool:
        return self.how.denoise

    @property
    def variants(self) -> int:
        return len(self.times)

    @property
    def latest(self) -> float:
        return max(self.times)

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        time = self.times[variant - 1]
        seed = seed_of("adapt", sample.id, time)
        return Row(sample.id, sample.target, sample.target, variant, "", time, seed)

    def adapt(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Sequence[np.ndarray]:
        return diffused(self.how, images, [row.strength for row in rows], [row.seed for row in rows], models)

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        return int(self.how.denoise)


@settings(kw_only=True)
class DDAImages(Adaptation):
    """Diffusion-driven adaptation (Gao et al. 2023): noised to step `start` of `steps` and sampled back, led by the
    image's own low frequencies. `scale` is the authors' and means what it means there: images of 256 pixels, four in a
    batch. Their distance is one of the whole batch, so that results hang on who else is in it; here each image has its
    own, and `lead` makes it move a pixel as far as theirs moves it among images that are equally far off."""

    version: ClassVar[int] = 2
    SIDE: ClassVar[int] = 256  # pixels of the authors' images
    BATCH: ClassVar[int] = 4  # of their images share one distance
    steps: Annotated[int, Field(ge=2, le=1000)] = 100
    start: Count = 50
    scale: Annotated[float, Field(ge=0)] = 6.0
    shrink: Count = 4

    @property
    def variants(self) -> int:
        return 1

    @property
    def latest(self) -> float:
        return round(self.start * (STEPS - 1) / (self.steps - 1)) / STEPS

    def lead(self, shape: Sequence[int]) -> float:
        """The scale for an image of a shape (C x H x W) whose distance is its own."""
        # d|d| is d / |d|, and of a batch of four |d| is sqrt(4) times an image's; its length is 1 in any space, so that
        # with fewer pixels each would move further
        return self.scale * math.sqrt(math.prod(shape) / (3 * self.SIDE**2) / self.BATCH)

    def adapt(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Sequence[np.ndarray]:
        import torch

        made: list[np.ndarray] = []
        for piece in pieces(len(images), images[0].shape[0] * images[0].shape[1]):
            x = torch.from_numpy(np.stack(images[piece])).permute(0, 3, 1, 2).float().to(models.denoiser.net.device)
            out = self.sample(x / 127.5 - 1, models.denoiser, [row.seed for row in rows[piece]])
            pixels = ((out.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            made += list(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return made

    def sample(self, x: Tensor, denoiser: Denoiser, seeds: Sequence[int]) -> Tensor:
        """DDPM's ancestral sampling from the noised x (in [-1, 1]), each row with random numbers of its own."""
        import torch

        from synthaug.diffusion.sampling import standard_noise

        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        scale = self.lead(x.shape[1:])
        abar = respaced(self.steps).to(x.device, x.dtype)
        wanted = self.low_pass(x)
        x_t = abar[self.start].sqrt() * x + (1 - abar[self.start]).sqrt() * standard_noise(x, draws)
        for i in range(self.start - 1, -1, -1):
            now, before = abar[i], abar[i - 1] if i else torch.ones_like(abar[0])
            x_t = x_t.detach().requires_grad_()
            x0 = denoiser(x_t / now.sqrt(), float(((1 - now) / now).sqrt())).clamp(-1, 1)
            slope = self.slope(wanted, x0, x_t)
            beta = 1 - now / before
            mean = before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * x_t
            spread = (beta * (1 - before) / (1 - now)).sqrt()
            x_t = mean.detach() + spread * standard_noise(x, draws) - scale * slope
        return x_t

    def slope(self, wanted: Tensor, x0: Tensor, x_t: Tensor) -> Tensor:
        """The gradient of each row's distance to the low frequencies that are wanted."""
        import torch

        distance = (wanted - self.low_pass(x0)).flatten(1).norm(dim=1)
        return torch.autograd.grad(distance.sum(), x_t)[0]

    def low_pass(self, x: Tensor) -> Tensor:
        """Shrunk and grown again."""
        from torch.nn.functional import interpolate

        high, wide = x.shape[2:]
        small = (max(1, high // self.shrink), max(1, wide // self.shrink))
        # antialias for growing too: only with it is torch's cubic the usual one (a = -0.5), as in the authors' resizer
        shrunk = interpolate(x, small, mode="bicubic", antialias=True)
        return interpolate(shrunk, (high, wide), mode="bicubic", antialias=True)

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        return self.start


def respaced(steps: int) -> Tensor:
    """The cumulative products of DDPM's linear schedule at `steps` evenly spread times, first and last among them."""
    import torch

    t = torch.linspace(0, STEPS - 1, steps, dtype=torch.float64).round()
    return 1 / (1 + sigma_at(t / STEPS).square())


def corrupted(corruption: Corruption | None, images: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """Images (uint8 NCHW) after a corruption whose randomness belongs to each one's id."""
    if corruption is None:
        return images
    import torch

    from synthaug.evaluate.corruptions import corrupt

    name, severity = corruption
    seeds = [seed_of("corrupt", id, name, severity) for id in ids]
    return np.asarray(corrupt(torch.from_numpy(np.ascontiguousarray(images)), name, severity, seeds).numpy())
