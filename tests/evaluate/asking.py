"""A classifier, a closed-form denoiser, images and their copies: what is asked in test_predict and test_adapt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synthaug.data.sample import Sample
from synthaug.diffusion.oracle import MixtureDenoiser
from synthaug.evaluate import predict
from synthaug.evaluate.base import Subject
from synthaug.methods.base import Context

SIZE, CLASSES = 8, 4
D = 3 * SIZE * SIZE


class Linear(nn.Module):
    """A classifier that is a fixed linear map of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(CLASSES, D, generator=generator) * 0.6)
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        pixels = images if images.is_floating_point() else images.float() / 255
        self.asked += len(images)
        return (pixels - 0.5).flatten(1) @ self.w.T


class Net:
    device = torch.device("cpu")


class Oracle:
    """A closed-form denoiser that counts, as a UNet's does."""

    net = Net()

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        means = torch.randn(5, D, generator=generator) * 0.5
        self.oracle, self.rows = MixtureDenoiser([0.2] * 5, means, torch.eye(D).expand(5, D, D) * 0.05), 0

    def __call__(self, x: Tensor, sigma: Any, cond: Any = None) -> Tensor:
        self.rows += len(x)
        with torch.set_grad_enabled(x.requires_grad):
            return self.oracle(x, sigma)


class Placed:
    """Models with that denoiser."""

    def __init__(self) -> None:
        self.denoiser = Oracle()


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)


def copies(maker: Any, pictures: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """What a maker makes of some images, as the store would give it."""
    context = Context(0, (), ("",), "")
    rows = [
        maker.plan(Sample(f"i{n}", b"", ((0, 1.0),), f"i{n}", 0), v, context)
        for n in numbers
        for v in range(1, maker.variants + 1)
    ]
    sources = [pictures[n].transpose(1, 2, 0) for n in numbers for _ in range(maker.variants)]
    made, _ = maker.generate(rows, sources, Placed())
    return np.stack(made).transpose(0, 3, 1, 2).reshape(len(numbers), maker.variants, 3, SIZE, SIZE)


def among(made: np.ndarray | None) -> predict.Copy:
    """Copies (N x K x C x H x W) as a predictor asks for them."""

    def copy(variant: int, rows: np.ndarray) -> np.ndarray:
        assert made is not None, "no copy was to be asked for"
        return made[rows, variant - 1]

    return copy


def subject(model: nn.Module, pictures: np.ndarray, labels: np.ndarray) -> Subject:
    def held(maker: Any, split: str, numbers: Sequence[int], variant: int) -> np.ndarray:
        return copies(maker, pictures, numbers)[:, variant - 1]

    ids = {"test": [f"i{n}" for n in range(len(pictures))]}
    return Subject(model, [str(c) for c in range(CLASSES)], {"test": (pictures, labels)}, ids, held)
