"""The net of a noisy classifier and its training. Images are in variance-exploding coordinates, in units of [-1, 1]."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn

from synthaug.diffusion.denoiser import Denoiser, Sigma, per_row
from synthaug.diffusion.fit import Average, Fitted, contained, fit
from synthaug.diffusion.one_step import sigma_at
from synthaug.settings import UserError, seed_of
from synthaug.training import ALONE, Checkpoint, Report, World

if TYPE_CHECKING:
    from synthaug.diffusion.guide import Guide

FREQUENCIES = 16  # of each of sine and cosine, of the noise level
ROWS = 256  # validation images at a time
Pictures = tuple[np.ndarray, np.ndarray]  # uint8 NCHW and class indices


class GuideNet(nn.Module):
    """(x, sigma, the denoiser's guess) to logits, for images of `size` pixels."""

    size: Tensor

    def __init__(self, guide: Guide, classes: int, size: int) -> None:
        super().__init__()
        first, last, width = guide.channels[0], guide.channels[-1], 4 * guide.channels[0]
        self.guide = guide
        self.register_buffer("size", torch.tensor(size))  # so that it travels with the weights
        self.stem = stem(first)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        pairs = zip((first, *guide.channels), guide.channels, strict=False)  # the first block keeps the stem's channels
        self.blocks = nn.ModuleList(Block(before, after, width) for before, after in pairs)
        self.head = nn.Sequential(
            nn.GroupNorm(8, last), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * last, classes)
        )
        # Last, so that the weights above do not depend on whether there is a second; and silent at first: with equal
        # seeds the denoise-augmented classifier begins as the noisy one, to the bit.
        self.second = stem(first) if guide.second != "none" else None
        if self.second is not None:
            for parameter in self.second[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, sigma: Sigma, guess: Tensor | None) -> Tensor:
        s = per_row(sigma, x)
        x_t = x * (1 + s.square()).rsqrt()  # as a variance-preserving model sees it, of like size at any time
        h = self.stem(x_t)
        if self.second is not None:
            extra = guess if self.guide.second == "denoised" else x_t
            assert extra is not None, "a denoise-augmented classifier needs the denoiser's guess"
            h = h + self.second(extra)
        time = self.time(waves(s.flatten()))
        for block in self.blocks:
            h = block(h, time)
        logits: Tensor = self.head(h)
        return logits

    def log_p(self, x: Tensor, sigma: Sigma, guess: Tensor, labels: Tensor) -> Tensor:
        """The log probability of each row's own class, as `sampling.steered` asks for it."""
        found: Tensor = self(x, sigma, guess).log_softmax(1).gather(1, labels[:, None])[:, 0]
        return found


def stem(channels: int) -> nn.Sequential:
    """Two convolutions, because one that sees the same image twice would be no more than one that sees it once."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
    )  # fmt: skip


class Block(nn.Module):
    """A residual block that halves the image and is told the time."""

    def __init__(self, before: int, after: int, width: int) -> None:
        super().__init__()
        self.into = nn.Sequential(nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, after, 3, 2, padding=1))
        self.time = nn.Linear(width, after)
        self.out = nn.Sequential(nn.GroupNorm(8, after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1))
        self.skip = nn.Conv2d(before, after, 1, 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        found: Tensor = self.skip(x) + self.out(self.into(x) + self.time(time)[:, :, None, None])
        return found


def waves(sigma: Tensor) -> Tensor:
    """Sines and cosines of the logarithm of each noise level; below the least that is trained on they stand still."""
    log_sigma = sigma.clamp_min(0.01).log()
    # ln sigma runs from -4.6 to 5.1 over the schedule: the slowest sine rises all the way, the fastest turns six times.
    rates = torch.linspace(math.log(0.1), math.log(4), FREQUENCIES, device=sigma.device, dtype=sigma.dtype).exp()
    angles = log_sigma[:, None] * rates  # B x FREQUENCIES
    return torch.cat([angles.sin(), angles.cos()], 1)


def read(guide: Guide, data: bytes, device: str) -> GuideNet:
    """The net in a file, ready to steer."""
    state = load(data)
    net = GuideNet(guide, len(state["head.4.bias"]), int(state["size"]))  # head.4: the linear layer, a row a class
    net.load_state_dict(state)
    return net.to(device).eval().requires_grad_(False)


def train_guide(
    guide: Guide, train: Pictures, val: Pictures, classes: int, denoiser: Denoiser | None, *, report: Report,
    checkpoint: Checkpoint | None = None, world: World = ALONE, device: torch.device | None = None,
) -> tuple[GuideNet, Fitted]:  # fmt: skip
    """A classifier of `train` at all times: the average over the last tenth of its training. Every report says how
    many of `val` it recognises, each at a random time."""
    if guide.batch_size < world.size:
        raise UserError(f"batch_size {guide.batch_size} is smaller than the number of workers, {world.size}")
    if len(val[0]) == 0:
        raise UserError("there are no validation images to judge the guide by; set dataset.val_share above 0")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with contained(guide.threads, device):
        net = new_net(guide, classes, train[0].shape[2]).to(device)
        averaged = copy.deepcopy(net).requires_grad_(False)
        lesson = Lesson(net, train, denoiser, world, device)
        # the weight decay is that of guided-diffusion's noisy classifiers
        done = fit(
            dict(net.named_parameters()), lesson.loss, steps=guide.steps, lr=guide.lr, weight_decay=0.05, clip=1.0,
            report=report, checkpoint=checkpoint, world=world, average=Average(dict(averaged.named_parameters())),
            also=lambda: {"val/top1": recognised(averaged, val, denoiser, device)},
        )  # fmt: skip
        return averaged.cpu(), done


def new_net(guide: Guide, classes: int, size: int) -> GuideNet:
    """The net as it is before training, from the guide's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(guide.seed, "guide", "initialisation"))
        return GuideNet(guide, classes, size)


