from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, t

from synthaug.search.race import (
    RHO,
    SHRINK,
    Halving,
    Look,
    Race,
    Scheduler,
    compared,
    e_values,
    fitted,
    played,
    race,
    risk,
    shrunk,
    step_down,
)

SEEDS, COMMON, OWN = 20, 0.02, 0.012  # what a seed does to all points, and to each by itself
# Cost as a share of all seeds for all points: at most that of the simulation that the rules were chosen by, by case and
# number of points: to find, to claim.
COSTS = {
    ("plateau", 25): (0.39, 0.55), ("close", 25): (0.47, 0.79), ("ramp", 25): (0.29, 0.40),
    ("plateau", 125): (0.29, 0.54), ("close", 125): (0.37, 0.83),
}  # fmt: skip
LOOSE = 0.02  # of a cost, for who simulates again


def means(case: str, points: int, dice: np.random.Generator) -> np.ndarray:
    """True means, the best first: several as good, one ahead of a crowd, even steps, no differences at all."""
    if case == "plateau":
        good = max(1, round(points / 8))
        top = np.append(0.0, -dice.uniform(0, 0.003, good - 1))
        return np.concatenate([top, -0.003 - np.abs(dice.normal(0, 0.03, points - good))])
    if case == "close":
        return np.append(0.0, -0.008 - np.abs(dice.normal(0, 0.01, points - 1)))
    return np.linspace(0, -0.08, points) if case == "ramp" else np.zeros(points)


def runs(case: str, points: int, scheduler: Scheduler, count: int, seed: int = 0) -> np.ndarray:
    """Of each race: the share of all seeds that it took, the regret, and whether the best was dropped."""
    dice, found = np.random.default_rng(seed), []
    for _ in range(count):
        true = means(case, points, dice)
        values = true[:, None] + dice.normal(0, COMMON, (1, SEEDS)) + dice.normal(0, OWN, (points, SEEDS))
        looks: list[Look] = []
        going = race(scheduler, range(points), SEEDS, looks)
        rows, n = next(going)
        while True:
            try:
                rows, n = going.send(values[rows, :n])
            except StopIteration:
                break
        winner, used = played(scheduler, values)
        last = looks[-1]
        assert winner == last.leader
        kept = 0 in last.living[~last.dropped]
        found.append((used / values.size, true[0] - true[winner], not kept))
    return np.array(found)


def test_variances_are_of_residuals_and_shrunk() -> None:
    values = np.random.default_rng(0).normal(size=(4, 5)) * [[1], [2], [3], [0.5]]
    own = []
    for i in range(4):
        residuals = [
            values[i, j] - np.mean(values[i]) - np.mean([values[a, j] for a in range(4)]) + np.mean(values)
            for j in range(5)
        ]
        own.append(sum(r**2 for r in residuals) / 4 * 4 / 3)
    common = sum(own) / 4
    expected = [(SHRINK * common + 4 * o) / (SHRINK + 4) for o in own]
    assert shrunk(values) == pytest.approx(expected)
    # whatever a seed does to all is no noise of any
    assert shrunk(values + np.arange(5) * 7) == pytest.approx(expected)


def test_the_variance_is_right_on_average() -> None:
    dice = np.random.default_rng(1)
    found = [shrunk(dice.normal(0, 3, (6, 3)) + dice.normal(0, 9, (1, 3))).mean() for _ in range(4000)]
    assert np.mean(found) == pytest.approx(9, rel=0.03)


def test_to_find_is_a_t_test() -> None:
    values = np.random.default_rng(2).normal(size=(5, 4)) + np.array([[1.2], [0], [0.4], [1], [-1]])
    leader, behind, variance = compared(values)
    p = [t.sf(d / np.sqrt(v / 4), 4 + SHRINK - 1) for d, v in zip(behind, variance, strict=True)]
    for level in (0.01, 0.2, 0.5):
        expected = [q < level and row != leader for row, q in enumerate(p)]
        assert list(Race(level=level).dropped(values, 5)) == expected
    assert any(Race(level=0.2).dropped(values, 5))


