"""Scaling, turning and shifting by any amount, without aliasing: the geometry of EDM's augmentation (Karras et al.
2020, 2022), as one linear map of pixels for each image."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

# The low-pass filter of the wavelet sym6: orthonormal to itself shifted by two, so that up and down again is exact.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
_BEFORE = len(SYM6) // 2 - 1  # taps before the middle one
_OCTAVE, _MOVE = 0.2, 0.125  # EDM's standard deviations
_SEEN = 3  # pixels that the first filter, and a look between two pixels, see beside the one that is asked for
LEAST = 2 * _SEEN + 1  # pixels that an image must have for it


def warp(x: Tensor, affine: Tensor) -> Tensor:
    """Each image (B C H W) under its own map: pixel p of the result shows pixel A (p - t) of the image, both counted
    from the middle. `affine` is B x 2 x 3, A beside t in shares of the image's size, x before y; beyond its border an
    image goes on as in a mirror."""
    height, width = x.shape[2:]
    size = x.new_tensor([width, height])
    middle, turned, shift = (size - 1) / 2, affine[:, :, :2].to(x.dtype), affine[:, :, 2].to(x.dtype) * size
    p = torch.stack(torch.meshgrid(_places(width, x), _places(height, x), indexing="xy"), -1)  # rows x columns x (x, y)
    q = torch.einsum("bij,bhwj->bhwi", turned, p - middle - shift[:, None, None]) + middle
    last = size - 1
    # Mirrored pixels lie around the image, once. Further out the way goes to and fro between the first and the last.
    folded = q.abs().remainder(2 * last)
    folded = torch.minimum(folded, 2 * last - folded)
    q = torch.where((q >= _SEEN - last) & (q <= 2 * last - _SEEN), q, folded)
    fine = _doubling(height, x) @ x @ _doubling(width, x).mT
    # pixel u lies at 2 (u + last); for grid_sample -1 and 1 are the outer borders of the first and the last
    grid = (2 * (q + last) + 0.5) / x.new_tensor([fine.shape[3], fine.shape[2]]) * 2 - 1
    found = functional.grid_sample(fine, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _halving(height, x) @ found @ _halving(width, x).mT


def geometry(told: Tensor) -> Tensor:
    """EDM's map of each row of (size, turn, stretch, its axis, right, down): angles in radians, all else in standard
    deviations: a fifth of an octave for sizes and stretches, an eighth of the image for moves."""
    size, turn, stretch, axis, right, down = told.unbind(1)
    # from the result back to the image, so that what enlarges divides
    shrunk = torch.diag_embed(torch.stack([(-_OCTAVE * stretch).exp2(), (_OCTAVE * stretch).exp2()], 1))
    turned = (-_OCTAVE * size).exp2()[:, None, None] * _rotation(turn) @ _rotation(-axis) @ shrunk @ _rotation(axis)
    return torch.cat([turned, _MOVE * torch.stack([right, down], 1)[:, :, None]], 2)


def _rotation(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)


def _places(size: int, x: Tensor) -> Tensor:
    """The pixels of the result at twice their number, with what the last filter sees around them."""
    return torch.arange(-_BEFORE, 2 * size + _BEFORE, dtype=x.dtype, device=x.device) / 2


def _doubling(size: int, x: Tensor) -> Tensor:
    return _matrices(size, x.dtype, x.device)[0]


def _halving(size: int, x: Tensor) -> Tensor:
    return _matrices(size, x.dtype, x.device)[1]


@lru_cache(maxsize=8)
def _matrices(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """What makes a row, with its mirror images on either side, twice as fine; and what makes the result's row of one
    that is twice as fine. Both are convolutions with the filter."""
    taps = torch.tensor(SYM6, dtype=torch.float64)
    around = size - 1
    fine = torch.zeros(2 * (size + 2 * around), size, dtype=torch.float64)
    for u in range(-around, size + around):
        source = abs(u) if u < size else 2 * (size - 1) - u  # in the mirror
        for k in range(len(SYM6)):
            row = 2 * (u + around) + k - _BEFORE
            if 0 <= row < len(fine):
                fine[row, source] += taps[k]
    coarse = torch.zeros(size, 2 * size + 2 * _BEFORE, dtype=torch.float64)
    for m in range(size):
        coarse[m, 2 * m : 2 * m + len(SYM6)] = taps
    return fine.to(device, dtype), coarse.to(device, dtype)
