"""A search: run, stopped, run again, with what fails, in this process and with Ray."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import preloaded
import synthaug
from shapes import Deadly, Noise, tiny
from synthaug.classify.augment import RandomCrop
from synthaug.cli import main
from synthaug.experiment import Sweep
from synthaug.pages.plan import plan
from synthaug.pages.report import write_report
from synthaug.pages.summary import told
from synthaug.runtime.search import _excess, rounds_of
from synthaug.runtime.store import Store
from synthaug.runtime.tracking import SKEW_S, Tracker
from synthaug.search.course import Course
from synthaug.search.race import Race
from synthaug.search.searchers import Optuna
from synthaug.settings import UserError, to_json

ARMS: dict[str, dict[str, Any]] = {"plain": {}, "noise": {"method": Noise()}}
SPACE: dict[str, Any] = {"method.amount": [10, 120], "k": [1, 2], "recipe.optimizer.lr": [0.001]}


def search(**fields: Any) -> Sweep:
    fields = {"arms": ARMS, "baseline": "plain", "space": SPACE, "seeds": 3, "final": (7, 8)} | fields
    return Sweep(base=tiny(), scheduler=Race(), **fields)


CHILD = """
import sys
import synthaug
from synthaug.experiment import load
from pathlib import Path

import shapes
synthaug.run(load(Path(sys.argv[1]).read_text()), home=sys.argv[2], name="s", workers=0)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    home = tmp_path_factory.mktemp("search")
    return home, synthaug.run(search(), home=home, name="s", workers=0)


def found(answer: dict[str, Any]) -> Any:
    """What does not hang on how long things took."""
    points = [{n: v for n, v in p.items() if n != "run_id"} for p in answer["points"]]
    trials = {(t["point"], t["seed"]): t["metrics"]["test/top1"] for t in answer["trials"]}
    return {n: v for n, v in answer["search"].items() if n not in ("device_s", "wall_s")}, points, trials


def runs(home: Path) -> int:
    with sqlite3.connect(home / "mlflow.db") as database:
        return int(database.execute("select count(*) from runs").fetchone()[0])


def test_a_search_says_what_it_found(alone: tuple[Path, dict[str, Any]]) -> None:
    home, answer = alone
    said = answer["search"]
    assert json.loads(json.dumps(answer)) == answer
    assert [point["arm"] for point in answer["points"]] == ["plain"] + ["noise"] * 4
    assert answer["points"][0]["fields"] == {"recipe.optimizer.lr": 0.001}, (
        "without a method there is no amount and no k"
    )
    with sqlite3.connect(home / "mlflow.db") as database:
        names = [name for (name,) in database.execute("select name from runs")]
    assert len(set(names)) == len(names), "no two of a sweep's runs are called alike"
    assert said["winner"] in said["living"] and set(said["compared"]) >= {0, said["winner"]}
    for row, point in enumerate(said["points"]):
        assert len(point["final"]) == (2 if row in said["compared"] else 0)
        assert list(point["values"]) == ["0", "1", "2"][: len(point["values"])] and len(point["values"]) >= 2
    values = {(t["point"], t["seed"]): t["metrics"]["val/top1"] for t in answer["trials"]}
    assert all(values[row, int(s)] == v for row, p in enumerate(said["points"]) for s, v in p["values"].items())
    assert said["trainings"] == len(answer["trials"]) == len(values)
    # sweep, points, seeds
    assert runs(home) == 1 + 5 + len(values)


