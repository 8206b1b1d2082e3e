"""Theorem 4.3 of targeted augmentation in closed form and by Monte Carlo, and what its selector finds: parts of
targeted_theory.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from experiments.planted import (
    NAMED,
    Finding,
    Items,
    Setting,
    close,
    compared,
    gradient,
    interval,
    last,
    losses,
    output,
    planted,
    stacked,
    start,
)
from synthaug.classify.subset import slow_learnable
from synthaug.evaluate.stats import mean_interval

# c. the variance of mini-batch gradients -----------------------------------------------------------------------------


def variance_factor(alpha: float, k: int) -> float:
    """F = k (k - 1) (1 - alpha) / (alpha + k (1 - alpha))^2: 0 at k = 1, rising to 1 / (1 - alpha)."""
    return k * (k - 1) * (1 - alpha) / (alpha + k * (1 - alpha)) ** 2


def source_of(n: int, alpha: float, k: int, new: bool) -> np.ndarray:
    """Whose noise each of M rows has: slow ones, the last of n, are there k times, or all have noise of their own."""
    rows = np.concatenate([np.arange(n), np.tile(np.arange(round(alpha * n), n), k - 1)])
    return np.arange(len(rows)) if new else rows


def full_variance(n: int, alpha: float, k: int, new: bool) -> float:
    """Variance of the full batch's mean in units of s^2: the sum of squares of what each noise weighs."""
    weights = np.bincount(source := source_of(n, alpha, k, new)) / len(source)
    return float((weights**2).sum())


def batch_variance(n: int, alpha: float, k: int, batch: int, new: bool) -> float:
    """The same for batches of B independent draws: two draws share a noise as often as `full_variance` says.

    With new noise it is 1 / B + (1 - 1 / B) / M, and Upsample's is (1 - 1 / B) F / N more. All of that is the full
    batch's F / N; drawing a batch out of given rows varies less under Upsample, by F / (N B).
    """
    return 1 / batch + (1 - 1 / batch) * full_variance(n, alpha, k, new)


