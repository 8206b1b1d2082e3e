"""Samples of the experiment's own denoiser: several of one way back, the reverse SDE, and sources that stay themselves."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from synthaug.diffusion.sampling import heun, karras_sigmas
from synthaug.diffusion.score_models import TrainedEDM
from synthaug.methods.base import Models, Row
from synthaug.methods.from_noise import Boomerang, FromNoise, Noise, Resample
from synthaug.settings import UserError

SIZE = 4


class Shrinks:
    """A denoiser that draws everything towards the class: x0 = (x + sigma^2 label) / (1 + sigma^2)."""

    net = SimpleNamespace(config=SimpleNamespace(sample_size=SIZE), device=torch.device("cpu"))

    def __init__(self) -> None:
        self.rows, self.asked = 0, list[tuple[float, torch.Tensor]]()

    def __call__(self, x: torch.Tensor, sigma: Any, cond: Any = None) -> torch.Tensor:
        self.rows += len(x)
        self.asked.append((float(sigma), x))
        s2 = torch.as_tensor(sigma) ** 2
        towards = 0.0 if cond is None else (cond.float() / 10).reshape(-1, 1, 1, 1)
        return ((x + s2 * towards) / (1 + s2)).to(x.dtype)


def models(labels: bool = True) -> Models:
    made = Models(None, denoiser=(SimpleNamespace(labels=labels, space=None), None))  # type: ignore[arg-type]
    vars(made)["denoiser"] = Shrinks()
    return made


def rows(variants: int = 1, sources: int = 3) -> list[Row]:
    return [Row(f"s{n}", n, n, v, "", 0.0, 100 * n + v) for v in range(1, variants + 1) for n in range(sources)]


def images(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(60, 190, (count, SIZE, SIZE, 3), dtype=np.uint8))


def test_the_last_one_kept_is_where_the_way_leads_and_the_first_the_guess_on_it() -> None:
    method, given = Resample(steps=6, kept=2), images(3)
    made, labels = method.generate(rows(2), [*given, *given], models())
    alone, _ = dataclasses.replace(method, kept=1).generate(rows(1), given, models())
    assert all(np.array_equal(a, b) for a, b in zip(made[3:], alone, strict=True)), "variant 2 of each"
    assert list(labels) == [((row.target, 1.0),) for row in rows(2)]
    net, classes = Shrinks(), torch.arange(3)
    x0 = torch.from_numpy(np.stack(given)).permute(0, 3, 1, 2).float() / 127.5 - 1
    noise = torch.stack(
        [torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(100 * n + 1)) for n in range(3)]
    )
    levels = karras_sigmas(6, sigma_max=2.0)
    guess = net(heun(net, x0 + 2 * noise, levels[:4], classes), float(levels[3]), classes)
    wanted = ((guess.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(a, b) for a, b in zip(made[:3], wanted, strict=True))
    assert not np.array_equal(made[0], made[3])


@pytest.mark.parametrize("method", [Resample(steps=4, kept=3), Boomerang(steps=4), FromNoise(steps=3)], ids=str)
def test_an_image_hangs_on_no_other(method: FromNoise) -> None:
    given, k = images(3), method.together
    together, _ = method.generate(rows(k), given * k, models())
    for n in range(3):
        mine = [row for row in rows(k) if row.source == f"s{n}"]
        alone, _ = method.generate(mine, [given[n]] * k, models())
        assert all(np.array_equal(a, b) for a, b in zip(alone, together[n::3], strict=True))


@pytest.mark.parametrize("method", [Resample(steps=3), Boomerang(steps=3)], ids=str)
def test_the_first_question_is_about_exactly_the_noise_that_was_added(method: FromNoise) -> None:
    """F5: neither a level too high nor one too low."""
    given, asked = images(2), models()
    method.generate(rows(sources=2), given, asked)
    sigma, x = asked.denoiser.asked[0]  # type: ignore[attr-defined]
    x0 = torch.from_numpy(np.stack(given)).permute(0, 3, 1, 2).float() / 127.5 - 1
    noise = torch.stack(
        [torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(100 * n + 1)) for n in range(2)]
    )
    assert sigma == pytest.approx(2.0, abs=1e-12) and torch.equal(x, x0 + 2.0 * noise)


def test_noise_goes_on_where_it_was() -> None:
    noise, like = Noise([1, 2]), torch.empty(2, 5)
    first, second = noise(like), noise(like)
    whole = torch.randn(10, generator=torch.Generator().manual_seed(2))
    assert torch.equal(torch.cat([first[1], second[1]]), whole) and not torch.equal(first, second)


def test_local_sampling_asks_for_no_class() -> None:
    made, _ = Boomerang(steps=5).generate(rows(), images(3), models(labels=True))
    again, _ = Boomerang(steps=5).generate(rows(), images(3), models(labels=False))
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
    with pytest.raises(UserError, match="guidance"):
        Boomerang(guidance=2.0)


def test_more_parts_than_steps_are_refused() -> None:
    with pytest.raises(UserError, match="of 2 steps no 3 parts"):
        Resample(steps=2, kept=3)


def test_a_net_that_always_had_a_class_is_not_asked_without() -> None:
    always = TrainedEDM(labels=True, unlabelled=0.0)
    for method in (Boomerang(), Resample(guidance=2.0)):
        with pytest.raises(UserError, match="asks without a class"):
            method.check_denoiser(always)
        method.check_denoiser(TrainedEDM(labels=True))
    Resample().check_denoiser(always)
    Boomerang().check_denoiser(TrainedEDM())
