"""Corruptions: shapes, seeds, severities, tables; and noise against its law."""

import numpy as np
import pytest
import torch
from scenes import CPU, dice, off, scenes

from synthaug.data.dataset import Dataset
from synthaug.data.glyphs import render
from synthaug.data.sample import decode_image
from synthaug.evaluate.corruptions import FAMILIES, blur, corrupt, digital, noise, weather
from synthaug.evaluate.corruptions.dice import Dice
from synthaug.settings import UserError

NAMES = [name for family in FAMILIES.values() for name in family]
KINDS = noise.CORRUPTIONS | blur.CORRUPTIONS | weather.CORRUPTIONS | digital.CORRUPTIONS
FIXED = {
    "defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "saturate"
}  # fmt: skip


@pytest.fixture(scope="module")
def characters():
    """16 digits and 16 glyphs of 32 px, grey as RGB."""
    listing = Dataset("digits").open()
    digits = [decode_image(listing.read(entry.id)) for entry in listing.splits["test"][:16]]
    made = [np.asarray(image) for image in digits] + [render(i)[0] for i in range(16)]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()


# --- all of them ------------------------------------------------------------------------------------------------------


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


# --- noise ------------------------------------------------------------------------------------------------------------


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
