"""Keys and records of homes that were made before the house was rebuilt: they must be found as they are."""

from __future__ import annotations

import json
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import synthaug
from making import Known, stages_of
from shapes import tiny
from synthaug.data.dataset import Dataset
from synthaug.diffusion.pixel_models import TrainedUNet
from synthaug.evaluate.base import Evaluation
from synthaug.experiment import Experiment, Sweep, read
from synthaug.methods.base import Method
from synthaug.refs import import_file, subjects_in
from synthaug.runtime.records import record_key
from synthaug.runtime.store import Store
from synthaug.settings import UserError, from_json, hash_of, key_name, keyed, subclasses, to_json
from synthaug.stages.line import line_of
from synthaug.weights import Weights

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"
NEW = {"scores"}  # kinds of stages that those homes do not have


def identify(thing: Any) -> str:
    """What a thing is, without the thing."""
    if isinstance(thing, Dataset):
        return f"data {thing.name}"
    return f"model {thing.model}" if isinstance(thing, Weights) else f"file {thing.name}"


def trials(subject: Experiment | Sweep) -> list[Experiment]:
    """One seed of each arm and point."""
    if isinstance(subject, Experiment):
        return [subject]
    return [trial.experiment for trial in subject.trials() if trial.seed == subject.seeds[-1]]


def test_all_experiments_have_the_keys_of_the_table() -> None:
    """4,469 keys: for each function and stage their number, the first of them, and the hash of all (golden/keys.py)."""
    golden = json.loads((GOLDEN / "keys.json").read_bytes())
    found = of_experiments(golden)
    assert found.keys() == golden.keys() and sum(row[0] for rows in golden.values() for row in rows.values()) == 4469
    assert {ref for ref in golden if found[ref] != golden[ref]} == set()


def of_experiments(refs: Collection[str]) -> dict[str, dict[str, list[Any]]]:
    """What functions of experiments/ have for keys."""
    found: dict[str, dict[str, list[Any]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(Path, "exists", lambda self, **more: True)  # files that recipes and outliers name
        for path in sorted(Path("experiments").glob("*.py")):
            for name, function in subjects_in(import_file(str(path))).items():
                if f"{path}:{name}" in refs:
                    found[f"{path}:{name}"] = told(trials(function()))
    return found


def told(experiments: list[Experiment]) -> dict[str, list[Any]]:
    keys: dict[str, set[str]] = {}
    for experiment in experiments:
        for name, stage in line_of(experiment, Known(identify)).stages().items():
            if stage.kind not in NEW:
                keys.setdefault(name, set()).add(stage.key)
    ordered = {name: sorted(found) for name, found in keys.items()}
    return {n: [len(k), k[0], sha256("".join(k).encode()).hexdigest()[:32]] for n, k in ordered.items()}


def test_what_classes_are_called_in_keys() -> None:
    """A class that moves says what it was called, or everybody who used it makes all anew."""
    moved = {key_name(cls) for base in (Method, Evaluation, Dataset, Weights) for cls in subclasses(base)}
    assert {"synthaug.dataset:Dataset", "synthaug.diffusion.denoisers:PretrainedUNet"} <= moved
    assert "synthaug.methods.real_guidance:RealGuidance" in moved
    known = json.loads((GOLDEN / "records.json").read_bytes())["experiment"]
    assert known["denoiser"]["kind"] == "synthaug.diffusion.denoisers:TrainedUNet", "as it was written then"
    experiment = from_json(Experiment, known)
    assert keyed(experiment.denoiser) == {"kind": "synthaug.diffusion.denoisers:TrainedUNet", "steps": 7}
    assert to_json(experiment)["denoiser"]["kind"] == "synthaug.diffusion.pixel_models:TrainedUNet"
    assert from_json(Experiment, to_json(experiment)) == experiment


def test_older_records_are_filed_by_what_they_hold(home: Path) -> None:
    """They were named by the hash of all of their JSON: found again, their runs are not doubled."""
    known = json.loads((GOLDEN / "records.json").read_bytes())
    experiment = read(known["experiment"])
    assert isinstance(experiment, Experiment)
    first = synthaug.run(experiment, home=home)
    store = Store(home)
    new, old = (home / "store/record" / f"{name}.json" for name in (record_key(experiment), known["experiment hash"]))
    assert hash_of(known["experiment"]) == known["experiment hash"] != record_key(experiment)
    before = json.loads(new.read_text()) | {"subject": known["experiment"]}
    del before["digest"]  # which they did not have
    old.write_text(json.dumps(before))
    new.unlink()
    (home / "store/record/keyed").unlink(missing_ok=True)
    again = synthaug.run(experiment, home=home)
    assert again["run_id"] == first["run_id"] and all(stage["cached"] for stage in again["stages"].values())
    assert new.exists() and not old.exists() and len(store.records.all()) == 1
    assert [name for name, _ in store.unneeded()] == []
    # and goes on in its run when something of it is lost, although the run had another key then
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    client.set_tag(first["run_id"], "synthaug.key", "of before")
    store.disk.remove(f"evaluate/{first['stages']['evaluate']['key']}")
    assert synthaug.run(experiment, home=home)["run_id"] == first["run_id"]
    assert len(client.search_runs([client.get_run(first["run_id"]).info.experiment_id])) == 1


@pytest.mark.parametrize("artefacts", [None, 5, "train/0"])
def test_a_record_that_names_no_artefacts_is_none(home: Path, artefacts: Any) -> None:
    """A damaged one must not end `run`; `clean` would take what it needed, and says so."""
    store = Store(home).prepare()
    store.disk.write("record/abc.json", json.dumps({"subject": {}, "artefacts": artefacts}).encode())
    assert store.records.all() == []
    with pytest.raises(UserError, match="abc.json is damaged"):
        store.unneeded()


def test_records_of_classes_that_are_gone_stay(home: Path) -> None:
    store = Store(home).prepare()
    strange = {"subject": {"kind": "nobody:Knows", "dataset": {"name": "digits"}}, "artefacts": ["train/" + "0" * 32]}
    store.disk.write("record/abc.json", json.dumps(strange).encode())
    assert [record.artefacts for record in Store(home).prepare().records.all()] == [strange["artefacts"]]


def test_a_sweep_of_older_json_is_read() -> None:
    known = json.loads((GOLDEN / "records.json").read_bytes())
    sweep = read(known["sweep"])
    assert isinstance(sweep, Sweep) and "kind" not in known["sweep"]["base"], "its base had no class of its own then"
    assert read(to_json(sweep)) == sweep and record_key(sweep) == record_key(read(to_json(sweep)))
    arms = {"one": {"denoiser": {"kind": "synthaug.diffusion.denoisers:TrainedUNet", "steps": 7}}, "a": {}}
    moved = Sweep(base=tiny(), arms=arms, seeds=1)
    now = Sweep(base=tiny(), arms={"a": {}, "one": {"denoiser": TrainedUNet(steps=7)}}, seeds=1)
    assert record_key(moved) == record_key(now), "whatever its arms call a class, in whatever order"
    (experiment,) = [trial.experiment for trial in sweep.trials()]
    assert list(stages_of(experiment)) == ["train", "evaluate"]