def test_again_makes_nothing_and_finds_the_same(
    alone: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthaug.runtime.sweeps.make", lambda *arguments: pytest.fail("something was made again"))
    assert found(synthaug.run(search(), home=alone[0], name="s", workers=0)) == found(alone[1])


def test_more_seeds_and_points_find_what_is_there(alone: tuple[Path, dict[str, Any]]) -> None:
    """Another search shares what it can: a point more trains that point."""
    before = {stage["key"] for name, stage in alone[1]["stages"].items() if name.startswith("train/")}
    more = search(space=SPACE | {"k": [1, 2, 3]}, seeds=2, final=())
    made = synthaug.run(more, home=alone[0], name="s", workers=0)["stages"]
    new = {stage["key"] for name, stage in made.items() if name.startswith("train/") and not stage["cached"]}
    assert len(new) == 2 * 2 and not new & before, "two amounts, two seeds"


def test_killed_at_five_moments_it_finds_the_same(alone: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    home, asked = tmp_path / "home", tmp_path / "search.json"
    asked.write_text(json.dumps(to_json(search())))

    def there(pattern: str, count: int) -> Callable[[], bool]:
        return lambda: len(list((home / "store").glob(pattern))) >= count

    def logged() -> bool:
        try:
            return runs(home) >= 6
        except sqlite3.Error:
            return False

    moments = {
        "a point just asked": there("begun/*.json", 1),
        "generation": there("generate/*/part-*.json", 3),
        "training": there("train/*/manifest.json", 3),
        "evaluation": there("evaluate/*/manifest.json", 7),
        "logging": logged,
    }
    for moment, reached in moments.items():
        child = preloaded.start(CHILD, asked, home)
        while not reached() and child.poll() is None:
            time.sleep(0.005)
        child.kill()
        child.wait()
        assert len(list((home / "store" / "record").glob("*.json"))) == 0, f"nothing was left to do after {moment}"
    assert found(synthaug.run(search(), home=home, name="s", workers=0)) == found(alone[1])
    assert runs(home) == runs_of(alone[1])


def runs_of(answer: dict[str, Any]) -> int:
    return 1 + len(answer["points"]) + len(answer["trials"])


def test_wall_time_is_counted_over_all_calls(tmp_path: Path) -> None:
    short = search(budget={"wall_s": 0.01}, seeds=4)
    one = synthaug.run(short, home=tmp_path, workers=0)
    assert max(len(point["values"]) for point in one["search"]["points"]) == 2, "the first round was the last"
    assert one["search"]["wall_s"] >= 0.01
    two = synthaug.run(short, home=tmp_path, workers=0)
    assert found(two) == found(one) and two["search"]["wall_s"] == one["search"]["wall_s"]


def test_what_wall_time_decided_stays_decided(tmp_path: Path) -> None:
    """Whatever was in the store before, and what fails each time anew."""
    arms = ARMS | {"bad": {"recipe.transforms": (RandomCrop(padding=2, size=99),)}}
    synthaug.run(search(arms=arms, budget={"trainings": 1}), home=tmp_path, workers=0)
    short = search(arms=arms, budget={"wall_s": 1e-3}, seeds=4)
    one = synthaug.run(short, home=tmp_path, workers=0)
    for _ in range(2):
        assert found(synthaug.run(short, home=tmp_path, workers=0)) == found(one)


def test_more_variants_of_the_same_images_are_paid_for(tmp_path: Path) -> None:
    sweep = search(space={"k": [1, 4]}, seeds=2, final=())
    answer = synthaug.run(sweep, home=tmp_path, workers=0)
    stages = {stage["key"]: stage["path"] for stage in answer["stages"].values()}
    spent = sum(
        sum(json.loads(p.read_text())["seconds"] for p in Path(path).glob("*.json") if p.stem != "manifest")
        or json.loads((Path(path) / "manifest.json").read_text()).get("seconds", 0.0)
        for path in stages.values()
    )
    assert answer["search"]["device_s"] == pytest.approx(spent, rel=0.02)


def test_limits_of_nothing_and_what_is_no_number() -> None:
    assert _excess(0.0, 0.0) == 0 and _excess(50.0, 0.0) == 50 and _excess(float("nan"), 5.0) == float("inf")
    assert _excess(6.0, 4.0) == 0.5 and _excess(3.0, 4.0) == 0


def test_objectives_are_weighed_where_nothing_is_raced(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a searcher that learns weighs them, and no race"):
        search(objectives=("cost/denoiser_calls",))
    fields = {"space": {"method.amount": [10, 120], "k": [1, 2]}, "searcher": Optuna(samples=6, batch=3), "seeds": 2}
    sweep = Sweep(base=tiny(method=Noise()), objectives=("gen/images",), final=(), **fields)
    answer = synthaug.run(sweep, home=tmp_path, workers=0)
    rows, means = answer["search"]["points"], {}
    for row in range(len(rows)):
        mine = [t["metrics"] for t in answer["trials"] if t["point"] == row]
        means[row] = sum(m["val/top1"] for m in mine) / 2, -sum(m["gen/images"] for m in mine) / 2
    beaten = {r for r, a in means.items() for b in means.values() if a != b and b[0] >= a[0] and b[1] >= a[1]}
    assert set(answer["search"]["front"]) == means.keys() - beaten
    assert "that none beats in all of val/top1, gen/images" in write_report(Store(tmp_path), {"s": sweep}).read_text()


def test_with_ray_it_finds_the_same(alone: tuple[Path, dict[str, Any]], cluster: None, tmp_path: Path) -> None:
    answer = synthaug.run(search(), home=tmp_path, name="s")
    assert found(answer) == found(alone[1])


def test_what_fails_is_told_and_the_search_goes_on(
    tmp_path: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training whose settings do not fit, and one that ends its process."""
    arms = ARMS | {
        "broken": {"recipe.transforms": (RandomCrop(size=500),)},
        "deadly": {"recipe.transforms": (Deadly(),)},
    }
    sweep = search(arms=arms, space={"method.amount": [10]}, seeds=2, final=(7,))
    answer = synthaug.run(sweep, home=tmp_path, name="s")
    errors = {p["arm"]: q["error"] for p, q in zip(answer["points"], answer["search"]["points"], strict=True)}
    assert errors["plain"] == errors["noise"] == "" and "500" in errors["broken"] and errors["deadly"]
    assert answer["search"]["winner"] in (0, 1)
    assert "4 of 10 trials failed" in capsys.readouterr().err
    shown = "\n".join(told(rounds_of(Store(tmp_path), sweep), answer["trials"]))
    assert "failed: " in shown and "500" in shown
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        ended = dict(database.execute("select status, count(*) from runs group by status"))
    assert ended == {"FAILED": 4 + 2, "FINISHED": sum(ended.values()) - 6}, (
        "trials and their points; none runs for ever"
    )
    # who looks again sees the same, and tries nothing
    assert rounds_of(Store(tmp_path), sweep).course.winner == answer["search"]["winner"]  # type: ignore[union-attr]


def test_what_is_shown_before_and_after(alone: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    before = plan(search(), tmp_path)
    assert before["trials"] == 10 and before["missing"]["images"] > 0, "the first round"
    assert "method.amount: each value costs images" in before["notes"]
    assert "k, recipe.optimizer.lr: no new images for another value, but of more variants" in before["notes"]
    assert "a search: shown are 0 trainings that it had and its next round" in before["notes"]
    after = plan(search(), alone[0])
    assert after["missing"]["images"] == 0 and all(stage["cached"] for stage in after["stages"].values())
    page = write_report(Store(alone[0]), {"s": search()}).read_text()
    assert "Best of 5 points by val/top1" in page and "no decision has seen" in page
    shown = re.findall(r"<figcaption>([^<]*), seed \d+: a real image", page)
    assert len(shown) == 2 and sorted(text.count("noise") for text in shown) == [2, 2], "one of each amount, for both k"
    best = alone[1]["points"][alone[1]["search"]["winner"]]
    if best["arm"] == "noise":
        assert f"method.amount={best['fields']['method.amount']} k={best['fields']['k']}" in shown[0].partition(",")[0]
    text = "\n".join(told(rounds_of(Store(alone[0]), search()), alone[1]["trials"]))
    assert "winner" in text and "Best of 5 points" in text


@pytest.mark.parametrize("row", [1, 2, 3, 4])
def test_the_winners_images_are_shown_first(
    row: int, alone: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the four it is, and all variants that any of its images' users has."""
    monkeypatch.setattr(Course, "winner", property(lambda course: row))
    page = write_report(Store(alone[0]), {"s": search()}, alone[0] / "page.html").read_text()
    first = re.findall(r"<figcaption>([^<]*), seed \d+: a real image", page)[0]
    fields = alone[1]["points"][row]["fields"]
    assert first.startswith(f"noise method.amount={fields['method.amount']} k={fields['k']}")


def test_only_what_was_begun_meanwhile_is_asked_for(alone: tuple[Path, dict[str, Any]]) -> None:
    """With five thousand runs the whole question takes ten seconds, and a search has many rounds."""
    home, answer = alone
    tracker = Tracker(home, "s")
    every = tracker.below(answer["run_id"])
    assert len(every) == 5 + len(answer["trials"])
    assert tracker.below(answer["run_id"], since=time.time() - 60).keys() == every.keys(), "clocks may differ"
    assert tracker.below(answer["run_id"], since=time.time() + 2 * SKEW_S) == {}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"final": (2, 7)}, "seed 2 decides"),
        ({"seeds": (0, 0)}, "each counts once"),
        ({"space": {"method.amuont": [1]}}, "did you mean amount"),
        ({"space": {"utilize.p": [0.1, 0.9]}}, "utilize.p"),
        ({"metric": "val/top2"}, "'val/top2' is not measured; did you mean val/top1"),
        ({"at_most": {"cost/devices": 3}}, "'cost/devices' is not measured; did you mean cost/device_s"),
    ],
)
def test_nonsense_is_refused_in_one_line(fields: dict[str, Any], said: str, alone: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=said):
        synthaug.run(search(**fields), home=alone[0], name="s", workers=0)


def test_optuna_within_limits_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limited = search(searcher=Optuna(samples=3, batch=2), at_most={"gen/images": 25.0}, seeds=2, final=(9,))
    (asked := tmp_path / "s.json").write_text(json.dumps(to_json(limited)))
    assert main(["run", str(asked), "--home", str(tmp_path / "home"), "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "Best of" in out and "over the limit" in out, "two variants of 20 images are 40"
