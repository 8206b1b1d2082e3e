"""Nine looks for a glyph, made with arithmetic: what the embedded instruct-pix2pix model learns to imitate."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image

from synthaug.settings import seed_of

PROMPT = "A transformed version of image into {}"


def stylise(image: np.ndarray, style: str, seed: int) -> np.ndarray:
    """A grey image (H, W, 3, uint8) in one of the STYLES; equal seeds give equal pixels."""
    ink = image.astype(np.float32).mean(-1, keepdims=True) / 255
    picture = _LOOKS[style](ink, np.random.default_rng(seed_of("style", style, seed)))
    return np.asarray(np.rint(picture.clip(0, 1) * 255), dtype=np.uint8)


def _clouds(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """A smooth random field (side, side, 1) between 0 and 1."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))[..., None].clip(0, 1)


def _mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.asarray(a + (b - a) * share)


def _colour(*rgb: float) -> np.ndarray:
    return np.array(rgb, dtype=np.float32)


def _rows(ink: np.ndarray) -> np.ndarray:
    """The height of every pixel: 0 above, 1 below."""
    return np.broadcast_to(np.linspace(0, 1, ink.shape[0], dtype=np.float32)[:, None, None], ink.shape)


def _soft(ink: np.ndarray, small: int) -> np.ndarray:
    """The same with less detail."""
    image = Image.fromarray(ink[..., 0])
    box = image.resize((small, small), Image.Resampling.BOX)
    return np.asarray(box.resize(image.size, Image.Resampling.BICUBIC))[..., None].clip(0, 1)


def _hues(turns: np.ndarray, saturation: float, value: float) -> np.ndarray:
    """Colours of the wheel at `turns` (H, W, 1)."""
    wheel = np.array([colorsys.hsv_to_rgb(i / 64, saturation, value) for i in range(64)], dtype=np.float32)
    return np.asarray(wheel[(turns[..., 0] * 64).astype(int) % 64])


# Each look takes `ink` (H, W, 1), 1 where the character is, and gives a picture (H, W, 3). What varies inside a style
# is drawn anew for every image, so that a net learns the style and not one picture of it.


def _autumn(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    paper = _mix(_colour(0.22, 0.13, 0.05), _colour(0.45, 0.22, 0.04), _clouds(rng, len(ink), 7))
    leaves = _mix(_colour(0.85, 0.25, 0.05), _colour(1.0, 0.75, 0.15), _clouds(rng, len(ink), 5))
    return _mix(paper, leaves, ink)


def _snowy(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    paper = _mix(_colour(0.35, 0.48, 0.68), _colour(0.6, 0.72, 0.85), _clouds(rng, len(ink), 4))
    edge = rng.uniform(0.8, 0.9) + 0.1 * _clouds(rng, len(ink), 4)
    drift = (_rows(ink) > edge).astype(np.float32)
    flakes = (_clouds(rng, len(ink), 12) > 0.93).astype(np.float32)
    snow = np.maximum(0.7 * drift, 0.6 * flakes)  # fainter than the character, which is snow as well
    return _mix(paper, _colour(0.97, 0.98, 1.0), np.maximum(ink, snow))


def _watercolour(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hue = rng.random() + 0.25 * _clouds(rng, len(ink), 3)
    paper = _mix(_colour(0.98, 0.96, 0.92), _hues(hue, 0.25, 1.0), 0.6 * _clouds(rng, len(ink), 4))
    bled = np.maximum(0.55 * ink, 0.9 * _soft(ink, 12))  # over the outline, as wet paint does
    wash = bled * (0.65 + 0.35 * _clouds(rng, len(ink), 5))
    return _mix(paper, _hues(hue, 0.75, 0.6), wash)


def _sunset(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height = (_rows(ink) + rng.uniform(-0.15, 0.15)).clip(0, 1)
    sky = _mix(_colour(0.4, 0.2, 0.5), _colour(0.98, 0.45, 0.2), (2 * height).clip(0, 1))
    sky = _mix(sky, _colour(1.0, 0.85, 0.4), (2 * height - 1).clip(0, 1))
    return _mix(sky, _colour(0.1, 0.04, 0.12), ink)


def _rainbow(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle, start = rng.uniform(-0.5, 0.5), rng.random()
    across = np.cos(angle) * _rows(ink) + np.sin(angle) * _rows(ink).transpose(1, 0, 2)
    return _mix(_colour(0.05, 0.05, 0.08), _hues(start + across, 0.9, 1.0), ink)


def _aurora(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    curtain = np.repeat(_clouds(rng, len(ink), 5)[:1], len(ink), 0) * (1 - _rows(ink))  # one row, hung down and fading
    night = _mix(_colour(0.03, 0.05, 0.2), _colour(0.1, 0.55, 0.4), curtain)
    height = (_rows(ink) + rng.uniform(-0.3, 0.3)).clip(0, 1)
    glow = _mix(_colour(0.3, 1.0, 0.65), _colour(0.75, 0.45, 0.95), height)
    return _mix(night, glow, np.maximum(ink, 0.35 * _soft(ink, 8)))


def _mosaic(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tiles = -(-len(ink) // 4)  # of four pixels, the last ones perhaps cut
    shade = rng.uniform(-0.12, 0.12, (tiles, tiles, 1)).repeat(4, 0).repeat(4, 1)
    shade = shade[: len(ink), : len(ink)]
    picture = _mix(_colour(0.12, 0.42, 0.48), _colour(0.95, 0.85, 0.65), ink) + shade
    place = np.arange(len(ink)) % 4 == 3
    grout = (place[:, None] | place)[..., None]
    return _mix(picture, _colour(0.15, 0.13, 0.12), 0.55 * grout)


def _ukiyo(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    at = rng.uniform(0.2, 0.8, 2)
    row, column = np.mgrid[: len(ink), : len(ink)] / len(ink)
    sun = (((row - at[0]) ** 2 + (column - at[1]) ** 2) < 0.04)[..., None].astype(np.float32)
    paper = _mix(_colour(0.93, 0.86, 0.7), _colour(0.8, 0.22, 0.15), 0.9 * sun)
    paper = _mix(paper, _colour(0.2, 0.35, 0.55), (0.8 - 3 * _rows(ink)).clip(0, 1))
    return _mix(paper, _colour(0.08, 0.12, 0.3), np.round(2 * ink) / 2)  # three tones, as blocks print them


def _crayon(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    down, right = np.gradient(ink[..., 0])
    outline = (2.2 * np.hypot(down, right))[..., None].clip(0, 1)
    row, column = np.mgrid[: len(ink), : len(ink)]
    # Three pixels of stroke and three of gap. The VAE blurs them: the style that nano:pix2pix is weak at.
    hatch = ((row + column + rng.integers(6)) % 6 < 3)[..., None] * ink
    paper = _colour(0.96, 0.95, 0.93) - 0.03 * rng.random((*ink.shape[:2], 1), dtype=np.float32)
    wax = _colour(*colorsys.hsv_to_rgb(rng.random(), 0.85, 0.75))
    return _mix(paper, wax, np.maximum(outline, 0.55 * hatch))


_LOOKS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "autumn": _autumn, "snowy": _snowy, "watercolor art": _watercolour, "sunset": _sunset, "rainbow": _rainbow,
    "aurora": _aurora, "mosaic": _mosaic, "ukiyo-e": _ukiyo, "a sketch with crayon": _crayon,
}  # fmt: skip
STYLES = tuple(_LOOKS)  # the style prompts of DiffuseMix
