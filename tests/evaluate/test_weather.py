"""Corruptions by weather: each against its formula, a slow loop, scipy or Pillow."""

import numpy as np
import pytest
import torch
from scenes import CPU, dice, pixels
from scipy import ndimage

from synthaug.evaluate.corruptions import weather
from synthaug.evaluate.corruptions.dice import Dice


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
