"""ScoreAug: the transforms, what a net is told of them, and the loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from synthaug.diffusion.denoiser import precondition
from synthaug.diffusion.scoreaug import NOTHING, WIDTH, Omega, apply, encode, loss
from synthaug.diffusion.transforms import (
    Brightness,
    Clip,
    Contrast,
    Cutout,
    EDMPipe,
    Flip,
    Flips,
    Gamma,
    Jpeg,
    OneOrNone,
    PixelTransform,
    Rotation,
    Translation,
)  # fmt: skip
from synthaug.diffusion.warp import geometry, warp
from synthaug.settings import UserError

SIZE = 8
LINEAR = (Brightness(), Translation(most=0.25), Cutout(), Rotation(), Flip())
BENT = (Gamma(), Contrast(), Clip(), Jpeg())
ALL = tuple(OneOrNone(transforms=(t,)) for t in (*LINEAR, *BENT)) + (OneOrNone(), Flips(), EDMPipe(p=0.5))


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 64, seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.randn(count, 3, size, size, generator=dice(seed), dtype=torch.float64)


def always(transform: PixelTransform, count: int, size: int = SIZE) -> Omega:
    """Every image under the transform."""
    return Omega(**{transform.field: transform.values(count, size, dice(1))})


def matrix(omega: Omega, size: int) -> np.ndarray:
    """The linear map of one image of one channel, column by column."""
    basis = torch.eye(size * size, dtype=torch.float64).view(-1, 1, size, size)
    many = Omega(*(None if part is None else part[:1].expand(len(basis), *part.shape[1:]) for part in omega))
    return apply(basis, many).flatten(1).T.numpy()


# --- transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(4))
def test_turns_are_those_of_torch(turns: int) -> None:
    x = images()
    turned = apply(x, Omega(turns=torch.full((len(x),), float(turns))))
    assert torch.equal(turned, torch.rot90(x, turns, (2, 3)))


def test_flips_are_those_of_torch() -> None:
    x, flip = images(4), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = apply(x, Omega(flip=flip))
    assert all(map(torch.equal, found, [x[0], x[1].flip(2), x[2].flip(1), x[3].flip((1, 2))]))


def test_each_image_is_shifted_and_cut_as_a_loop_would() -> None:
    x = images(seed=1, size=10)[:, :, :, :8]  # no square
    shift = torch.randint(-3, 4, (64, 2), generator=dice())
    corner = torch.randint(0, 5, (64, 2), generator=dice(1))
    sides = torch.randint(1, 4, (64, 2), generator=dice(2))
    scale = torch.tensor([10.0, 8.0])
    cut = torch.cat([corner / scale, sides / scale], 1)
    found = apply(x, Omega(shift=shift / scale, cutout=cut))
    for image, (down, right), (top, left), (tall, wide), out in zip(x, shift, corner, sides, found, strict=True):
        slow = torch.zeros_like(image)
        for i in range(10):
            for j in range(8):
                inside = 0 <= i - down < 10 and 0 <= j - right < 8
                hole = top <= i < top + tall and left <= j < left + wide
                if inside and not hole:
                    slow[:, i, j] = image[:, i - down, j - right]
        assert torch.equal(out, slow)


def test_mirrored_then_turned_then_shifted() -> None:
    x = images(3)
    omega = Omega(
        flip=torch.tensor([[1.0, 0.0]] * 3), turns=torch.tensor([1.0] * 3), shift=torch.tensor([[0.25, 0.0]] * 3)
    )  # fmt: skip
    slow = torch.zeros_like(x)
    slow[:, :, 2:] = torch.rot90(x.flip(3), 1, (2, 3))[:, :, :-2]
    assert torch.equal(apply(x, omega), slow)


def test_only_squares_are_turned() -> None:
    with pytest.raises(UserError, match="only squares can be turned, not 8 x 6 px"):
        apply(images()[:, :, :, :6], Omega(turns=torch.ones(64)))


@pytest.mark.parametrize("transform", LINEAR)
def test_linear_ones_are_linear(transform: PixelTransform) -> None:
    """E1, S1 and S2: the noise is transformed with the image; bit for bit where pixels only change places."""
    x0, n, omega = images(), images(seed=1), always(transform, 64)
    together, apart = apply(x0 + n, omega), apply(x0, omega) + apply(n, omega)
    if isinstance(transform, Brightness):
        torch.testing.assert_close(together, apart, atol=1e-12, rtol=0)
    else:
        assert torch.equal(together, apart)
    torch.testing.assert_close(apply(3 * x0, omega), 3 * together - 3 * apply(n, omega), atol=1e-12, rtol=0)


def test_the_pipe_is_linear_and_leaves_alone_what_it_should() -> None:
    x, n, omega = images(), images(seed=1), EDMPipe(p=0.5).draw(64, SIZE, dice())
    torch.testing.assert_close(apply(x + n, omega), apply(x, omega) + apply(n, omega), atol=1e-12, rtol=0)
    still = (encode(omega) == 0).all(1)
    assert 0 < still.sum() < 64
    assert torch.equal(apply(x, omega)[still], x[still])
    as_it_is = torch.zeros(64, 6, dtype=torch.float64)
    torch.testing.assert_close(warp(x, geometry(as_it_is)), x, atol=1e-11, rtol=0)  # up and down again is exact


@pytest.mark.parametrize("transform", BENT)
def test_the_others_are_not(transform: PixelTransform) -> None:
    x, omega = images(), always(transform, 64)
    assert not torch.allclose(apply(2 * x, omega), 2 * apply(x, omega), atol=1e-3)
    torch.testing.assert_close(apply(-x, omega), -apply(x, omega), atol=1e-12, rtol=0)  # odd: noise has no sign


# --- how they are drawn, and what is told ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ALL)
def test_told_nothing_is_nothing_done(how: Any) -> None:
    """E3 and S8: zero for the identity and for nothing else, and equal codes only for equal transforms."""
    omega = how.draw(200, SIZE, dice())
    code, x = encode(omega), images(200)
    assert code.shape == (200, WIDTH) and code.isfinite().all()
    changed = (apply(x, omega) - x).abs().flatten(1).amax(1) > 1e-10
    assert torch.equal(changed, (code != 0).any(1))


def test_codes_of_different_transforms_differ() -> None:
    omegas = [always(t, 40) for t in (*LINEAR, *BENT) if not isinstance(t, Flip | Rotation)]
    omegas += [Omega(turns=torch.tensor([1.0, 2.0, 3.0])), Omega(flip=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))]
    codes = torch.cat([encode(omega) for omega in omegas])
    # a shift may be drawn twice, and a cutout is told by its size alone
    distinct = {tuple(code.tolist()) for code in codes}
    repeated = sum(len(o.shift.unique(dim=0)) - 40 for o in omegas if o.shift is not None)
    repeated += sum(len(o.cutout[:, 2:].unique(dim=0)) - 40 for o in omegas if o.cutout is not None)
    assert len(distinct) == len(codes) + repeated


def test_where_a_cutout_lies_is_not_told() -> None:
    here, there = torch.tensor([[0.0, 0.25, 0.5, 0.25]]), torch.tensor([[0.5, 0.5, 0.5, 0.25]])
    assert torch.equal(encode(Omega(cutout=here)), encode(Omega(cutout=there)))
    assert not torch.equal(apply(images(1), Omega(cutout=here)), apply(images(1), Omega(cutout=there)))


def test_one_or_none_and_each_as_likely() -> None:
    how, count = OneOrNone(), 20_000
    omega = how.draw(count, 32, dice())
    done = torch.stack([(part != 0).view(count, -1).any(1) for part in omega if part is not None])
    assert int(done.sum(0).max()) == 1
    shares = torch.cat([done.float().mean(1), (done.sum(0) == 0).float().mean()[None]])
    # a shift by nothing at all is one of 81
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.02, rtol=0)


def test_parameters_keep_to_their_ranges() -> None:
    size = 32
    bright = Brightness(most=1.5).values(5000, size, dice()).exp()
    assert 1 / 1.5 <= bright.min() < 0.68 and 1.48 < bright.max() <= 1.5
    assert Translation().values(5000, size, dice()).mul(size).abs().max() == 4
    cut = Cutout(least=0.1, most=0.5).values(5000, size, dice()) * size
    assert torch.equal(cut, cut.round()) and cut[:, 2:].min() == 3 and cut[:, 2:].max() == 16
    ends = cut[:, :2] + cut[:, 2:]
    assert cut[:, :2].min() == 0 and ends.max() == size
    assert set(Rotation().values(100, size, dice()).tolist()) == {1, 2, 3}


@pytest.mark.parametrize("make,said", [
    (lambda: Cutout(least=0.6, most=0.5), "the smallest cutout, 0.6, is larger than the largest, 0.5"),
    (lambda: Cutout(most=1.5), "most"),
    (lambda: OneOrNone(transforms=(Rotation(), Rotation())), "Rotation stands there twice"),
    (lambda: Translation(most=0.01).values(2, 32, dice()), "0.01 of 32 px is no whole pixel; take at least 0.0312"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


# --- the loss --------------------------------------------------------------------------------------------------------


class Blur:
    """Some denoiser that hears nothing: an average over neighbours, exactly as it is of a turned or mirrored image."""

    def __call__(self, x: Tensor, sigma: Any, cond: Any = None) -> Tensor:
        # sums in an order that mirrors keep: opposite neighbours first
        sides = x.roll(1, 2) + x.roll(-1, 2), x.roll(1, 3) + x.roll(-1, 3)
        return 0.5 * x + 0.125 * (sides[0] + sides[1])


def plain(net: Any, x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """EDM's loss, by hand."""
    s = sigma.view(-1, 1, 1, 1)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    return weight * (net(x0 + s * noise, sigma) - x0).pow(2).mean((1, 2, 3))


