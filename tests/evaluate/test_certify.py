"""Certificates: constants, coverage, closed forms of linear and plane classifiers, and what a shard does to rows."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy.stats import norm
from torch import nn

from synthaug.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from synthaug.evaluate.base import Evaluation, Subject
from synthaug.evaluate.certify import (
    Certified,
    certify,
    least_count,
    max_radius,
    timestep_for,
)
from synthaug.settings import UserError, from_json, keyed, seed_of, to_json

SHAPE = (3, 4, 4)  # 48 numbers: torch draws normal noise in blocks of 16


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class Linear(nn.Module):
    """Two classes on either side of a plane, or always the second."""

    def __init__(self, weight: np.ndarray, bias: float = 0.0, constant: bool = False) -> None:
        super().__init__()
        self.weight, self.bias, self.constant = torch.as_tensor(weight).float(), bias, constant
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.is_floating_point() and images.min() >= 0 and images.max() <= 1
        logit = (images * 2 - 1).flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(logit), torch.ones_like(logit) if self.constant else logit], 1)


def gaussian(size: int, rng: np.random.Generator) -> tuple[GaussianDenoiser, np.ndarray, np.ndarray]:
    """A denoiser of correlated data, its mean and covariance; its guesses stay far within [-1, 1]."""
    root, mean = rng.normal(size=(size, size)), rng.uniform(-0.2, 0.2, size)
    cov = 0.02 * (root @ root.T / size + 0.1 * np.eye(size))
    return GaussianDenoiser(mean, cov), mean, cov


def exact(x: np.ndarray, weight: np.ndarray, mean: np.ndarray, cov: np.ndarray, sigma: float) -> tuple[float, float]:
    """f at x and |w'| for the plane f(D(x)) = 0: with A = cov (cov + sigma^2)^-1, w' = A'w (units of x and sigma)."""
    a = cov @ np.linalg.inv(cov + sigma**2 * np.eye(len(cov)))
    return float(weight @ (mean + a @ (x - mean))), float(np.linalg.norm(a.T @ weight))


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_d1_b4_linear_certificates_are_sound(alpha, rng):
    """The distance to the plane is |f| / |w'|; a certificate beyond it is seldom, and hardly more so than allowed."""
    denoiser, mean, cov = gaussian(6, rng)
    weight, x, sigma, n, runs = rng.normal(size=6), rng.normal(size=6), 0.7, 400, 500
    distance = 0.8 * sigma
    f, slope = exact(x, weight, mean, cov, sigma)
    bias = distance * slope - f
    noisy = torch.from_numpy(x + sigma * rng.normal(size=(runs, n + 50, 6)))
    above = (denoiser(noisy.reshape(-1, 6), sigma) @ torch.from_numpy(weight) + bias > 0).reshape(runs, -1).numpy()
    radii = []
    for votes in above:
        ones = [int(votes[:50].sum()), int(votes[50:].sum())]
        radii.append(certify([50 - ones[0], ones[0]], [n - ones[1], ones[1]], alpha=alpha, sigma=sigma)[1])
    share = float(np.mean(np.array(radii) > distance))
    assert share <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
    assert alpha == 0.001 or share > alpha / 5
    assert np.median(radii) > distance / 2
    assert norm.ppf(above.mean()) * sigma == pytest.approx(distance, rel=0.02)


def test_d1_the_radius_tends_to_the_distance(rng):
    denoiser, mean, cov = gaussian(48, rng)
    weight = rng.normal(size=48)
    f, slope = exact(np.zeros(48), weight, mean, cov, 1.0)
    bias = 0.7 * slope - f
    images = rng.integers(100, 156, (6, *SHAPE), dtype=np.uint8)
    subject = Subject(Linear(weight, bias), ["a", "b"], {"test": (images, np.zeros(6, int))}, denoiser=denoiser)
    few, many = (Certified(sigma=0.5, n=n, batch=4096).rows(subject, range(6)) for n in (200, 40_000))
    for number, image in enumerate(images):
        f, slope = exact(image.flatten() / 255 * 2 - 1, weight, mean, cov, 1.0)
        distance = (f + bias) / slope / 2  # in units of [0, 1]
        low, high = (rows[number]["certificates"][0]["radius"] for rows in (few, many))
        assert 0.1 < distance < 0.6 and low < high <= distance
        assert high > distance - 0.03 and many[number]["certificates"][0]["predicted"] == 1


def test_d2_a_constant_classifier(rng):
    subject = Subject(
        Linear(np.zeros(48), constant=True), ["a", "b"], {"test": pictures(3, rng)}, denoiser=gaussian(48, rng)[0]
    )
    for row in Certified(sigma=(0.25, 1.0), n=500).rows(subject, range(3)):
        for found in row["certificates"]:
            assert (found["predicted"], found["votes"], found["draws"]) == (1, 500, 500)
            assert found["radius"] == found["sigma"] * norm.ppf(0.001 ** (1 / 500))


