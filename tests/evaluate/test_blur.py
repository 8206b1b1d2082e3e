"""Corruptions by blur: each against its formula, a slow loop, scipy or Pillow."""

import math

import numpy as np
import pytest
import torch
from scenes import dice, off, pixels, scenes
from scipy import ndimage

from synthaug.evaluate.corruptions import FAMILIES, blur, corrupt, lines


@pytest.mark.parametrize("size", [32, 100])
@pytest.mark.parametrize("name", [*FAMILIES["blur"], "gaussian_blur", "pixelate", "elastic_transform", "contrast"])
def test_one_colour_stays(name, size):
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [13, 77, 201]], dtype=torch.uint8)
    images = colours[:, :, None, None].expand(-1, -1, size, size).contiguous()
    for severity in range(1, 6):
        assert torch.equal(corrupt(images, name, severity, [1, 2, 3]), images)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1, 6])
def test_gaussian_blur_is_that_of_scipy(sigma):
    image = pixels(1, 20, 33)
    want = ndimage.gaussian_filter(image.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    assert torch.allclose(blur.gaussian_blur(image, dice(), sigma), torch.from_numpy(want), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.96, 6.4, 40])
def test_mirrored_blur_is_that_of_scipy_however_wide(sigma):
    image = pixels(1, 20, 33)
    want = ndimage.gaussian_filter(image.numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=3)
    got = lines.along(image, lines.gaussian(sigma, truncate=3, mirrored=True))
    assert torch.allclose(got, torch.from_numpy(want), atol=1e-5)


@pytest.mark.parametrize("size", [32, 100])
def test_defocus_is_a_correlation_with_a_disk_that_sums_to_1(size):
    kind = blur.CORRUPTIONS["defocus_blur"]
    for radius, alias in kind.small if size == 32 else kind.large:
        kernel = blur.disk(radius, alias)
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-12) and bool((kernel >= 0).all())
        assert torch.allclose(kernel, kernel.T, atol=1e-15) and torch.allclose(kernel, kernel.flip(0), atol=1e-15)
        axis, taps = np.arange(-14, 15), np.arange(-2, 3) if radius > 8 else np.arange(-1, 2)
        inside = (np.add.outer(axis**2, axis**2) <= radius**2).astype(float)
        weights = np.exp(-(taps**2) / (2 * alias**2))
        weights = np.outer(weights, weights) / weights.sum() ** 2
        want = ndimage.convolve(inside / inside.sum(), weights, mode="constant")
        image = pixels(1, size, size)
        seen = ndimage.correlate(image.numpy().astype(float), want[None, None], mode="mirror")
        assert np.abs(blur.defocus_blur(image, dice(), radius, alias).numpy() - seen).max() < 1e-5


@pytest.mark.parametrize(("reach", "high", "wide"), [(1, 12, 9), (2, 12, 12), (4, 17, 20)])
def test_shuffle_is_the_loop_from_the_last_pixel_to_the_first(reach, high, wide):
    images = pixels(3, high, wide)
    steps = dice(3).integers(2, high, wide, low=-reach, high=reach)
    want = images.numpy().copy()
    for picture, step in zip(want, steps.numpy(), strict=True):
        for h in range(high - reach, reach, -1):
            for w in range(wide - reach, reach, -1):
                picture[:, h, w] = picture[:, h + step[0, h, w], w + step[1, h, w]]
    assert np.array_equal(blur.shuffle(images, steps, reach).numpy(), want)


def test_glass_blurs_shuffles_and_blurs():
    images = pixels(2)
    steps, made = dice(2), images
    made = torch.from_numpy(ndimage.gaussian_filter(made.numpy(), (0, 0, 0.4, 0.4), mode="nearest"))
    for _ in range(2):
        made = blur.shuffle(made, steps.integers(2, 32, 32, low=-1, high=1), 1)
    want = ndimage.gaussian_filter(made.numpy(), (0, 0, 0.4, 0.4), mode="nearest")
    assert np.abs(blur.glass_blur(images, dice(2), 0.4, 1, 2).numpy() - want).max() < 1e-5


def test_trail_is_half_a_gaussian_in_a_direction():
    images, angles = pixels(5, 14, 19), [0.0, 30.0, -45.0, -90.0, -120.0]
    got = blur.trail(images, torch.tensor(angles), 4, 2.5).numpy()
    weights = np.exp(-(np.arange(9) ** 2) / (2 * 2.5**2))
    weights /= weights.sum()
    for image, made, angle in zip(images.numpy(), got, np.radians(angles), strict=True):
        for h, w in [(0, 0), (7, 9), (13, 18), (2, 17), (11, 1)]:
            places = [(math.ceil(k * math.sin(angle) - 0.5), math.ceil(k * math.cos(angle) - 0.5)) for k in range(9)]
            seen = [image[:, min(max(h + down, 0), 13), min(max(w + right, 0), 18)] for down, right in places]
            assert np.allclose(made[:, h, w], weights @ np.stack(seen), atol=1e-5)


def clipped_zoom(image, factor):
    """What scipy makes of the middle of an image (H W), cut to the image's size."""
    kept = [math.ceil(size / factor) for size in image.shape]
    top = [(size - k) // 2 for size, k in zip(image.shape, kept, strict=True)]
    middle = image[top[0] : top[0] + kept[0], top[1] : top[1] + kept[1]]
    large = ndimage.zoom(middle.astype(float), factor, order=1)
    trim = [(a - b) // 2 for a, b in zip(large.shape, image.shape, strict=True)]
    return large[trim[0] : trim[0] + image.shape[0], trim[1] : trim[1] + image.shape[1]]


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.1, 1.26, 1.75, 2.25, 4.5])
def test_zoom_is_that_of_scipy(factor):
    for image in (pixels(1, 32, 32)[0, 0], pixels(1, 101, 90)[0, 0]):
        got = lines.along(image.double(), lines.zoom(factor)).numpy()
        assert np.allclose(got, clipped_zoom(image.numpy(), factor), atol=1e-9)


@pytest.mark.parametrize(("size", "severity"), [(32, 1), (32, 5), (90, 3), (90, 5)])
def test_zoom_blur_is_a_mean_over_factors(size, severity):
    stops = {32: (1.06, 1.11, 1.16, 1.21, 1.26), 90: (1.11, 1.16, 1.21, 1.26, 1.31)}[size]
    step = 0.01 if size == 32 or severity < 3 else 0.03 if severity == 5 else 0.02
    factors, image = np.arange(1, stops[severity - 1], step), scenes(1, size, size)
    total = np.stack([sum(clipped_zoom(c, f) for f in factors) + c for c in image[0].numpy()])
    want = torch.from_numpy(total / (len(factors) + 1)).round()
    assert off(corrupt(image, "zoom_blur", severity, [0])[0], want) <= 1