def test_an_equivariant_net_learns_nothing_new() -> None:
    """S9: for a net with D(Q y) = Q D(y) the loss is the plain one, image by image."""
    x0, noise, sigma = images(), images(seed=1), torch.rand(64, generator=dice(2), dtype=torch.float64) + 0.1
    omega = OneOrNone(transforms=(Rotation(), Flip())).draw(64, SIZE, dice(3))
    torch.testing.assert_close(
        loss(Blur(), x0, sigma, omega, noise), plain(Blur(), x0, sigma, noise), atol=1e-12, rtol=1e-12
    )  # fmt: skip


def test_where_pixels_only_change_places_it_is_augmentation_of_clean_images() -> None:
    """The negative control, bit for bit: the loss on T x0 with the noise T n, told the same."""

    def net(x: Tensor, sigma: Any, cond: Tensor) -> Tensor:
        return x * torch.linspace(0, 1, SIZE, dtype=x.dtype) + cond.sum(1).view(-1, 1, 1, 1)

    x0, noise, sigma = images(), images(seed=1), torch.rand(64, generator=dice(2), dtype=torch.float64) + 0.1
    omega = OneOrNone(transforms=(Rotation(), Flip())).draw(64, SIZE, dice(3))
    told = encode(omega)
    ours = loss(net, x0, sigma, omega, noise)
    theirs = loss(lambda x, s, _: net(x, s, told), apply(x0, omega), sigma, NOTHING, apply(noise, omega))
    assert torch.equal(ours, theirs)
    # and is not where something is lost or scaled
    bright = OneOrNone(transforms=(Brightness(),)).draw(64, SIZE, dice(3))
    told = encode(bright)
    other = loss(lambda x, s, _: net(x, s, told), apply(x0, bright), sigma, NOTHING, noise)
    assert not torch.allclose(loss(net, x0, sigma, bright, noise), other)


