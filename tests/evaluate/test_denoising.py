"""Measurements of denoisers and of their samples, against closed forms, planted copies and slow counts."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from synthaug.classify.detector import TransformDetector
from synthaug.classify.detector_net import new_net, train_detector, transformed
from synthaug.diffusion.oracle import EmpiricalDenoiser
from synthaug.diffusion.scoreaug import Omega, apply
from synthaug.diffusion.transforms import Brightness, Rotation, Translation
from synthaug.evaluate.denoising import DenoisingLoss
from synthaug.evaluate.fidelity import nearest_two
from synthaug.evaluate.memorised import Memorised
from synthaug.evaluate.transformed import Transformed


class Exact:
    """A denoiser in closed form as one that is a net."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.net, self.rows = answer, SimpleNamespace(device="cpu"), 0
        self.alphas_cumprod = torch.ones(1)

    def __call__(self, x: Tensor, sigma: Any, cond: Any = None) -> Tensor:
        self.rows += len(x)
        found: Tensor = self.answer(x, sigma)
        return found


def test_the_loss_of_the_exact_denoiser_is_that_of_the_formula() -> None:
    """Of pixels from N(0, v) the best guess v / (v + s^2) x is off by v s^2 / (v + s^2)."""
    v = 0.3
    x0 = v**0.5 * torch.randn(400, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sets = {name: (x0, torch.zeros(400, dtype=torch.long)) for name in ("subset", "test")}
    loss = DenoisingLoss(levels=4, draws=2)
    denoiser = Exact(lambda x, s: v / (v + s**2) * x)
    found = loss.measure(denoiser, sets, False)
    s = np.array(loss.sigmas)
    expected = (s**2 + 0.25) / (0.5 * s) ** 2 * v * s**2 / (v + s**2)
    curve = found["curves"]["denoising loss"]["y"]
    assert isinstance(curve, dict)
    np.testing.assert_allclose(curve["train"], expected, rtol=0.02)
    assert found["metrics"]["denoising/train"] == pytest.approx(expected.mean(), rel=0.02)
    assert abs(found["metrics"]["denoising/gap"]) < 0.02 and denoiser.rows == loss.calls(400) == 2 * 400 * 4 * 2
    # the levels are the middles of equal shares of EDM's distribution
    assert np.interp(np.log(s), np.sort(np.random.default_rng(0).normal(-1.2, 1.2, 100_000)),
                     np.arange(100_000) / 100_000) == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8], abs=0.01)  # fmt: skip


def test_who_knows_the_training_images_by_heart_has_a_gap() -> None:
    pixels = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    labels = torch.zeros(20, dtype=torch.long)
    by_heart = Exact(EmpiricalDenoiser(pixels[:20]))
    found = DenoisingLoss(levels=4).measure(
        by_heart, {"subset": (pixels[:20], labels), "test": (pixels[20:], labels)}, False
    )
    assert found["metrics"]["denoising/gap"] > 5 * found["metrics"]["denoising/train"]


def test_the_two_nearest_are_those_of_a_loop() -> None:
    dice = np.random.default_rng(0)
    x, y = dice.normal(size=(30, 5)), dice.normal(size=(17, 5))
    first, second = nearest_two(x, y, chunk=7)
    slow = np.sort(np.linalg.norm(x[:, None] - y[None], axis=2), axis=1)
    np.testing.assert_allclose(np.stack([first, second], 1), slow[:, :2], atol=1e-12)


def test_copies_of_training_images_are_counted() -> None:
    dice = np.random.default_rng(0)
    trained, held = (dice.integers(0, 256, (n, 3, 6, 6), dtype=np.uint8) for n in (50, 200))
    copies = np.clip(trained[:30].astype(int) + dice.integers(-5, 6, (30, 3, 6, 6)), 0, 255).astype(np.uint8)
    new = dice.integers(0, 256, (70, 3, 6, 6), dtype=np.uint8)
    real = {"subset": trained, "test": held}
    found = Memorised().measure(np.concatenate([copies, new]), np.zeros(100, int), real, ["a"])["metrics"]
    assert found["memorised/share"] == 0.3 and found["memorised/real_share"] == 0
    assert found["memorised/distance_ratio"] == pytest.approx(1, abs=0.05), "most are new"
    alike = Memorised().measure(copies, np.zeros(30, int), real, ["a"])["metrics"]
    assert alike["memorised/share"] == 1 and alike["memorised/distance_ratio"] < 0.1


