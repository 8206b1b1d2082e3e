from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import synthaug
from shapes import class_folders
from synthaug.cli import main
from synthaug.data.dataset import Dataset
from synthaug.experiment import Experiment
from synthaug.progress import Progress
from synthaug.refs import import_file, may_hold_subjects, resolve, subjects_in

ROOT = Path(__file__).parents[1]
DIGITS = str(ROOT / "experiments" / "digits.py")
OWN = str(ROOT / "experiments" / "own_images.py")
MINE = '''"""Mine."""
from shapes import Noise, tiny
from synthaug.experiment import Experiment, Sweep

def small() -> Experiment:
    """A small one.

    More about it."""
    return tiny(method=Noise(), k=2)

def broken() -> Experiment:
    """Has a mistake in it."""
    return tiny(method=Noise(amuont=3))

def helper(x: int) -> Experiment:
    """Needs an argument, so it is none."""
'''


@pytest.fixture
def mine(tmp_path: Path) -> str:
    folder = tmp_path / "project" / "experiments"
    folder.mkdir(parents=True)
    (folder / "mine_here.py").write_text(MINE)
    return str(folder / "mine_here.py")


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of an error that the user can mend."""
    code, out, err = told(capsys, *arguments)
    assert code == 2 and not out, (code, out, err)
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", f"{DIGITS}:comparre"], "names no experiment; did you mean compare?"),
        (["show", DIGITS], "names no experiment; it has: plain, real_guidance, one_shot, five_shots, compare"),
        (["show", "nowhere.py:x"], "there is no file 'nowhere.py'"),
        (["show", "nowhere.json"], "there is no file 'nowhere.json'"),
        (["show", f"{DIGITS}:plain", "--set", "recipe.stps=3"], "recipe.stps: no such setting of Recipe; did you mean steps?"),
        (["show", f"{DIGITS}:plain", "--set", "dataset.shots=0"], "dataset.shots: Input should be greater than or equal to 1"),
        (["show", f"{DIGITS}:plain", "--set", "method.strength=0.5"], "method: is None, so it has no settings; set method first, one of:"),
        (["show", f"{DIGITS}:real_guidance", "--set", "method.strength=0"], "method.strength: Input should be greater than 0, got 0"),
        (["show", f"{DIGITS}:plain", "--set", "k"], "--set needs path=value, got 'k'"),
        (["show", f"{DIGITS}:plain", "--set", "dataset.name=digit"], "no data set is called 'digit'; did you mean digits?"),
        (["show", f"{DIGITS}:plain", "--set", "dataset.shots=500"], "fewer than shots=500"),
        (["show", f"{OWN}:plain"], "name the folder of your images: --set dataset.path=DIR"),
        (["run", f"{OWN}:plain", "--set", "dataset.path=/no/such/folder"], "dataset.path: there is no folder '/no/such/folder'"),
        (["run", f"{DIGITS}:plain", "--set", "recipe.model=resnet51", "--home", "{home}"], "did you mean resnet50?"),
        (["run", f"{DIGITS}:compare", "--workers", "500", "--home", "{home}"], "500 workers need"),
        (["run", f"{DIGITS}:plain", "--wrkers", "2"], "No such option"),
        (["rnu"], "No such command"),
        (["run"], "Missing argument"),
        (["export", f"{DIGITS}:plain", "{home}/out"], "export needs an experiment with a method"),
        (["report", "--home", "{home}"], "nothing has been run in"),
        (["ui", "--home", "{home}"], "nothing has been run in"),
        (["list", "nowhere.py"], "there is no file 'nowhere.py'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    arguments: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthaug.diffusion.backbone.Backbone.load", lambda self: pytest.fail("a model was loaded"))
    line = refused(capsys, *[argument.replace("{home}", str(home)) for argument in arguments])
    assert said in line


def test_a_missing_model_names_both_ways_out(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = class_folders(tmp_path / "images", ["cat", "dog"], 5)
    line = refused(capsys, "run", f"{OWN}:real_guidance", "--set", f"dataset.path={images}", "--home", home)
    assert "stable-diffusion-v1-5" in line and "--set backbone=nano:sd" in line and "/path/to/model" in line
    (tmp_path / "model").mkdir()
    changes = ["--set", f"dataset.path={images}", "--set", f"backbone={tmp_path / 'model'}"]
    assert "holds no diffusers pipeline" in refused(capsys, "run", f"{OWN}:real_guidance", *changes, "--home", home)


def test_a_home_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    line = refused(capsys, "run", f"{DIGITS}:plain", "--home", tmp_path / "file" / "home")
    assert "cannot write to the home" in line and "--home DIR" in line


def test_a_mistake_in_the_file_names_the_file(mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "show", f"{mine}:broken").endswith(
        "mine_here.py:broken: amuont: no such setting of Noise; did you mean amount?"
    )
    bad = tmp_path / "bad.json"
    bad.write_text('{"kind": "synthaug.experiment:Experiment", "sed": 3}')
    assert "bad.json: " in refused(capsys, "show", bad)
    bad.write_text("{")
    assert "bad.json: is no JSON" in refused(capsys, "show", bad)


def test_list_names_what_can_be_run(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = told(capsys, "list", mine)
    assert out.splitlines() == [f"{mine}:small  A small one.", f"{mine}:broken  Has a mistake in it."]


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("import torch\ndef main() -> None: pass\ndef _x(): pass\ndef of(n: int): pass\n", False),
        ("def mine(): return other()\n", True), ("def mine() -> Sweep: ...\n", True), ("def broken(:\n", True),
        ("mine: object = lambda: other()\n", True), ("a, b = (lambda: x), 3\n", True), ("if X:\n    def f(): ...\n", True),
        ("def _make(n): ...\none = _make(1)\n", True), ("HERE = Path(__file__)\nif __name__ == '__main__':\n    go()\n", False),
        ("mine = lambda: other()\n", True), ("@given(3)\ndef mine(n): ...\n", True), ("X = 3\n", False),
    ],
)  # fmt: skip
def test_what_can_hold_no_experiment_is_not_imported(text: str, worth: bool, tmp_path: Path) -> None:
    """Files of helpers may take a second to import."""
    (tmp_path / "a.py").write_text(text)
    assert may_hold_subjects(str(tmp_path / "a.py")) == worth


def test_no_experiment_of_ours_is_left_out() -> None:
    passed = [path for path in Path("experiments").glob("*.py") if not may_hold_subjects(str(path))]
    assert {path.stem for path in passed} >= {"planted", "targeted_theory"}
    assert not [path for path in passed if subjects_in(import_file(str(path)))]


def test_show_resolves_and_its_json_runs_again(
    mine: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = told(capsys, "show", f"{mine}:small", "--set", "k=3", "--home", home, "--json")
    answer = json.loads(out)
    assert code == 0 and answer["experiment"]["k"] == 3
    assert answer["stages"]["generate"] | {"path": ""} == {
        "key": answer["stages"]["generate"]["key"], "path": "", "cached": False, "images": 60, "calls": 0, "bytes": 0
    }  # fmt: skip
    assert not home.exists(), "show makes nothing"
    (tmp_path / "saved.json").write_text(json.dumps(answer["experiment"]))
    _, again, _ = told(capsys, "show", tmp_path / "saved.json", "--home", home, "--json")
    assert json.loads(again) == answer


def test_show_guesses_where_nothing_was_made_yet(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """250 images of 18 rows at 1.5 ms with the embedded model; what nobody has measured is not guessed."""
    _, out, _ = told(capsys, "show", f"{DIGITS}:real_guidance", "--home", home)
    assert "not known before such stages have been made here; a guess for the images alone: 7 s of a CPU core" in out
    _, out, _ = told(capsys, "show", f"{DIGITS}:real_guidance", "--home", home, "--set", "backbone.resolution=64")
    assert "a guess for the images alone: 27 s of a CPU core" in out
    _, out, _ = told(capsys, "show", f"{DIGITS}:plain", "--home", home)
    assert "not known before" in out and "guess" not in out


def test_show_imports_no_torch(home: Path) -> None:
    code = (
        "import sys; from synthaug.cli import main; "
        f"code = main(['show', {DIGITS + ':plain'!r}, '--home', {str(home)!r}]); "
        "sys.exit(code or ('torch' in sys.modules) * 9 + ('ray' in sys.modules) * 10 + ('mlflow' in sys.modules) * 11)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_run_export_report_and_clean(mine: str, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["run", f"{mine}:small", "--home", str(home), "--json"])
    out, err = capfd.readouterr()
    answer = json.loads(out)
    assert code == 0 and answer["stages"]["train"]["cached"] is False, err
    assert main(["run", f"{mine}:small", "--home", str(home), "--json"]) == 0
    again = json.loads(capfd.readouterr().out)
    assert again["metrics"]["test/top1"] == answer["metrics"]["test/top1"] and again["run_id"] == answer["run_id"]

    folder = tmp_path / "images"
    assert main(["export", f"{mine}:small", str(folder), "--home", str(home)]) == 0
    assert capfd.readouterr().out == f"40 synthetic images, 797 of test, 300 of val, 20 of train in {folder}\n"
    with (folder / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["split"] for row in rows) == {"synthetic": 40, "test": 797, "val": 300, "train": 20}
    assert len(rows) == len(list(folder.glob("*/*/*.png"))) and {row["method"] for row in rows} == {"Noise", ""}
    elsewhere = Dataset("folder", path=str(folder)).open()
    assert {split: len(entries) for split, entries in elsewhere.splits.items()} == {
        "train": 20,
        "val": 300,
        "test": 797,
    }
    assert all((folder / row["file_name"]).parent.name == row["class"] for row in rows)
    assert "is there already" in refused(capfd, "export", f"{mine}:small", folder, "--home", home)

    assert main(["report", "--home", str(home)]) == 0
    page = Path(capfd.readouterr().out.strip())
    assert "Noise" in page.read_text()

    stray = home / "store" / "generate" / ("deadbeef" * 4)
    stray.mkdir()
    (stray / "part-00000-abc.parquet").write_bytes(b"x")
    assert main(["clean", "--home", str(home)]) == 0
    out = capfd.readouterr().out
    assert "would remove" in out and "deadbeef (unfinished" in out and out.count("would remove") == 1 and stray.exists()
    assert main(["clean", "--home", str(home), "--yes"]) == 0 and not stray.exists()
    assert Path(answer["stages"]["generate"]["path"]).exists()


def test_nothing_is_written_outside_the_home_whatever_a_class_is_called(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["..a", "...", "man", "woman", "a b", "ü'\"", "%2e%2e", "-rf", "$(touch x)"]
    images = class_folders(tmp_path / "images", names, 5)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    (tmp_path / "project" / "odd.py").write_text(
        "from shapes import Noise, Dataset, Recipe\nfrom synthaug.experiment import Experiment\n"
        f"def odd() -> Experiment:\n    return Experiment(dataset=Dataset('folder', path={str(images)!r}, "
        "class_words=(('man', '../../m'),)), method=Noise(), k=1, recipe=Recipe(steps=2, batch_size=8))\n"
    )
    before = {path for path in tmp_path.rglob("*") if home not in path.parents}
    assert main(["run", "odd.py:odd", "--home", str(home), "--json"]) == 0
    assert main(["export", "odd.py:odd", str(home / "export"), "--home", str(home)]) == 0
    after = {path for path in tmp_path.rglob("*") if home not in path.parents and "__pycache__" not in path.parts}
    assert after - before == {home}
    folders = sorted(path.name for path in (home / "export" / "synthetic").iterdir())
    assert len(folders) == len(names) and all("/" not in name and name.strip(".") for name in folders)
    assert {"man", "a b", "-rf", "$(touch x)", "ü'%22"} < set(folders), "as they are, where they can be"
    with (home / "export" / "metadata.csv").open() as file:
        for row in csv.DictReader(file):
            assert row["source"].split("/")[0] == row["class"] and json.loads(row["label"]) == {row["class"]: 1.0}


def test_help_is_quick_and_ctrl_c_is_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = told(capsys, "--help")
    assert code == 0 and all(
        verb in out for verb in ("list", "show", "run", "report", "export", "ui", "doctor", "clean")
    )

    def interrupted(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synthaug.runtime.run.run_experiment", interrupted)
    code, _, err = told(capsys, "run", f"{DIGITS}:plain")
    assert code == 130 and "run the same command again" in err and "Traceback" not in err
    assert os.environ.get("SYNTHAUG_HOME") is None


def test_a_row_of_a_sweep_is_asked_and_exported(
    mine: str, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its first seed, or the one that is named."""
    text = "\ndef both() -> Sweep:\n    return Sweep(base=small(), arms={'plain': {'method': None}, 'noise': {}}, seeds=(3, 4))\n"
    Path(mine).write_text(Path(mine).read_text() + text)
    images = class_folders(tmp_path / "other", ["a"], 2)
    assert main(["run", f"{mine}:both:noise", "--home", str(home), "--workers", "0"]) == 0
    capfd.readouterr()
    assert "of a sweep name a row" in refused(capfd, "predict", f"{mine}:both", images, "--home", home)
    lines = []
    for more in ([], ["--set", "seeds=[4]"]):
        assert main(["predict", f"{mine}:both:noise", str(images), "--home", str(home), *more]) == 0
        out, err = capfd.readouterr()
        lines.append(out)
        assert f"seed {4 if more else 3} of this row" in err
    assert lines[0] != lines[1], "of another net"
    assert main(["export", f"{mine}:both:noise", str(tmp_path / "out"), "--no-real", "--home", str(home)]) == 0
    assert capfd.readouterr().out.startswith("40 synthetic images in ")
    assert "of a sweep name a row" in refused(capfd, "export", f"{mine}:both", tmp_path / "x", "--home", home)


