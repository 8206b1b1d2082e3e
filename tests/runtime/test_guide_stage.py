"""The stage of a noisy classifier, and guided samples as generated images like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthaug
from making import made_in, place_of, stages_of
from synthaug.classify.recipe import Recipe
from synthaug.data.dataset import Dataset, subset
from synthaug.data.sample import decode_image
from synthaug.diffusion import guide_net as guiding
from synthaug.diffusion.guide import Guide
from synthaug.diffusion.pixel_models import TrainedUNet
from synthaug.experiment import Experiment, Sweep, replace
from synthaug.methods.guided import ClassifierGuided
from synthaug.runtime.store import Store
from synthaug.stages.base import Trained

UNET = TrainedUNet(channels=(8, 16), steps=4, batch_size=4)
GUIDE = Guide(second="denoised", channels=(8,), steps=4, batch_size=4)
METHOD = ClassifierGuided(guide=GUIDE, steps=2)


def experiment(**fields: Any) -> Experiment:
    """Digits at half their size."""
    recipe = Recipe(steps=4, batch_size=8, image_size=16, evaluations=1)
    known = {"dataset": Dataset("digits", shots=1), "recipe": recipe, "denoiser": UNET, "method": METHOD, "k": 2}
    return Experiment(**known | fields)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("here")


def test_a_guide_sees_exactly_the_chosen_images_and_their_labels(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = guiding.train_guide

    def spied(*args: Any, **more: Any) -> Any:
        seen.append(args)
        return real(*args, **more)

    monkeypatch.setattr(guiding, "train_guide", spied)
    subject = experiment(dataset=Dataset("digits", shots=2), seed=3)
    made_in(here, subject, "guide")
    _, (images, labels), (val, val_labels), classes, denoiser = seen[0]
    listing = Store(here).open(subject.dataset)
    entries = subset(listing, subject.dataset, 3)
    assert len(entries) == len(images) == 20 and list(labels) == [entry.label for entry in entries] and classes == 10
    whole = np.stack([decode_image(listing.read(entry.id)).transpose(2, 0, 1) for entry in entries])
    halved = whole.reshape(20, 3, 16, 2, 16, 2).mean((3, 5))
    assert np.abs(halved - images).mean() < 8 and images.shape == (20, 3, 16, 16)
    assert len(val) == len(val_labels) == len(listing.splits["val"]) and denoiser.net.sample_size == 16
    made_in(here, subject, "guide")
    made_in(here, replace(subject, {"method.guide.second": "noisy"}), "guide")
    assert len(seen) == 2 and seen[1][-1] is None, "once each; and one that needs no denoiser is given none"


def test_the_whole_line_and_again(here: Path) -> None:
    answer = synthaug.run(experiment(), home=here)
    assert list(answer["stages"]) == ["denoiser", "guide", "generate", "train", "evaluate"]
    metrics = answer["metrics"]
    assert metrics["gen/images"] == 20 and metrics["cost/denoiser_calls"] == 20 * 2 + 4 * 4, "for images, and training"
    assert 0 <= metrics["guide/val/top1"] <= 1 and 0 < metrics["cost/guide_s"] < metrics["cost/device_s"]
    store, subject = Store(here), experiment()
    samples = store.load(store.line(subject).generated).samples(2)
    assert len(samples) == 20
    assert all(decode_image(sample.image).shape == (16, 16, 3) for sample in samples)
    assert all(dict(sample.label) == {sample.target: 1.0} for sample in samples)
    again = synthaug.run(subject, home=here)
    assert all(stage["cached"] for stage in again["stages"].values()) and again["run_id"] == answer["run_id"]


def test_samples_are_shown_to_the_classifier_of_the_real_images(here: Path) -> None:
    from synthaug.classify.loop import predict
    from synthaug.data.decoded import decode_all
    from synthaug.evaluate.recognised import Recognised

    subject, store = experiment(evaluations=(Recognised(),)), Store(here)
    metrics = synthaug.run(subject, home=here)["metrics"]
    samples = store.load(store.line(subject).images).samples(subject.k)
    real_only = store.line(replace(subject, {"method": None})).classifier
    said = predict(store.load(real_only), decode_all([s.image for s in samples], 16)).argmax(1).numpy()
    assert metrics["recognised/top1"] == np.mean(said == [s.target for s in samples])
    assert store.manifest(real_only) is not None


def test_samples_are_those_of_the_guide_that_was_trained(here: Path) -> None:
    subject = experiment()
    store, _ = made_in(here, subject, "generate")
    line = store.line(subject)
    stage, made, placed = line.generated, store.load(line.generated), store.load(line.guide)
    assert stage is not None and placed == (GUIDE, place_of(store, subject, "guide"))
    given, models = stage.open(store.given(stage))
    rows = list(stage.plan(made.sources, (1, 2), stage.context(given)))
    images, _ = METHOD.generate(rows, [], models)
    stored = {sample.id: decode_image(sample.image) for sample in made.samples(2)}
    assert len(rows) == 20
    for row, image in zip(rows, images, strict=True):
        assert np.abs(stored[f"{row.source}#{row.variant}"].astype(int) - image).max() <= 1


def test_a_sweep_makes_each_guide_once(tmp_path: Path) -> None:
    """In this process: what several processes make once is told in test_stages."""
    arms = {"total": {}, "detached": {"method.total": False}}
    answer = synthaug.run(Sweep(base=experiment(k=1), arms=arms, seeds=1), home=tmp_path, workers=0)
    stages = [name.partition("/")[0] for name in answer["stages"]]
    assert {name: stages.count(name) for name in set(stages)} == {
        "denoiser": 1, "guide": 1, "generate": 2, "train": 2, "evaluate": 2,
    }  # fmt: skip
    assert all("guide/val/top1" in trial["metrics"] for trial in answer["trials"])


def test_what_a_stage_reports_is_under_its_name() -> None:
    entry = {"step": 3.0, "train/loss": 1.0, "val/top1": 0.5}
    stages = stages_of(experiment())
    assert isinstance(stages["guide"], Trained) and isinstance(stages["train"], Trained)
    assert stages["guide"].entry_named("guide", entry) == {"step": 3.0, "guide/loss": 1.0, "guide/val/top1": 0.5}
    assert stages["train"].entry_named("train", entry) == entry
