"""Ways to ask: the ensemble against its definition, the adaptive one, entropy over time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from asking import CLASSES, D, Linear, Oracle, among, copies, images, subject
from scipy.special import entr
from torch import Tensor, nn

from synthaug.diffusion.one_step import Diffusion, sigma_at
from synthaug.diffusion.oracle import GaussianDenoiser, MixtureDenoiser
from synthaug.evaluate import predict
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.adapt import AtTimes
from synthaug.evaluate.entropy import EntropyOverTime
from synthaug.evaluate.predict import DDA, TIMES, Ensemble, Single, ask, ensemble
from synthaug.methods.diffuse_denoise import noise_of
from synthaug.settings import UserError, seed_of


def test_at_time_0_alone_it_is_the_classifier() -> None:
    model, pictures = Linear(), images(7)
    alone, calls = Ensemble(times=(0.0,))(model, pictures, among(None))
    single, _ = Single()(model, pictures, among(None))
    assert (
        np.allclose(alone, single, rtol=0, atol=1e-12)
        and calls == 0
        and Ensemble(times=(0.0,)).adaptation(None) is None
    )


def test_without_time_0_the_image_itself_is_not_asked() -> None:
    model, pictures = Linear(), images(4)
    de = Ensemble(times=(0.1, 0.3))
    made = copies(de.adaptation(None), pictures, range(4))
    log_p, calls = de(model, pictures, among(made))
    both = [model(torch.from_numpy(made[:, v])).double().softmax(1).detach().numpy() for v in range(2)]
    assert np.allclose(np.exp(log_p), sum(both) / 2) and calls == 2


def test_pieces_of_a_split_keep_their_ids_and_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of a corruption and copies belong to an image, wherever the split is cut."""
    asked = subject(Linear(), images(7), np.zeros(7, int))
    ways = [(Single(), ("gaussian_noise", 5)), (Ensemble(times=(0.0, 0.2)), None)]
    whole = [ask(way, asked, "test", corruption) for way, corruption in ways]
    monkeypatch.setattr(predict, "CHUNK", 3)
    for (way, corruption), (log_p, calls) in zip(ways, whole, strict=True):
        cut = ask(way, asked, "test", corruption)
        assert np.allclose(cut[0], log_p) and cut[1] == pytest.approx(calls)
    assert not np.allclose(whole[0][0], ask(Single(), asked, "test")[0])


@pytest.mark.parametrize("average", ["probability", "logit"])
def test_the_ensemble_is_the_mean_over_times(average: Any) -> None:
    model, pictures = Linear(), images(5)
    de = Ensemble(average=average)
    maker = de.adaptation(None)
    assert isinstance(maker, AtTimes) and maker.times == TIMES[1:] and len(TIMES) == 10
    made = copies(maker, pictures, range(5))
    log_p, calls = de(model, pictures, among(made))
    assert calls == 9 and model.asked == 50
    for n in range(5):
        looks = torch.from_numpy(np.concatenate([pictures[n : n + 1], made[n]]))
        logits = model(looks).double()
        p = logits.softmax(1).mean(0) if average == "probability" else logits.mean(0).softmax(0)
        assert np.allclose(np.exp(log_p[n]), p.detach().numpy())
    backwards = Ensemble(average=average, times=TIMES[::-1])
    other = copies(backwards.adaptation(None), pictures, range(5))
    assert np.array_equal(other[:, ::-1], made), "noise belongs to an image and a time"
    found = backwards(model, pictures, among(other))[0]
    assert np.allclose(found, log_p, rtol=0, atol=1e-12), "the order of the times does not matter"
    some = Ensemble(times=(0.0, TIMES[7], TIMES[2])).adaptation(None)
    assert np.array_equal(copies(some, pictures, range(5)), made[:, [6, 1]]), "nor which others there are"
    with pytest.raises(UserError, match="a time stands there twice"):
        Ensemble(times=(0.1, 0.2, 0.1))


def test_the_mean_of_probabilities_is_not_that_of_logits() -> None:
    """Two votes of 0.7 against one of 0.001: the means of probability and of logit disagree on the class."""
    p = np.array([0.7, 0.7, 0.001])

    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, pictures: Tensor) -> Tensor:
            first = torch.tensor(p)[pictures[:, 0, 0, 0].long()] * self.one
            return torch.stack([first, 1 - first], 1).log()

    marked = np.zeros((3, 3, 2, 2), np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None, None]
    answers = {}
    for average in ("probability", "logit"):
        de = Ensemble(times=(0.0, 0.1, 0.2), average=average)  # type: ignore[arg-type]
        answers[average] = np.exp(de(Told(), marked[:1], among(marked[None, 1:]))[0][0, 0])
    odds = (0.7 / 0.3) ** (2 / 3) * (0.001 / 0.999) ** (1 / 3)
    assert answers["probability"] == pytest.approx(p.mean(), abs=1e-6)
    assert answers["logit"] == pytest.approx(odds / (1 + odds), abs=1e-6)
    assert answers["logit"] < 0.2 < 0.4 < answers["probability"]


def test_one_batched_pass_equals_the_loop() -> None:
    model, denoiser = Linear(), Oracle()
    x = torch.from_numpy(images(6)).float() / 255
    seeds = list(range(6))
    batched = ensemble(model, x, denoiser, TIMES, seeds)  # type: ignore[arg-type]
    assert denoiser.rows == 9 * 6
    slow = torch.zeros_like(batched)
    for row, seed in enumerate(seeds):
        one = x[row : row + 1]
        looks = [one] + [
            Diffusion()(one, torch.tensor([time]), denoiser, noise_of([seed_of(seed, time)], one)) for time in TIMES[1:]
        ]
        slow[row] = sum(model(look).softmax(1)[0] for look in looks) / 10
    assert float((batched - slow).abs().max()) < 1e-6


