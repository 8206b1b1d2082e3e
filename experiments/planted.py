"""Planted features and a net of cubes, by hand: what the theory of targeted augmentation is about, and how a claim
about it is said to hold. Measured by targeted_theory.py and targeted_theory_variance.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from synthaug.evaluate.stats import mean_interval, paired_test

Numbers = dict[str, torch.Tensor]
Where = Literal["noise patch", "feature patch"]
PATCHES: tuple[Where, ...] = ("noise patch", "feature patch")


# data: Definition 3.1 ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """Data, net and step size; `noise` is the deviation of one coordinate, so a noise patch has norm noise sqrt(d)."""

    n: int = 500
    d: int = 100
    patches: int = 2
    width: int = 20
    slow: float = 0.5  # beta_d
    fast: float = 1.0  # beta_e
    share: float = 0.8  # alpha
    noise: float = 0.1
    init: float = 0.1
    lr: float = 0.1
    both: bool = True  # items with the fast feature have the slow one, too


@dataclass(frozen=True)
class Items:
    """What is planted and what is noise, apart: an item is `features + error`. Axes before the last ones are seeds."""

    features: torch.Tensor  # ... n p d
    error: torch.Tensor  # ... n p d
    y: torch.Tensor  # ... n, +-1
    fast: torch.Tensor  # ... n

    @property
    def x(self) -> torch.Tensor:
        return self.features + self.error

    def take(self, index: torch.Tensor) -> Items:
        """Rows of each seed: index is seeds x rows."""
        seeds = torch.arange(len(index))[:, None]
        return Items(*(value[seeds, index] for value in vars(self).values()))

    def slow_rows(self) -> torch.Tensor:
        """seeds x slow: all seeds have as many."""
        return torch.stack([(~fast).nonzero()[:, 0] for fast in self.fast])


def joined(first: Items, second: Items) -> Items:
    """Rows of the one after rows of the other."""
    together = zip(vars(first).values(), vars(second).values(), strict=True)
    return Items(*(torch.cat(pair, 1) for pair in together))


def stacked(items: Sequence[Items]) -> Items:
    """One more axis, for seeds."""
    return Items(*(torch.stack(values) for values in zip(*(vars(each).values() for each in items), strict=True)))


def planted(n: int, s: Setting, seed: int, dtype: torch.dtype = torch.float32) -> Items:
    """Definition 3.1 with v_d, v_e the first two axes, which loses nothing: noise and start know no direction.

    Exactly round(alpha n) items have the fast feature, not alpha n on average, as the closed forms have it.
    """
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=rng).to(dtype) * 2 - 1
    fast = torch.randperm(n, generator=rng) < round(s.share * n)
    features = torch.zeros(n, s.patches, s.d, dtype=dtype)
    features[:, 0, 0] = s.slow * y * (torch.ones_like(fast) if s.both else ~fast)
    features[:, 0, 1] = s.fast * y * fast
    error = torch.zeros_like(features)
    error[:, 1:] = s.noise * torch.randn(n, s.patches - 1, s.d, generator=rng, dtype=dtype)
    return Items(features, error, y, fast)


def batched(s: Setting, seeds: int, first: int, n: int | None = None) -> Items:
    return stacked([planted(n or s.n, s, first + seed) for seed in range(seeds)])


def upsampled(items: Items, k: int) -> Items:
    """Slow items k times."""
    return joined(items, items.take(items.slow_rows().repeat(1, k - 1)))


def generated(items: Items, k: int, s: Setting, q: float = 1.0, where: Where = "noise patch", seed: int = 0) -> Items:
    """k - 1 more of each slow item: same features, new noise, and the generator's own error gamma.

    q = 1 + |gamma|^2 / |xi|^2: what a generated item has of noise against a real one. The draws are the same for all q.
    """
    copies = items.take(items.slow_rows().repeat(1, k - 1))
    rng = torch.Generator().manual_seed(seed + 1_000_000)
    error = torch.zeros_like(copies.error)
    error[..., 1:, :] = s.noise * torch.randn(error[..., 1:, :].shape, generator=rng)
    at = 0 if where == "feature patch" else 1
    gamma = torch.randn(error[..., 1:, :].shape, generator=rng)
    gamma = gamma[..., :1, :] if at == 0 else gamma
    error[..., at : at + gamma.shape[-2], :] += s.noise * math.sqrt(q - 1) * gamma
    return joined(items, replace(copies, error=error))


# the net: Definition 3.2 ---------------------------------------------------------------------------------------------


def start(s: Setting, seeds: int, first: int = 0) -> torch.Tensor:
    """seeds x neurons x d."""
    draws = [torch.randn(s.width, s.d, generator=torch.Generator().manual_seed(first + seed)) for seed in range(seeds)]
    return s.init * torch.stack(draws)


def output(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """f(x) = sum_j sum_p <w_j, x^(p)>^3."""
    return summed(x.flatten(-3, -2) @ w.mT, x)


def summed(z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Cubes over the patches and neurons of each item."""
    cubes: torch.Tensor = (z**3).unflatten(-2, x.shape[-3:-1])
    return cubes.sum((-2, -1))


