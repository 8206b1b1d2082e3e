"""The table of a sweep: who is compared with whom, at which point, and how surely."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment, Recipe, Sweep, read
from synthaug.methods.real_guidance import RealGuidance
from synthaug.pages import table
from synthaug.runtime.records import record_key
from synthaug.settings import UserError, seed_of, to_json

BASE = Experiment(dataset=Dataset("digits"), recipe=Recipe(steps=1))
ARMS: dict[str, dict[str, Any]] = {name: {} for name in ("plain", "twin", "better", "worse")}


def trials(sweep: Sweep, accuracy: Any) -> list[dict[str, Any]]:
    """Rows as a run answers with, whose accuracy is a function of arm, seed and fields."""
    return [
        {"arm": t.arm, "seed": t.seed, "fields": t.fields, "metrics": {"test/top1": accuracy(t.arm, t.seed, t.fields)}}
        for t in sweep.trials()
    ]


def noise(*parts: Any) -> float:
    return float(np.random.default_rng(seed_of(*parts) % 2**32).normal(0, 0.01))


def test_arms_are_compared_where_they_stand() -> None:
    """With arms and a space each point has a baseline of its own: an arm that is 5 points better is, everywhere."""
    shots = (1, 5, 10)
    sweep = Sweep(
        base=BASE, arms={"plain": {}, "better": {}}, baseline="plain", space={"dataset.shots": shots}, seeds=4
    )
    level = dict(zip(shots, (0.3, 0.6, 0.9), strict=True))

    def accuracy(arm: str, seed: int, fields: dict[str, Any]) -> float:
        return level[fields["dataset.shots"]] + 0.01 * seed + (0.05 + 1e-4 * seed if arm == "better" else 0)

    found = {line.name: line for line in table.lines(trials(sweep, accuracy), sweep)}
    assert len(found) == 6
    for count in shots:
        assert found[f"plain dataset.shots={count}"].difference is None
        line = found[f"better dataset.shots={count}"]
        assert line.difference is not None and line.difference[0] == pytest.approx(0.05015)
        assert line.p is not None and line.p < 0.001
        assert table.cells(line)[3] == "+5.0"


def test_p_and_interval_are_those_of_the_library_corrected_for_all_arms() -> None:
    sweep = Sweep(base=BASE, arms=ARMS, baseline="plain", seeds=6)
    values = {
        (arm, seed): 0.5 + 0.01 * list(ARMS).index(arm) + noise(arm, seed) for arm, seed in product(ARMS, range(6))
    }
    found = {line.name: line for line in table.lines(trials(sweep, lambda a, s, _: values[a, s]), sweep)}
    ours = {a: [values[a, s] for s in range(6)] for a in ARMS}
    raw = {a: stats.ttest_rel(ours[a], ours["plain"]) for a in ("twin", "better", "worse")}
    order = sorted(raw, key=lambda a: raw[a].pvalue)
    running = 0.0
    for rank, arm in enumerate(order):
        running = max(running, min(1.0, (3 - rank) * raw[arm].pvalue))
        line = found[arm]
        assert line.p == pytest.approx(running) and line.difference is not None
        interval = raw[arm].confidence_interval(1 - 0.05 / 3)  # Bonferroni
        assert line.difference[1:] == pytest.approx((interval.low, interval.high))


def test_a_gain_is_one_over_every_control() -> None:
    sweep = Sweep(base=BASE, arms=ARMS, baseline="plain", controls=("twin",), seeds=6)
    gain = {"plain": 0.0, "twin": 0.04, "better": 0.05, "worse": 0.02}
    values = {(arm, seed): 0.5 + gain[arm] + noise(arm, seed) / 4 for arm, seed in product(ARMS, range(6))}
    found = {line.name: line for line in table.lines(trials(sweep, lambda a, s, _: values[a, s]), sweep)}
    ours = {a: [values[a, s] for s in range(6)] for a in ARMS}
    # the control itself is compared with plain alone
    p_twin = float(stats.ttest_rel(ours["twin"], ours["plain"]).pvalue)
    # of two tests the less clear one
    p_better = max(float(stats.ttest_rel(ours["better"], ours[a]).pvalue) for a in ("plain", "twin"))
    corrected = table.holm([p_twin, p_better, 1.0])
    assert [found[a].p for a in ("twin", "better", "worse")] == pytest.approx(corrected)
    # more than plain and less than what costs the same: no gain at all, however small both p are
    assert float(stats.ttest_rel(ours["worse"], ours["twin"]).pvalue) < 0.05
    assert found["worse"].p == 1.0 and found["worse"].hardest == "twin"
    assert found["worse"].difference is not None and found["worse"].difference[0] > 0
    assert "1.000 (twin)" in table.text(list(found.values()))
    # a loss to plain is one, whatever the controls did
    behind = {key: value - 0.1 * (key[0] == "worse") - 0.2 * (key[0] == "twin") for key, value in values.items()}
    (line,) = (li for li in table.lines(trials(sweep, lambda a, s, _: behind[a, s]), sweep) if li.name == "worse")
    assert line.p is not None and line.p < 0.001 and line.hardest == "plain"
    note = table.note(list(found.values()), sweep)
    assert "p of a gain is of one over all" in note and note.endswith("plain (1 arm); plain, twin (2 arms)")


def test_an_arm_may_have_a_baseline_of_its_own() -> None:
    sweep = Sweep(base=BASE, arms=ARMS, baseline="plain", against={"better": ("twin",), "twin": ()}, seeds=3)
    values = {"plain": 0.1, "twin": 0.5, "better": 0.7, "worse": 0.05}
    found = {line.name: line for line in table.lines(trials(sweep, lambda a, s, _: values[a] + 0.01 * s), sweep)}
    difference = {name: line.difference and round(line.difference[0], 6) for name, line in found.items()}
    assert difference == {"plain": None, "twin": None, "better": 0.2, "worse": -0.05}


def test_what_has_no_pair_is_not_compared() -> None:
    sweep = Sweep(base=BASE, arms=ARMS, baseline="plain", seeds=3)
    rows = trials(sweep, lambda arm, seed, _: 0.1 * seed + noise(arm, seed))
    partial = [row for row in rows if row["arm"] != "plain" or row["seed"] == 2]
    partial = [row for row in partial if row["arm"] != "worse" or row["seed"] != 2]
    found = {line.name: line for line in table.lines(partial, sweep)}
    assert found["worse"].difference is None and found["worse"].p is None
    assert found["better"].difference is not None and found["better"].p is None  # one pair has no p
    assert "one seed" in table.text(list(found.values()))
    assert all(line.difference is None for line in table.lines(rows, None))


@pytest.mark.parametrize("there", [0, 1])
def test_nothing_is_claimed_before_every_comparison_is_there(there: int) -> None:
    """In the midst of a run a control, or the baseline, may have no pair yet, or one."""
    sweep = Sweep(base=BASE, arms=ARMS, baseline="plain", controls=("twin",), seeds=4)
    rows = trials(sweep, lambda arm, seed, _: 0.1 * (arm == "better") + noise(arm, seed))
    for late, difference in (("twin", True), ("plain", there > 0)):
        partial = [row for row in rows if row["arm"] != late or row["seed"] < there]
        line = next(line for line in table.lines(partial, sweep) if line.name == "better")
        assert line.p is None and (line.difference is not None) == difference
        assert "<0.001" not in table.text([line])


def test_points_are_told_apart_by_what_differs() -> None:
    """Two settings of one class are two points, and a point that was drawn twice is one."""
    methods = (RealGuidance(strength=0.3), RealGuidance(strength=0.9))
    sweep = Sweep(
        base=BASE, arms={"a": {}, "b": {}}, baseline="a", seeds=3,
        space={"method": methods, "backbone": ["nano:sd"]},  # type: ignore[dict-item]
    )  # fmt: skip
    gain = {0.3: 0.05, 0.9: -0.2}
    rows = trials(
        sweep, lambda a, s, f: 0.5 + 0.01 * s * (a == "b") + (gain[f["method"]["strength"]] if a == "b" else 0)
    )
    found = {line.name: line for line in table.lines([*rows, *rows], sweep)}
    assert list(found) == [f"{arm} method.strength={s}" for arm in "ab" for s in (0.3, 0.9)]
    assert [round(found[f"b method.strength={s}"].difference[0], 3) for s in gain] == [0.06, -0.19]  # type: ignore[index]
    assert all(len(line.values) == 3 for line in found.values())


def test_unknown_arms_are_refused() -> None:
    with pytest.raises(UserError, match="controls: no arm is called 'twins'; did you mean twin"):
        Sweep(base=BASE, arms=ARMS, baseline="plain", controls=("twins",))
    with pytest.raises(UserError, match="against: no arm is called 'planes'"):
        Sweep(base=BASE, arms=ARMS, baseline="plain", against={"better": ("planes",)})
    with pytest.raises(UserError, match="controls: they stand beside a baseline"):
        Sweep(base=BASE, arms=ARMS, controls=("twin",))


def test_what_is_compared_is_part_of_what_was_run() -> None:
    """A record says what its report compares: another comparison is another record."""
    kinds: list[dict[str, Any]] = [{}, {"controls": ("twin",)}, {"against": {"better": ("twin",)}}]
    sweeps = [Sweep(base=BASE, arms=ARMS, baseline="plain", **more) for more in kinds]
    assert len({record_key(sweep) for sweep in sweeps}) == 3
    assert [read(to_json(sweep)) for sweep in sweeps] == sweeps


def without_classifier(sweep: Sweep, distance: Any) -> list[dict[str, Any]]:
    found = trials(sweep, distance)
    for trial in found:
        made = {"fidelity/fid": trial["metrics"].pop("test/top1"), "judge/val/top1": 0.9, "memorised/share": 0.1}
        trial["metrics"] = {"cost/device_s": 1.0} | made
    return found


def test_where_nothing_was_classified_less_distance_is_a_gain() -> None:
    """The larger of two p counts for a gain over both controls, and is 1 where one of them is nearer."""
    sweep = Sweep(base=BASE, arms=ARMS, baseline="plain", controls=("twin",), seeds=4)
    far = {"plain": 12.0, "twin": 11.0, "better": 9.0, "worse": 11.5}
    rows = without_classifier(sweep, lambda arm, seed, _: far[arm] + 0.1 * seed + noise(arm, seed))
    found = {line.name: line for line in table.lines(rows, sweep)}
    assert {line.metric for line in found.values()} == {"fidelity/fid"}, "and not what the judge of the images knows"
    assert table.header(list(found.values()))[1] == "fidelity/fid" and "fidelity/fid" in table.text([found["better"]])
    better, worse = found["better"], found["worse"]
    assert better.difference is not None and better.difference[0] == pytest.approx(-3, abs=0.05)
    assert better.p is not None and better.p < 0.001 and better.hardest == "twin"
    # nearer than plain and further than the control that costs the same: no gain
    assert worse.difference is not None and worse.difference[0] < 0 and worse.p == 1 and worse.hardest == "twin"
    assert table.cells(better)[1] == f"{better.mean:.3g}" and table.cells(better)[3] == f"{better.difference[0]:+.3g}"
    behind = {"plain": 9.0, "twin": 9.5, "better": 12.0, "worse": 9.0}
    rows = without_classifier(sweep, lambda arm, seed, _: behind[arm] + noise(arm, seed))
    line = next(line for line in table.lines(rows, sweep) if line.name == "better")
    assert line.p is not None and line.p < 0.001 and line.hardest == "plain", "a loss is one to the baseline"


def test_a_sweep_may_name_what_it_compares() -> None:
    sweep = Sweep(base=BASE, arms=ARMS, baseline="plain", metric="memorised/share", seeds=2)
    rows = without_classifier(sweep, lambda *_: 1.0)
    assert {line.metric for line in table.lines(rows, sweep)} == {"memorised/share"}
    assert read(to_json(sweep)) == sweep
    wrong = Sweep(base=BASE, arms=ARMS, metric="memorized/share", seeds=2)
    with pytest.raises(UserError, match="'memorized/share' was not measured in all trials; did you mean"):
        table.lines(rows, wrong)


def test_test_images_come_before_those_that_chose_the_model() -> None:
    """A part of the test images is compared, and named, and not validation accuracy in its place."""
    sweep = Sweep(base=BASE, arms=ARMS, baseline="plain", seeds=2)
    rows = trials(sweep, lambda *_: 0.5)
    for row in rows:
        row["metrics"] = {"val/top1": 0.9, "test:100/top1": 0.5}
    found = table.lines(rows, sweep)
    assert {line.metric for line in found} == {"test:100/top1"} and {line.mean for line in found} == {0.5}
    assert "accuracy % (test:100/top1)" in table.text(found)
    assert "accuracy % (" not in table.text(table.lines(trials(sweep, lambda *_: 0.5), sweep))


@pytest.mark.parametrize(("metric", "less"), [
    ("fidelity/fid", True), ("fidelity/train/fid", True), ("fidelity/subset/kid", True), ("denoising/gap", True),
    ("answers/rotation", True), ("memorised/share", True), ("test/top1", False), ("fidelity/recall", False),
    ("memorised/distance_ratio", False), ("recognised/p", False), ("test/ece", True),
])  # fmt: skip
def test_which_numbers_are_better_where_they_are_lower(metric: str, less: bool) -> None:
    """An arm that is 3 below plain and 6 above a control has gained nothing, whichever way the metric goes."""
    sweep = Sweep(base=BASE, arms=ARMS, baseline="plain", controls=("twin",), metric=metric, seeds=4)
    down = 1 if less else -1
    level = {"plain": 15 * down, "twin": 6 * down, "better": 12 * down, "worse": 16 * down}
    rows = trials(sweep, lambda arm, seed, _: level[arm] + noise(arm, seed))
    for row in rows:
        row["metrics"] = {metric: row["metrics"]["test/top1"]}
    found = {line.name: line for line in table.lines(rows, sweep)}
    assert found["better"].p == 1 and found["better"].hardest == "twin"
    worse = found["worse"]
    assert worse.p is not None and worse.p < 0.01 and worse.hardest == "plain"
