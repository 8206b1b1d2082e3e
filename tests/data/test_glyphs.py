"""Glyphs: reproducible by index, labelled, readable, drawn from ordinary fonts."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from synthaug.data import glyphs


def _many(indices: range, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    images, labels, families = zip(*(glyphs.render(index, seed) for index in indices), strict=True)
    return np.stack(images).astype(np.float32) / 255, np.array(labels), list(families)


def test_a_glyph_depends_on_its_index_and_seed_alone() -> None:
    later = [glyphs.render(index)[0] for index in (1007, 7)]
    again = [glyphs.render(index)[0] for index in (7, 1007)]
    assert np.array_equal(later[0], again[1]) and np.array_equal(later[1], again[0])
    assert not np.array_equal(glyphs.render(7, seed=1)[0], again[0])


def test_another_process_draws_the_same_without_heavy_imports() -> None:
    code = (
        "import sys, hashlib, synthaug.data.glyphs as g; assert not {'torch', 'matplotlib'} & set(sys.modules);"
        "print(hashlib.sha256(g.render(12345, 6)[0].tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert printed == hashlib.sha256(glyphs.render(12345, 6)[0].tobytes()).hexdigest()


def test_images_are_grey_strokes_on_black() -> None:
    images, labels, _ = _many(range(72))
    assert glyphs.render(0)[0].dtype == np.uint8 and images.shape == (72, 32, 32, 3)
    assert np.array_equal(images[..., 0], images[..., 1]) and np.array_equal(images[..., 0], images[..., 2])
    assert np.all(images.max((1, 2, 3)) > 0.3)
    assert images.mean() < 0.4 and np.all(images.mean((1, 2, 3)) < 0.8)
    assert labels.tolist() == [*range(36)] * 2


def test_every_class_comes_from_every_family_and_no_symbol_font() -> None:
    seen = {(index % 36, glyphs.render(index)[2]) for index in range(0, 36 * 60, 36)}
    assert seen == {(0, family) for family in glyphs.FAMILIES}
    files = [file for files in glyphs._FILES.values() for file in files]
    assert len(files) == len(set(files)) == 21
    banned = ("STIXSiz", "STIXNonUni", "LastResort", "cmsy", "cmex", "cmmi", "Display")
    assert not [file for file in files if any(word in file for word in banned)]


def test_every_font_has_every_character() -> None:
    for file in [file for files in glyphs._FILES.values() for file in files]:
        missing = glyphs._ink("\ufffe", file, 0).tobytes()
        drawn = [glyphs._ink(character, file, 0) for character in glyphs.CLASSES]
        assert all(np.asarray(image).max() == 255 and image.tobytes() != missing for image in drawn), file
        assert len({image.tobytes() for image in drawn}) == 36, file


def _plain(character: str) -> np.ndarray:
    """The character as a bare font draws it, in the middle of 32 x 32 pixels."""
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf", 36)
    image = Image.new("L", (32, 32))
    ImageDraw.Draw(image).text((16, 29), character, fill=255, font=font, anchor="ms")
    return np.asarray(image, dtype=np.float32).ravel() / 255


def test_labels_are_what_is_drawn() -> None:
    """Class means look like plain drawings of their character; chance is 1 of 36."""
    images, labels, _ = _many(range(36 * 30))
    means = np.stack([images[labels == label, ..., 0].mean(0).ravel() for label in range(36)])
    plain = np.stack([_plain(character) for character in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    assert (np.corrcoef(means, plain)[:36, 36:].argmax(1) == np.arange(36)).mean() > 0.5


def test_classes_can_be_told_apart() -> None:
    """Nearest class mean, the simplest reader there is; chance is 0.03."""
    images, labels, _ = _many(range(36 * 30))
    held_out, truth, _ = _many(range(1_000_000 * 36, 1_000_000 * 36 + 36 * 8))
    means = np.stack([images[labels == label].mean(0) for label in range(36)]).reshape(36, -1)
    distances = ((held_out.reshape(-1, 1, means.shape[1]) - means) ** 2).sum(-1)
    assert (distances.argmin(1) == truth).mean() > 0.3


def test_softened_glyphs_are_smooth() -> None:
    """Most glyphs lost their fine detail, as 8 x 8 scans shown at 32 x 32 have."""
    images, _, _ = _many(range(360))
    rough = np.abs(np.diff(images[..., 0], axis=2)).max((1, 2)) / images.max((1, 2, 3))
    assert 0.4 < (rough < 0.45).mean() < 0.75