def test_the_e_value_is_a_mixture_of_likelihood_ratios() -> None:
    n, mean, v = 7, 0.8, 1.7

    def ratio(effect: float) -> float:
        # of n differences with this mean, normal with this effect, to normal with none
        return float(np.exp(n * effect * mean / v - n * effect**2 / (2 * v)) * norm.pdf(effect, 0, np.sqrt(RHO * v)))

    found = e_values(np.array([mean, -mean, 0.0, 1e6]), np.full(4, v), n)
    assert found[0] == pytest.approx(quad(ratio, -30, 30)[0], rel=1e-9)
    assert found[1] == found[2] == 0 and np.isfinite(found[3])


def test_evidence_that_grows_by_chance_is_no_claim() -> None:
    """Under no difference the chance that it ever passes 20 is at most 1/20, however often one looks."""
    dice = np.random.default_rng(3)
    sums, passed = np.zeros(20_000), np.zeros(20_000, bool)
    for n in range(1, 200):
        sums += dice.normal(size=20_000)
        passed |= e_values(sums / n, np.ones(20_000), n) > 20
    assert 0.005 < passed.mean() < 0.05 / 2 + 0.004, "one side of the mixture alone counts"


def test_claims_step_down() -> None:
    """Against all others first, then against those that are left."""
    evidence = np.array([0.0, 79.0, 81.0, 61.0, 1.0])
    assert list(step_down(evidence, 0.05)) == [False, True, True, True, False], "81 > 4/.05, 79 > 3/.05, 61 > 2/.05"
    assert not step_down(np.array([0.0, 79.0, 70.0, 61.0, 1.0]), 0.05).any()
    assert list(step_down(np.array([0.0, 21.0]), 0.05)) == [False, True]


def test_margins_and_labels() -> None:
    dice = np.random.default_rng(4)
    values = dice.normal(0, 0.01, (8, 6)) - np.linspace(0, 0.06, 8)[:, None]
    for scheduler in (Race(), Race(to="claim"), Halving()):
        out = scheduler.dropped(values, 8)
        assert out.any() and not out[values.mean(1).argmax()]
        order = dice.permutation(8)
        assert list(scheduler.dropped(values[order], 8)) == list(out[order])
    bold, careful = Race(margin=0.02).dropped(values, 8), Race().dropped(values, 8)
    assert bold.sum() > careful.sum() and not (careful & ~bold).any(), "what is behind by no more is as good"


def test_halves_go_on_with_twice_the_seeds() -> None:
    values = -np.arange(16.0)[:, None] + np.zeros((16, 16))
    looks: list[Look] = []
    going = race(Halving(first=2), range(16), 16, looks)
    asked = [next(going)]
    with pytest.raises(StopIteration):
        while True:
            rows, n = asked[-1]
            asked.append(going.send(values[rows, :n]))
    assert [(len(rows), n) for rows, n in asked] == [(16, 2), (8, 4), (4, 8), (2, 16)]
    assert looks[-1].leader == 0


def test_what_failed_is_out_and_one_seed_decides_nothing() -> None:
    values = np.array([[0.5, 0.5], [np.nan, 0.9], [0.4, 0.4]])
    looks: list[Look] = []
    going = race(Race(first=2), [3, 5, 9], 2, looks)
    assert list(next(going)[0]) == [3, 5, 9]
    with pytest.raises(StopIteration):
        going.send(values)
    assert list(looks[0].living) == [3, 9] and looks[0].leader == 3
    assert not Race().dropped(np.array([[0.9], [0.1]]), 2).any()
    nothing: list[Look] = []
    going = race(Race(), [0], 4, nothing)
    next(going)
    with pytest.raises(StopIteration):
        going.send(np.array([[np.nan, 1.0]]))
    assert nothing == []


