"""ScoreAug (Hou et al. 2025): transform the noisy image and ask for the transformed clean one.

An `Omega` says what is done to each image of a batch. Images are B C H W in units of [-1, 1], or latents.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from synthaug.diffusion.denoiser import Denoiser, Sigma, per_row, precondition
from synthaug.diffusion.jpeg import quantised
from synthaug.diffusion.warp import geometry, warp
from synthaug.settings import UserError

Reading = Literal["I", "II", "III"]
# in units of what a net is told: the largest brightness, and a step of quantisation that is plainly seen
_BRIGHT, _COARSE = math.log(1.2), 4.0


class Omega(NamedTuple):
    """A row for each image; a field that is None does nothing to any of them.

    They are done in the order of these fields. Lengths are shares of the image's height and width.
    """

    flip: Tensor | None = None  # B x 2: mirrored left to right, upside down
    turns: Tensor | None = None  # B: quarter turns, anticlockwise
    shift: Tensor | None = None  # B x 2: down and to the right, in whole pixels; zeros come in
    cutout: Tensor | None = None  # B x 4: top, left, height and width of what becomes zero, in whole pixels
    warp: Tensor | None = None  # B x 6: as `geometry` reads them; resampled, and mirrored at the border
    brightness: Tensor | None = None  # B: the logarithm of a factor
    # not linear; odd functions, defined for every number, because noise has no range
    gamma: Tensor | None = None  # B: the logarithm of the exponent of what is without its sign
    contrast: Tensor | None = None  # B: a of tanh(a x) / tanh(a)
    clip: Tensor | None = None  # B: one over the largest absolute value
    jpeg: Tensor | None = None  # B: the step of quantisation, in units of the standard table

    def to(self, device: torch.device | str) -> Omega:
        return Omega(*(None if part is None else part.to(device, non_blocking=True) for part in self))

    def rows(self, chosen: Any) -> Omega:
        """Of some of the images, or of all in another order."""
        return Omega(*(None if part is None else part[chosen] for part in self))

    def only(self, chosen: Tensor) -> Omega:
        """What is done to some of the images, and nothing to the others."""
        return Omega(*(None if p is None else p * chosen.view(-1, *[1] * (p.ndim - 1)).to(p.dtype) for p in self))


NOTHING = Omega()
# how many numbers a net is told of each field
_WIDTHS = {"flip": 2, "turns": 2, "shift": 2, "cutout": 2, "warp": 7} | dict.fromkeys(Omega._fields[5:], 1)
WIDTH = sum(_WIDTHS.values())


def apply(x: Tensor, omega: Omega) -> Tensor:
    """Each image under its own transform; without a loop over images, and without waiting for a GPU."""
    if omega.flip is not None or omega.turns is not None or omega.shift is not None:
        x = _moved(x, omega)
    if omega.cutout is not None:
        x = x * _kept(x, omega.cutout)
    if omega.warp is not None:
        # an axis along which nothing is stretched does nothing; rows that stay are left alone, to the last bit
        still = (omega.warp * omega.warp.new_tensor([1, 1, 1, 0, 1, 1]) == 0).all(1)
        x = torch.where(still.view(-1, 1, 1, 1), x, warp(x, geometry(omega.warp)))
    if omega.brightness is not None:
        x = x * per_row(omega.brightness, x).exp().to(x.dtype)
    return _bent(x, omega)


def _moved(x: Tensor, omega: Omega) -> Tensor:
    """Mirrored, then turned, then shifted: all at once, by looking up where each pixel comes from."""
    height, width = x.shape[2:]
    shape = (len(x), height, width)
    i = torch.arange(height, device=x.device).view(1, -1, 1).expand(shape)
    j = torch.arange(width, device=x.device).view(1, 1, -1).expand(shape)
    inside = None
    if omega.shift is not None:
        down, right = (_pixels(part, side) for part, side in zip(omega.shift.unbind(1), (height, width), strict=True))
        i, j = i - down, j - right
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        i, j = i.clamp(0, height - 1), j.clamp(0, width - 1)  # any pixel: it becomes 0
    if omega.turns is not None:
        if height != width:
            raise UserError(f"only squares can be turned, not {height} x {width} px")
        turns, last = omega.turns.long().view(-1, 1, 1), height - 1
        # a quarter anticlockwise shows at (i, j) what was at (j, last - i)
        i, j = _choose(turns, i, j, last - i, last - j), _choose(turns, j, last - i, last - j, i)
    if omega.flip is not None:
        across, down = (part.view(-1, 1, 1).bool() for part in omega.flip.unbind(1))
        i, j = torch.where(down, height - 1 - i, i), torch.where(across, width - 1 - j, j)
    place = (i * width + j).view(len(x), 1, -1).expand(-1, x.shape[1], -1)
    moved = x.flatten(2).gather(2, place).view(x.shape)
    return moved if inside is None else moved * inside[:, None].to(x.dtype)


def _choose(which: Tensor, *choices: Tensor) -> Tensor:
    found = choices[0]
    for number, choice in enumerate(choices[1:], 1):
        found = torch.where(which == number, choice, found)
    return found


def _pixels(share: Tensor, side: int) -> Tensor:
    """Shares of a side as whole pixels: B x 1 x 1."""
    return (share * side).round().long().view(-1, 1, 1)


def _kept(x: Tensor, cutout: Tensor) -> Tensor:
    """1 where an image stays, 0 where it is cut out: B x 1 x H x W."""
    height, width = x.shape[2:]
    top, left, tall, wide = (
        _pixels(part, side) for part, side in zip(cutout.unbind(1), (height, width, height, width), strict=True)
    )
    i = torch.arange(height, device=x.device).view(1, -1, 1)
    j = torch.arange(width, device=x.device).view(1, 1, -1)
    cut = (i >= top) & (i < top + tall) & (j >= left) & (j < left + wide)
    return cut.logical_not()[:, None].to(x.dtype)


def _bent(x: Tensor, omega: Omega) -> Tensor:
    """What is not linear; rows that stay are left alone, so that nothing is done to them exactly."""
    if omega.gamma is not None:
        power = per_row(omega.gamma, x).to(x.dtype)
        x = torch.where(power == 0, x, x.sign() * x.abs().pow(power.exp()))
    if omega.contrast is not None:
        a = per_row(omega.contrast, x).to(x.dtype)
        x = torch.where(a == 0, x, (a * x).tanh() / torch.where(a == 0, 1.0, a).tanh())
    if omega.clip is not None:
        most = per_row(omega.clip, x).to(x.dtype).reciprocal()  # of 0 infinity
        x = torch.maximum(torch.minimum(x, most), -most)
    return x if omega.jpeg is None else quantised(x, omega.jpeg.to(x.dtype))


def encode(omega: Omega) -> Tensor:
    """What a net is told: B x WIDTH, all 0 for an image that nothing is done to, and for no other.

    Where a cutout lies is left out, as published: a noisy image shows it. One row where no field is given.
    """
    given = [part for part in omega if part is not None]
    like = given[0] if given else torch.zeros(1)
    told = []
    for name, part in zip(Omega._fields, omega, strict=True):
        if part is None:
            told.append(torch.zeros(len(like), _WIDTHS[name], device=like.device))
        else:
            told.append(_told(name, part.float()).reshape(len(like), _WIDTHS[name]))
    return torch.cat(told, 1)


def _told(name: str, part: Tensor) -> Tensor:
    if name == "turns":
        angle = part * (math.pi / 2)
        # rounded: whole numbers, and exactly 0 where nothing is turned
        return torch.stack([angle.cos() - 1, angle.sin()], 1).round()
    if name == "cutout":
        return part[:, 2:]
    if name == "warp":
        scale, angle, stretch, axis, *moves = part.unbind(1)
        # EDM's label; a stretch of -s along the axis turned by 180 degrees is told as that of s, which is another map
        turned = [angle.cos() - 1, angle.sin(), stretch * axis.cos(), stretch * axis.sin()]
        return torch.stack([scale, *turned, *moves], 1)
    units = {"brightness": _BRIGHT, "jpeg": _COARSE}
    return part / units.get(name, 1.0)


def loss(
    net: Denoiser, x0: Tensor, sigma: Sigma, omega: Omega, noise: Tensor, *, reading: Reading = "I",
    weight: Tensor | None = None, renorm: bool = False,
) -> Tensor:  # fmt: skip
    """weight |net(T(x0 + sigma noise), sigma, encode(omega)) - T(x0)|^2, the mean over the pixels of each image.

    The paper's text on transforms that are not linear is lost; its readings here are ours, and are one where T is
    linear: "I" as above; "II" shows T(x0) + T(sigma noise); "III" shows the same as "I" and asks for what is left of it
    without T(sigma noise). `renorm` divides by the square of the brightness, by which a guess and its target are
    scaled. The default weight is EDM's.
    """
    n = per_row(sigma, x0).to(x0.dtype) * noise
    target = apply(x0, omega)
    y = target + apply(n, omega) if reading == "II" else apply(x0 + n, omega)
    if reading == "III":
        target = y - apply(n, omega)
    level = torch.as_tensor(sigma, device=x0.device)
    error = (net(y, level, encode(omega).to(x0.device)) - target).square().flatten(1).mean(1)
    weight = precondition(per_row(sigma, x0).flatten()).weight if weight is None else weight
    if renorm and omega.brightness is not None:
        error = error * (-2 * omega.brightness).exp()
    return weight * error


# --- Theorem 1: denoisers of transformed data ------------------------------------------------------------------------


def inverse(omega: Omega) -> Omega:
    """The transform that undoes one; refused where some of an image is lost, or where it is not linear."""
    # in the other order: only fields that commute with one another may be set together
    lost = [
        name
        for name in Omega._fields
        if getattr(omega, name) is not None and name not in ("flip", "turns", "brightness")
    ]
    if lost:
        raise UserError(f"{lost[0]} cannot be undone, so scores do not correspond; take flip, turns or brightness")
    if omega.flip is not None and omega.turns is not None:
        raise UserError("flip and turns do not commute; undo one after the other")
    return Omega(
        flip=omega.flip, turns=None if omega.turns is None else (4 - omega.turns) % 4,
        brightness=None if omega.brightness is None else -omega.brightness,
    )  # fmt: skip


def transformed(denoiser: Denoiser, omega: Omega) -> Denoiser:
    """The denoiser of T x0 under the noise sigma T n, for a T that can be undone: T D(T^-1 y, sigma)."""
    back = inverse(omega)

    def denoise(x: Tensor, sigma: float | Tensor, cond: Any = None) -> Tensor:
        return apply(denoiser(apply(x, back), sigma, cond), omega)

    return denoise
