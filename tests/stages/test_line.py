"""What an experiment is made of, told and counted once: nothing hidden, nothing stale, nothing forgotten."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthaug
from making import Known, made_in
from shapes import NANO, Noise, class_folders, tiny
from synthaug.classify.recipe import Recipe
from synthaug.clip import Clip
from synthaug.data.dataset import Dataset
from synthaug.diffusion.pixel_models import PretrainedUNet
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.features import ClipFeatures
from synthaug.evaluate.filter import BaseProb, Candidates, Filter, Score
from synthaug.evaluate.leak import Leak
from synthaug.evaluate.predict import Ensemble
from synthaug.evaluate.recognised import Recognised
from synthaug.experiment import Experiment, Sweep, replace
from synthaug.methods.da_fusion import DAFusion
from synthaug.methods.diff_ii import DiffII
from synthaug.methods.gif import GIF
from synthaug.pages.plan import plan
from synthaug.runtime.make import next_wave
from synthaug.runtime.store import Store
from synthaug.settings import settings
from synthaug.stages.base import Given, Mapped, closure, once
from synthaug.stages.line import line_of


def test_what_a_process_keeps_it_keeps_by_what_it_is(tmp_path: Path) -> None:
    """The files of a data set change between two runs in one process: the second must not see the old ones."""
    data = class_folders(tmp_path / "data", ("ape", "bee"), 12)
    subject = Experiment(
        dataset=Dataset("folder", path=str(data), shots=2), recipe=Recipe(steps=2, batch_size=4, evaluations=1),
        method=Noise(), k=1,
    )  # fmt: skip
    first = synthaug.run(subject, home=tmp_path / "home")
    class_folders(data, ("ape", "bee"), 12, first=500)
    second = synthaug.run(subject, home=tmp_path / "home")
    fresh = synthaug.run(subject, home=tmp_path / "fresh")
    assert first["stages"]["train"]["key"] != second["stages"]["train"]["key"] == fresh["stages"]["train"]["key"]
    for name in ("val/top1", "val/loss", "test/loss", "test/top1"):
        assert second["metrics"][name] == fresh["metrics"][name], name
    parts = [[p.read_bytes() for p in (tmp_path / h / "store/generate").glob("*/*.parquet")] for h in ("home", "fresh")]
    assert len(parts[0]) == 2 and parts[1][0] in parts[0]


def test_the_judge_is_a_stage_like_others(tmp_path: Path) -> None:
    """Whoever is asked about generated images is shown, counted, and shared by the two who ask."""
    subject = tiny(method=Noise(), k=1, filter=BaseProb(drop=0.2), evaluations=(Accuracy(), Recognised()))
    before = plan(subject, tmp_path)["stages"]
    assert list(before) == ["generate", "judge", "scores", "filter", "train", "evaluate", "evaluate.2"]
    answer = synthaug.run(subject, home=tmp_path)
    assert list(answer["stages"]) == list(before) and not answer["stages"]["judge"]["cached"]
    costs = {name: value for name, value in answer["metrics"].items() if name.startswith("cost/")}
    assert costs["cost/judge_s"] > 0 and 0 < answer["metrics"]["judge/val/top1"] <= 1
    seconds = sum(value for name, value in costs.items() if name.endswith("_s") and name != "cost/device_s")
    assert costs["cost/device_s"] == pytest.approx(seconds)
    plain = synthaug.run(tiny(), home=tmp_path)
    assert plain["stages"]["train"]["key"] == answer["stages"]["judge"]["key"] and plain["stages"]["train"]["cached"]


def test_show_counts_what_will_be_done(tmp_path: Path) -> None:
    """By the code that does it: inversions before the images, and a strength of their own."""
    inverted = tiny(shots=1, k=2, method=DiffII(steps=4, inversion_steps=5), finetune=(), backbone=NANO)
    found = plan(inverted, tmp_path)
    assert found["stages"]["prepare"]["calls"] == 10 * 5 and found["stages"]["generate"]["calls"] == 20 * 4 * 2
    assert found["missing"]["calls"] == 50 + 160
    answer = synthaug.run(inverted, home=tmp_path)
    assert answer["metrics"]["cost/denoiser_calls"] == 210
    stacked = tiny(shots=1, k=1, method=DAFusion(stack=(0.25,)), finetune=(), backbone=NANO)
    assert plan(stacked, tmp_path)["missing"]["calls"] == 10 * 12
    (seconds,) = {plan(stacked, tmp_path)["missing"]["seconds"]}
    assert seconds > 0, "from what past shards took"


def test_what_evaluations_ask_in_the_loop_is_paid_for(tmp_path: Path) -> None:
    adaptive = Accuracy(split="val", predictor=Ensemble(times=(0.0, 0.2), margin=0.5))
    subject = tiny(evaluations=(adaptive,), denoiser=PretrainedUNet("nano:ddpm"))
    metrics = synthaug.run(subject, home=tmp_path)["metrics"]
    assert metrics["cost/denoiser_calls"] == round(300 * metrics["val/adaptive DE/calls"]) > 0


@settings
class ByProcess(Filter):
    """Leaves a file for each process that scores."""

    folder: str = ""

    def open(self, classifier: Any) -> Score:
        (Path(self.folder) / str(os.getpid())).touch()
        return lambda made: self.brightness(made)

    def brightness(self, made: Candidates) -> np.ndarray:
        return np.asarray(made.images.mean((1, 2, 3)) / 255)


def test_filters_use_workers(tmp_path: Path, cluster: None) -> None:
    kept = []
    for home, workers in (("here", 0), ("there", 2)):
        (tmp_path / home / "marks").mkdir(parents=True)
        subject = tiny(method=Noise(), k=2, filter=ByProcess(drop=0.3, folder=str(tmp_path / home / "marks")))
        store, _ = made_in(tmp_path / home, subject, "filter", workers=workers)
        kept.append(store.load(store.line(subject).images).ids)
        who = {int(path.name) for path in (tmp_path / home / "marks").iterdir()}
        assert (os.getpid() in who) == (workers == 0) and who
    assert kept[0] == kept[1] and len(kept[0]) == 28


def test_another_share_is_dropped_without_scoring_again(tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    for drop, stay in ((0.3, 14), (0.5, 10)):
        subject = tiny(method=Noise(), k=1, filter=ByProcess(drop=drop, folder=str(tmp_path / "marks")))
        store, made = made_in(tmp_path, subject, "filter")
        assert len(store.load(store.line(subject).images).ids) == stay
        assert (store.line(subject).stages()["scores"].key in made.seconds) == (drop == 0.3)


def test_a_filter_that_was_made_without_scores_stays_as_it_is(tmp_path: Path) -> None:
    """Homes of before have none: what only helped to make a stage is not made again, nor paid for when others make it."""
    subject = tiny(method=Noise(), k=1, filter=BaseProb(drop=0.3))
    first = synthaug.run(subject, home=tmp_path)
    store = Store(tmp_path)
    scores, filtered = (store.line(subject).stages()[name] for name in ("scores", "filter"))
    store.disk.remove(f"scores/{scores.key}")
    manifest = json.loads(store.at(filtered).read("manifest.json"))
    assert manifest.pop("helpers") == [scores.key] and manifest.pop("digest")
    store.at(filtered).write("manifest.json", json.dumps(manifest).encode())
    again = synthaug.run(subject, home=tmp_path)
    assert set(first["stages"]) - set(again["stages"]) == {"scores"}
    assert all(stage["cached"] for stage in again["stages"].values())
    synthaug.run(replace(subject, {"filter.drop": 0.5}), home=tmp_path)
    last = synthaug.run(subject, home=tmp_path)
    assert last["metrics"] == again["metrics"] and last["run_id"] == again["run_id"] == first["run_id"]
    store.at(filtered).write("manifest.json", b'{"sta')
    mended = synthaug.run(subject, home=tmp_path)
    assert not mended["stages"]["filter"]["cached"] and mended["run_id"] == first["run_id"]


def test_models_are_those_of_the_files_that_a_method_names_now(tmp_path: Path) -> None:
    """GIF's CLIP at one place with other weights: whoever has loaded the old ones must load anew."""
    subject = tiny(method=GIF(clip=Clip("nano:clip")), backbone=NANO)
    found = []
    for content in ("old", "new", "new"):
        made = line_of(
            subject, Known(lambda thing, clip=content: clip if isinstance(thing, Clip) else "same")
        ).generated
        assert made is not None
        found.append(made.models(Given(made, lambda stage: None)))
    assert found[0] is not found[1] is found[2]


