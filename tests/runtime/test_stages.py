"""The stages around generation: fine-tuning, what a method must have first, filters, measured images; and every
method through the whole line."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import preloaded
import synthaug
from making import key_of, made_in, place_of, stages_of
from shapes import NANO, Noise, tiny
from synthaug.classify.mixing import Replace
from synthaug.classify.recipe import Recipe
from synthaug.classify.views import DiffAugView
from synthaug.clip import Clip
from synthaug.data.dataset import subset
from synthaug.data.sample import decode_image
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.finetune import LoRA, TextualInversion
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.base import MappedEvaluation, Result, Subject
from synthaug.evaluate.features import ClipFeatures
from synthaug.evaluate.fidelity import Fidelity
from synthaug.evaluate.filter import BaseProb, ClipMulti
from synthaug.evaluate.leak import Leak
from synthaug.evaluate.predict import Ensemble
from synthaug.experiment import Experiment, Sweep, replace
from synthaug.methods.base import Context, Row
from synthaug.methods.da_fusion import DAFusion
from synthaug.methods.diff_aug import DiffAug
from synthaug.methods.diff_ii import DiffII
from synthaug.methods.diff_mix import DiffMix
from synthaug.methods.diffuse_mix import DiffuseMix
from synthaug.methods.gif import GIF
from synthaug.methods.prompts import Prompts
from synthaug.methods.real_guidance import RealGuidance
from synthaug.pages.export import export_images
from synthaug.pages.plan import plan
from synthaug.pages.report import write_report
from synthaug.runtime.executors import Workers
from synthaug.runtime.make import Here, Plan, make
from synthaug.runtime.store import Store
from synthaug.settings import UserError, settings
from synthaug.stages.adapter import FILE
from synthaug.stages.images import Images

CLIP = Clip("nano:clip")
TUNED = (TextualInversion(steps=3, batch_size=4, lr=1e-2), LoRA(steps=3, batch_size=4, rank=2))
METHODS: dict[str, dict[str, object]] = {
    "real guidance": {"method": RealGuidance(steps=4)},
    "gif": {"method": GIF(steps=4, variants=2, clip=CLIP)},
    "diffusemix": {"method": DiffuseMix(steps=3), "backbone": Backbone("nano:pix2pix")},
    "da-fusion": {"method": DAFusion(steps=4), "finetune": TUNED[:1]},
    "diff-aug": {"method": DiffAug(steps=4), "finetune": TUNED},
    "diff-mix": {"method": DiffMix(steps=4), "finetune": TUNED},
    "diff-ii": {"method": DiffII(steps=4, inversion_steps=5), "finetune": TUNED},
}


def experiment(name: str, **fields: object) -> Experiment:
    return tiny(**({"shots": 1, "backbone": NANO, "k": 2} | METHODS[name] | fields))


def images_of(store: Store, subject: Experiment) -> Images:
    images: Images = store.load(store.stages(subject)["generate"])
    return images


def made(home: Path, subject: Experiment) -> list[np.ndarray]:
    """The images of an experiment, and what its backbone is fine-tuned by first."""
    store, _ = made_in(home, subject, "generate")
    return [decode_image(sample.image) for sample in images_of(store, subject).samples(subject.k)]


def fine_tune(store: Store, subject: Experiment) -> None:
    if names := [name for name in stages_of(subject) if name.startswith("finetune")]:
        made_in(store, subject, *names)


def parts(home: Path, subject: Experiment) -> dict[str, bytes]:
    folder = place_of(Store(home), subject, "generate")
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home, so that methods share what they can."""
    return tmp_path_factory.mktemp("here")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_the_whole_line(name: str, here: Path) -> None:
    answer = synthaug.run(experiment(name), home=here)
    assert list(answer["stages"])[-3:] == ["generate", "train", "evaluate"]
    assert answer["metrics"]["gen/images"] == 20 and answer["metrics"]["cost/denoiser_calls"] > 0
    store = Store(here)
    listing = store.open(experiment(name).dataset)
    samples = images_of(store, experiment(name)).samples(2)
    sources = {entry.id for entry in subset(listing, experiment(name).dataset, experiment(name).seed)}
    assert {sample.source for sample in samples} == sources, "from the k-shot images only, and from each of them"
    assert all(sum(weight for _, weight in sample.label) == pytest.approx(1) for sample in samples)
    learned = bool(METHODS[name].get("finetune"))
    assert all(("<class-" in sample.prompt) == learned for sample in samples)
    assert len(listing.classes) == 10


@settings
class Brightness(MappedEvaluation):
    """The mean of each image, found shard by shard."""

    def rows(self, subject: Subject, numbers: Sequence[int]) -> list[dict[str, float]]:
        images, _ = subject.sets[self.split]
        return [{"mean": float(images[number].mean()), "number": int(number)} for number in numbers]

    def result(self, rows: Sequence[dict[str, float]]) -> Result:
        assert [row["number"] for row in rows] == list(range(300))
        return {"metrics": {f"{self.split}/brightness": float(np.mean([row["mean"] for row in rows]))}}