def simulated(n: int, alpha: float, k: int, batch: int, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Squared means of batches and of the full batch over draws of the noise, Upsample minus Generate."""
    rng, (old, new) = np.random.default_rng(seed), (source_of(n, alpha, k, new) for new in (False, True))
    noise = rng.standard_normal((draws, len(new)))
    rows = rng.integers(len(new), size=(draws, batch))
    both = [(np.take_along_axis(each, rows, 1).mean(1), each.mean(1)) for each in (noise[:, old], noise)]
    return {name: both[0][at] ** 2 - both[1][at] ** 2 for at, name in enumerate(("batch", "full"))}


def cnn_variance(n: int, alpha: float, k: int, batch: int, draws: int, seed: int) -> dict[str, np.ndarray]:
    """The same of the CNN's gradients at weights half learned, in units of F s^2 / N, s^2 that of slow items."""
    s = Setting(n=n, d=20, width=5, share=alpha, noise=0.3)
    items = planted(n, s, seed)
    w = last(start(s, 1, seed), stacked([items]), s, 40)[0]
    order = items.fast.long().argsort(descending=True, stable=True)  # slow ones last
    rows = torch.from_numpy(source_of(n, alpha, k, False))
    features, y = items.features[order][rows], items.y[order][rows]
    rng = torch.Generator().manual_seed(seed)
    told: dict[str, list[torch.Tensor]] = {"batch": [], "full": []}
    means = group_means(w, features, y, s, n, rng)
    spread = []
    for _ in range(draws // 500):
        each = per_item(w, features, y, s, 500, rng)
        spread.append(((each[:, n:] - means[1]) ** 2).sum(-1).mean())
        picked = torch.randint(len(rows), (500, batch), generator=rng)
        centre = (means[0] * round(alpha * n) + means[1] * (len(rows) - round(alpha * n))) / len(rows)
        lines = torch.arange(500)[:, None]
        for name, at in (("batch", picked), ("full", torch.arange(len(rows)).expand(500, -1))):
            upsample, generate = each[lines, rows[at]].mean(1), each[lines, at].mean(1)
            told[name].append(((upsample - centre) ** 2).sum(-1) - ((generate - centre) ** 2).sum(-1))
    unit = variance_factor(alpha, k) * torch.stack(spread).mean() / n
    return {name: (torch.cat(values) / unit).numpy() for name, values in told.items()}


def per_item(w: torch.Tensor, x: torch.Tensor, y: torch.Tensor, s: Setting, draws: int, rng: Any) -> torch.Tensor:
    """Gradients of items with these features and new noise: draws x items x weights."""
    x = x.expand(draws, *x.shape).clone()
    x[..., 1:, :] += s.noise * torch.randn(x[..., 1:, :].shape, generator=rng)
    return gradient(w, x.unsqueeze(-3), y[:, None].expand(draws, -1, 1)).flatten(-2)


def group_means(w: torch.Tensor, x: torch.Tensor, y: torch.Tensor, s: Setting, n: int, rng: Any) -> torch.Tensor:
    """Mean gradient of fast and of slow items: y and -y have the same, since noise is symmetric."""
    fast, slow = (torch.stack([per_item(w, x[at, None], y[at, None], s, 50_000, rng).mean((0, 1)) for _ in range(2)])
                  for at in (0, n - 1))  # fmt: skip
    return torch.stack([fast.mean(0), slow.mean(0)])


# d. what the selector sees -------------------------------------------------------------------------------------------

TIMES = (5, 10, 20, 30, 50, 75, 100, 150, 200)
EARLY_STEPS = 50  # of the demonstration's 200


def early_outputs(items: Items, s: Setting, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (-f/2, f/2), which make the logistic loss the cross entropy, losses and labels 0, 1 of a net so young."""
    batch = stacked([items])
    w = last(start(s, 1, seed + 9000), batch, s, steps)
    f = output(w, batch.x)[0]
    return torch.stack([-f / 2, f / 2], 1).numpy(), losses(w, batch)[0].numpy(), (items.y > 0).long().numpy()


def recovery(mask: np.ndarray, slow: np.ndarray) -> float:
    """The lesser of: how much of the slow group was found, how much of what was found is slow."""
    both = (mask & slow).sum()
    return float(min(both / slow.sum(), both / max(mask.sum(), 1)))


def selected(s: Setting, steps: int, seed: int) -> dict[str, float]:
    """Recovery by clusters of outputs, by clusters of losses, and by the highest losses, as many as there are slow."""
    items = planted(s.n, s, seed)
    outputs, loss, labels = early_outputs(items, s, steps, seed)
    slow = ~items.fast.numpy()
    top = loss >= np.sort(loss)[-slow.sum()]
    by = {"outputs": slow_learnable(outputs, loss, labels, seed=seed)}
    by["losses"] = slow_learnable(loss[:, None], loss, labels, seed=seed)
    return {name: recovery(mask, slow) for name, mask in (by | {"highest losses": top}).items()}


def selector(name: str, seeds: int) -> tuple[dict[str, Any], list[Finding]]:
    """Recovery after so many steps, and whether it is 95 % early on."""
    told = {t: [selected(NAMED[name], t, seed) for seed in range(seeds)] for t in TIMES}
    found = []
    for by in ("outputs", "losses"):
        early = [each[by] for each in told[EARLY_STEPS]]
        claim = f"selector: clusters of {by} find 95 % of the slow group, and no others"
        found.append(compared(claim, f"{name}, step {EARLY_STEPS}", early, [0.95] * seeds, 1))
    names = told[EARLY_STEPS][0]
    return {by: {str(t): interval([each[by] for each in rows]) for t, rows in told.items()} for by in names}, found


def variances(found: list[Finding]) -> dict[str, Any]:
    """Monte Carlo of plain noise and of the CNN's gradients against the closed form."""
    n, alpha, batch = 60, 0.6, 16
    told: dict[str, Any] = {"F": {f"{a}, {k}": variance_factor(a, k) for a in (0.7, 0.6) for k in (2, 3, 4, 5, 100)}}
    for k in (2, 4):
        unit = variance_factor(alpha, k) / n
        plain = {name: each / unit for name, each in simulated(n, alpha, k, batch, 150_000, k).items()}
        for what, gaps in (("plain noise", plain), ("CNN", cnn_variance(n, alpha, k, batch, 40_000, k))):
            for name, expected in (("batch", 1 - 1 / batch), ("full", 1.0)):
                where = f"{what}, k = {k}, {name}"
                told[where] = interval(gaps[name]) + [expected]
                found.append(close("4.3: the gap is the closed form's (3 SE)", where, gaps[name], expected))
                found.append(Finding("4.3: Upsample varies more", where, *mean_interval(gaps[name]), 1))
    return told
