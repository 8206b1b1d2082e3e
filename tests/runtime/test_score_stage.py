"""Experiments about a diffusion model: its training, its samples and their measurements as stages like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import synthaug
from making import made_in, place_of
from shapes import Noise
from synthaug.classify.detector import TransformDetector
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import Early, Slow
from synthaug.classify.views import DiffAugView
from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.layout import FOLDER
from synthaug.diffusion.one_step import Diffusion
from synthaug.diffusion.score_models import OnClean, ScoreAug, TrainedDiT, TrainedEDM
from synthaug.diffusion.transforms import OneOrNone, Rotation, Translation
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.denoising import Answers, DenoisingLoss
from synthaug.evaluate.features import OwnFeatures
from synthaug.evaluate.fidelity import Fidelity
from synthaug.evaluate.memorised import Memorised
from synthaug.evaluate.recognised import Recognised
from synthaug.evaluate.transformed import Transformed
from synthaug.experiment import Experiment, replace
from synthaug.methods.from_noise import FromNoise, Resample
from synthaug.pages.export import export_images
from synthaug.pages.report import write_report
from synthaug.runtime.store import Store
from synthaug.settings import UserError
from synthaug.stages.classifier import WEIGHTS

NET = TrainedEDM(
    channels=(8, 16), steps=4, batch_size=4, image_size=8, labels=True,
    scoreaug=ScoreAug(how=OneOrNone(transforms=(Rotation(), Translation(most=0.25)))),
)  # fmt: skip
OWN = OwnFeatures(Recipe(steps=2, batch_size=8, evaluations=1))
LOOKS = (
    Fidelity(extractor=OWN, also=("subset",), sets=2), Memorised(), Transformed(detector=TransformDetector(steps=2)),
    DenoisingLoss(images=8, levels=2), Answers(images=2, transforms=(Rotation(),)),
)  # fmt: skip


def experiment(**fields: Any) -> Experiment:
    known: dict[str, Any] = {
        "dataset": Dataset("digits", shots=1), "denoiser": NET, "method": FromNoise(steps=2), "k": 2,
        "evaluations": LOOKS,
    }  # fmt: skip
    return Experiment(**known | fields)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("score")


@pytest.fixture(scope="module")
def answer(home: Path) -> dict[str, Any]:
    return synthaug.run(experiment(), home=home)


def test_no_classifier_is_trained_and_all_is_measured(answer: dict[str, Any], home: Path) -> None:
    kinds = [Path(stage["path"]).parent.name for stage in answer["stages"].values()]
    # the only training of a classifier is that of the features, on all training images
    assert kinds.count("train") == 1 and "judge" in answer["stages"] and kinds.count("evaluate") == 5
    metrics = answer["metrics"]
    told = {"fidelity/fid", "fidelity/subset/fid", "fidelity/fid_of_sets", "memorised/distance_ratio", "transformed/leak",
            "denoising/gap", "answers/rotation", "denoiser/gflops", "gen/images"}  # fmt: skip
    assert told <= metrics.keys() and "test/top1" not in metrics
    assert metrics["gen/images"] == 20 and all(np.isfinite(list(metrics.values())))
    # 20 images in 3 calls each; at two levels of noise the 8 held-out images and the 8 of 10 trained on; 2 x 1 answers
    assert metrics["cost/denoiser_calls"] == 20 * 3 + 2 * 16 + 2
    assert write_report(Store(home), {"x": experiment()}, home / "page.html").stat().st_size > 10_000


def test_all_of_it_is_found_again(answer: dict[str, Any], home: Path) -> None:
    again = synthaug.run(experiment(), home=home)
    assert (
        all(stage["cached"] for stage in again["stages"].values())
        and again["metrics"].keys() == answer["metrics"].keys()
    )


def test_images_are_as_large_as_the_net_and_of_the_class_that_was_asked_for(answer: dict[str, Any], home: Path) -> None:
    from PIL import Image

    export_images(experiment(), home / "out", home, real=False)
    files = sorted((home / "out").rglob("*.png")) + sorted((home / "out").rglob("*.jpg"))
    assert len(files) == 20 and {Image.open(file).size for file in files} == {(8, 8)}
    assert len({file.parent.name for file in files}) == 10
    # the sampler by hand, from the seed of the first image
    store = Store(home)
    made = store.load(store.stages(experiment())["generate"]).samples(1)
    denoiser = NET.load(place_of(store, experiment(), "denoiser"), "cpu")
    first = made[0]
    noise = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(first.seed))
    x = 80.0 * noise[None]
    label = torch.tensor([first.target])
    with torch.no_grad():
        slope = (x - denoiser(x, 80.0, label)) / 80
        ahead = x + (0.002 - 80) * slope
        slope = (slope + (ahead - denoiser(ahead, 0.002, label)) / 0.002) / 2
        x = x + (0.002 - 80) * slope
        x = denoiser(x, 0.002, label)
    from synthaug.data.sample import decode_image

    pixels = ((x[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(decode_image(first.image).astype(float) - pixels).max() <= 1


def test_samples_of_some_sources(home: Path) -> None:
    """Any of them, but always the same, and of no more than are there."""
    few, all_of = FromNoise(steps=2, most=3), FromNoise(steps=2, most=99)
    entries = Store(home).load(Store(home).line(experiment()).data).entries("subset", 0)
    chosen = few.sources(entries)
    assert len(chosen) == 3 and chosen == few.sources(entries[::-1])[::-1] and all_of.sources(entries) == entries
    assert set(few.sources(entries)) < set(replace(few, {"most": 5}).sources(entries))
    made = experiment(method=few, evaluations=(LOOKS[1],))
    assert synthaug.run(made, home=home)["metrics"]["gen/images"] == 6


def test_it_is_a_denoiser_for_another_experiment(answer: dict[str, Any], home: Path) -> None:
    """By the key of its stage here, or by its folder: the same stages either way."""
    key, path = (answer["stages"]["denoiser"][part] for part in ("key", "path"))
    recipe = Recipe(steps=2, batch_size=8, image_size=8, evaluations=1, views=(DiffAugView(how=Diffusion(high=0.9)),))
    plain: dict[str, Any] = {"recipe": recipe, "method": Resample(steps=2), "k": 1, "evaluations": (Accuracy(),)}
    by_key = experiment(denoiser=f"run:{key[:12]}", **plain)
    found = synthaug.run(by_key, home=home)
    assert found["metrics"]["gen/images"] == 10 and "test/top1" in found["metrics"]
    by_folder = experiment(denoiser=f"{path}/denoiser", **plain)
    assert all(stage["cached"] for stage in synthaug.run(by_folder, home=home)["stages"].values())
    with pytest.raises(UserError, match="0 finished stages of this home have a key that begins with 'abc'"):
        synthaug.run(experiment(denoiser="run:abc", **plain), home=home)


def test_a_transformer_on_latents(home: Path) -> None:
    net = TrainedDiT(
        vae="nano:sd", layers=1, heads=1, head_size=8, steps=3, batch_size=4, labels=True,
        scoreaug=ScoreAug(how=OneOrNone(transforms=(Translation(),))),
    )  # fmt: skip
    subject = experiment(
        denoiser=net, method=FromNoise(steps=2, guidance=2.0), k=1, evaluations=(DenoisingLoss(images=4, levels=1),)
    )
    found = synthaug.run(subject, home=home)
    assert list(found["stages"]) == ["prepare", "denoiser", "generate", "evaluate"]
    # 10 images, two calls a step but one at the last, with and without the class; and 4 of each split at one level
    assert found["metrics"]["cost/denoiser_calls"] == 10 * 3 * 2 + 8
    store = Store(home)
    latents = store.load(store.stages(subject)["prepare"]).array_of(
        store.load(store.stages(subject)["prepare"]).sources[0].id
    )
    assert latents.shape == (2, 4, 8, 8) and latents.dtype == np.float32
    again = synthaug.run(replace(subject, {"method": Resample(steps=2)}), home=home)
    assert again["stages"]["denoiser"]["cached"] and not again["stages"]["generate"]["cached"]


def test_latents_in_float32_are_decoded_in_what_the_model_computes_in() -> None:
    codec = Backbone("nano:sd", precision="bf16").load("cpu").codec
    with torch.no_grad():
        image = codec.decode(torch.zeros(1, *codec.shape))
    assert image.dtype == torch.float32 and image.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("fields,said", [
    ({"evaluations": (Accuracy(),)}, "recipe: Accuracy asks a classifier, and none is trained"),
    ({"evaluations": (Recognised(),)}, "recipe: Recognised asks a classifier"),
    ({"recipe": Recipe(steps=1, image_size=16)}, "the denoiser is trained on 8 px and the classifier on 16"),
    ({"denoiser": None}, "FromNoise needs a denoiser"),
    ({"denoiser": TrainedDiT(vae="nano:sd")}, "Answers needs a denoiser of pixels, and TrainedDiT works in latents"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        experiment(**fields)


def test_what_is_wrong_with_the_images_is_said_first(home: Path) -> None:
    for denoiser, said in (
        (replace(NET, {"image_size": 9}), "2 channels halve 9 px unevenly"),
        (replace(NET, {"scoreaug.how.transforms": (Translation(most=0.05),)}), "0.05 of 8 px is no whole pixel"),
    ):
        with pytest.raises(UserError, match=said):
            synthaug.run(experiment(denoiser=denoiser, seed=9), home=home)
    blind = {"denoiser": replace(NET, {"labels": False}), "method": FromNoise(steps=2, guidance=2.0)}
    with pytest.raises(UserError, match="guidance 2 needs a denoiser that knows classes"):
        synthaug.run(experiment(**blind), home=home)


def test_mirrors_of_digits_are_noted() -> None:
    assert not [note for note in experiment().notes() if "mirror" in note]
    mirrored = experiment(denoiser=replace(NET, {"clean": OnClean()}))
    assert [note for note in mirrored.notes() if "mirrored images" in note]
    assert not [n for n in experiment(denoiser=mirrored.denoiser, dataset=Dataset("fashion")).notes() if "mirror" in n]
    assert not [n for n in experiment(method=Noise(), denoiser=None, evaluations=(Memorised(),)).notes()]


@pytest.mark.nightly
def test_two_workers_learn_the_same_net(home: Path, tmp_path: Path, cluster: None) -> None:
    """Two processes of Ray Train, gradients added up; the net that tells slow images from fast ones, too."""
    early = Early(epochs=2, recipe=Recipe(epochs=1, batch_size=8, image_size=8))
    recipe = Recipe(steps=2, batch_size=8, image_size=8, evaluations=1)
    chosen = experiment(recipe=recipe, method=Resample(steps=2), subset=Slow(early=early), evaluations=(Accuracy(),))
    for subject, stage, file in (
        (experiment(), "denoiser", f"{FOLDER}/unet/diffusion_pytorch_model.safetensors"), (chosen, "early", WEIGHTS),
    ):  # fmt: skip
        made_in(home, subject, stage)
        made_in(tmp_path, subject, stage, workers=2)
        one, two = (load_file(place_of(Store(where), subject, stage) / file) for where in (home, tmp_path))
        assert one.keys() == two.keys() and any(bool(value.abs().max() > 0) for value in one.values())
        assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-4, stage
