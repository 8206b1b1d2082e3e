"""Glyphs: digits and upper-case letters drawn from fonts, endless and reproducible by index."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from synthaug.settings import seed_of

CLASSES: tuple[str, ...] = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
SIZE = 32
VERSION = 1  # raise it when a glyph comes out otherwise

# Only fonts with ordinary letters: matplotlib also carries symbol fonts (STIXSiz*, STIXNonUni*, cmsy10 ...), and
# the DejaVu *Display* files hold a handful of mathematical signs.
_FILES: dict[str, tuple[str, ...]] = {
    "Computer Modern Roman": ("cmr10", "cmb10", "cmti10"),
    "Computer Modern Sans": ("cmss10",),
    "Computer Modern Typewriter": ("cmtt10",),
    "DejaVu Sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    "DejaVu Sans Mono": (
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-Oblique",
        "DejaVuSansMono-BoldOblique",
    ),
    "DejaVu Serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    "STIX General": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
}
FAMILIES: tuple[str, ...] = tuple(_FILES)

_FONT_SIZE = 72
_CANVAS = 2 * SIZE  # drawn at twice the size, then averaged
_SHARP = 0.4  # the share of glyphs that keep all their 32 x 32 pixels


@functools.cache
def _font_folder() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@functools.cache
def _font(file: str) -> ImageFont.FreeTypeFont:
    # The basic layout engine, because the other one is not in every build of Pillow and places glyphs otherwise.
    return ImageFont.truetype(_font_folder() / f"{file}.ttf", _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def _ink(character: str, file: str, stroke: int) -> Image.Image:
    """The bare glyph, cropped to its own box."""
    font = _font(file)
    left, top, right, bottom = (int(v) for v in font.getbbox(character, stroke_width=stroke))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font, stroke_width=stroke)
    return image


def _place(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Scale, shear, rotate and shift the glyph onto the canvas."""
    # as tall as handwritten digits fill their frame: a net of such glyphs reads 72 % of the digits, of glyphs of 68 to
    # 100 % of the frame 63 % (experiments/LOG.md)
    height = rng.uniform(0.9, 1.06) * _CANVAS
    scale_y = height / ink.height
    scale_x = min(scale_y * rng.uniform(0.7, 1.15), 0.95 * _CANVAS / ink.width)
    angle, shear = rng.normal(0, 0.12), rng.normal(0, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([scale_x, scale_y])
    slack = max(_CANVAS - height, 0.06 * _CANVAS) / 2
    shift = rng.uniform(-slack, slack, size=2)
    back = np.linalg.inv(forward)  # PIL maps output pixels to input pixels
    offset = np.array([ink.width, ink.height]) / 2 - back @ (np.full(2, _CANVAS / 2) + shift)
    matrix = (*back[0], offset[0], *back[1], offset[1])
    return ink.transform((_CANVAS, _CANVAS), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _wobble(image: Image.Image, rng: np.random.Generator, cells: int = 3) -> Image.Image:
    """Displace the knots of a coarse grid, as an unsteady hand would."""
    step = _CANVAS / cells
    knots = np.stack(np.meshgrid(np.arange(cells + 1), np.arange(cells + 1)), -1) * step
    knots = knots + rng.normal(0, rng.uniform(0, 0.07) * _CANVAS, size=knots.shape)
    mesh = []
    for row in range(cells):
        for column in range(cells):
            corners = (knots[row, column], knots[row + 1, column], knots[row + 1, column + 1], knots[row, column + 1])
            box = (int(column * step), int(row * step), int((column + 1) * step), int((row + 1) * step))
            mesh.append((box, tuple(float(v) for corner in corners for v in corner)))
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _soften(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Average down to 32 x 32; most go through 8 to 16 pixels, which is how 8 x 8 scans look at this size."""
    if rng.random() < _SHARP:
        return image.resize((SIZE, SIZE), Image.Resampling.BOX)
    small = int(rng.integers(8, 17))
    return image.resize((small, small), Image.Resampling.BOX).resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def label_of(index: int) -> int:
    """The class of glyph number `index`: they come in turn."""
    return index % len(CLASSES)


def render(index: int, seed: int = 0) -> tuple[np.ndarray, int, str]:
    """Glyph number `index`: its (32, 32, 3) uint8 image, its class index and its font family."""
    rng = np.random.default_rng(seed_of("glyphs", seed, index))
    label = label_of(index)
    family = FAMILIES[rng.integers(len(FAMILIES))]
    files = _FILES[family]
    file = files[rng.integers(len(files))]
    # up to 3: with strokes up to 5, as the first glyphs had, a net of them read fewer of the digits
    ink = _ink(CLASSES[label], file, stroke=int(rng.integers(0, 4)))
    image = _soften(_wobble(_place(ink, rng), rng), rng)
    pixels = np.clip(np.asarray(image, dtype=np.float32) * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=2), label, family
