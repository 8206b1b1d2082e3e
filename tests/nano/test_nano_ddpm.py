"""nano:ddpm as it is shipped: small, read by diffusers, better than no denoiser, and trained on no test image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline

from synthaug import nano
from synthaug.diffusion.denoiser import UNetDenoiser
from synthaug.diffusion.jacobian import asymmetry, jvp, vjp
from synthaug.diffusion.one_step import Diffusion
from synthaug.diffusion.oracle import EmpiricalDenoiser
from synthaug.diffusion.pixel_models import PretrainedUNet
from synthaug.nano.measure_ddpm import digits

FOLDER = nano.path("nano:ddpm")


@pytest.fixture(scope="module")
def denoiser() -> UNetDenoiser:
    torch.set_num_threads(1)
    return PretrainedUNet("nano:ddpm").load(None, "cpu")


def test_it_is_small_and_diffusers_reads_it() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 3_000_000
    pipeline = DDPMPipeline.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(batch_size=2, num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images
    assert [image.size for image in drawn] == [(32, 32)] * 2


def guess_error(time: float, denoiser: UNetDenoiser, split: str) -> tuple[float, float, float]:
    """Root mean square errors of the guess, of the exact denoiser of the training images, and of the mean image."""
    train = digits("train")[0] / 127.5 - 1
    x = torch.from_numpy(digits(split)[0][:100]).float() / 255
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    times = torch.full((len(x),), time)
    with torch.no_grad():
        guesses = [Diffusion()(x, times, d, noise) for d in (denoiser, EmpiricalDenoiser(train))]
    flat = torch.from_numpy((train.mean(0) + 1) / 2).float().expand_as(x)
    return tuple(float((2 * (found - x)).square().mean().sqrt()) for found in (*guesses, flat))  # type: ignore[return-value]


@pytest.mark.parametrize("time", [0.1, 0.3])
def test_its_guess_is_better_than_that_of_the_training_images_themselves(denoiser: UNetDenoiser, time: float) -> None:
    """On unseen digits the exact denoiser of the 700 images knows only those; a net has to say something between."""
    ours, exact, mean = guess_error(time, denoiser, "test")
    assert ours < exact and ours < 0.5 * mean


def test_its_derivative_is_nearly_a_covariance(denoiser: UNetDenoiser) -> None:
    """Forward it is what finite differences give, backward its transpose; an exact denoiser's would be symmetric."""
    draws = torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    x = torch.from_numpy(digits("test")[0][:2]).float() / 127.5 - 1 + 0.5 * draws[0]
    u, v = draws[1:]
    forward = jvp(denoiser, x, 0.5, v)
    with torch.no_grad():
        moved = (denoiser(x + 0.01 * v, 0.5) - denoiser(x - 0.01 * v, 0.5)) / 0.02
    torch.testing.assert_close(forward, moved, atol=1e-3, rtol=0)
    assert float((u * forward).sum()) == pytest.approx(float((v * vjp(denoiser, x, 0.5, u)).sum()), rel=1e-3)
    assert asymmetry(denoiser, x, 0.5, v).max() < 0.3


def test_where_nothing_is_left_to_see_it_says_the_mean(denoiser: UNetDenoiser) -> None:
    x = torch.from_numpy(digits("test")[0][:100]).float() / 255
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = Diffusion()(x, torch.full((100,), 0.999), denoiser, noise)
    flat = torch.from_numpy(digits("train")[0].mean(0) / 255).float()
    assert float((out - flat).abs().mean()) < 0.1
    assert np.corrcoef(out.mean(0).flatten(), flat.flatten())[0, 1] > 0.9
