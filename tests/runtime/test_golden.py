"""What each stage gives today. Who changes an output raises the stage's version, and then these values."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import synthaug
from making import made_in, place_of
from shapes import NANO, Noise, tiny
from synthaug.classify.detector import TransformDetector
from synthaug.data.dataset import Dataset
from synthaug.data.sample import decode_image
from synthaug.diffusion.score_models import ScoreAug, TrainedEDM
from synthaug.diffusion.transforms import OneOrNone, Rotation, Translation
from synthaug.evaluate.denoising import DenoisingLoss
from synthaug.evaluate.transformed import Transformed
from synthaug.experiment import Experiment, Recipe
from synthaug.methods.from_noise import FromNoise
from synthaug.methods.real_guidance import RealGuidance
from synthaug.runtime.store import Store
from synthaug.settings import seed_of
from synthaug.stages.base import Mapped
from synthaug.stages.classifier import Classifier
from synthaug.stages.evaluate import Measured
from synthaug.stages.images import Generated


def test_seeds() -> None:
    assert seed_of(0, "generate", "digits/1667", 1) == 7606174856031738586


def test_a_shard_to_the_byte(home: Path) -> None:
    """Of a method without a model, so that the processor does not matter."""
    experiment = tiny(shots=1, method=Noise(), k=1)
    store, _ = made_in(home, experiment, "generate")
    (part,) = place_of(store, experiment, "generate").glob("*.parquet")
    assert (Generated.version, hashlib.sha256(part.read_bytes()).hexdigest()[:16]) == (1, "fc6770a77c5f012b")


def test_real_guidance_up_to_rounding(home: Path) -> None:
    experiment = tiny(shots=1, method=RealGuidance(steps=10), backbone=NANO, k=1)
    store, _ = made_in(home, experiment, "generate")
    stage = store.stages(experiment)["generate"]
    assert isinstance(stage, Mapped)
    assert [receipt.starts for receipt in store.receipts(stage)] == [[0.811]], "not at 0.9, which ten steps do not hit"
    samples = store.load(stage).samples(1)
    means = [float(decode_image(sample.image).mean()) for sample in samples[:4]]
    assert (RealGuidance.version, means) == (1, pytest.approx([106.8, 54.2, 85.2, 57.3], abs=0.5))


def test_twenty_steps_of_training(home: Path) -> None:
    experiment = tiny(recipe=Recipe(steps=20, batch_size=32, evaluations=2), method=Noise(), k=2)
    metrics = synthaug.run(experiment, home=home)["metrics"]
    found = [metrics["val/loss"], metrics["test/loss"]]
    assert (Classifier.version, Measured.version, np.round(found, 2).tolist()) == (
        2,
        2,
        pytest.approx([2.05, 2.03], abs=0.02),
    )


def test_twenty_steps_of_a_diffusion_net_and_its_samples(home: Path) -> None:
    net = TrainedEDM(
        channels=(8, 16), steps=20, batch_size=4, image_size=8, labels=True,
        scoreaug=ScoreAug(OneOrNone((Rotation(), Translation(most=0.25)))),
    )  # fmt: skip
    looks = (DenoisingLoss(images=8, levels=2), Transformed(TransformDetector(steps=2)))
    experiment = Experiment(
        dataset=Dataset("digits", shots=1), denoiser=net, method=FromNoise(steps=2), k=1, evaluations=looks
    )
    metrics = synthaug.run(experiment, home=home)["metrics"]
    store = Store(home)
    stages = store.stages(experiment)
    manifest = store.manifest(stages["denoiser"])
    assert manifest is not None
    found = [manifest.history[-1]["train/loss"], metrics["denoising/heldout"], metrics["transformed/found"]]
    assert (TrainedEDM.version, np.round(found[:2], 3).tolist()) == (1, pytest.approx([1.380, 1.340], abs=0.02))
    assert (Transformed.version, found[2]) == (2, pytest.approx(0.207, abs=0.02))
    means = [float(decode_image(sample.image).mean()) for sample in store.load(stages["generate"]).samples(1)[:4]]
    assert (FromNoise.version, means) == (1, pytest.approx([128.5, 126.1, 133.2, 147.1], abs=0.7))