def losses(w: torch.Tensor, items: Items) -> torch.Tensor:
    """log(1 + exp(-y f)) of each item."""
    return torch.nn.functional.softplus(-items.y * output(w, items.x))


def gradient(w: torch.Tensor, x: torch.Tensor, y: torch.Tensor, held: torch.Tensor | None = None) -> torch.Tensor:
    """-(1/N) sum_i l_i y_i sum_p 3 <w_j, x^(p)>^2 x^(p), with l_i = sigmoid(-y_i f(x_i)) or what is `held`."""
    flat, patches = x.flatten(-3, -2), x.shape[-2]
    z = flat @ w.mT
    f = summed(z, x)
    factor = -3 * y * (torch.sigmoid(-y * f) if held is None else held) / y.shape[-1]
    return (factor.repeat_interleave(patches, -1)[..., None] * z**2).mT @ flat


def ascended(grad: Callable[[torch.Tensor], torch.Tensor], w: torch.Tensor, rho: float) -> torch.Tensor:
    """w + rho g / |g|, g = grad(w); the norm is over all weights of a seed, the first axis. Where g is 0, w."""
    g = grad(w)
    norm = g.flatten(1).norm(dim=1).clamp_min(torch.finfo(g.dtype).tiny)
    unit: torch.Tensor = g / norm.reshape(-1, *[1] * (g.ndim - 1))
    return w + rho * unit


def sam_gradient(grad: Callable[[torch.Tensor], torch.Tensor], w: torch.Tensor, rho: float) -> torch.Tensor:
    """SAM's: that of the weights a step of length rho uphill."""
    return grad(ascended(grad, w, rho) if rho else w)


@dataclass(frozen=True)
class Training:
    """GD, SAM where rho > 0, or SGD where there is a batch; measured every so many steps."""

    steps: int
    every: int = 10
    rho: float = 0.0
    batch: int = 0


def train(
    w: torch.Tensor, items: Items, s: Setting, how: Training, measure: Callable[[torch.Tensor], Numbers]
) -> Numbers:
    """What `measure` gave on the way: times x seeds."""
    x, y, told = items.x, items.y, []
    rng, seeds = torch.Generator().manual_seed(7), torch.arange(len(w))[:, None]
    for step in range(how.steps + 1):
        if step % how.every == 0:
            told.append(measure(w))
        rows = torch.randint(y.shape[1], (len(w), how.batch), generator=rng) if how.batch else None
        xb, yb = (x, y) if rows is None else (x[seeds, rows], y[seeds, rows])
        w = w - s.lr * sam_gradient(partial(gradient, x=xb, y=yb), w, how.rho)
    return {name: torch.stack([each[name] for each in told]) for name in told[0]}


def last(w: torch.Tensor, items: Items, s: Setting, steps: int) -> torch.Tensor:
    """Weights after GD."""
    for _ in range(steps):
        w = w - s.lr * gradient(w, items.x, items.y)
    return w


# what is measured ----------------------------------------------------------------------------------------------------


