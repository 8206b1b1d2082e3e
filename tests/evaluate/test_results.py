"""What a measurement returns is looked at before it is stored, and again when it is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import synthaug
from making import place_of
from shapes import Noise, tiny
from synthaug.evaluate import figures
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.base import DenoiserEvaluation, Evaluation, ImageEvaluation, MappedEvaluation, Result, Subject
from synthaug.evaluate.fidelity import Fidelity
from synthaug.evaluate.results import check_result, check_rows
from synthaug.runtime.store import Store
from synthaug.settings import UserError, settings

PNG = figures.png(np.zeros((4, 4, 3), np.uint8))
CURVE = {"x": [0, 1], "y": [0.5, 0.25], "label": ["x", "y"]}
ROW = np.array([1.0, 2.0])


class Returned:
    """What the measurements below return: their settings stay, and with them their keys."""

    now: Any = None


@settings
class Mine(Evaluation):
    def __call__(self, subject: Subject) -> Result:
        return Returned.now


@settings
class Pictured(ImageEvaluation):
    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def measure(self, *asked: Any, **more: Any) -> Result:
        return Returned.now


@settings
class OfTheNet(DenoiserEvaluation):
    @property
    def needs(self) -> tuple[str, ...]:
        return ("test",)

    def chosen(self, split: str, count: int) -> Sequence[int]:
        return [0]

    def calls(self, images: int) -> int:
        return 0

    def measure(self, *asked: Any) -> Result:
        return Returned.now


@settings
class Rowwise(MappedEvaluation):
    def rows(self, subject: Subject, numbers: Any) -> Any:
        return [{"number": np.int64(number)} for number in numbers]

    def result(self, rows: Any) -> Result:
        return Returned.now


@settings
class Extended(Fidelity):
    """The package's own with another number."""