def test_equal_points_stay_and_the_same_numbers_do_not_divide_by_nothing() -> None:
    values = np.full((3, 4), 0.25)
    assert not Race().dropped(values, 3).any() and not Race(to="claim").dropped(values, 3).any()
    ahead = values + np.array([[0.1], [0], [0]])
    assert list(Race(to="claim").dropped(ahead, 3)) == [False, True, True]


@pytest.mark.parametrize("case", ["null", "plateau"])
def test_what_a_claim_promises_holds(case: str) -> None:
    """The best is kept with 95 %."""
    dropped = runs(case, 25, Race(to="claim", first=3), 150)[:, 2]
    assert dropped.mean() <= 0.05


def test_the_risk_that_is_told_is_the_risk(monkeypatch: pytest.MonkeyPatch) -> None:
    """On average over searches, how often the winner is more than half a point behind."""
    monkeypatch.setattr("synthaug.search.race.SIMULATIONS", 100)
    dice, told, true = np.random.default_rng(5), [], []
    for _ in range(40):
        means_ = np.append(0.0, -np.abs(dice.normal(0, 0.012, 11)))
        values = means_[:, None] + dice.normal(0, COMMON, (1, 6)) + dice.normal(0, OWN, (12, 6))
        winner, _ = played(Race(), values)
        true.append(means_.max() - means_[winner] > 0.005)
        told.append(risk(Race(), values, 6, 0.005))
    assert all(0 <= one <= 1 for one in told)
    assert abs(np.mean(told) - np.mean(true)) < 0.15, (np.mean(told), np.mean(true))


def test_what_a_seed_does_to_all_is_no_risk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points that were dropped have the first seeds alone; if those are easy ones, nothing is to be learned of it."""
    monkeypatch.setattr("synthaug.search.race.SIMULATIONS", 50)
    dice = np.random.default_rng(1)
    values = -np.abs(dice.normal(0, 0.01, (12, 1))) + dice.normal(0, OWN, (12, 8))
    values[4:, 2:] = np.nan
    means, noise = fitted(values)
    for shift in (-0.08, 0.05):
        moved = values + np.where(np.arange(8) < 2, shift, 0)
        again, same = fitted(moved)
        assert again - again.mean() == pytest.approx(means - means.mean(), abs=1e-5)
        assert same == pytest.approx(noise, rel=1e-3)
        assert risk(Race(), moved, 8, 0.005) == pytest.approx(risk(Race(), values, 8, 0.005), abs=0.021)
    lost = np.column_stack([values, np.full(12, np.nan)])  # the one point that ran there has failed
    assert fitted(lost)[0] == pytest.approx(means) and risk(Race(), lost, 9, 0.005) >= 0
    whole = np.random.default_rng(2).normal(0, 0.01, (9, 5))
    rows, variance = fitted(whole)
    assert rows - rows.mean() == pytest.approx(whole.mean(1) - whole.mean())
    assert variance == pytest.approx(shrunk(whole), rel=0.02), "as in the race, where all have all seeds"


@pytest.mark.nightly
@pytest.mark.parametrize(("case", "points"), COSTS)
@pytest.mark.parametrize("to", ["find", "claim"])
def test_races_cost_no_more_than_was_simulated_before(case: str, points: int, to: str) -> None:
    found = runs(case, points, Race(to=to, first=3 if points == 25 else 2), 2000)  # type: ignore[arg-type]
    cost, _, dropped = found.mean(0)
    assert cost <= COSTS[case, points][to == "claim"] + LOOSE, cost
    if to == "claim":
        assert dropped <= 0.05


@pytest.mark.nightly
@pytest.mark.parametrize("points", [25, 125])
def test_no_differences_are_not_claimed(points: int) -> None:
    assert runs("null", points, Race(to="claim", first=2), 2000)[:, 2].mean() <= 0.05


def test_a_scheduler_says_what_it_promises() -> None:
    assert "95 %" in Race(to="claim").promise() and "by less than 0.01" in Race(to="claim", margin=0.01).promise()
    assert "no single one" in Race().promise() and "half" in Halving().promise()