def alignment(w: torch.Tensor, items: Items) -> torch.Tensor:
    """y_i <w_j, xi_i> summed over patches, without what the features' directions bring: seeds x items x neurons."""
    bare = w.clone()
    bare[..., :2] = 0  # noise is orthogonal to nothing, so growing features would count as noise that is learned
    return items.y[..., None] * (items.error.sum(-2) @ bare.mT)


def meter(w0: torch.Tensor, real: Items, items: Items, test: Items) -> Callable[[torch.Tensor], Numbers]:
    """Alignments and losses; noise is what pairs (neuron, item) have gained that agreed at the start (I_+)."""
    before = alignment(w0, items)
    groups = {"noise": before * ~items.fast[..., None] > 0, "noise of fast items": before * items.fast[..., None] > 0}

    def measure(w: torch.Tensor) -> Numbers:
        gain, out = alignment(w, items) - before, output(w, test.x) * test.y
        noise = {name: (gain * agree).sum((-2, -1)) / agree.sum((-2, -1)) for name, agree in groups.items()}
        return noise | {
            "fast feature": w[..., 1].mean(-1),
            "slow feature": w[..., 0].mean(-1),
            "training loss": losses(w, real).mean(-1),
            "test loss": torch.nn.functional.softplus(-out).mean(-1),
            "slow test error": ((out <= 0) & ~test.fast).sum(-1) / (~test.fast).sum(-1),
        }

    return measure


def steps_to(values: torch.Tensor, level: float, every: int) -> np.ndarray:
    """The first measured step at which each seed is at the level or below; nan, where it never is."""
    below = values <= level
    first = below.float().argmax(0).double() * every
    found: np.ndarray = torch.where(below.any(0), first, torch.nan).numpy()
    return found


# four settings -------------------------------------------------------------------------------------------------------

DEMO = Setting(slow=0.2, share=0.9)  # USEFUL's demonstration: 200 steps
SMALL = replace(DEMO, init=0.01, lr=1.0)  # as the theory has it: a start so small that f is about 0
CALM = Setting()  # features are learned long before noise: beta_d^3 (1 - alpha) against |xi|^3 / N is 0.025 to 0.002
NOISY = Setting(n=200, noise=0.2)  # they race: 0.025 to 0.04
NAMED = {"demo": DEMO, "small start": SMALL, "calm": CALM, "noisy": NOISY}
STEPS = {"demo": 200, "small start": 200, "calm": 400, "noisy": 400}


# findings ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A claim about the sign of a difference, or that it is no more than `within`, and what was measured."""

    claim: str
    what: str
    mean: float
    low: float
    high: float
    sign: int = 0
    within: float = 0.0  # 0: that the interval holds 0

    @property
    def verdict(self) -> str:
        if math.isnan(self.low) or math.isnan(self.high):
            return "undecided"
        if self.sign:
            ends = sorted((self.sign * self.low, self.sign * self.high))
            return "holds" if ends[0] > 0 else "fails" if ends[1] < 0 else "undecided"
        if self.low > self.within or self.high < -self.within:
            return "fails"
        inside = not self.within or (self.low >= -self.within and self.high <= self.within)
        return "holds" if inside else "undecided"


def close(claim: str, what: str, values: Any, expected: float) -> Finding:
    """Whether values are as expected on average, within three standard errors."""
    return Finding(claim, what, *mean_interval(np.asarray(values, float) - expected, level=0.9973))


def compared(claim: str, what: str, a: Any, b: Any, sign: int, within: float = 0.0) -> Finding:
    """a - b over paired seeds; a seed that one of them misses is left out of both, and said."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    both = np.isfinite(a) & np.isfinite(b)
    where = what if both.all() else f"{what} ({both.sum()} of {len(a)} seeds)"
    ends = paired_test(a[both], b[both])[:3] if both.sum() > 1 else (math.nan,) * 3
    return Finding(claim, where, *ends, sign, within)


def interval(values: Any) -> list[float]:
    """Mean and its interval, short."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return [short(number) for number in mean_interval(values)] if len(values) > 1 else []


def short(number: float) -> float:
    return float(f"{number:.3g}")
