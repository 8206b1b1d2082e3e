"""Corruptions: each against its formula, a slow loop, scipy or Pillow; and that an image's own seed decides."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn.functional import interpolate

from synthaug.data.dataset import Dataset
from synthaug.data.glyphs import render
from synthaug.data.sample import decode_image
from synthaug.evaluate.corruptions import FAMILIES, blur, corrupt, digital, lines, noise, weather
from synthaug.evaluate.corruptions.dice import Dice
from synthaug.settings import UserError

NAMES = [name for family in FAMILIES.values() for name in family]
KINDS = noise.CORRUPTIONS | blur.CORRUPTIONS | weather.CORRUPTIONS | digital.CORRUPTIONS
FIXED = {
    "defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "saturate"
}  # fmt: skip
CPU = torch.device("cpu")


def dice(count=1, first=0):
    return Dice(range(first, first + count), CPU)


def pixels(count=2, high=32, wide=32, seed=0):
    return torch.rand(count, 3, high, wide, generator=torch.Generator().manual_seed(seed))


def scenes(count=2, high=100, wide=90, seed=0):
    """Coarse coloured patches."""
    coarse = interpolate(pixels(count, 9, 8, seed), size=(high, wide), mode="bilinear")
    return (coarse * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def characters():
    """16 digits and 16 glyphs of 32 px, grey as RGB."""
    listing = Dataset("digits").open()
    digits = [decode_image(listing.read(entry.id)) for entry in listing.splits["test"][:16]]
    made = [np.asarray(image) for image in digits] + [render(i)[0] for i in range(16)]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()


def off(one, other):
    return int((one.int() - other.int()).abs().max())


# --- all of them --------------------------------------------------------------------------------------------------


def test_there_are_nineteen():
    assert sorted(NAMES) == sorted(KINDS) and len(NAMES) == 19
    assert all(len(kind.small) == len(kind.large) == 5 for kind in KINDS.values())


# By the table of large images only the one with the longest loop; the others each night.
NIGHTLY = [pytest.param(name, "100", marks=pytest.mark.nightly) for name in NAMES if name != "glass_blur"]


@pytest.mark.parametrize(("name", "size"), [*((name, "32") for name in NAMES), ("glass_blur", "100"), *NIGHTLY])
def test_shape_type_and_own_seed(name, size, characters):
    images = characters[[0, 5, 17, 30, 31]] if size == "32" else scenes(5)
    before, seeds, state = images.clone(), [7, 1, 2**62 + 3, 0, 5], torch.random.get_rng_state()
    for severity in (2, 5):
        out = corrupt(images, name, severity, seeds)
        assert out.shape == images.shape and out.dtype == torch.uint8 and out.is_contiguous()
        assert torch.equal(corrupt(images, name, severity, seeds), out)
        order = [3, 0, 4, 2, 1]
        assert off(corrupt(images[order], name, severity, [seeds[i] for i in order]), out[order]) <= 1
        assert off(corrupt(images[2:3], name, severity, seeds[2:3])[0], out[2]) <= 1
        other = corrupt(images, name, severity, [8, 1, 2**62 + 3, 0, 5])
        assert torch.equal(other[0], out[0]) == (name in FIXED) and torch.equal(other[1:], out[1:])
    assert torch.equal(images, before) and torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur", "snow", "frost", "elastic_transform", "spatter"])
def test_batches_longer_than_a_chunk(name, characters):
    images = characters.repeat(3, 1, 1, 1)
    out = corrupt(images, name, 3, range(96))
    for row in (0, 63, 64, 95):
        assert off(corrupt(images[row : row + 1], name, 3, [row])[0], out[row]) <= 1
    assert corrupt(images[:0], name, 3, []).shape == (0, 3, 32, 32)


# By its tables a corruption may change its nature on the way: saturate first bleaches and then colours, spatter is water
# and then mud, elastic turns less and bends more, frost (32 px) covers no more at 4 than at 3 but darkens the scene.
RISING = [name for name in NAMES if name not in ("saturate", "spatter", "elastic_transform", "frost")]


def distances(images, name):
    seeds = range(len(images))
    return np.array([float((corrupt(images, name, s, seeds).float() - images).abs().mean()) for s in range(1, 6)])


@pytest.mark.parametrize("name", RISING)
def test_grows_with_severity(name, characters):
    found = distances(characters, name)
    assert (found[1:] > found[:-1] * 0.98).all() and found[4] > 1.4 * found[0] > 0, found


@pytest.mark.parametrize("name", [name for name in RISING if name != "glass_blur"])  # its table: fewer rounds at 2, 4
def test_grows_with_severity_in_the_table_of_large_images(name):
    found = distances(scenes(4), name)
    assert (found[1:] > found[:-1] * 0.97).all() and found[4] > 1.2 * found[0] > 0, found


def test_what_changes_its_nature_grows_within_it(characters):
    water = distances(characters, "spatter")
    assert water[0] < water[1] < water[2] and water[3] < water[4]
    black = np.array([float(corrupt(characters * 0, "frost", s, range(32)).float().mean()) for s in range(1, 6)])
    assert (np.diff(black) >= 0).all() and black[4] > 2 * black[0] > 0
    for table in (digital.CORRUPTIONS["elastic_transform"].small, digital.CORRUPTIONS["elastic_transform"].large[2:]):
        bends = [bent(strength) for strength in table]
        assert (np.diff(bends) > 0).all(), bends


def bent(strength):
    """How far elastic_transform is from the affine map that fits it best, in pixels, in the middle of 20 images."""
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    moved = digital.elastic_transform(torch.stack([row, column]).expand(20, -1, -1, -1), dice(20), *strength)
    inner = slice(22, 42)
    at = np.stack([row[inner, inner].flatten(), column[inner, inner].flatten(), np.ones(400)], 1)
    there = moved[:, :, inner, inner].reshape(40, 400).T.numpy()
    return float(np.sqrt(np.square(there - at @ np.linalg.lstsq(at, there, rcond=None)[0]).mean()))


def test_the_table_is_the_one_for_the_nearer_size():
    images = scenes(1, 84, 60), scenes(1, 60, 85)
    for image, factor in zip(images, (0.15, 0.05), strict=True):
        mean = image.double().mean((2, 3), keepdim=True)
        assert off(corrupt(image, "contrast", 5, [0]), (mean + factor * (image - mean)).round()) <= 1


def test_unknown_names_and_severities():
    image = scenes(1)
    with pytest.raises(UserError, match="'gausian_noise'; did you mean gaussian_noise"):
        corrupt(image, "gausian_noise", 1, [0])
    with pytest.raises(UserError, match="fog has no severity 6; choices: 1, 2, 3, 4, 5"):
        corrupt(image, "fog", 6, [0])
    with pytest.raises(UserError, match="severity 0"):
        corrupt(image, "fog", 0, [0])


# --- noise --------------------------------------------------------------------------------------------------------


def test_rows_of_dice_are_draws_of_their_own_generators():
    made = Dice([3, 2**63 - 1], CPU)
    alone = torch.Generator().manual_seed(2**63 - 1)
    assert torch.equal(made.normal(2, 3)[1], torch.randn(2, 3, generator=alone))
    assert torch.equal(made.uniform(4)[1], torch.rand(4, generator=alone))
    assert torch.equal(made.integers(5, low=-2, high=2)[1], torch.randint(-2, 2, (5,), generator=alone))
    rates = torch.full((2, 6), 3.0)
    assert torch.equal(made.poisson(rates)[1], torch.poisson(rates[1], generator=alone))


@pytest.mark.parametrize("severity", range(5))
def test_noise_has_the_moments_of_its_law(severity):
    for table in ("small", "large"):
        grey = torch.full((1, 3, 256, 256), 0.4)
        (sigma,) = getattr(KINDS["gaussian_noise"], table)[severity]
        change = noise.gaussian_noise(grey, dice(), sigma) - grey
        assert float(change.std()) == pytest.approx(sigma, rel=0.01) and abs(float(change.mean())) < 0.01 * sigma
        (sigma,) = getattr(KINDS["speckle_noise"], table)[severity]
        assert float((noise.speckle_noise(grey, dice(), sigma) - grey).std()) == pytest.approx(0.4 * sigma, rel=0.01)
        (photons,) = getattr(KINDS["shot_noise"], table)[severity]
        counts = noise.shot_noise(grey, dice(), photons) * photons
        assert torch.allclose(counts, counts.round(), atol=1e-3)
        assert float(counts.mean()) == pytest.approx(0.4 * photons, rel=0.01)
        assert float(counts.var()) == pytest.approx(0.4 * photons, rel=0.02)
        (share,) = getattr(KINDS["impulse_noise"], table)[severity]
        hit = noise.impulse_noise(grey, dice(), share)
        for value, part in ((0.0, share / 2), (1.0, share / 2), (0.4, 1 - share)):
            assert float((hit == value).float().mean()) == pytest.approx(part, abs=0.003)


def test_noise_on_stored_images_is_rounded_and_cut():
    grey = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    want = 200 / 255 + 0.1 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(9))
    assert off(corrupt(grey, "gaussian_noise", 5, [9])[0], (want * 255).round().clamp(0, 255)) <= 1


# --- blurs --------------------------------------------------------------------------------------------------------


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
    kind = KINDS["defocus_blur"]
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


# --- weather ------------------------------------------------------------------------------------------------------


def test_plasma_is_diamond_and_square():
    decay, size = 1.7, 8
    generator, land, rough = torch.Generator().manual_seed(4), np.zeros((size, size)), 1.0
    for step in (8, 4, 2):
        n, half = size // step, step // 2
        wobble = rough * (2 * torch.rand(3, n, n, generator=generator).double().numpy() - 1)
        for i in range(n):
            for j in range(n):
                h, w = i * step, j * step
                corners = [land[(h + a) % size, (w + b) % size] for a in (0, step) for b in (0, step)]
                land[h + half, w + half] = sum(corners) / 4 + wobble[0, i, j]
        for i in range(n):
            for j in range(n):
                for number, (h, w) in enumerate([(i * step, j * step + half), (i * step + half, j * step)], 1):
                    sides = [(h - half, w), (h + half, w), (h, w - half), (h, w + half)]
                    land[h, w] = sum(land[a % size, b % size] for a, b in sides) / 4 + wobble[number, i, j]
        rough /= decay**2
    want = (land - land.min()) / (land.max() - land.min())
    assert np.allclose(weather.plasma(Dice([4], CPU), 7, decay)[0].numpy(), want, atol=1e-5)


def test_fog_keeps_the_brightest_within_reach():
    images = pixels(3, 24, 30) * torch.tensor([1.0, 0.5, 0.1])[:, None, None, None]
    cloud, top = weather.plasma(dice(3), 30, 1.75)[:, None, :24, :30], images.amax((1, 2, 3), keepdim=True)
    got = weather.fog(images, dice(3), 1.5, 1.75)
    assert torch.allclose(got, (images + 1.5 * cloud) * top / (top + 1.5)) and bool((got <= top + 1e-6).all())


def test_snow_pales_the_scene_and_falls_alike_from_both_sides():
    image = pixels(1)
    grey = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    want = 0.8 * image + 0.2 * torch.maximum(image, grey * 1.5 + 0.5)
    assert torch.allclose(weather.snow(image, dice(), 0, 0, 1.25, 0.5, 8, 3, 0.8), want, atol=1e-6)
    flakes = weather.snow(image * 0, dice(), 0.1, 0.3, 1.25, 0.5, 8, 3, 1.0)
    assert torch.equal(flakes, flakes.flip(2, 3)) and float(flakes.max()) > 0.1
    assert torch.equal(flakes[:, :1].expand(-1, 3, -1, -1), flakes)
    across, down = (flakes.diff(dim=axis).abs().mean() for axis in (3, 2))
    assert across > 1.2 * down  # streaks are steeper than 45 degrees


def test_frost_lays_ice_of_one_colour_over_the_scene():
    image = pixels(2)
    ice = weather.frost(image * 0, dice(2), 0.75, 0.45)
    assert torch.allclose(weather.frost(image, dice(2), 0.75, 0.45), 0.75 * image + ice, atol=1e-6)
    assert torch.allclose(ice[:, 0] / 0.88, ice[:, 2], atol=1e-6) and float(ice[:, 2].min()) >= 0.09 - 1e-6
    assert float(ice.max()) <= 0.45 + 1e-6 and float(ice.std()) > 0.02


def test_branches_leave_their_stem_at_60_degrees():
    feet, arms = weather.branches(torch.tensor([[0.2, 0.3, 0.1, 0.5, 0.0]]), 4)
    assert feet.shape == arms.shape == (1, 9, 2)
    stem, (others, length) = arms[0, 0], (arms[0, 1:], arms[0].norm(dim=1))
    assert float(length[0]) == pytest.approx(0.55)
    assert torch.allclose(others @ stem / (length[1:] * length[0]), torch.full((8,), 0.5), atol=1e-5)
    place = (feet[0, 1:] - feet[0, 0]) / stem
    assert torch.allclose(place[:, 0], torch.tensor([0.2, 0.4, 0.6, 0.8] * 2), atol=1e-5)
    assert torch.allclose(place[:, 0], place[:, 1], atol=1e-5) and bool((length[1:4] > length[2:5]).all())


def test_distance_from_lines():
    random = torch.rand(2, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    feet, arms = random[0] * 20, (random[1] - 0.5) * 20
    got = weather.squared_distance(feet[None, :, 0], arms[None, :, 0], 18, 20)[0]
    on = torch.linspace(0, 1, 2001)[:, None]
    for line in range(5):
        points = feet[line, 0] + on * arms[line, 0]
        for h, w in [(0, 0), (17, 19), (9, 10), (3, 15)]:
            near = (points - torch.tensor([h, w])).norm(dim=1).min()
            assert float(got[line, h, w].clamp(min=0).sqrt()) == pytest.approx(float(near), abs=0.01)


def test_distance_from_edges_is_that_of_scipy_up_to_20():
    edge = torch.rand(3, 1, 60, 50, generator=torch.Generator().manual_seed(1)) < 0.05
    edge[1:] = False
    edge[1, 0, 13, 41] = True
    got = weather.distance(edge).numpy()
    for row in range(2):
        assert np.allclose(got[row, 0], ndimage.distance_transform_edt(~edge[row, 0].numpy()).clip(max=20), atol=1e-5)
    assert (got[2] == 20).all() and got[1].max() == 20


def test_spatter_of_mud_covers_and_of_water_brightens():
    image = pixels(2, 64, 64) * 0.5
    mud = weather.spatter(image, dice(2), 0.65, 0.3, 1, 0.65, 1.5, 1)
    same, brown = (mud == image).all(1), torch.tensor([63, 42, 20])[:, None, None] / 255
    away, before = (mud - brown).abs(), (image - brown).abs()
    assert 0.02 < float((~same).float().mean()) < 0.5 and bool((away <= 0.2 * before + 1e-6).all(1)[~same].all())
    more = weather.spatter(image, dice(2), 0.65, 0.3, 1, 0.69, 0.5, 0) - image
    assert torch.allclose(more.amax((1, 2, 3)), torch.tensor(0.5 * 238 / 255)) and float(more.min()) == 0
    assert torch.allclose(more[:, 0] * 238 / 175, more[:, 2], atol=1e-6) and torch.allclose(more[:, 1], more[:, 2])
    assert 0.02 < float((more[:, 0] > 0).float().mean()) < 0.8
    assert torch.equal(weather.spatter(image, dice(2), 0.1, 0, 1, 0.69, 0.5, 0), image)  # it does not rain


# --- digital ------------------------------------------------------------------------------------------------------


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
    tables = [getattr(KINDS[name], "small" if size == 16 else "large") for name in ("brightness", "saturate")]
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