def test_d5_no_point_within_the_radius_changes_the_smoothed_class(rng):
    """In the plane, with four means and two classes like a chessboard; the smoothed class by integration."""
    means = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    denoiser, sigma = MixtureDenoiser([0.25] * 4, means, np.stack([0.05 * np.eye(2)] * 4)), 0.4

    def classify(points: torch.Tensor) -> torch.Tensor:
        return (denoiser(points, sigma).prod(1) < 0.1).long()

    axis = torch.arange(-5, 5, 0.025, dtype=torch.float64)
    board = classify(torch.cartesian_prod(axis, axis)).reshape(len(axis), -1).double()

    def share_of_one(points: np.ndarray) -> np.ndarray:
        across, down = (torch.softmax(-((axis - torch.tensor(c)[:, None]) ** 2) / (2 * sigma**2), 1) for c in points.T)
        return torch.einsum("pi,ij,pj->p", across, board, down).numpy()

    dice, certified = torch.Generator().manual_seed(0), 0
    circle = np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 90)), np.sin(t)], 1)
    for x in torch.from_numpy(rng.uniform(-1.5, 1.5, (25, 2))):
        votes = [
            torch.bincount(classify(x + sigma * torch.randn(n, 2, generator=dice, dtype=torch.float64)), minlength=2)
            for n in (100, 2000)
        ]
        label, radius = certify(*votes, alpha=0.001, sigma=sigma)
        if label is not None:
            certified += 1
            around = share_of_one(np.concatenate([x.numpy() + part * radius * circle for part in (0.5, 1.0)]))
            assert ((around > 0.5) == label).all()
    assert certified > 15


# --- the evaluation -----------------------------------------------------------------------------------------------


def pictures(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8), rng.integers(0, 2, count)


@pytest.fixture
def subject(rng: np.random.Generator) -> Subject:
    """Images near the plane, so that some are certified and others are not."""
    denoiser, mean, cov = gaussian(48, rng)
    weight = rng.normal(size=48)
    offset = -exact(np.zeros(48), weight, mean, cov, 0.5)[0]
    return Subject(Linear(weight, offset), ["a", "b"], {"test": pictures(24, rng)}, denoiser=denoiser)


ASKED = Certified(sigma=(0.25, 0.5), n0=20, n=200, batch=32)


def slowly(asked: Certified, subject: Subject, number: int, sigma: float) -> tuple[int | None, float]:
    """A certificate from all votes, without stopping."""
    counts = []
    for stage, n in (("select", asked.n0), ("estimate", asked.n)):
        dice = torch.Generator().manual_seed(seed_of(asked.seed, "certify", asked.split, number, sigma, stage))
        x = torch.from_numpy(subject.sets["test"][0][number] / np.float32(255)) * 2 - 1
        noisy = x + 2 * sigma * torch.randn((n, *SHAPE), generator=dice)
        labels = subject.model((subject.denoiser(noisy, 2 * sigma).clamp(-1, 1) + 1) / 2).argmax(1)
        counts.append(torch.bincount(labels, minlength=2))
    return certify(*counts, alpha=asked.alpha, sigma=sigma)


def test_stopping_early_changes_no_certificate(subject):
    rows = ASKED.rows(subject, range(24))
    found = [c | {"number": row["number"]} for row in rows for c in row["certificates"]]
    for c in found:
        assert (c["predicted"], c["radius"]) == slowly(ASKED, subject, c["number"], c["sigma"])
    stopped = [c for c in found if c["draws"] < ASKED.n]
    finished = [c for c in found if c["predicted"] is not None]
    assert len(stopped) > 3 and len(finished) > 3
    assert all(c["predicted"] is None and c["radius"] == 0 for c in stopped)
    least = least_count(ASKED.n, ASKED.alpha)
    assert all(c["votes"] + ASKED.n - c["draws"] < least for c in stopped)


def test_rows_are_the_same_in_every_shard(subject):
    whole = ASKED.rows(subject, range(24))
    assert ASKED.rows(subject, range(24)) == whole
    assert ASKED.rows(subject, [17]) + ASKED.rows(subject, np.array([3, 4])) == [whole[17], whole[3], whole[4]]
    assert dataclasses.replace(ASKED, seed=1).rows(subject, range(24)) != whole
    votes = lambda rows: [(c["predicted"], c["radius"]) for row in rows for c in row["certificates"]]  # noqa: E731
    assert votes(dataclasses.replace(ASKED, batch=7).rows(subject, range(24))) == votes(whole)


