"""The small UNet's training: its loss against diffusers', the average, and that an interruption changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory import Memory, silent, weights

from synthaug.diffusion import fit
from synthaug.diffusion.denoiser import UNetDenoiser
from synthaug.diffusion.fit import newest_share
from synthaug.diffusion.pixel_models import TrainedUNet
from synthaug.diffusion.unet import Lesson, new_scheduler, new_unet, train_unet, unet_files
from synthaug.settings import UserError, seed_of
from synthaug.training import ALONE, World

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
TINY = TrainedUNet(channels=(8, 16), steps=8, batch_size=4)


def test_an_interruption_changes_nothing() -> None:
    whole, done = train_unet(TINY, IMAGES, report=silent)
    broken = Memory(stop=True)
    with pytest.raises(InterruptedError):
        train_unet(TINY, IMAGES, report=silent, checkpoint=broken)
    assert broken.state is not None and broken.state["done"]["step"] < TINY.steps
    again, _ = train_unet(TINY, IMAGES, report=silent, checkpoint=Memory(broken.state))
    assert done.step == 8 and len(done.history) == 8
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())


def test_nor_does_one_between_two_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = TrainedUNet(channels=(8, 16), steps=25, batch_size=4)
    whole, done = train_unet(slow, IMAGES, report=silent)
    monkeypatch.setattr(fit, "STRETCH", 2)
    broken = Memory(stop=True)
    with pytest.raises(InterruptedError):
        train_unet(slow, IMAGES, report=silent, checkpoint=broken)
    assert broken.state is not None and broken.state["done"]["step"] == 2 and not broken.state["done"]["history"]
    again, rest = train_unet(slow, IMAGES, report=silent, checkpoint=Memory(broken.state))
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())
    assert rest.history == done.history and done.history[0]["step"] == 3


def test_the_loss_is_the_velocity_error_of_images_it_was_given() -> None:
    torch.manual_seed(0)
    net: Any = new_unet(TINY, 8)
    whole = Lesson(TINY, net, IMAGES, ALONE).loss(3)[0]
    generator = torch.Generator().manual_seed(seed_of(0, "denoiser", 3))
    rows = torch.randint(5, (4,), generator=generator)
    t = torch.randint(1000, (4,), generator=generator)
    x0 = torch.from_numpy(IMAGES)[rows] / 127.5 - 1
    noise = torch.randn(x0.shape, generator=generator)
    abar = new_scheduler().alphas_cumprod[t].view(-1, 1, 1, 1)
    x_t, v = abar.sqrt() * x0 + (1 - abar).sqrt() * noise, abar.sqrt() * noise - (1 - abar).sqrt() * x0
    assert float(whole) == pytest.approx(float((net(x_t, t).sample - v).square().mean()), rel=1e-5)
    parts = [float(Lesson(TINY, net, IMAGES, World(rank, 3)).loss(3)[0]) for rank in range(3)]
    assert sum(parts) == pytest.approx(float(whole), rel=1e-5)


def test_the_average_is_the_power_function_one() -> None:
    """EDM2's average weighs the parameters of step t with the increments of t^(gamma + 1)."""
    average = 0.0
    for step in range(1, 101):
        average += (step - average) * newest_share(step)
    increments = np.diff(np.arange(101.0) ** 7.94)
    slow = float((increments * np.arange(1, 101)).sum() / increments.sum())
    assert average == pytest.approx(slow, rel=0.01)


def test_it_learns_and_is_read_again(tmp_path: Path) -> None:
    model = TrainedUNet(channels=(8, 16), steps=150, batch_size=8, lr=5e-3)
    image = np.repeat(IMAGES[:1], 2, 0)
    net, done = train_unet(model, image, report=silent)
    assert done.history[-1]["train/loss"] < 0.5 * done.history[0]["train/loss"]
    for name, data in unet_files(net).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    denoiser = UNetDenoiser.from_folder(tmp_path)
    x0 = torch.from_numpy(image[:1]).float() / 127.5 - 1
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        guess = denoiser(x0 + 3 * noise, 3.0)
    assert denoiser.rows == 1
    assert float((guess - x0).square().mean()) < 0.3 * float(x0.var()), "it knows one image, and says so"


def test_uneven_sizes_and_too_small_batches_are_refused() -> None:
    with pytest.raises(UserError, match="multiple of 8"):
        TrainedUNet().check(20)
    TrainedUNet().check(32)
    with pytest.raises(UserError, match="number of workers"):
        train_unet(TrainedUNet(batch_size=1), IMAGES, report=silent, world=World(0, 2))