def test_the_adaptive_one_stops_when_sure_and_counts_what_it_asked() -> None:
    model, pictures = Linear(), images(200)
    maker = Ensemble().adaptation(None)
    made = copies(maker, pictures, range(200))
    whole, _ = Ensemble()(model, pictures, among(made))
    never, all_calls = Ensemble(margin=1.0)(model, pictures, among(made))
    assert np.allclose(never, whole) and all_calls == 9
    model.asked = 0
    given = []

    def counted(variant: int, rows: np.ndarray) -> np.ndarray:
        given.append(len(rows))
        return among(made)(variant, rows)

    some, calls = Ensemble(margin=0.5)(model, pictures, counted)
    assert sum(given) == round(200 * calls) and given == sorted(given)[::-1], "nothing is made that is not asked"
    assert 0 < calls < 6 and model.asked == pytest.approx(200 * (calls + 1)), "one look is free"
    for n in range(20):  # the definition, image by image
        total, asked = np.zeros(CLASSES), 0
        for look in np.concatenate([pictures[n : n + 1], made[n]]):
            total += model(torch.from_numpy(look[None])).double().softmax(1)[0].detach().numpy()
            asked += 1
            first, second = sorted(total / asked)[::-1][:2]
            if first - second >= 0.5:
                break
        assert np.allclose(np.exp(some[n]), total / asked)


def test_dda_se_is_half_the_images_own_voice() -> None:
    model, pictures = Linear(), images(4)
    made = copies(DDA(steps=20, start=5).adaptation(None), pictures, range(4))
    adapted = np.exp(DDA()(model, pictures, among(made))[0])
    both = np.exp(DDA(self_ensemble=True)(model, pictures, among(made))[0])
    own = np.exp(Single()(model, pictures, among(None))[0])
    assert np.allclose(both, (adapted + own) / 2) and not np.allclose(adapted, own)


def test_accuracy_says_how_it_asked_and_what_it_took() -> None:
    model, pictures = Linear(), images(300)
    labels = Single()(model, pictures, among(None))[0].argmax(1)
    found = subject(model, pictures, labels)
    plain = Accuracy()(found)["metrics"]
    assert plain["test/top1"] == 1.0 and not any("calls" in name for name in plain)
    metrics = Accuracy(predictor=Ensemble(margin=0.5))(found)["metrics"]
    assert {"test/adaptive DE/top1", "test/adaptive DE/calls", "test/adaptive DE/ece"} <= set(metrics)
    assert 0 < metrics["test/adaptive DE/calls"] < 9
    assert Accuracy(predictor=DDA(steps=20, start=5))(found)["metrics"]["test/DDA/calls"] == 5


def test_entropy_over_time_of_the_bayes_classifier() -> None:
    """Two classes at -1 and 1, standard deviation 0.5, in one dimension: Gauss-Hermite quadrature of the entropy."""
    table = {
        0: (0.060482, 0.977228), 100: (0.125904, 0.950567), 200: (0.296780, 0.872223), 300: (0.472973, 0.772726),
        400: (0.591194, 0.682915), 500: (0.653459, 0.613109), 600: (0.680281, 0.564132), 700: (0.689707, 0.533110),
        999: (0.693127, 0.502534),
    }  # fmt: skip
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    oracle = MixtureDenoiser([0.5, 0.5], [[-1.0], [1.0]], [[[0.25]], [[0.25]]])
    for t, (entropy, accuracy) in table.items():
        sigma = float(sigma_at(torch.tensor([t / 1000], dtype=torch.float64)))
        x = 1 + np.sqrt(0.25 + sigma**2) * nodes  # x_t / a, given class 1
        p = 1 / (1 + np.exp(-2 * x / (0.25 + sigma**2)))
        h = entr(np.stack([p, 1 - p], 1)).sum(1)
        assert (weights * h).sum() / weights.sum() == pytest.approx(entropy, abs=1e-5)
        guess = np.asarray(oracle(x[:, None], sigma))[:, 0]
        assert (np.diff(guess) > 0).all(), "what the classifier sees after denoising tells no more and no less"
        right = 0.5 * (1 + math.erf(1 / math.sqrt(2 * (0.25 + sigma**2))))
        assert right == pytest.approx(accuracy, abs=1e-5)


def test_entropy_over_time_as_an_evaluation() -> None:
    model, pictures = Linear(), images(40)
    labels = Single()(model, pictures, among(None))[0].argmax(1)
    evaluation = EntropyOverTime(times=(0.0, 0.3, 0.999))
    result = evaluation(subject(model, pictures, labels))
    metrics = result["metrics"]
    assert list(metrics) == ["test/entropy/0", "test/entropy/0.3", "test/entropy/0.999"]
    assert all(0 <= value <= math.log(CLASSES) for value in metrics.values())
    made = copies(evaluation.copies()[0][1], pictures, range(40))
    p = model(torch.from_numpy(made[:, 1])).double().softmax(1)
    assert metrics["test/entropy/0.3"] == pytest.approx(float(-(p * p.log()).sum(1).mean()))
    assert result["about"]["log C"] == pytest.approx(math.log(4)) and result["about"]["top1"]["0"] > 0.9


def test_gaussian_denoising_pulls_to_the_mean() -> None:
    """What is left of an image at time 0.999 is the mean of the data, so a classifier has nothing to see."""
    oracle = GaussianDenoiser(np.zeros(D), np.eye(D) * 0.1)
    x = torch.from_numpy(images(3)).float() / 255
    out = Diffusion()(x, torch.tensor([0.999] * 3), oracle, torch.randn(x.shape, generator=torch.Generator()))
    assert float((out - 0.5).abs().max()) < 0.01