def bars(count: int, seed: int) -> np.ndarray:
    """Images with a bright bar at the left, the rest dark and noisy."""
    images = np.random.default_rng(seed).integers(0, 60, (count, 3, 8, 8), dtype=np.uint8)
    images[:, :, :, :3] += 180
    return images


def test_a_detector_finds_what_was_done_and_nothing_else() -> None:
    """Samples of which a share is turned: told as that share; of images like the real ones none."""
    detector = TransformDetector(transforms=(Rotation(), Translation(most=0.3)), steps=150, batch_size=32, lr=3e-3)
    net, done = train_detector(detector, bars(64, 0), report=lambda entry: None)
    assert done.history[-1]["train/loss"] < 0.3 and detector.kinds == ("rotation", "translation", "none")
    real = {"test": bars(200, 1)}
    clean = Transformed(detector).measure(bars(200, 2), np.zeros(200, int), real, ["a"], net)["metrics"]
    assert abs(clean["transformed/leak"]) < 0.05 and clean["transformed/found"] > 0.8
    x = torch.from_numpy(bars(200, 3)).float()
    turns = torch.tensor([1.0] * 60 + [0.0] * 140)
    leaking = apply(x, Omega(turns=turns)).to(torch.uint8).numpy()
    found = Transformed(detector).measure(leaking, np.zeros(200, int), real, ["a"], net)["metrics"]
    assert found["transformed/leak"] == pytest.approx(0.3, abs=0.07)
    assert found["transformed/rotation"] == pytest.approx(0.3, abs=0.05)
    assert clean["transformed/real"] == pytest.approx(0.05, abs=0.05)
    shown, kinds = transformed(detector, real["test"])
    again, _ = transformed(detector, real["test"])
    assert np.array_equal(shown, again) and set(kinds) == {0, 1, 2}


def test_of_few_images_what_was_not_drawn_is_left_open() -> None:
    """Shares of no images are no numbers, and a result has none but those."""
    detector = TransformDetector(transforms=(Rotation(), Translation(most=0.3)))
    for count in (2, 4, 6):
        made, real = bars(4, 2), {"test": bars(count, 1)}
        found = Transformed(detector).measure(made, np.zeros(4, int), real, ["a"], new_net(detector).eval())
        json.dumps(found, allow_nan=False)


def test_a_shift_by_nothing_is_none() -> None:
    """Drawn in one of 25 here; told to the detector as a shift it would learn what is not there."""
    detector = TransformDetector(transforms=(Translation(most=0.25),))
    images = bars(3000, 4)
    shown, kinds = transformed(detector, images)
    same = (shown.astype(int) - images == 0).all((1, 2, 3))
    assert np.array_equal(same, kinds == 1) and 0.5 < (kinds == 1).mean() < 0.55


def test_what_cannot_be_told_is_not_called_leaking() -> None:
    """Images of every brightness: the likelier answer is wrong for many of the real ones."""
    dice = np.random.default_rng(5)

    def lit(count: int, seed: int) -> np.ndarray:
        share = dice.uniform(0.2, 1, (count, 1, 1, 1))
        return (bars(count, seed) * share).astype(np.uint8)

    detector = TransformDetector(transforms=(Brightness(),), steps=150, batch_size=32, lr=3e-3)
    net, _ = train_detector(detector, lit(64, 0), report=lambda entry: None)
    real = {"test": lit(400, 1)}
    found = Transformed(detector).measure(lit(300, 2), np.zeros(300, int), real, ["a"], net)["metrics"]
    assert abs(found["transformed/leak"]) < 0.08
    with torch.inference_mode():
        plain = float((net(torch.from_numpy(real["test"]).float() / 255).argmax(1) != 1).float().mean())
    assert plain > 0.12 > found["transformed/real"], "the likelier answer calls many more of the real ones brightened"
