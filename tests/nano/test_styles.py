"""The looks that the embedded instruct-pix2pix model learns from: all different, and the glyph stays readable."""

from __future__ import annotations

import numpy as np
import pytest

from synthaug.data import glyphs
from synthaug.nano.styles import STYLES, stylise


def test_there_are_the_nine_of_diffusemix() -> None:
    expected = "autumn, snowy, watercolor art, sunset, rainbow, aurora, mosaic, ukiyo-e, a sketch with crayon"
    assert ", ".join(STYLES) == expected


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_a_function_of_image_and_seed(style: str) -> None:
    image = glyphs.render(3)[0]
    first = stylise(image, style, 1)
    assert first.shape == image.shape and first.dtype == np.uint8
    assert np.array_equal(first, stylise(image, style, 1))
    assert not np.array_equal(first, stylise(image, style, 2))
    assert stylise(np.zeros((20, 20, 3), np.uint8), style, 0).shape == (20, 20, 3)


@pytest.mark.parametrize("style", STYLES)
def test_the_glyph_shows(style: str) -> None:
    """Where there is ink, the picture differs from the same picture without ink; a sketch draws outlines."""
    alike = []
    for index in range(20):
        image = glyphs.render(index)[0]
        change = np.abs(stylise(image, style, index).astype(float) - stylise(0 * image, style, index)).mean(-1)
        alike.append(np.corrcoef(image[..., 0].ravel(), change.ravel())[0, 1])
    assert np.mean(alike) > 0.5


def test_styles_differ_more_than_seeds() -> None:
    """The nearest mean colour of a style tells most pictures' style."""
    images = [glyphs.render(index)[0] for index in range(40)]
    styled = np.array([[stylise(image, style, i) for i, image in enumerate(images)] for style in STYLES]) / 255.0
    facts = np.concatenate([styled.mean((2, 3)), styled.std((2, 3))], axis=-1)
    means = facts[:, :20].mean(1)
    nearest = np.linalg.norm(facts[:, 20:, None] - means, axis=-1).argmin(-1)
    assert (nearest == np.arange(len(STYLES))[:, None]).mean() > 0.7
