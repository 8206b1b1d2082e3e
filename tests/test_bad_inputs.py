"""Bad input: one line that names what is wrong, exit 2, before anything is made, for whatever people may type."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthaug.cli import main

ROOT = Path(__file__).parents[1]
DIGITS, OWN = (str(ROOT / "experiments" / name) for name in ("digits.py", "own_images.py"))
PLAIN, EDITS, SWEEP = (f"{DIGITS}:{name}" for name in ("plain", "real_guidance", "compare"))
MINE = f"{OWN}:plain"

FIELDS = {
    # a value that its field does not take
    "k=0": "k: ", "k=true": "k: ", "k=1.5": "k: ", "k=many": "k: ", "k=null": "k: ", "seed=x": "seed: ", "seed=1.5": "seed: ",
    "dataset.shots=-1": "dataset.shots: ", "dataset.shots=2.5": "dataset.shots: ", "dataset.shots=5000": "fewer than shots=5000",
    "dataset.val_share=0.9": "dataset.val_share: ", "dataset.prompt=a photo": "has no {}", "dataset.prompt=a {class}": "has no {}",
    "dataset.prompt=[]": "at least one", "dataset.prompt={} and {}": "the one place",
    'dataset.class_words=[["nine","9"]]': "no class is called 'nine'", "dataset.duplicates=keep": "dataset.duplicates: ",
    "dataset.mirrors=maybe": "dataset.mirrors: ", "dataset=digit": "did you mean digits?", "dataset=cifar100": "--set dataset.path=DIR",
    "recipe.steps=-1": "recipe.steps: ", "recipe.epochs=3": "exactly one of epochs and steps", "recipe.steps=null": "exactly one",
    "recipe.model=resnet51": "did you mean resnet50?", "recipe.model=": "no model is called ''", "recipe.batch_size=0": "recipe.batch_size: ",
    "recipe.warmup=2": "recipe.warmup: ", "recipe.optimizer=Adamw": "did you mean AdamW", "recipe.optimizer.lr=-1": "recipe.optimizer.lr: ",
    "recipe.optimizer.rl=1": "choices: lr, ", "recipe.transforms=TrivialAgment": "did you mean TrivialAugment", "recipe.views=Second": "did you mean SecondView",
    "recipe.precision=fp64": "recipe.precision: ", "recipe.image_size=0": "recipe.image_size: ", "recipe.weights=/no/such/file": "there is no file",
    "recipe.stps=3": "did you mean steps?", "recipee.steps=3": "did you mean recipe?", "method.strength=2": "method.strength: ",
    "method.strength=0": "method.strength: ", "method.strength=NaN": "method.strength: ", "method.strength=high": "method.strength: ", "method.stepz=5": "did you mean steps?",
    "method=RealGuidence": "did you mean RealGuidance", "method=None2": "method: ", "utilize=Concatenate": "utilize: ", "utilize.p=0.5": "utilize.p: ",
    "filter=BaseProp": "did you mean BaseProb", "filter.drop=0.5": "filter: ", "backbone=nano:sdd": "nano:sd", "backbone=/no/such/model": "/no/such/model",
    "backbone.precision=int8": "backbone.precision: ", "denoiser=nano:dpm": "known: nano:clip, nano:ddpm",
    "evaluations=Acuracy": "did you mean Accuracy", "evaluations=Accuracy(": "did you mean Accuracy?",
    "resources.gpus=1": "resources.gpus: ", "subset=Slwo": "did you mean Slow",
}  # fmt: skip
SWEEPS = {
    "seeds=0": "seeds: ", "seeds=[0,0]": "seeds: each counts once", "seeds=[]": "seeds: ", "seeds=x": "seeds: ", "seed=3": "a sweep has seeds",
    "baseline=plane": "did you mean plain?", 'controls=["plain"]': "controls: ", "metric=": "metric", "arms=3": "arms: ",
    'space={"method.strenth":[0.1]}': "did you mean strength?", 'space={"k":[]}': "space", "space=3": "space: ", "scheduler=Rase": "did you mean Race",
    "searcher=Optna": "did you mean Optuna", "searcher.samples=0": "searcher",
}  # fmt: skip


REFS: dict[str, str] = {
    "nowhere.py:x": "there is no file", "nowhere:x": "there is no file", "digits.py:x": "there is no file", ":": "there is no file",
    f"{DIGITS}:": "it has: plain,", f"{DIGITS}:plane": "did you mean plain?", f"{DIGITS}:plain:x": "only a sweep has rows",
    f"{SWEEP}:Mixu": "did you mean Mixup?", f"{SWEEP}:plain k=3": "k", str(ROOT): "there is no file", "x.json": "there is no file 'x.json'",
    "{here}/broken.py:x": "broken.py: SyntaxError", "{here}/imports.py:x": "imports.py, line 1: ModuleNotFoundError",
    "{here}/raises.py:x": "raises.py, line 2: ValueError: no luck", "{here}/fails.py:x": "fails.py, line 2: ZeroDivisionError",
    "{here}/deep.py:x": "deep.py, line 2: KeyError", "{here}/nothing.py:x": "returns NoneType, not an Experiment or a Sweep",
    "{here}/text.py:x": "returns str, not", "{here}/exits.py:x": "exits.py", "{here}/circle_a.py:x": "circle_a.py",
    "{here}/list.json": "list.json", "{here}/cut.json": "is no JSON", "{here}/empty.json": "is no JSON", "{here}/number.json": "number.json",
    "{here}/kind.json": "kind.json", "{here}/bytes.json": "is no JSON", "{here}/field.json": "did you mean seed?",
}  # fmt: skip
FILES = {
    "broken.py": "def x(:\n", "imports.py": "import nobody_has_this\n", "raises.py": "def x():\n    raise ValueError('no luck')\n",
    "fails.py": "y = 1\ny = 1 / 0\n", "deep.py": "def x():\n    return {}['a']\n", "nothing.py": "def x():\n    pass\n",
    "text.py": "def x():\n    return 'digits'\n", "exits.py": "import sys\nsys.exit(3)\n",
    "circle_a.py": "from circle_b import y\nx = 1\n", "circle_b.py": "from circle_a import x\ny = 1\n",
    "list.json": "[]", "cut.json": '{"kind": "syn', "empty.json": "", "number.json": "7", "kind.json": '{"kind": "os:system"}',
    "bytes.json": "\udcff\udcfe", "field.json": '{"kind": "synthaug.experiment:Experiment", "sed": 3, "dataset": {"name": "digits"}}',
}  # fmt: skip
COMMANDS: dict[tuple[str, ...], str] = {
    ("run", PLAIN, "--set", "k"): "--set needs path=value", ("run", PLAIN, "--set", "=3"): "--set needs path=value",
    ("run", PLAIN, "--set", ""): "--set needs path=value", ("run", PLAIN, "--set", "a..b=1"): "", ("run", PLAIN, "--workers", "-1"): "",
    ("run", PLAIN, "--workers", "two"): "--workers", 
    ("run", EDITS, "--workers", "2", "--address", "127.0.0.1:9"): "no Ray answers at '127.0.0.1:9'",
    ("run", EDITS, "--workers", "2", "--address", "nobody.invalid:6379"): "no Ray answers at 'nobody.invalid:6379'",
    ("run", EDITS, "--workers", "2", "--address", "127.0.0.1:99999"): "no Ray answers",
    ("run",): "Missing argument", ("rnu", PLAIN): "No such command", ("run", PLAIN, "--hoem", "x"): "No such option",
    ("export", PLAIN, "{here}/out"): "export needs an experiment with a method", ("export", SWEEP, "{here}/out"): "export needs an experiment",
    ("export", EDITS, "{here}/full"): "not empty", ("report",): "nothing has been run in", ("clean",): "nothing has been run in",
    ("ui",): "nothing has been run in", ("ui", "--port", "0"): "port", ("ui", "--port", "70000"): "port",
}  # fmt: skip


def refused(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str) -> str:
    code = main([*arguments, "--home", str(home)])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and not out and "Traceback" not in err, (code, out, err)
    assert (
        not {file.name for file in home.rglob("*")} - {"store", "index"} - {f.name for f in home.rglob("model-*.json")}
    )
    return lines[0]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    for name, text in FILES.items():
        (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    (folder / "full").mkdir()
    (folder / "full" / "x").write_text("x")
    return folder


@pytest.mark.parametrize("change", FIELDS)
def test_a_field(change: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert FIELDS[change] in refused(capsys, home, "run", EDITS, "--set", change)


@pytest.mark.parametrize("change", SWEEPS)
def test_a_field_of_a_sweep(change: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert SWEEPS[change] in refused(capsys, home, "run", SWEEP, "--set", change)


@pytest.mark.parametrize("ref", REFS)
def test_a_ref(ref: str, here: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert REFS[ref] in refused(capsys, home, "run", ref.replace("{here}", str(here)))


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command(arguments: tuple[str, ...], here: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[arguments] in refused(capsys, home, *(part.replace("{here}", str(here)) for part in arguments))
