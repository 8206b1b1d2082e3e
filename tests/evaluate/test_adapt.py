"""What is done to a test image first: copies of their own, kept as they are, and DDA against a slow reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from asking import Oracle, copies, images
from torch import Tensor

from synthaug.data.sample import decode_image
from synthaug.evaluate.adapt import AtTimes, DDAImages, respaced
from synthaug.evaluate.predict import DDA
from synthaug.methods.base import Maker
from synthaug.methods.diffuse_denoise import DiffuseDenoise
from synthaug.methods.real_guidance import RealGuidance
from synthaug.settings import UserError


def test_copies_do_not_know_of_one_another() -> None:
    pictures = images(6)
    for maker in (AtTimes(times=(0.1, 0.5)), DDAImages(steps=20, start=6)):
        whole = copies(maker, pictures, range(6))
        assert np.abs(copies(maker, pictures, [4]).astype(int) - whole[4]).max() <= 1
        assert np.abs(copies(maker, pictures, [5, 2]).astype(int) - whole[[5, 2]]).max() <= 1
        assert np.array_equal(copies(maker, pictures, range(6)), whole)


@pytest.mark.parametrize("maker", [AtTimes(times=(0.1,)), DDAImages(), DiffuseDenoise()])
def test_what_is_kept_of_a_copy_is_the_copy(maker: Maker) -> None:
    """Copies that were made first are what is made as one goes, whatever the size: they go through no JPEG."""
    copy = np.random.default_rng(0).integers(0, 256, (72, 72, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(maker.encode(copy)), copy)
    assert not np.array_equal(decode_image(RealGuidance().encode(copy)), copy), "generated images may be smaller files"


def slow_dda(how: DDAImages, x: Tensor, denoiser: Any, seed: int) -> Tensor:
    """One image, step by step, as Ho et al. (2020, equations 6 and 7) write the posterior of the step before."""
    generator = torch.Generator().manual_seed(seed)
    abar = respaced(how.steps)
    x_t = abar[how.start].sqrt() * x + (1 - abar[how.start]).sqrt() * torch.randn(x.shape, generator=generator)
    for i in reversed(range(how.start)):
        before = abar[i - 1] if i else torch.tensor(1.0)
        alpha = abar[i] / before
        leaf = x_t.clone().requires_grad_()
        x0 = denoiser(leaf / abar[i].sqrt(), ((1 - abar[i]) / abar[i]).sqrt().item()).clamp(-1, 1)
        distance = torch.sqrt(((how.low_pass(x) - how.low_pass(x0)) ** 2).sum())
        (slope,) = torch.autograd.grad(distance, leaf)
        mean = (before.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - before) * leaf) / (1 - abar[i])
        spread = torch.sqrt((1 - before) / (1 - abar[i]) * (1 - alpha))
        # half of the published scale: the authors' distance is one of four images
        scale = how.scale / 2 * (8 / 256)
        x_t = (mean + spread * torch.randn(x.shape, generator=generator) - scale * slope).detach()
    return x_t


@pytest.mark.parametrize("scale", [0.0, 6.0])
def test_dda_is_its_definition(scale: float) -> None:
    how, denoiser = DDAImages(steps=20, start=5, scale=scale), Oracle()
    x = torch.from_numpy(images(3)).double() / 127.5 - 1
    torch.set_default_dtype(torch.float64)
    try:
        found = how.sample(x, denoiser, [7, 8, 9])
        for row in range(3):
            slow = slow_dda(how, x[row : row + 1], denoiser, 7 + row)
            assert torch.allclose(found[row : row + 1], slow, atol=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)


def test_dda_is_led_by_low_frequencies() -> None:
    """Without a lead the data are drawn anew; with one the image's coarse shape stays."""
    x = torch.from_numpy(images(8)).float() / 127.5 - 1
    loose, led = (DDAImages(steps=100, start=60, scale=scale) for scale in (0.0, 6.0))

    def away(how: DDAImages) -> float:
        return float((how.low_pass(how.sample(x, Oracle(), range(8))) - how.low_pass(x)).square().mean())

    assert away(led) < 0.8 * away(loose)


def cubic_resize(rows: np.ndarray, size: int) -> np.ndarray:
    """Along the first axis, with the kernel of Keys (1981, a = -0.5), stretched where it shrinks; weights add up to 1."""
    ratio = len(rows) / size
    wide = max(1.0, ratio)
    centres = (np.arange(size) + 0.5) * ratio - 0.5
    away = np.abs(centres[:, None] - np.arange(len(rows))) / wide
    near, far = 1.5 * away**3 - 2.5 * away**2 + 1, -0.5 * away**3 + 2.5 * away**2 - 4 * away + 2
    weights = np.where(away < 1, near, np.where(away < 2, far, 0))
    return np.asarray(np.tensordot(weights / weights.sum(1, keepdims=True), rows, 1))


def test_dda_looks_at_low_frequencies_through_the_usual_cubic() -> None:
    image = np.random.default_rng(0).normal(size=(16, 16))
    shrunk = cubic_resize(cubic_resize(image, 4).T, 4).T
    grown = cubic_resize(cubic_resize(shrunk, 16).T, 16).T
    found = DDAImages(shrink=4).low_pass(torch.from_numpy(image)[None, None])[0, 0].numpy()
    assert np.allclose(found, grown, atol=1e-10)


def test_ddas_scale_is_that_of_four_images_in_one_distance() -> None:
    """The authors lead a batch of four by scale 6 and one distance; four equal images move just so far here."""
    how = DDAImages(shrink=32)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3, 256, 256))).expand(4, -1, -1, -1)
    leaf = torch.zeros_like(x).requires_grad_()
    distance = (how.low_pass(x) - how.low_pass(leaf)).norm()  # of the whole tensor
    (theirs,) = torch.autograd.grad(6 * distance, leaf)
    leaf = torch.zeros_like(x).requires_grad_()
    ours = how.lead(x.shape[1:]) * how.slope(how.low_pass(x), leaf, leaf)
    assert torch.allclose(ours, theirs, atol=1e-12)
    # with a quarter of the pixels a gradient of length 1 would move each twice as far
    assert how.lead((3, 128, 128)) == pytest.approx(how.lead((3, 256, 256)) / 2)


def test_respacing_keeps_the_ends() -> None:
    abar = respaced(100)
    betas = np.linspace(1e-4, 0.02, 1000)
    full = np.cumprod(1 - betas)
    assert abar[0] == pytest.approx(full[0]) and abar[-1] == pytest.approx(full[-1])
    assert abar[50] == pytest.approx(full[round(50 * 999 / 99)]) and len(abar) == 100
    with pytest.raises(UserError, match="beyond the last"):
        DDA(steps=50, start=50)
