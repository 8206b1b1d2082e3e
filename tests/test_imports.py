"""The house rules that a reader cannot check by eye."""

from __future__ import annotations

import ast
import json
import platform
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "platform" / "synthaug"
# what a module or package may import of ours, beside itself
BELOW = {
    "settings": set(),
    "training": set(),
    "suffixes": {"settings"},
    "space": {"settings"},
    "sample": {"settings"},
    "weights": {"settings", "nano"},
    "scorer": {"settings"},
    "clip": {"settings", "weights", "scorer"},
    "glyphs": {"settings"},
    "listing": {"settings", "sample"},
    "folder": {"settings", "sample", "listing"},
    "layouts": {"settings", "listing", "folder"},
    "cifar": {"settings", "sample", "listing", "folder", "layouts"},
    "published": {"settings", "listing", "folder", "layouts", "cifar"},
    "dataset": {"settings", "sample", "listing", "folder", "glyphs", "published"},
    "diffusion": {"settings", "sample", "nano", "weights", "training"},
    "methods": {"settings", "sample", "diffusion", "clip", "scorer", "suffixes"},
    "classify": {"settings", "sample", "training"},
    "evaluate": {"settings", "sample", "classify", "clip", "scorer", "diffusion", "methods", "dataset", "glyphs"},
    "nano": {
        "settings",
        "sample",
        "glyphs",
        "listing",
        "dataset",
        "diffusion",
        "classify",
        "evaluate",
        "clip",
        "scorer",
    },
    "stages": {"settings", "dataset", "methods", "classify", "evaluate", "weights"},
    "experiment": {
        "stages",
        "settings",
        "space",
        "sample",
        "listing",
        "dataset",
        "diffusion",
        "methods",
        "classify",
        "evaluate",
        "weights",
    },
}
BELOW["runtime"] = {*BELOW, "experiment"}
BELOW["cli"] = {*BELOW, "runtime"}
BELOW["__init__"] = {"experiment", "runtime"}
EXCEPTIONS = {
    ("classify/views.py", "diffusion."),
    ("classify/loop.py", "diffusion.denoiser"),
    ("diffusion/backbone.py", "nano"),
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    name = str(path.relative_to(SOURCE))
    part = name.partition("/")[0].removesuffix(".py")
    for imported in imports(path):
        top = imported.partition(".")[0]
        assert top not in ("experiments", "tests")
        if top in ("ray", "mlflow"):
            assert part == "runtime", f"{name} imports {imported}"
        if top == "synthaug" and "." in imported:
            ours = imported.removeprefix("synthaug.")
            other = ours.partition(".")[0]
            allowed = other == part or other in BELOW[part]
            if part == "diffusion" and other == "nano":
                allowed = name == "diffusion/backbone.py"
            assert allowed or any(name == n and ours.startswith(o) for n, o in EXCEPTIONS), f"{name} imports {imported}"


def test_only_the_store_writes_artefacts() -> None:
    for path in (SOURCE / "runtime").glob("*.py"):
        calls = [
            n.func.attr
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
        ]
        written = {"write_text", "mkdir", "rename", "rmtree"} & set(calls)
        assert path.name == "store.py" or not written, f"{path.name} calls {written}"


def test_platform_is_still_the_standard_library() -> None:
    assert platform.system() and not (ROOT / "platform" / "__init__.py").exists()


def test_synthaug_imports_without_ray_and_mlflow() -> None:
    modules = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in files()
        if path.parent.name != "runtime"
    ]
    code = (
        "import sys, importlib\n"
        "from importlib.machinery import PathFinder\n"
        "real, gone = PathFinder.find_spec, ('ray', 'mlflow')\n"
        "def find_spec(name, *more): return None if name.partition('.')[0] in gone else real(name, *more)\n"
        "PathFinder.find_spec = find_spec\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "assert not {'ray', 'mlflow'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_settings_import_no_torch() -> None:
    code = (
        "import sys; import synthaug.experiment; from synthaug.settings import subclasses; "
        "from synthaug.methods.base import Method; from synthaug.evaluate.base import Evaluation; "
        "list(subclasses(Method)), list(subclasses(Evaluation)); "
        "sys.exit(bool({'torch', 'diffusers', 'ray', 'mlflow'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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
