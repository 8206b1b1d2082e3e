"""The house rules that a reader cannot check by eye."""

from __future__ import annotations

import ast
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "platform" / "synthaug"
# What stands left may be imported by what stands right of it. Above all of them: the package's own `run`, and `nano`,
# which trains the embedded models and which nothing here imports.
ORDER = """settings, training, progress < changes, search < data < weights, clip < diffusion < methods < classify < evaluate
    < experiment < stages < runtime < pages < refs < cli < , nano"""
RANK = {name.strip(): rank for rank, name in enumerate(ORDER.replace("<", ",").split(","))}
LONGEST_FUNCTION, LONGEST_FILE = 40, 400  # lines
Graph = dict[str, set[str]]


def files(source: Path = SOURCE) -> dict[str, Path]:
    """By module: `data.sample` is data/sample.py, `data` is data/__init__.py, "" the package itself."""
    found = {".".join(path.relative_to(source).with_suffix("").parts): path for path in sorted(source.rglob("*.py"))}
    return {name.removesuffix("__init__").removesuffix("."): path for name, path in found.items()}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def statements(node: ast.AST, types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports of a file, the lazy ones too; without `types` not those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif types or not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from statements(child, types)


def imports(path: Path, types: bool = True) -> set[str]:
    found: set[str] = set()
    for node in statements(tree(path), types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def graph(source: Path = SOURCE, types: bool = True) -> Graph:
    """Which file imports which of ours; `from synthaug.data import sample` is an import of data/sample.py."""
    there = files(source)

    def file_of(imported: str) -> str:
        name = imported.removeprefix("synthaug").removeprefix(".")
        while name not in there:
            name = name.rpartition(".")[0]
        return name

    return {
        name: {file_of(other) for other in imports(path, types) if other.partition(".")[0] == "synthaug"} - {name}
        for name, path in there.items()
    }


def part(name: str) -> str:
    return name.partition(".")[0]


def breaches(found: Graph) -> list[str]:
    """What is against the order, as `methods.base -> experiment`."""
    strangers = [f"{name} has no place in the order" for name in found if part(name) not in RANK]
    return strangers + [
        f"{name} -> {other}"
        for name, others in found.items()
        for other in sorted(others)
        if part(name) != part(other) and RANK.get(part(name), 0) <= RANK.get(part(other), 0)
    ]


def circle(found: Graph) -> list[str]:
    """Files that import one another in turn, if there are any."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def too_long(source: Path = SOURCE) -> list[str]:
    """Functions and files above their size."""
    found = [f"{name}: {lines}" for name, path in files(source).items() if (lines := length(path)) > LONGEST_FILE]
    for name, path in files(source).items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef) and (lines := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION:
                found.append(f"{name}.{node.name}: {lines}")
    return found


def length(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_imports_go_one_way() -> None:
    assert not breaches(graph())


def test_no_files_import_one_another_in_a_circle() -> None:
    assert not circle(graph(types=False))


def test_the_rules_find_what_is_against_them() -> None:
    assert (
        breaches(
            {"data.sample": {"settings"}, "search.space": {"settings"}, "": {"cli"}, "nano.train": {"evaluate.ood"}}
        )
        == []
    )
    assert breaches({"data.sample": {"cli"}, "settings": {"space"}, "odd": set(), "weights": {"nano"}}) == [
        "odd has no place in the order", "data.sample -> cli", "settings -> space", "weights -> nano",
    ]  # fmt: skip
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    lazy = ast.parse("if TYPE_CHECKING:\n    import a\ndef f():\n    import b\n")
    assert [[found.names[0].name for found in statements(lazy, types)] for types in (True, False)] == [
        ["a", "b"],
        ["b"],
    ]


def test_only_the_runtime_imports_ray_and_mlflow_and_nothing_the_experiments() -> None:
    for name, path in files().items():
        tops = {imported.partition(".")[0] for imported in imports(path)}
        assert not tops & {"experiments", "tests"}, name
        assert part(name) == "runtime" or not tops & {"ray", "mlflow"}, name


def test_functions_and_files_are_short() -> None:
    assert not too_long()


def test_only_disk_touches_the_files_of_artefacts() -> None:
    for path in (SOURCE / "runtime").glob("*.py"):
        calls = [
            n.func.attr
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
        ]
        written = {"write_text", "mkdir", "rename", "rmtree"} & set(calls)
        assert path.name == "disk.py" or not written, f"{path.name} calls {written}"


def test_nothing_outside_stages_knows_kinds() -> None:
    """Whoever shows, makes, counts or cleans asks a stage for its shape at most: a new kind is one file."""
    kinds = {"data", "model", "denoiser", "guide", "finetune", "prepare", "generate", "views", "scores", "filter"}
    shapes = {"Mapped", "Trained", "Computed", "Sweep", "Experiment", "Dataset", "dict", "list"}
    outside = [path for room in ("runtime", "pages") for path in sorted((SOURCE / room).glob("*.py"))]
    for path in [*outside, SOURCE / "cli.py"]:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                asked = {each.strip() for each in ast.unparse(node.args[1]).split("|")}
                assert asked <= shapes, f"{path.name}:{node.lineno} asks for {asked - shapes}"
            if isinstance(node, ast.Compare):
                words = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                assert not words & {*kinds, "train", "evaluate", "judge"}, f"{path.name}:{node.lineno}"


def test_platform_is_still_the_standard_library() -> None:
    assert platform.system() and not (ROOT / "platform" / "__init__.py").exists()


# Each part says what it has loaded: settings alone, then all that is ours in a Python that has neither Ray nor MLflow.
CHILD = """
import importlib, json, sys
from importlib.machinery import PathFinder
heavy = {'torch', 'diffusers', 'ray', 'mlflow'}
import synthaug.experiment
from synthaug.evaluate.base import Evaluation
from synthaug.methods.base import Method
from synthaug.settings import subclasses
list(subclasses(Method)), list(subclasses(Evaluation))
settings = sorted(heavy & sys.modules.keys())
real = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition('.')[0] in ('ray', 'mlflow') else real(name, *more)
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps({'settings': settings, 'all': sorted(heavy & sys.modules.keys()), 'failed': failed}))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    names = [f"synthaug.{name}".rstrip(".") for name in files() if part(name) != "runtime"]
    done = subprocess.run([sys.executable, "-c", CHILD, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_settings_import_no_torch(loaded: dict[str, Any]) -> None:
    assert loaded["settings"] == []


def test_synthaug_imports_without_ray_and_mlflow(loaded: dict[str, Any]) -> None:
    assert not loaded["failed"] and not {"ray", "mlflow"} & set(loaded["all"])


def test_cluster_yaml_is_what_ray_up_takes() -> None:
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"max_wokers": 3}, schema)


def test_the_lock_names_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and "--index" not in lock and "--find-links" not in lock
    assert lock.count("--hash=sha256:") > lock.count("==")
    assert not (ROOT / "uv.lock").exists()


def test_the_nano_models_stay_small() -> None:
    weights = SOURCE / "nano" / "weights"
    assert sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()) <= 20e6