def test_numbers_of_numpy_and_torch_become_plain() -> None:
    found = {
        "metrics": {"test/a": np.float32(0.5), "test/b": torch.tensor(0.25, requires_grad=True), "test/c": np.array(3), "test/d": 4},
        "per_class": {"0": np.float64(0.5), "1": None}, "confusion": [[np.int64(3), 1], [0, 2.0]],
        "curves": {"one (1 %)": {"x": (0, 1), "y": {"a": [np.float32(1), 2]}, "label": ("x", "y")}}, "pictures": {"of it": PNG},
        "pairs": [{"made": np.int64(1)}], "about": {"size": np.int32(8), "of": (1, 2), "none": None},
    }  # fmt: skip
    plain = check_result(Mine(), found, own=True)
    assert json.loads(json.dumps(plain)) == plain == {
        "metrics": {"test/a": 0.5, "test/b": 0.25, "test/c": 3, "test/d": 4},
        "per_class": {"0": 0.5, "1": None}, "confusion": [[3, 1], [0, 2]],
        "curves": {"one (1 %)": {"x": [0, 1], "y": {"a": [1, 2]}, "label": ["x", "y"]}}, "pictures": {"of it": PNG},
        "pairs": [{"made": 1}], "about": {"size": 8, "of": [1, 2], "none": None},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, 'None, not a dict with "metrics"'), (0.93, "float 0.93, not a dict"), ({"test/x": 1.0}, "not a dict with"),
        ([("metrics", {})], "list .*, not a dict"), ({"metrics": {}, "curve": {}}, "'curve'; did you mean curves.* is no part of a result"),
        *(({"metrics": {"test/x": value}}, f"{kind} .*as the metric 'test/x', not a finite number") for value, kind in (
            (float("nan"), "float nan"), (np.float32("inf"), "float32"), ("0.9", "str '0.9'"), (None, "None"), ([0.9], "list"),
            (ROW, "ndarray"), ({0.9}, "set"), (True, "bool"), (np.bool_(True), "bool"), (1j, "complex"), (10**400, "int"),
        )),
        ({"metrics": [0.9]}, "as its metrics, not a dict"),
        *(({"metrics": {name: 1.0}}, "as the name of a metric, not letters") for name in (
            "", "/x", "x/", "a//b", "a/../b", "..", ".", "a,b", "50%", "x\n", "x" * 251, 3, None,
        )),
        ({"metrics": {}, "per_class": [0.5]}, "as per_class"), ({"metrics": {}, "per_class": {"a": "b"}}, "as class 'a' of per_class"),
        ({"metrics": {}, "confusion": [[1, 2]]}, "as confusion"), ({"metrics": {}, "confusion": []}, "as confusion"),
        ({"metrics": {}, "confusion": np.eye(2)}, "as confusion.*tolist"), ({"metrics": {}, "confusion": [[1, -1], [0, 1]]}, "a count of confusion"),
        ({"metrics": {}, "confusion": [[1, 0.5], [0, 1]]}, "a count of confusion"), ({"metrics": {}, "confusion": [["1"]]}, "a count of confusion"),
        ({"metrics": {}, "curves": [1, 2]}, "as curves"), ({"metrics": {}, "curves": {"c": [1, 2]}}, "'c' of curves, not a dict of x, y and label"),
        ({"metrics": {}, "curves": {"c": CURVE | {"y": [1]}}}, "1 numbers as y of 'c' of curves, and 2 as its x"),
        ({"metrics": {}, "curves": {"c": CURVE | {"y": ROW}}}, "as y of 'c' of curves, not a list of numbers.*tolist"),
        ({"metrics": {}, "curves": {"c": CURVE | {"y": {"a": [1, float("nan")]}}}}, "as a number in y of 'c'"),
        ({"metrics": {}, "curves": {"c": CURVE | {"label": ["x"]}}}, "as the label of 'c' of curves"),
        ({"metrics": {}, "curves": {"../c": CURVE}}, "names of files"), ({"metrics": {}, "pictures": {"x" * 300: PNG}}, "names of files"),
        *(({"metrics": {}, "pictures": {"p": value}}, "as 'p' of pictures, not a PNG in base64") for value in (
            "no", PNG[: len(PNG) // 2 // 4 * 4], ROW, None, "QUJD", b"\x89PNG",
        )),
        ({"metrics": {}, "pairs": {"a": 1}}, "as pairs"), ({"metrics": {}, "pairs": [{"a": "b"}]}, "as 'a' of a pair"),
        ({"metrics": {}, "about": "me"}, "as about"), ({"metrics": {}, "about": {"x": ROW}}, "in about, which JSON does not know"),
        ({"metrics": {}, "about": {"x": float("nan")}}, "no JSON in about"), ({"metrics": {}, "about": {(1, 2): 1}}, "no JSON in about"),
    ],
)  # fmt: skip
def test_what_is_no_result_is_refused_in_one_line(found: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"^Mine returned .*{said}") as error:
        check_result(Mine(), found, own=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_names_that_the_package_writes_are_its_own() -> None:
    for metric in ("test/top1", "test/top5", "test/loss", "test/ece", "val/top1", "val/loss", "train/set", "lr", "seeds",
                   "cost/x", "gen/x", "train/x", "time/x", "slow/x", "final/x", "judge/val/top1", "fidelity/fid", "leak/mine"):  # fmt: skip
        with pytest.raises(
            UserError, match=f"^Mine returned the metric '{metric}'.*call it otherwise, such as 'test/mine/"
        ):
            check_result(Mine(), {"metrics": {metric: 1.0}}, own=True)
    with pytest.raises(UserError, match="'val/ece'.*'val/mine/ece'"):
        check_result(Mine("val"), {"metrics": {"val/ece": 1.0}}, own=True)
    with pytest.raises(UserError, match="'test/top1'.*'mine/pictured/top1'"):
        check_result(Pictured(), {"metrics": {"test/top1": 1.0}}, own=True)
    check_result(Mine("train"), {"metrics": {"train/lightness": 1.0, "top1": 1, "test/mine/top1": 1}}, own=True)
    check_result(Extended(), {"metrics": {"fidelity/fid": 1.0, "fidelity/more": 1.0}}, own=True)
    check_result(Accuracy(), {"metrics": {"test/top1": 1.0}}, own=False)


def test_rows_are_dicts_of_json() -> None:
    assert check_rows(Rowwise(), [{"a": np.float32(0.5)}]) == [{"a": 0.5}]
    for found, said in (
        ([1], "not a list with a dict"),
        (None, "not a list"),
        ([{"a": ROW}], "JSON"),
        ([{"a": float("nan")}], "no JSON"),
    ):
        with pytest.raises(UserError, match=f"^Rowwise.rows returned .*{said}"):
            check_rows(Rowwise(), found)


@pytest.mark.parametrize("kind", [Mine, Pictured, OfTheNet, Rowwise])
def test_each_shape_is_looked_at(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny(steps=1, method=Noise(), k=1, evaluations=(kind(),), denoiser="nano:ddpm")
    for wrong in (None, {"metrics": {"test/x": float("nan")}}, {"metrics": {"test/top1": 1.0}}):
        monkeypatch.setattr(Returned, "now", wrong)
        with pytest.raises(UserError, match=f"^{kind.__name__} returned "):
            synthaug.run(subject, home=tmp_path)
    monkeypatch.setattr(Returned, "now", {"metrics": {"x/y": np.float32(0.5)}})
    assert synthaug.run(subject, home=tmp_path)["metrics"]["x/y"] == 0.5


@pytest.mark.parametrize("kind", [Mine, Rowwise])
@pytest.mark.parametrize("stored", [0.93, {"metrics": {"test/x": float("nan")}}, {"metrics": {"test/top1": 1.0}}, None])
def test_what_was_stored_unseen_is_measured_again(
    kind: Any, stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A home of an older version, whose measurement has been corrected since."""
    subject = tiny(steps=1, method=None, evaluations=(kind(),))
    monkeypatch.setattr(Returned, "now", {"metrics": {"x/y": 0.25}})
    assert synthaug.run(subject, home=tmp_path)["metrics"]["x/y"] == 0.25
    note = place_of(Store(tmp_path), subject, "evaluate") / "manifest.json"
    data = json.loads(note.read_text())
    del data["digest"], data["result"]
    note.write_text(json.dumps(data | ({} if stored is None else {"result": stored})))
    monkeypatch.setattr(Returned, "now", {"metrics": {"x/y": 0.5}})
    answer = synthaug.run(subject, home=tmp_path)
    assert answer["metrics"]["x/y"] == 0.5 and answer["stages"]["train"]["cached"]
    assert "manifest.json is damaged, made anew" in capfd.readouterr().err
    again = synthaug.run(subject, home=tmp_path)
    assert again["metrics"]["x/y"] == 0.5 and all(stage["cached"] for stage in again["stages"].values())


def test_an_error_in_the_result_of_rows_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any, rows: Any) -> Any:
        return {"metrics": {"x/y": rows[0]["none"]}}

    monkeypatch.setattr(Rowwise, "result", failing)
    with pytest.raises(UserError, match="^test_results.py, line .*KeyError: 'none'"):
        synthaug.run(tiny(steps=1, method=None, evaluations=(Rowwise(),)), home=tmp_path)