TWINS = Recipe(steps=1, batch_size=8, views=(DiffAugView(cached=4),), evaluations=1)
DE = Accuracy(predictor=Ensemble(times=(0.0, 0.1, 0.3)))
MAPPED: dict[str, tuple[Experiment, dict[str, int]]] = {
    **{name: (experiment(name), {"generate": 1 if name == "gif" else 2}) for name in METHODS},
    "a method that only these tests know": (tiny(method=Noise(), k=4), {"generate": 4}),
    "copies": (
        tiny(shots=1, recipe=TWINS, denoiser="nano:ddpm", evaluations=(DE,)),
        {"views": 1 * 4, "views.2": 4 * 2},
    ),
    "image by image": (tiny(steps=1, evaluations=(Brightness("val"),)), {"evaluate": 19}),
}


def test_any_number_of_actors_gives_the_same_bytes(here: Path, tmp_path: Path, cluster: None) -> None:
    """Whatever is mapped, in one job of two actors, each of which makes whatever shard comes next."""
    store = Store(tmp_path).prepare()
    plan = Plan(store)
    for subject, names in MAPPED.values():
        made_in(here, subject, *names)
        mapped = [stage for name, stage in store.stages(subject).items() if name in names]
        first = [other for stage in mapped for other in stage.inputs.values() if not other.there]
        make(Plan(store).add(subject, first), Here())
        plan.add(subject, mapped)
    make(plan, Workers(2))
    for title, (subject, names) in MAPPED.items():
        for name, count in names.items():
            one, other = (shards(place_of(Store(home), subject, name)) for home in (here, tmp_path))
            assert one == other and len(one) == count, (title, name)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*-*"))}


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_change_nothing_but_rounding(name: str, here: Path) -> None:
    small = replace(experiment(name), {"backbone.micro_batch": 3})
    assert key_of(small, "generate") != key_of(experiment(name), "generate")
    one, other = made(here, experiment(name)), made(here, small)
    assert np.abs(np.stack(one).astype(int) - np.stack(other)).max() <= 1


def test_what_is_shared_is_made_once(here: Path) -> None:
    made(here, experiment("diff-aug"))
    store = Store(here)
    folder = place_of(store, experiment("diff-mix"), "finetune.2")
    before = (folder / FILE).stat().st_mtime_ns
    made(here, experiment("diff-mix"))
    assert (folder / FILE).stat().st_mtime_ns == before
    words = place_of(store, experiment("da-fusion"), "finetune")
    assert words == place_of(store, experiment("diff-mix"), "finetune")
    assert sorted(load_file(words / FILE)) == sorted(f"<class-{i}>" for i in range(10))


def test_learned_words_change_the_images(here: Path) -> None:
    plain, learned = experiment("diff-aug", finetune=()), experiment("diff-aug")
    assert np.abs(np.stack(made(here, plain)).astype(int) - np.stack(made(here, learned))).mean() > 0.5


@settings
class Wordless(Prompts):
    """Of everything but the class."""

    def __call__(self, row: Row, context: Context) -> Row:
        return dataclasses.replace(row, prompt="a photo of something")


def test_a_prompt_without_the_learned_word_ends_the_run_before_it_begins(home: Path) -> None:
    wrong = replace(experiment("diff-aug"), {"method.prompts": Wordless()})
    with pytest.raises(UserError, match="the prompt 'a photo of something.*' holds no '<class-.>'"):
        synthaug.run(wrong, home=home)
    assert not list(home.glob("store/finetune/*/*"))
    with pytest.raises(UserError, match="Noise has no backbone to fine-tune"):
        synthaug.run(tiny(method=Noise(), finetune=TUNED), home=home)


def test_a_filter_leaves_out_what_it_dropped(here: Path) -> None:
    subject = experiment("diff-mix", filter=ClipMulti(drop=0.3, clip=CLIP))
    answer = synthaug.run(subject, home=here)
    store = Store(here)
    found = json.loads((Path(answer["stages"]["filter"]["path"]) / "scores.json").read_text())
    assert len(found["kept"]) == 14 and len(found["scores"]) == 20
    dropped = set(found["scores"]) - set(found["kept"])
    assert max(found["scores"][id] for id in dropped) <= min(found["scores"][id] for id in found["kept"])
    line = store.line(subject)
    assert line.images is not None
    assert {sample.id for sample in store.load(line.images).samples(2)} == set(found["kept"])
    data = line.classifier.training_data(store.given(line.classifier))
    assert len(data.source_of_synthetic) == 14 and len(data.images) == 24
    base = experiment("diff-mix", filter=BaseProb(drop=0.5, per_class=True))
    synthaug.run(base, home=here)
    judge = place_of(store, tiny(shots=1), "train")
    assert (judge / "model.safetensors").exists(), "the classifier of the real images alone was trained for it"
    assert judge == place_of(store, base, "judge")
    assert f"train/{judge.name}" not in [name for name, _ in store.unneeded()], "and clean leaves it alone"


