"""DiffAug's step against its formula, in both spaces, and its times against the table of the linear schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from synthaug.diffusion.one_step import Diffusion, check_time, sigma_at
from synthaug.diffusion.oracle import MixtureDenoiser
from synthaug.settings import UserError

TABLE = {
    0.0: 0.0100, 0.05: 0.1760, 0.1: 0.3423, 0.15: 0.5220, 0.2: 0.7236, 0.25: 0.9580, 0.3: 1.2402, 0.35: 1.5910,
    0.4: 2.0411, 0.45: 2.6357, 0.5: 3.4430, 0.6: 6.1735, 0.7: 12.025, 0.999: 157.41,
}  # fmt: skip


def some(rows: int = 6) -> tuple[torch.Tensor, torch.Tensor, MixtureDenoiser]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(rows, 1, 2, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    means = torch.randn(3, 4, generator=generator, dtype=torch.float64) * 0.5
    return images, noise, MixtureDenoiser([0.2, 0.3, 0.5], means, torch.eye(4).expand(3, 4, 4) * 0.1)


def test_times_are_those_of_the_linear_schedule() -> None:
    found = sigma_at(torch.tensor(list(TABLE), dtype=torch.float64))
    assert found.tolist() == pytest.approx(list(TABLE.values()), rel=1e-4, abs=5e-5)
    grid = torch.arange(1000)
    assert torch.equal(sigma_at((grid / 1000).float()), sigma_at(grid.double() / 1000)), (
        "0.35 in float32 is less than 0.35"
    )
    assert sigma_at(torch.tensor([1.0])) == sigma_at(torch.tensor([0.999]))
    assert (sigma_at(torch.arange(1000).double() / 1000).diff() > 0).all(), "each of the 1,000 steps is its own"


def test_it_is_its_formula_in_both_spaces() -> None:
    images, noise, oracle = some()
    times = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.8, 0.999])
    found = Diffusion()(images, times, oracle, noise)
    scaled = Diffusion(space="m")(images, times, oracle, noise)
    for row, time in enumerate(times):
        sigma = sigma_at(time[None])
        a = 1 / (1 + sigma**2).sqrt()
        x_t = a * (2 * images[row : row + 1] - 1) + sigma * a * noise[row : row + 1]
        x0 = oracle(x_t / a, sigma).clamp(-1, 1)
        assert torch.allclose(found[row], ((x0 + 1) / 2)[0], atol=1e-12)
        assert torch.allclose(scaled[row], ((a * x0 + 1) / 2)[0], atol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()


def test_without_denoising_it_is_the_noised_image() -> None:
    images, noise, _ = some()
    times = torch.full((6,), 0.2)
    sigma = sigma_at(times[:1])
    expected = ((2 * images - 1 + sigma * noise) / (1 + sigma**2).sqrt()).clamp(-1, 1)
    assert torch.allclose(Diffusion(denoise=False)(images, times, None, noise), (expected + 1) / 2)


def test_rows_do_not_know_of_one_another() -> None:
    images, noise, oracle = some()
    times = torch.linspace(0, 0.9, 6)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    whole = Diffusion()(images, times, oracle, noise)
    assert torch.equal(Diffusion()(images[order], times[order], oracle, noise[order]), whole[order])
    assert torch.equal(Diffusion()(images[:1], times[:1], oracle, noise[:1]), whole[:1])


def test_no_rows_ask_no_denoiser() -> None:
    images, noise, _ = some()
    found = Diffusion()(images[:0], torch.empty(0), lambda *_: pytest.fail("asked"), noise[:0])
    assert found.shape == (0, 1, 2, 2)


def test_noise_beyond_the_schedule_is_refused() -> None:
    def schedule(end: float, steps: int) -> torch.Tensor:
        return (1 - torch.linspace(1e-4, end, steps, dtype=torch.float64)).cumprod(0)

    check_time(1.0, schedule(0.02, 1000))
    with pytest.raises(
        UserError, match=r"^time 0.4 is beyond the denoiser's schedule, which ends at 0.313 \(sigma=1.323\)$"
    ):
        check_time(0.4, schedule(0.02, 100))
    for latest in (0.0, 0.2, 0.31):
        check_time(latest, schedule(0.02, 100))


def test_times_fill_their_interval() -> None:
    u = torch.from_numpy(np.random.default_rng(0).random(1000))
    times = Diffusion(low=0.2, high=0.5).times(u)
    assert 0.2 <= times.min() < 0.201 and 0.499 < times.max() < 0.5
    assert (Diffusion(low=0.3, high=0.3).times(u) == 0.3).all()
    with pytest.raises(UserError, match="low must be the smaller"):
        Diffusion(low=0.5, high=0.2)


def test_bytes_are_refused() -> None:
    """Taken for shares of white they would all be white, and nobody would be told."""
    bytes_ = torch.full((1, 3, 4, 4), 200, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"images in \[0, 1\] are expected, not torch.uint8: divide them by 255"):
        Diffusion(denoise=False)(bytes_, torch.tensor([0.1]), None, torch.randn(1, 3, 4, 4))