def test_readings_are_one_where_transforms_are_linear() -> None:
    x0, noise, sigma = images(), images(seed=1), torch.full((64,), 0.7, dtype=torch.float64)
    for how, one in ((OneOrNone(), True), (OneOrNone(transforms=(Contrast(),)), False)):
        omega = how.draw(64, SIZE, dice())
        first, *others = (loss(Blur(), x0, sigma, omega, noise, reading=r) for r in ("I", "II", "III"))
        assert all(torch.allclose(first, other, atol=1e-10) == one for other in others)


def test_readings_by_hand() -> None:
    """What the net sees and what it is measured against, for a transform that is not linear."""
    seen: list[Tensor] = []

    def net(x: Tensor, sigma: Any, cond: Any) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    x0, noise, sigma = images(2), images(2, seed=1), torch.full((2,), 0.7, dtype=torch.float64)
    omega = Omega(contrast=torch.tensor([0.8, 0.8]))
    n, c = 0.7 * noise, math.tanh(0.8)

    def bent(x: Tensor) -> Tensor:
        return (0.8 * x).tanh() / c

    weight = float(precondition(torch.tensor(0.7, dtype=torch.float64)).weight)
    expected = {"I": (bent(x0 + n), bent(x0)), "II": (bent(x0) + bent(n), bent(x0)),
                "III": (bent(x0 + n), bent(x0 + n) - bent(n))}  # fmt: skip
    for reading, (shown, wanted) in expected.items():
        found = loss(net, x0, sigma, omega, noise, reading=reading)  # type: ignore[arg-type]
        torch.testing.assert_close(seen[-1], shown, atol=1e-7, rtol=0)  # omega is in float32
        torch.testing.assert_close(found, weight * wanted.square().mean((1, 2, 3)), atol=1e-5, rtol=1e-6)


def test_renorm_takes_brightness_out() -> None:
    x0, noise, sigma = images(), images(seed=1), torch.full((64,), 0.7, dtype=torch.float64)
    omega = OneOrNone(transforms=(Brightness(),)).draw(64, SIZE, dice())
    # a denoiser that scales with its image has a loss that scales with the square
    torch.testing.assert_close(
        loss(Blur(), x0, sigma, omega, noise, renorm=True), plain(Blur(), x0, sigma, noise), atol=1e-6, rtol=1e-6
    )  # fmt: skip
