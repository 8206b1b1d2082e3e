"""What is resampled and what is rounded: warps against an image's own formula, JPEG against Pillow."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from synthaug.diffusion.jpeg import quantised
from synthaug.diffusion.transforms import Jpeg
from synthaug.diffusion.warp import SYM6, geometry, warp


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_warp_goes_where_it_should() -> None:
    """A smooth image under the map p -> A (p - t), against the image's own formula there."""
    size = 32
    grid = torch.arange(size, dtype=torch.float64) - (size - 1) / 2

    def picture(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-((x - 3) ** 2 + (y + 2) ** 2) / 30) + 0.5 * torch.exp(-((x + 4) ** 2 + (y - 5) ** 2) / 20)

    image = picture(grid[None, :], grid[:, None])[None, None]
    told = torch.tensor([[1.0, 0.5, -1.2, 0.7, 0.4, -0.6]], dtype=torch.float64)
    size_, turn, stretch, axis, right, down = told[0].tolist()

    def rotation(angle: float) -> np.ndarray:
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    # forwards, as a person would say it: what enlarges, turned by -0.5 (the y axis points down), stretched along an axis
    zoom, s = 2 ** (0.2 * size_), 2 ** (0.2 * stretch)
    back = np.linalg.inv(rotation(-axis) @ np.diag([s, 1 / s]) @ rotation(axis) @ rotation(-turn) * zoom)
    at = np.stack(np.meshgrid(grid - right * size / 8, grid - down * size / 8), -1) @ back.T
    expected = picture(torch.from_numpy(at[..., 0]), torch.from_numpy(at[..., 1]))
    found = warp(image, geometry(told))[0, 0]
    torch.testing.assert_close(found[6:-6, 6:-6], expected[6:-6, 6:-6], atol=0.01, rtol=0)


def test_the_filter_is_orthonormal_to_its_even_shifts() -> None:
    h = np.array(SYM6)
    products = [h[2 * k :] @ h[: len(h) - 2 * k] for k in range(6)]
    np.testing.assert_allclose(products, [1, 0, 0, 0, 0, 0], atol=1e-11)
    assert abs(h.sum() - math.sqrt(2)) < 1e-11


def test_jpeg_is_as_coarse_as_pillow() -> None:
    """Of a grey image: what Pillow's encoder of the same quality loses, but for its rounding to whole levels."""
    smooth = torch.nn.functional.interpolate(torch.randn(1, 1, 6, 6, generator=dice()), size=32, mode="bicubic")
    grey = (smooth * 50 + 128).clamp(0, 255).round()[0, 0]
    buffer = io.BytesIO()
    Image.fromarray(grey.numpy().astype(np.uint8)).save(buffer, "JPEG", quality=25)
    theirs = np.asarray(Image.open(buffer)).astype(float)
    # JPEG counts from 128; quality 25 has twice the table's steps
    x = (grey[None, None].double() - 128) * (2 / 255)
    ours = quantised(x, torch.tensor([2.0], dtype=torch.float64))[0, 0].numpy() * 127.5 + 128
    assert np.abs(ours - theirs).max() < 1
    assert np.abs(grey.numpy() - theirs).mean() > 2
    assert Jpeg(least=25).values(1000, 32, dice()).max() == pytest.approx(2.0, rel=0.01)