def test_stages_come_in_waves(tmp_path: Path) -> None:
    """What is mapped comes before what is trained, and what is computed from one training goes with it."""
    base = tiny(method=Noise(), k=1, filter=BaseProb(drop=0.3), evaluations=(Accuracy(), Accuracy("val"), Recognised()))
    store = Store(tmp_path).prepare()
    plain, filtered = store.line(tiny()), store.line(base)
    todo = once(closure([*plain.results.values(), *filtered.results.values()]))
    told = []
    while wave := next_wave(todo, {}):
        told.append(sorted("+".join(stage.name for stage in chain) for chain in wave))
        done = {stage.key for chain in wave for stage in chain}
        todo = [stage for stage in todo if stage.key not in done]
    assert told == [["generate"], ["train+evaluate"], ["scores"], ["filter+evaluate"], ["train+evaluate+evaluate"]]
    assert not todo


def test_measurements_of_unlike_images_are_made_apart(tmp_path: Path) -> None:
    """One that fails must not take those of other arms with it: they share no more than the data."""
    store = Store(tmp_path).prepare()
    looks = (Accuracy(), Leak(extractor=ClipFeatures(Clip("nano:clip"))))
    arms = [tiny(method=Noise(amount=amount), k=1, evaluations=looks) for amount in (5, 20)]
    todo = once(closure(stage for arm in arms for stage in store.line(arm).results.values()))
    left = [stage for stage in todo if stage.name != "generate"]
    chains = [[stage.name for stage in chain] for chain in next_wave(left, {})]
    assert sorted(chains) == [["evaluate"], ["evaluate"], ["train", "evaluate"], ["train", "evaluate"]]


def test_what_fails_takes_with_it_only_what_needs_it(tmp_path: Path) -> None:
    store = Store(tmp_path).prepare()
    todo = once(closure([*store.line(tiny()).results.values(), *store.line(tiny(seed=1)).results.values()]))
    failed = {todo[0].key: "broken"}
    rest = [stage for chain in next_wave(todo, failed) for stage in chain]
    assert [stage.name for stage in rest] == ["train", "evaluate"] and todo[0] not in rest
    assert next_wave([stage for stage in todo if stage not in rest], failed) == []


def test_the_largest_number_of_variants_counts(tmp_path: Path) -> None:
    sweep = Sweep(base=tiny(method=Noise()), space={"k": [1, 3, 2]}, seeds=1)
    store = Store(tmp_path)
    stages = once(closure(s for t in sweep.trials() for s in store.line(t.experiment).results.values()))
    (made,) = [stage for stage in stages if isinstance(stage, Mapped)]
    assert len(made.units(store.given(made))) == 3