def test_selection_and_estimation_see_other_noise(subject):
    seen = []

    def watching(x, sigma, cond=None):
        seen.append(x)
        return subject.denoiser(x, sigma, cond)

    asked = dataclasses.replace(ASKED, sigma=(0.5,), n0=30, n=30, batch=30)
    asked.rows(dataclasses.replace(subject, denoiser=watching), [0, 1])
    assert len(seen) == 4 and all(len(x) == 30 for x in seen)
    assert len({tuple(noise) for x in seen for noise in x.flatten(1).tolist()}) == 120


def test_the_classifier_sees_pixels_whatever_the_denoiser_says(subject):
    loud = dataclasses.replace(subject, denoiser=lambda x, sigma, cond=None: 9 * x)
    assert len(ASKED.rows(loud, [0])) == 1  # Linear refuses what is not in [0, 1]


class Scheduled:
    """An exact denoiser that says which noise it was trained at."""

    alphas_cumprod = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear").alphas_cumprod

    def __init__(self, inner: GaussianDenoiser) -> None:
        self.inner, self.levels = inner, set[float]()

    def __call__(self, x, sigma, cond=None):
        self.levels.add(float(sigma))
        return self.inner(x, sigma, cond)


def test_the_certificate_speaks_of_sigma_and_the_noise_is_of_the_schedule(subject):
    denoiser = Scheduled(subject.denoiser)
    constant = Subject(Linear(np.zeros(48), constant=True), ["a", "b"], subject.sets, denoiser=denoiser)
    found = Certified(sigma=0.25, n=100).rows(constant, [0])[0]["certificates"][0]
    grid = timestep_for(0.25, denoiser.alphas_cumprod)[1]
    assert found["sigma_grid"] == grid > 0.25 and denoiser.levels == {2 * grid}
    assert found["radius"] == max_radius(100, 0.001, 0.25)
    with pytest.raises(UserError, match="beyond"):
        Certified(sigma=100.0).rows(constant, [0])


def test_result(subject):
    asked = dataclasses.replace(ASKED, radii=(0.0, 0.1, 0.25), every=2)
    result, rows = asked(subject), ASKED.rows(subject, range(0, 24, 2))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    metrics, labels = result["metrics"], subject.sets["test"][1]
    for place, sigma in enumerate((0.25, 0.5)):
        mine = [row["certificates"][place] for row in rows]
        for radius in (0.0, 0.1, 0.25):
            right = [c["predicted"] == labels[2 * i] and c["radius"] >= radius for i, c in enumerate(mine)]
            assert metrics[f"test/certified/sigma_{sigma}/{radius:g}"] == pytest.approx(np.mean(right))
        silent = np.mean([c["predicted"] is None for c in mine])
        assert metrics[f"test/certified/sigma_{sigma}/abstained"] == pytest.approx(silent) and 0 < silent < 1
    both = [metrics[f"test/certified/sigma_{sigma}/0.1"] for sigma in (0.25, 0.5)]
    assert metrics["test/certified/0.1"] == max(both)
    calls = sum(20 + c["draws"] for row in rows for c in row["certificates"]) / 12
    assert metrics["test/certified/denoiser_calls"] == pytest.approx(calls) and calls < 440
    assert len(metrics) == 3 * 3 + 2 + 1
    curve = result["curves"]["certified"]
    assert list(curve["y"]) == ["sigma_0.25", "sigma_0.5", "envelope"] and len(curve["label"]) == 2
    assert curve["x"][-1] == max_radius(200, 0.001, 0.5)
    for line in curve["y"].values():
        assert len(line) == len(curve["x"]) and (np.diff(line) <= 0).all()
    assert curve["y"]["envelope"][0] == metrics["test/certified/0"] > 0
    assert result["about"]["images"] == 12 and result["about"]["sigma_grid"] == [0.25, 0.5]


def test_a_model_in_train_mode_is_refused(subject):
    norm_inside = nn.Sequential(subject.model, nn.BatchNorm1d(2)).eval()
    norm_inside[1].train()
    with pytest.raises(ValueError, match="train mode"):
        ASKED.rows(dataclasses.replace(subject, model=norm_inside), [0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 9}, "9 votes certify nothing at alpha=0.001; 10 is the least"),
        ({"n": 100, "alpha": 1e-40}, "133 is the least"),
        ({"sigma": ()}, "sigma"),
        ({"sigma": 0}, "sigma"),
        ({"alpha": 0.0}, "alpha"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(UserError, match=message):
        Certified(**fields)


def test_settings_both_ways():
    asked = Certified(sigma=0.5, n=10)
    assert asked.sigma == (0.5,) and asked.needs_denoiser and asked.needs == ("test",)
    assert from_json(Evaluation, to_json(asked)) == asked and keyed(asked)["sigma"] == [0.5]
