"""Fractals: endless coloured Julia sets, each reproducible by its number."""

from __future__ import annotations

import numpy as np

from synthaug.settings import seed_of

COUNT = 3000  # how many different ones are used
_TURNS = 48


def render(number: int, size: int) -> np.ndarray:
    """Julia set `number` as uint8 HWC: z <- z^2 + c for a c near the rim of the Mandelbrot set, coloured by when a
    point escapes."""
    rng = np.random.default_rng(seed_of("fractal", number))
    angle = rng.uniform(0, 2 * np.pi)  # the rim of the main cardioid, a little outside
    c = rng.uniform(1.01, 1.12) * (np.exp(1j * angle) / 2 - np.exp(2j * angle) / 4)
    span = rng.uniform(0.4, 1.5) * np.linspace(-1, 1, size)
    z = np.exp(1j * rng.uniform(0, np.pi)) * (span[None] + 1j * span[:, None])
    escape = np.full(z.shape, float(_TURNS))
    for turn in range(_TURNS):
        z = np.where(np.abs(z) < 4, z * z + c, z)
        gone = (np.abs(z) >= 4) & (escape == _TURNS)
        escape[gone] = turn + 1 - np.log2(np.log2(np.abs(z[gone])))
    phase = rng.uniform(0, 2 * np.pi, 3) + rng.uniform(0.1, 0.5, 3) * escape[..., None]
    return np.rint(127.5 * (1 + np.sin(phase))).astype(np.uint8)