class Lesson:
    """What the classifier is asked in each step: the classes of some images, each at a time of its own."""

    def __init__(
        self, net: GuideNet, train: Pictures, denoiser: Denoiser | None, world: World, device: torch.device
    ) -> None:
        self.net, self.denoiser, self.world, self.device = net, denoiser, world, device
        self.images, self.labels = torch.from_numpy(train[0]), torch.from_numpy(train[1])

    def loss(self, step: int) -> tuple[Tensor]:
        """This process's part of the mean over the batch; every process draws the whole of it."""
        guide, mine = self.net.guide, self.world.mine
        generator = torch.Generator().manual_seed(seed_of(guide.seed, "guide", step))
        rows = torch.randint(len(self.images), (guide.batch_size,), generator=generator)
        x, sigma = noised(self.images[rows], generator)
        # only now its share: a generator that drew less would draw something else
        x, sigma, labels = (part[mine].to(self.device) for part in (x, sigma, self.labels[rows]))
        logits = self.net(x, sigma, guess_of(self.net, self.denoiser, x, sigma))
        return (nn.functional.cross_entropy(logits, labels, reduction="sum") / guide.batch_size,)


def noised(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (uint8) at uniformly random times, and their noise levels."""
    sigma = sigma_at(torch.rand(len(images), generator=generator)).float()  # t ~ U over the linear schedule
    x0 = images.float() / 127.5 - 1
    return x0 + per_row(sigma, x0) * torch.randn(x0.shape, generator=generator), sigma


def guess_of(net: GuideNet, denoiser: Denoiser | None, x: Tensor, sigma: Tensor) -> Tensor | None:
    """What the denoiser makes of x, if the classifier looks at it; nothing is learned through it."""
    if not net.guide.needs_denoiser:
        return None
    assert denoiser is not None, "a denoise-augmented classifier needs a denoiser"
    with torch.no_grad():  # its derivative counts when the classifier steers, not when it learns
        return denoiser(x, sigma)


def recognised(net: GuideNet, val: Pictures, denoiser: Denoiser | None, device: torch.device) -> float:
    """The share of images recognised at random times; every classifier is shown the same noise."""
    right = 0
    for first in range(0, len(val[0]), ROWS):
        images, labels = (torch.from_numpy(part[first : first + ROWS]) for part in val)
        # without the guide's seed, so that guides of different seeds are asked the same
        x, sigma = noised(images, torch.Generator().manual_seed(seed_of("guide", "val", first)))
        x, sigma = x.to(device), sigma.to(device)
        with torch.no_grad():
            logits = net(x, sigma, guess_of(net, denoiser, x, sigma))
        right += int((logits.argmax(1).cpu() == labels).sum())
    return right / len(val[0])
