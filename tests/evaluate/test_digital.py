"""Corruptions by digital means: each against its formula, a slow loop, scipy or Pillow."""

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import dice, off, pixels, scenes
from scipy import ndimage

from synthaug.evaluate.corruptions import corrupt, digital


def test_contrast_is_its_formula():
    image = scenes(2, 32, 30)
    for severity, factor in enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1):
        mean = image.numpy().mean((2, 3), keepdims=True)
        want = torch.from_numpy(((image.numpy() - mean) * factor + mean).round())
        assert off(corrupt(image, "contrast", severity, [0, 1]), want) <= 1


def through_hsv(image, change):
    """Pixel by pixel with the standard library; what is grey has hue 0."""
    made = np.empty(image.shape)
    for row, column in np.ndindex(image.shape[1:]):
        made[:, row, column] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(image[:, row, column] / 255.0))))
    return torch.from_numpy((made * 255).round())


@pytest.mark.parametrize("size", [16, 90])
def test_brightness_and_saturation_are_those_of_hsv(size):
    image = scenes(1, 8, 8)
    image[0, :, 0, :4] = torch.tensor([[0, 255, 90, 1]]).to(torch.uint8)  # greys
    image[0, :, 1, :3] = torch.tensor([[255, 0, 0], [0, 0, 255], [1, 0, 0]]).T  # pure colours
    tables = [
        getattr(digital.CORRUPTIONS[name], "small" if size == 16 else "large") for name in ("brightness", "saturate")
    ]
    wide = image.repeat(1, 1, size // 8 + 1, size // 8 + 1)[:, :, :size, :size]  # chooses the table
    for severity in range(1, 6):
        (more,), (factor, add) = (table[severity - 1] for table in tables)
        want = through_hsv(image[0].numpy(), lambda h, s, v, more=more: (h, s, min(v + more, 1)))
        assert off(corrupt(wide, "brightness", severity, [0])[0, :, :8, :8], want) <= 1
        want = through_hsv(image[0].numpy(), lambda h, s, v, f=factor, a=add: (h, min(max(s * f + a, 0), 1), v))
        assert off(corrupt(wide, "saturate", severity, [0])[0, :, :8, :8], want) <= 1


@pytest.mark.parametrize(("high", "wide"), [(32, 32), (28, 45), (224, 224), (100, 131)])
def test_pixelate_is_the_box_filter_of_pillow(high, wide):
    scales = (0.95, 0.9, 0.85, 0.75, 0.65) if max(high, wide) <= 84 else (0.6, 0.5, 0.4, 0.3, 0.25)
    image = (pixels(1, high, wide) * 255).to(torch.uint8)
    for severity, scale in enumerate(scales, 1):
        small = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize(
            (int(wide * scale), int(high * scale)), Image.Resampling.BOX
        )
        want = torch.from_numpy(np.array(small.resize((wide, high), Image.Resampling.BOX))).permute(2, 0, 1)
        assert off(corrupt(image, "pixelate", severity, [0])[0], want) <= 1


@pytest.mark.parametrize("size", [32, 96])
def test_jpeg_is_that_of_pillow(size):
    qualities = (80, 65, 58, 50, 40) if size == 32 else (25, 18, 15, 10, 7)
    images = scenes(3, size, size - 7)
    for severity, quality in enumerate(qualities, 1):
        for image, made in zip(images, corrupt(images, "jpeg_compression", severity, [0, 1, 2]), strict=True):
            file = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
            assert np.array_equal(made.permute(1, 2, 0).numpy(), np.asarray(Image.open(file)))


def test_tilt_takes_three_points_to_their_places():
    image = torch.zeros(1, 3, 32, 40)
    points, moves = [(30, 26), (30, 6), (10, 6)], torch.tensor([[[1.0, -2], [0, 3], [-3, 1]]])  # x, y
    for channel, (x, y) in enumerate(points):
        image[0, channel, y, x] = 1
    made = digital.tilt(image, moves)
    for channel, (x, y) in enumerate(points):
        dx, dy = (int(v) for v in moves[0, channel])
        assert float(made[0, channel, y + dy, x + dx]) == pytest.approx(1, abs=1e-4)


def test_elastic_is_that_of_scipy():
    strength, image = (12.0, 1.5, 3.0), pixels(1, 30, 36)
    draws = dice()
    corners = draws.uniform(3, 2, low=-3, high=3)
    noise_ = draws.uniform(2, 30, 36, low=-1)[0].double().numpy()
    points = np.array([[28, 25], [28, 5], [8, 5]], float)
    moved = np.c_[points + corners[0].numpy(), np.ones(3)]
    back = np.linalg.solve(moved, points)
    row, column = np.mgrid[:30, :36].astype(float)
    source = np.stack([column, row, np.ones_like(row)], -1) @ back
    dx, dy = (ndimage.gaussian_filter(part, 1.5, mode="reflect", truncate=3) * 12 for part in noise_)
    got = digital.elastic_transform(image, dice(), *strength)[0].numpy()
    for channel, made in zip(image[0].double().numpy(), got, strict=True):
        tilted = ndimage.map_coordinates(channel, [source[..., 1], source[..., 0]], order=1, mode="mirror")
        want = ndimage.map_coordinates(tilted, [row + dy, column + dx], order=1, mode="reflect")
        assert np.abs(made - want).max() < 1e-3


def test_elastic_moves_by_no_more_than_it_says():
    image = pixels(2)
    assert torch.allclose(digital.elastic_transform(image, dice(2), 0, 0, 0), image, atol=1e-4)
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    places = torch.stack([row, column]).expand(8, -1, -1, -1)
    moved = digital.elastic_transform(places, dice(8), 3.2, 0.96, 0) - places
    assert 0.3 < float(moved.abs().max()) <= 3.2 and abs(float(moved.mean())) < 0.05
