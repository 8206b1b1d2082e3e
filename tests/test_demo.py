"""The demo and own images, as a newcomer runs them, with fewer seeds and steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shapes import class_folders
from synthaug.cli import main

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SHORT = ["--set", "seeds=2", "--set", "recipe.steps=20", "--set", "dataset.shots=1"]

pytestmark = pytest.mark.xdist_group("ray")  # the second test looks at what the first has made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_the_demo_ends_with_the_answer_the_report_and_the_way_to_the_ui(
    home: Path, cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    few = [*SHORT, "--set", "final=[9]", "--set", "space.k=[2]"]
    assert main(["run", f"{EXPERIMENTS}/digits.py:one_shot", *few, "--home", str(home)]) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[0].split()[:2] == ["point", "(by"] and sum("winner" in line for line in out) == 2
    assert any(line.startswith("Best of 6 points by val/top1: ") and " against plain" in line for line in out)
    assert out[-1] == f"compare in MLflow: synthaug ui --home {home}"
    page = Path(out[-2].removeprefix("report: ")).read_text()
    assert "class=answer>Best of 6" in page and "nano models know only letters and digits" in page
    assert page.count("<svg") >= 4, "cost, heat map, curves, classes"


def test_the_comparison_finds_what_the_search_has_made(
    home: Path, cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", f"{EXPERIMENTS}/digits.py:compare", *SHORT, "--home", str(home)]) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[0].split()[:2] == ["arm", "accuracy"]
    rows = {line.split("  ")[0]: line.split() for line in out[2:7]}
    assert list(rows) == ["plain", "TrivialAugment", "CutMix", "Mixup", "Real Guidance"]
    images, _, calls = rows["Real Guidance"][-3:]
    assert (images, calls) == ("100", str(100 * 9 * 2)), "2 seeds x 10 digits x 5 variants, 9 steps, guided"


def test_the_second_time_everything_is_there(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", f"{EXPERIMENTS}/digits.py:compare", *SHORT, "--home", str(home), "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert all(stage["cached"] for stage in answer["stages"].values())
    assert len(answer["trials"]) == 10 and len({t["run_id"] for t in answer["trials"]}) == 10
    runs = {(t["arm"], t["seed"]): t["metrics"] for t in answer["trials"]}
    assert runs["Real Guidance", 0]["gen/images"] == 50 and runs["plain", 0]["gen/images"] == 0


def test_own_images_with_the_embedded_model(tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = class_folders(tmp_path / "images", ["cat", "dog"], 6)
    changes = [
        "backbone=nano:sd",
        "k=1",
        "method.steps=5",
        "recipe.epochs=null",
        "recipe.steps=2",
        "recipe.model=small",
    ]
    changes += ["recipe.batch_size=4", "recipe.image_size=32", "recipe.transforms=[]", f"dataset.path={images}"]
    flags = [part for change in changes for part in ("--set", change)]
    assert main(["run", f"{EXPERIMENTS}/own_images.py:real_guidance", *flags, "--home", str(home)]) == 0
    out, err = capfd.readouterr()
    assert "test/top1" in out and "nano models know only letters and digits" in err
