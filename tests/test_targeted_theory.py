"""The theory of targeted augmentation: closed forms, the hand-written net and SAM, planted data, and the selector."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from synthaug.classify.subset import slow_learnable
from synthaug.evaluate.stats import mean_interval
from synthaug.refs import import_file

HERE = Path(__file__).parents[1] / "experiments"
FILES = ("planted", "targeted_theory_variance", "targeted_theory")
theory: Any = SimpleNamespace(**ChainMap(*(vars(import_file(str(HERE / f"{name}.py"))) for name in FILES)))
SMALL = theory.Setting(n=12, d=7, patches=3, width=4, noise=0.5, init=0.5)


@pytest.mark.parametrize(
    ("alpha", "k", "factor"),
    [(0.7, 2, 0.35503), (0.7, 5, 1.23967), (0.6, 2, 0.40816), (0.6, 5, 1.18343), (0.6, 4, 0.99174)],
)
def test_the_factor_of_the_variance(alpha: float, k: int, factor: float) -> None:
    assert theory.variance_factor(alpha, k) == pytest.approx(factor, abs=1e-5)


def test_the_factor_rises_from_nothing_to_its_bound() -> None:
    for alpha in (0.3, 0.6, 0.9):
        factors = [theory.variance_factor(alpha, k) for k in range(1, 200)]
        assert factors[0] == 0 and all(a < b for a, b in zip(factors, factors[1:], strict=False))
        assert factors[-1] < 1 / (1 - alpha)
        assert theory.variance_factor(alpha, 10**9) == pytest.approx(1 / (1 - alpha), rel=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("alpha", [0.6, 0.7])
def test_variances_are_what_the_closed_form_says(alpha: float, k: int) -> None:
    n, batch = 60, 16
    upsample, generate = (theory.full_variance(n, alpha, k, new) for new in (False, True))
    size = n * (alpha + k * (1 - alpha))
    assert generate == pytest.approx(1 / size, rel=1e-14)
    assert upsample - generate == pytest.approx(theory.variance_factor(alpha, k) / n, abs=1e-16)
    both = [theory.batch_variance(n, alpha, k, batch, new) for new in (False, True)]
    assert both[1] == pytest.approx(1 / batch + (1 - 1 / batch) / size, rel=1e-14)
    assert both[0] - both[1] == pytest.approx((1 - 1 / batch) * theory.variance_factor(alpha, k) / n, abs=1e-16)
    # drawing a batch of given rows varies less where rows repeat
    assert both[0] - upsample <= both[1] - generate


def test_monte_carlo_finds_the_gap() -> None:
    gaps = theory.simulated(n=60, alpha=0.6, k=4, batch=16, draws=60_000, seed=0)
    for name, expected in (("batch", 0.0155), ("full", 0.01653)):
        mean, low, high = mean_interval(gaps[name], level=0.9973)  # three standard errors
        assert low < expected < high and low > 0, (name, mean)


def test_monte_carlo_of_the_net_finds_the_gap() -> None:
    gaps = theory.cnn_variance(n=60, alpha=0.6, k=2, batch=16, draws=4000, seed=2)
    assert theory.close("", "", gaps["full"], 1).verdict == "holds"
    assert theory.close("", "", gaps["batch"], 15 / 16).verdict == "holds"
    assert mean_interval(gaps["full"])[1] > 0.9


def test_the_gradient_is_autograd_s() -> None:
    items = theory.planted(SMALL.n, SMALL, seed=3, dtype=torch.float64)
    w = theory.start(SMALL, 1, 4)[0].double().requires_grad_()
    (expected,) = torch.autograd.grad(theory.losses(w, items).mean(), w)
    torch.testing.assert_close(theory.gradient(w, items.x, items.y), expected, rtol=1e-12, atol=1e-14)


def test_seeds_do_not_meet() -> None:
    items = [theory.planted(SMALL.n, SMALL, seed, dtype=torch.float64) for seed in (0, 1)]
    w, both = theory.start(SMALL, 2).double(), theory.stacked(items)
    for rho in (0.0, 0.2):
        together = theory.sam_gradient(partial(theory.gradient, x=both.x, y=both.y), w, rho)
        for seed, each in enumerate(items):
            alone = theory.sam_gradient(partial(theory.gradient, x=each.x, y=each.y), w[seed : seed + 1], rho)
            torch.testing.assert_close(together[seed : seed + 1], alone, rtol=1e-12, atol=1e-14)


def test_sam_on_a_quadratic() -> None:
    def grad(theta: torch.Tensor) -> torch.Tensor:
        return theta * torch.tensor([1.0, 10.0], dtype=torch.float64)

    ones = torch.ones(1, 2, dtype=torch.float64)
    expected = torch.tensor([[1.00995037, 10.99503719]], dtype=torch.float64)
    torch.testing.assert_close(theory.sam_gradient(grad, ones, 0.1), expected, rtol=0, atol=1e-8)
    assert float((theory.ascended(grad, ones, 0.1) - ones).norm()) == pytest.approx(0.1, abs=1e-15)
    assert torch.equal(theory.sam_gradient(grad, ones, 0), grad(ones))
    assert not theory.sam_gradient(grad, 0 * ones, 0.1).any()


@pytest.mark.parametrize("both", [True, False])
def test_planted_data_have_the_features(both: bool) -> None:
    s = replace(theory.CALM, patches=3, both=both)
    items = theory.planted(1000, s, seed=1)
    assert items.x.shape == (1000, 3, 100) and int(items.fast.sum()) == 800
    assert set(items.y.tolist()) == {-1.0, 1.0} and abs(float(items.y.mean())) < 0.1
    torch.testing.assert_close(items.x[:, 0, 1], s.fast * items.y * items.fast)
    torch.testing.assert_close(items.x[:, 0, 0], s.slow * items.y * (torch.tensor(both) | ~items.fast))
    assert not items.x[:, 0, 2:].any() and not items.features[:, 1:].any()
    assert float(items.x[:, 1:].std()) == pytest.approx(0.1, rel=0.01)
    assert torch.equal(items.x, theory.planted(1000, s, seed=1).x)


def test_copies_keep_features_and_change_noise() -> None:
    s = theory.NOISY
    items = theory.batched(s, 2, 0)
    slow = items.take(items.slow_rows())
    assert not slow.fast.any() and slow.y.shape == (2, 40)
    twice, again = theory.upsampled(items, 3), theory.generated(items, 3, s)
    assert twice.y.shape == again.y.shape == (2, 200 + 2 * 40)
    for copy in (slice(200, 240), slice(240, 280)):
        assert torch.equal(twice.x[:, copy], slow.x)
        assert torch.equal(again.features[:, copy], slow.features) and torch.equal(again.y[:, copy], slow.y)
    assert not torch.equal(again.error[:, 200:240], again.error[:, 240:])
    norm = 100 * s.noise**2
    for where, at in (("noise patch", 1), ("feature patch", 0)):
        worse = theory.generated(items, 3, s, 4.0, where)
        more = worse.error[:, 200:, at].square().sum(-1).mean()
        assert float(more) == pytest.approx((4 if at else 3) * norm, rel=0.05)
        assert torch.equal(worse.x[:, :200], items.x)


def test_crossings_are_interpolated() -> None:
    line = [[q - 2.25, q - 3.5, q - 1.6] for q in theory.QS]
    assert theory.crossing(line) == [2.25, 1.6, 3.5]
    assert theory.crossing([[-1.0, -1.0, -1.0]] * len(theory.QS)) == [None] * 3


def test_verdicts_come_from_intervals() -> None:
    def verdict(low: float, high: float, *how: float) -> str:
        return theory.Finding("", "", (low + high) / 2, low, high, *how).verdict

    assert [verdict(1, 2, 1), verdict(-1, 2, 1), verdict(-2, -1, 1), verdict(-2, -1, -1)] == [
        "holds", "undecided", "fails", "holds",
    ]  # fmt: skip
    assert [verdict(-1, 2), verdict(1, 2), verdict(-1, 2, 0, 3), verdict(-1, 4, 0, 3), verdict(4, 5, 0, 3)] == [
        "holds", "fails", "holds", "undecided", "fails",
    ]  # fmt: skip
    assert verdict(float("nan"), float("nan"), 1) == "undecided"


def test_upsampling_is_weight_and_generating_divides_the_noise_that_is_learned_by_k() -> None:
    s, k = theory.CALM, 3
    items, w0 = theory.batched(s, 6, 0), theory.start(s, 6, 9000)
    gains = {}
    for name, more in (("Upsample", theory.upsampled(items, k)), ("Generate", theory.generated(items, k, s))):
        told = theory.train(w0, more, s, theory.Training(20, 20), theory.meter(w0, items, more, items))
        gains[name] = float(told["noise"][1].mean())
    assert gains["Generate"] / gains["Upsample"] == pytest.approx(1 / k, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_the_selector_finds_the_slow_group(seed: int, kind: str) -> None:
    items = theory.planted(500, theory.DEMO, seed)
    outputs, losses, labels = theory.early_outputs(items, theory.DEMO, theory.EARLY_STEPS, seed)
    slow = ~items.fast.numpy()
    if kind == "numpy":
        mask = slow_learnable(outputs, losses, labels, seed=seed)
    else:
        mask = slow_learnable(*map(torch.from_numpy, (outputs, losses, labels)), seed=seed).numpy()
    assert mask.dtype == bool and theory.recovery(mask, slow) >= 0.95
    assert not np.array_equal(outputs[0], outputs[1]) and labels.tolist() == (items.y > 0).tolist()