def test_what_is_exported_is_what_would_be_trained_on(here: Path, tmp_path: Path) -> None:
    subject = experiment("diff-mix", filter=ClipMulti(drop=0.3, clip=CLIP))
    assert export_images(subject, tmp_path / "out", here, real=False) == (f"14 synthetic images in {tmp_path / 'out'}")
    assert len(list((tmp_path / "out").glob("*/*/*.png"))) == 14
    part = next(place_of(Store(here), subject, "generate").glob("part-*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert export_images(subject, tmp_path / "again", here).startswith("14 synthetic images"), (
        "what is damaged is made anew"
    )
    assert part.read_bytes() == whole
    other = replace(subject, {"seed": 3, "filter": None, "k": 1})
    assert export_images(other, tmp_path / "new", here).startswith("10 synthetic images"), "fine-tuned for it first"


def test_few_steps_are_told(here: Path) -> None:
    found = plan(replace(experiment("real guidance"), {"method.strength": 0.1}), here)
    assert "strength 0.1 of 4 steps is less than one step: one is run" in found["notes"]


def test_images_are_measured_beside_the_classifier(here: Path) -> None:
    features = ClipFeatures(CLIP)
    looked = (Accuracy(), Fidelity(extractor=features, k=1), Leak(extractor=features))
    subject = experiment("real guidance", evaluations=looked)
    metrics = synthaug.run(subject, home=here)["metrics"]
    assert {"test/top1", "fidelity/fid", "fidelity/precision", "leak/share_closer"} <= metrics.keys()
    page = write_report(Store(here), {"one": subject}, here / "report.html").read_text()
    assert "<th>fid" in page and f"<td>{metrics['fidelity/fid']:.3g}" in page and "<th>share_closer" in page
    with pytest.raises(UserError, match="digits has no split 'tset'; did you mean test"):
        synthaug.run(tiny(evaluations=(Accuracy("tset"),)), home=here)


def test_a_sweep_makes_each_thing_once(home: Path) -> None:
    """In this process: that it is so in several is a matter of locks, and is tested with stages that take no time."""
    arms = {"plain": {}} | {
        name: METHODS[name] | {"backbone": NANO} for name in ("da-fusion", "diff-aug", "diff-mix", "diff-ii")
    }
    arms["filtered"] = arms["diff-aug"] | {"filter": BaseProb(drop=0.5)}
    arms["replaced"] = arms["diff-mix"] | {"utilize": Replace()}
    sweep = Sweep(base=tiny(shots=1, k=1), arms=arms, baseline="plain", seeds=1)
    answer = synthaug.run(sweep, home=home, workers=0)
    stages = [name.partition("/")[0] for name in answer["stages"]]
    counts = {name: stages.count(name) for name in dict.fromkeys(stages)}
    judges = {stage["key"] for name, stage in answer["stages"].items() if name.startswith("judge")}
    assert judges < {stage["key"] for name, stage in answer["stages"].items() if name.startswith("train")}
    assert counts == {
        "train": 7,
        "judge": 1,
        "scores": 1,
        "evaluate": 7,
        "finetune": 1,
        "generate": 4,
        "finetune.2": 1,
        "prepare": 1,
        "filter": 1,
    }
    assert all(trial["metrics"]["cost/denoiser_calls"] > 0 for trial in answer["trials"][1:])


CHILD = """
import sys
import synthaug
from test_stages import experiment
synthaug.run(experiment("diff-ii"), home=sys.argv[1])
"""


def test_killed_in_any_stage_and_run_again_gives_the_same_bytes(tmp_path: Path, here: Path) -> None:
    """SIGKILL once something of each stage is on the disk; the next run goes on from there."""
    home = tmp_path / "killed"
    for sign in ("store/finetune/*/adapter.safetensors", "store/prepare/*/part-*.json", "store/generate/*/part-*.json"):
        process = preloaded.start(CHILD, home, stderr=tmp_path / "said")
        while process.poll() is None and not list(home.glob(sign)):
            time.sleep(0.01)
        assert process.poll() is None, "something was left to do"
        process.send_signal(signal.SIGKILL)
        process.wait()
    subject = experiment("diff-ii")
    assert not list(home.glob("store/evaluate/*/manifest.json"))
    synthaug.run(subject, home=home)
    made(here, subject)
    assert parts(home, subject) == parts(here, subject)


@pytest.mark.nightly  # of a classifier it is shown by test_run.py each time
@pytest.mark.parametrize("stage", ["finetune", "finetune.2"])
def test_workers_learn_the_same_adapter_up_to_rounding(
    stage: str, here: Path, tmp_path: Path, cluster: None
) -> None:  # fmt: skip
    """Two processes of Ray Train, gradients added up."""
    subject = experiment("diff-aug")
    fine_tune(Store(here).prepare(), subject)
    made_in(tmp_path, subject, stage, workers=2)
    one, two = (load_file(place_of(Store(home), subject, stage) / FILE) for home in (here, tmp_path))
    assert one.keys() == two.keys()
    assert max(float(np.abs(one[name] - two[name]).max()) for name in one) < 2e-4
