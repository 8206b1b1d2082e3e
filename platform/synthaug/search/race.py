"""Races: points start on the same few seeds, those that fall behind the leader get no more.

Differences to the leader are paired over the seeds that all living points have. A point's variance is that of its
residuals from the means of points and seeds, shrunk to that of all living points as if that had been seen 8 times: own
variances of two or three seeds are too noisy, a common one favours lucky noisy points.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.special import stdtr  # Student's t; scipy.stats takes a second to import

from synthaug.settings import Count, settings

SHRINK = 8  # observations that the common variance counts for
RHO = 1.0  # of the mixture behind the e-value: variance of the effects that it bets on, in units of a difference's
SIMULATIONS = 400
FITS = 30  # turns of least squares, which come to rest after a few


@settings
class Scheduler(ABC):
    """Which points of a search get more seeds: all begin on `first`, the living ones get `block` more at a time."""

    first: Annotated[int, Field(ge=2)] = 2
    block: Count = 1

    @abstractmethod
    def dropped(self, values: np.ndarray, started: int) -> np.ndarray:
        """Which living points (rows; columns are seeds, more is better) get no more, of so many that were started."""

    def more(self, seeds: int) -> int:
        """How many seeds the living ones get after so many."""
        return self.block

    @abstractmethod
    def promise(self) -> str:
        """What can be said of those that it drops."""


@settings
class Race(Scheduler):
    """Drops a point when its paired difference to the leader says so.

    To "find" the best cheaply: a t test with shrunk variances at `level` each time, without a promise about any one
    point. To "claim" that the best is kept: an anytime-valid e-value against `level` of all points that are still in
    the race, whenever it is stopped. What is claimed is about the best point, not about every point that was dropped:
    among points that differ by nothing some are dropped by chance.
    """

    to: Literal["find", "claim"] = "find"
    # None: 1 % at each look to find, 5 % for the whole sweep to claim
    level: Annotated[float, Field(gt=0, lt=1)] | None = None
    # what is behind by no more than this is as good
    margin: Annotated[float, Field(ge=0)] = 0.0

    def dropped(self, values: np.ndarray, started: int) -> np.ndarray:
        if min(values.shape) < 2:
            return np.zeros(len(values), bool)
        n, (leader, behind, variance) = values.shape[1], compared(values)
        behind = behind + self.margin
        if self.to == "find":
            p = stdtr(n + SHRINK - 1, -behind / np.sqrt(variance / n))
            found = np.asarray(p < (0.01 if self.level is None else self.level))
        else:
            found = step_down(e_values(behind, variance, n), 0.05 if self.level is None else self.level)
        found[leader] = False
        return found

    def promise(self) -> str:
        within = f", but for one that is better by less than {self.margin:g}" if self.margin else ""
        if self.to == "find":
            return "what was dropped looked worse; of no single one is that a claim"
        level = 0.05 if self.level is None else self.level
        return f"with {100 * (1 - level):g} % the best of all points is not among what was dropped{within}"


@settings
class Halving(Scheduler):
    """The better half goes on, with twice as many seeds: a fixed budget and no promise."""

    def more(self, seeds: int) -> int:
        return seeds

    def dropped(self, values: np.ndarray, started: int) -> np.ndarray:
        kept = max(1, -(-started * self.first // (2 * values.shape[1])))
        order = np.argsort(-values.mean(1), kind="stable")
        found = np.ones(len(values), bool)
        found[order[:kept]] = False
        return found

    def promise(self) -> str:
        return "what was dropped was in the worse half; of no single one is that a claim"


def compared(values: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """The leader's row, by how much each row is behind it, and the variance of one such difference."""
    mean = values.mean(1)
    leader = int(mean.argmax())
    variance = shrunk(values)
    return leader, mean[leader] - mean, variance + variance[leader]


def shrunk(values: np.ndarray) -> np.ndarray:
    """Each point's own variance over the seeds, without what a seed does to all, shrunk to that of all points."""
    rows, n = values.shape
    residuals = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    # the means of seeds take their part of the residuals
    own = (residuals**2).sum(1) / (n - 1) * rows / (rows - 1)
    # where all agree to the last digit nothing would be behind by chance; a little keeps the divisions
    return np.asarray((SHRINK * own.mean() + (n - 1) * own) / (SHRINK + n - 1) + 1e-18)


def e_values(behind: np.ndarray, variance: np.ndarray, n: int) -> np.ndarray:
    """The evidence after n seeds that a point is behind: a normal mixture of likelihood ratios, 0 where it is not."""
    spread = n * RHO
    z = np.where(behind > 0, n * behind**2 / variance, 0)
    exponent = np.minimum(z / 2 * spread / (1 + spread), 600)  # enough for any level, and no overflow
    return np.asarray(np.where(behind > 0, np.exp(exponent) / np.sqrt(1 + spread), 0))