def test_a_trained_classifier_is_asked_about_other_images(
    mine: str, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = class_folders(tmp_path / "other", ["a", "b"], 3)
    (images / "a" / "bad.png").write_bytes(b"x")
    assert "synthaug run it first" in refused(capfd, "predict", f"{mine}:small", images, "--home", home)
    assert main(["run", f"{mine}:small", "--home", str(home)]) == 0
    capfd.readouterr()
    assert main(["predict", f"{mine}:small", str(images), "--home", str(home)]) == 0
    out, err = capfd.readouterr()
    rows = list(csv.DictReader(out.splitlines()))
    assert [row["file"] for row in rows] == [f"{name}/{i}.png" for name in "ab" for i in range(3)]
    assert all(row["class"] in "0123456789" and 0.1 <= float(row["probability"]) <= 1 for row in rows)
    assert "left out: a/bad.png" in err
    (weights,) = (home / "store" / "train").glob("*/model.safetensors")
    weights.unlink()
    said = refused(capfd, "predict", f"{mine}:small", images, "--home", home)
    assert "damaged" in said and "doctor --deep --mend" in said, "what is there and broken is not called missing"


def test_what_is_printed_can_be_run(mine: str, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of show, of run and of the store's records; and a text in Python."""
    assert main(["run", f"{mine}:small", "--home", str(home), "--json"]) == 0
    saved = tmp_path / "run.json"
    saved.write_text(capfd.readouterr().out)
    first = json.loads(saved.read_text())
    (record,) = (home / "store" / "record").glob("*.json")
    for ref in (saved, record):
        assert main(["run", str(ref), "--home", str(home), "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["run_id"] == first["run_id"]
    assert synthaug.run(f"{mine}:small", home=home)["run_id"] == first["run_id"]


def test_two_files_of_one_name_are_two(tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each with helpers of its own beside it, whichever was asked for before."""
    for name, steps in (("a", 2), ("b", 3)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "help.py").write_text(f"STEPS = {steps}\n")
        (folder / "same.py").write_text(
            "from shapes import tiny\nimport sys\nsys.modules.pop('help', None)\nfrom help import STEPS\n"
            "def f():\n    return tiny(steps=STEPS, method=None)\n\ndef g():\n    return tiny(steps=10 * STEPS, method=None)\n"
        )
    found = [resolve(f"{tmp_path}/{name}/same.py:{f}", [])[1] for name, f in ("af", "bf", "ag", "bg")]
    assert [each.recipe.steps for each in found if isinstance(each, Experiment) and each.recipe] == [2, 3, 20, 30]
    for name in "ab":
        assert main(["run", f"{tmp_path}/{name}/same.py:f", "--home", str(home)]) == 0
    capfd.readouterr()
    assert main(["report", f"{tmp_path}/a/same.py:f", f"{tmp_path}/b/same.py:f", "--home", str(home)]) == 0
    assert Path(capfd.readouterr().out.strip()).read_text().count("<h2>") == 2


def test_classes_that_are_imported_for_type_checkers_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lazy.py"
    file.write_text(
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nfrom shapes import tiny\n"
        "if TYPE_CHECKING:\n    from synthaug.experiment import Experiment\n    from nowhere import Thing\n"
        "def plain() -> Experiment:\n    'Plain.'\n    return tiny()\n\ndef other() -> Thing:\n    return 3\n"
    )
    _, out, _ = told(capsys, "list", file)
    assert out == f"{file}:plain  Plain.\n"


@pytest.mark.parametrize("name", ["my.exp.py", "experiments/v1.0/y.py"])
def test_a_name_that_python_cannot_import(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("from shapes import tiny\ndef plain():\n    return tiny()\n")
    assert "has a dot in its name: call it otherwise" in refused(capsys, "show", f"{tmp_path / name}:plain")


def test_who_ends_the_program_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "leaves.py"
    file.write_text("import sys\ndef plain():\n    sys.exit(0)\n")
    assert refused(capsys, "show", f"{file}:plain").endswith("leaves.py:plain ends the program (exit 0)")


def test_what_cannot_be_finished_is_one_line_and_1(mine: str, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A training that diverges, alone and in a sweep."""
    alone = ["run", f"{mine}:small", "--set", "recipe.optimizer.lr=1e12", "--home", str(home)]
    Path(mine).write_text(Path(mine).read_text() + "\ndef sweep() -> Sweep:\n    return Sweep(base=small(), seeds=2)\n")
    sweep = ["run", f"{mine}:sweep", "--set", "recipe.optimizer.lr=1e12", "--home", str(home), "--workers", "0"]
    for command, said in (
        (alone, "error: the training loss is"),
        (sweep, "error: 2 of 2 trials failed, the first with:"),
    ):
        assert main(command) == 1
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith(said) and "lower the lr" in last


@pytest.mark.parametrize("name", ["what?", "a%20b"])
def test_a_home_that_mlflow_would_not_find(
    name: str, mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "run", f"{mine}:small", "--home", tmp_path / name)
    assert "take a --home without ? and %" in line and not list(tmp_path.rglob("*.db*"))


@pytest.mark.parametrize("hook", ["notes", "sources", "plan", "check", "calls"])
def test_whatever_of_their_method_fails_is_one_line(
    hook: str, tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also what is asked before anything is made, by `show` or by `run`."""
    file = tmp_path / "own_method.py"
    file.write_text(
        "from shapes import Noise, tiny\nfrom synthaug.settings import settings\n\n@settings\nclass Own(Noise):\n"
        f"    def {hook}(self, *given):\n        return 1 // 0\n\n"
        "def f():\n    return tiny(steps=1, method=Own())\n"
    )
    for verb in ("show", "run"):
        code = main([verb, f"{file}:f", "--home", str(home)])
        *_, error = ["", *capfd.readouterr().err.strip().splitlines()]
        if verb == "show" and hook == "check":
            assert code == 0, "it has no images to check yet"
        else:
            assert code == 2 and re.match(r"error: own_method\.py, line 7: ZeroDivisionError", error), error


def test_what_is_done_twice_is_not_more_than_all(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", "steps", 44) as progress:
        for _ in range(46):
            progress.add(1)
    assert capsys.readouterr().err.startswith("train 44/44 steps, ")


def test_a_bare_command_prints_its_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["synthaug"])
    assert main() == 0
    out, err = capsys.readouterr()
    assert out.count("Usage:") == 1 and not err


def test_classes_of_where_one_stands_are_found(mine: str, home: Path, tmp_path: Path) -> None:
    """By a record or a saved JSON, whose classes are those of a file in experiments/ here."""
    (Path(mine).parent / "own_way.py").write_text(
        "from shapes import Noise, tiny\nfrom synthaug.settings import settings\n\n@settings\nclass Own(Noise):\n    pass\n\n"
        "def f():\n    return tiny(steps=1, method=Own())\n"
    )
    paths = [str(ROOT / "platform"), str(ROOT / "tests")]
    code = "import sys; sys.path[0:0] = {!r}; sys.path.remove(''); from synthaug.cli import main; sys.exit(main({!r}))"

    def said(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code.format(paths, list(arguments))]
        return subprocess.run(command, cwd=Path(mine).parents[1], capture_output=True, text=True)

    shown = said("show", "experiments/own_way.py:f", "--json")
    (tmp_path / "saved.json").write_text(shown.stdout)
    again = said("show", str(tmp_path / "saved.json"), "--json")
    assert again.returncode == 0 and again.stdout == shown.stdout, again.stderr


def test_an_address_is_not_ignored(mine: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "run", f"{mine}:small", "--address", "nowhere:1", "--home", home)
    assert "--workers" in said and not home.exists()
    assert "there is none: synthaug report REF" in refused(capsys, "report", "--set", "k=1", "--home", home)
