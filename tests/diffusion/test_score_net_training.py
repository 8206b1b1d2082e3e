"""How nets are trained as EDM trains them: interrupted, shared, told and untold, and what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from memory import Memory, silent, weights
from test_score_net import PICTURES, loud, model
from torch import Tensor

from synthaug.diffusion import fit, score_training
from synthaug.diffusion.sampling import heun, karras_sigmas
from synthaug.diffusion.score_models import OnClean, ScoreAug, TrainedEDM, TrainedScore
from synthaug.diffusion.score_net import Informed, Told, denoiser_of
from synthaug.diffusion.score_training import Lesson, _half_life, _rising, flops_of, new_net, train
from synthaug.diffusion.scoreaug import Omega, encode
from synthaug.diffusion.transforms import EDMPipe, Flips, OneOrNone, Rotation
from synthaug.settings import UserError
from synthaug.training import ALONE, World


@pytest.mark.parametrize("fields", [
    {"scoreaug": ScoreAug(), "labels": True}, {"clean": OnClean(), "dropout": 0.2, "ema": 30, "warmup": 12},
])  # fmt: skip
def test_an_interruption_changes_nothing(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "STRETCH", 2)
    settings = model(**fields)
    whole, done = train(settings, PICTURES, 3, report=silent)
    broken = Memory(stop=True)
    with pytest.raises(InterruptedError):
        train(settings, PICTURES, 3, report=silent, checkpoint=broken)
    assert broken.state is not None and 0 < broken.state["done"]["step"] < 6
    torch.manual_seed(7)  # whatever the process did in between
    again, rest = train(settings, PICTURES, 3, report=silent, checkpoint=Memory(broken.state))
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())
    assert rest.history == done.history


def test_shares_of_a_batch_add_up_to_it() -> None:
    settings = model(scoreaug=ScoreAug(), clean=OnClean(), labels=True)
    net = loud(new_net(settings, 8, 3))

    def gradients(world: World) -> list[Tensor]:
        net.zero_grad()
        Lesson(settings, net, PICTURES, world, torch.device("cpu")).loss(2)[0].backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    whole, parts = gradients(ALONE), [gradients(World(rank, 2)) for rank in range(2)]
    for one, *two in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(two), one, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="smaller than the number of workers, 7"):
        train(settings, PICTURES, 3, report=silent, world=World(0, 7))


def bar_net(told: Any) -> tuple[Informed, list[dict[str, float]]]:
    """A net that knows one image of 4 pixels, a bar at the left, turned in three of six times."""
    settings = TrainedEDM(
        channels=(16,), steps=300, batch_size=16, lr=1e-2,
        scoreaug=ScoreAug(how=OneOrNone(transforms=(Rotation(),)), told=told),
    )  # fmt: skip
    net, done = train(settings, (BAR, np.zeros(1, int)), 1, report=silent)
    return net, done.history


BAR = np.zeros((1, 3, 4, 4), np.uint8)
BAR[:, :, :, :1] = 255


@pytest.fixture(scope="module")
def told_bar() -> tuple[Informed, list[dict[str, float]]]:
    return bar_net("truth")


def test_it_learns_and_hears(told_bar: tuple[Informed, list[dict[str, float]]]) -> None:
    """On one image, turned or not: told which, it answers with the right one."""
    net, history = told_bar
    assert history[-1]["train/loss"] < 0.5 * history[0]["train/loss"]
    x0 = torch.from_numpy(BAR).float() / 127.5 - 1
    both = (x0 + torch.rot90(x0, 1, (2, 3))) / 2
    x = both + 2 * torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    denoiser = denoiser_of(net, "edm")
    with torch.no_grad():
        # shown as much of the one as of the other: what is told decides
        for turns in (0.0, 1.0):
            told = Told(omega=encode(Omega(turns=torch.full((64,), turns))))
            guess = denoiser(x, 2.0, told).mean(0)
            wanted, other = torch.rot90(x0[0], int(turns), (1, 2)), torch.rot90(x0[0], 1 - int(turns), (1, 2))
            assert (guess - wanted).square().mean() < 0.3 * (guess - other).square().mean()


def turned(net: Informed) -> float:
    """The share of its samples, asked for nothing done, that show the bar elsewhere than at the left."""
    x0 = torch.from_numpy(BAR).float() / 127.5 - 1
    noise = 80 * torch.randn(128, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        x = heun(denoiser_of(net, "edm"), noise, karras_sigmas(8), Told())
    far = torch.stack([(x - torch.rot90(x0, k, (2, 3))).square().sum((1, 2, 3)) for k in range(4)])
    return float((far.argmin(0) != 0).float().mean())


def test_rotation_leaks_where_nothing_is_told_of_it(told_bar: tuple[Informed, list[dict[str, float]]]) -> None:
    """Of a net that is told samples show none of it. In training every other image was turned, so one that is not told
    turns about as many of its samples."""
    assert turned(told_bar[0]) < 0.05  # 0.02 here: it is a small net
    assert 0.3 < turned(bar_net("nothing")[0]) < 0.7


def test_edms_rate_and_average() -> None:
    settings = model(warmup=600, ema=6000)
    assert [_rising(settings, step) for step in (1, 50, 100, 200)] == pytest.approx([0.01, 0.5, 1, 1])
    # after 6,000 images half of what was there before is left, once 120,000 have been seen
    kept = 1.0
    for step in range(100_000, 101_000):
        kept *= 1 - _half_life(settings, step)
    assert kept == pytest.approx(0.5, rel=1e-6)
    # early on half of it is forgotten within a twentieth of what was seen
    assert 1 - _half_life(settings, 100) == pytest.approx(0.5 ** (1 / 5))


@pytest.mark.parametrize("make,said", [
    (lambda: model().check(9), "2 channels halve 9 px unevenly; take images of a multiple of 2 px"),
    (lambda: model(attention=(16,)).check(8), "no level of the net has 16 px; they have 8, 4"),
    (lambda: model(mixture=True), "a mixture needs both kinds"),
    (lambda: model(channels=(8, 12)), "multiple of 8"),
    (lambda: ScoreAug(how=Flips(), told="the next one"), "only of OneOrNone there is a next one"),
])  # fmt: skip
def test_what_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_mirrors_are_known() -> None:
    found = [model(**fields).mirrors for fields in ({}, {"scoreaug": ScoreAug()}, {"clean": OnClean()},
             {"clean": OnClean(how=EDMPipe(flips=False))}, {"scoreaug": ScoreAug(how=Flips())})]  # fmt: skip
    assert found == [False, False, True, False, True]
    assert issubclass(TrainedEDM, TrainedScore)


def test_operations_are_counted() -> None:
    """Against the formula of one convolution, and twice as wide about four times as many."""
    flops = [flops_of(new_net(model(channels=(c, 2 * c)), 8, 3)) for c in (16, 32)]
    assert 3.4 < flops[1] / flops[0] < 4
    first = 2 * 8 * 8 * 16 * 3 * 9  # the first layer alone: two a weight and pixel
    assert flops[0] > 10 * first


def test_which_rate_and_average_a_training_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """EDM's where it is asked for, and else those of the other trainings."""
    seen: list[fit.Average] = []

    def spied(*args: Any, average: fit.Average, **more: Any) -> fit.Fitted:
        seen.append(average)
        return fit.Fitted()

    monkeypatch.setattr(score_training, "fit", spied)
    edm = model(warmup=600, ema=6000)
    for settings in (edm, model()):
        train(settings, PICTURES, 3, report=silent)
    assert (seen[0].rate(50), seen[0].newest(100_000)) == (_rising(edm, 50), _half_life(edm, 100_000))
    assert (seen[1].rate, seen[1].newest) == (fit.falling, fit.newest_share)