def step_down(evidence: np.ndarray, level: float) -> np.ndarray:
    """Which claims hold together: the strongest against all rows, the next against one less, and so on (Holm's steps,
    which e-values allow at any time: the first false claim has to pass the number of points that are no worse)."""
    found, left = np.zeros(len(evidence), bool), len(evidence) - 1
    for row in np.argsort(-evidence, kind="stable"):
        if left < 1 or evidence[row] <= left / level:
            break
        found[row] = True
        left -= 1
    return found


# --- the race itself --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What was seen at one look: the living rows and what they lacked to the leader, and those that were dropped."""

    seeds: int
    leader: int
    living: np.ndarray
    behind: np.ndarray
    dropped: np.ndarray


def race(
    scheduler: Scheduler, rows: Sequence[int], most: int, looks: list[Look]
) -> Generator[tuple[np.ndarray, int], np.ndarray, None]:
    """Gives out the rows that need so many seeds, is sent their values, and notes what was seen at each look. A row
    with a number missing has failed, and is out."""
    living, seeds = np.asarray(rows, int), min(scheduler.first, most)
    while True:
        values = yield living, seeds
        whole = ~np.isnan(values).any(1)
        living, values = living[whole], values[whole]
        if len(living) == 0:
            return
        out, mean = scheduler.dropped(values, len(rows)), values.mean(1)
        leader = int(mean.argmax())
        looks.append(Look(seeds, int(living[leader]), living, mean[leader] - mean, out))
        living = living[~out]
        if len(living) == 1 or seeds >= most:
            return
        seeds = min(seeds + scheduler.more(seeds), most)


def played(scheduler: Scheduler, values: np.ndarray) -> tuple[int, int]:
    """The row that wins a race over known values, and how many of them were looked at."""
    looks: list[Look] = []
    running = race(scheduler, range(len(values)), values.shape[1], looks)
    rows, seeds = next(running)
    try:
        while True:
            rows, seeds = running.send(values[rows, :seeds])
    except StopIteration:
        return looks[-1].leader, _used(looks)


def _used(looks: Sequence[Look]) -> int:
    before, used = 0, 0
    for look in looks:
        used += len(look.living) * (look.seeds - before)
        before = look.seeds
    return used


def risk(scheduler: Scheduler, values: np.ndarray, most: int, margin: float, seed: int = 0) -> float:
    """How often a race such as this one names a winner that is more than `margin` behind the best, by simulation: with
    as many points, the noise that was found, and means drawn towards their own mean as far as noise explains them.
    `values` has NaN where a point did not run on a seed; the race went over `most` seeds."""
    means, noise = fitted(values)
    of_mean = noise / (~np.isnan(values)).sum(1)
    spread = max(means.var(ddof=1) - of_mean.mean(), 0.0)
    # empirical Bayes: what stands out after two seeds is partly luck
    trust = spread / (spread + of_mean)
    means = means.mean() + trust * (means - means.mean())
    left = np.sqrt(trust * of_mean)  # what is not known of each mean
    dice, lost = np.random.default_rng(seed), 0
    for _ in range(SIMULATIONS):
        true = means + left * dice.standard_normal(len(means))
        drawn = true[:, None] + np.sqrt(noise)[:, None] * dice.standard_normal((len(means), most))
        lost += true.max() - true[played(scheduler, drawn)[0]] > margin
    return lost / SIMULATIONS


def fitted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each point without what its seeds do to all, and its variance, shrunk as in the race: least squares
    where points ran on different seeds."""
    known = ~np.isnan(values)
    values, known = values[:, known.any(0)], known[:, known.any(0)]  # a seed that none of them ran on tells nothing
    counts = known.sum(1)
    rows, of_seeds = np.zeros(len(values)), np.zeros(values.shape[1])
    for _ in range(FITS):
        rows = np.nanmean(values - of_seeds, 1)
        of_seeds = np.nanmean(values - rows[:, None], 0)
        of_seeds -= of_seeds.mean()
    squares = np.where(known, values - rows[:, None] - of_seeds, 0.0) ** 2
    free = known.sum() - len(values) - values.shape[1] + 1
    common = squares.sum() / max(free, 1)
    own = squares.sum(1) * len(values) / (len(values) - 1)  # times its degrees of freedom
    return rows, (SHRINK * common + own) / (SHRINK + counts - 1) + 1e-18
