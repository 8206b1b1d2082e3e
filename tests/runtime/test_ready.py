"""What is found out before anything runs: what a folder holds, and that a denoiser knows the noise it is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMScheduler, UNet2DModel

from replicas import WORDNETS
from shapes import class_folders, tiny
from synthaug.classify.views import DiffAugView
from synthaug.data.dataset import Dataset
from synthaug.diffusion.one_step import Diffusion
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.entropy import EntropyOverTime
from synthaug.evaluate.gradients import Gradients
from synthaug.evaluate.predict import DDA, Ensemble
from synthaug.experiment import Experiment, Recipe
from synthaug.methods.diffuse_denoise import DiffuseDenoise
from synthaug.methods.guided import ClassifierGuided
from synthaug.runtime.run import planned, prepare
from synthaug.runtime.store import Store
from synthaug.settings import UserError


def test_facts_of_files_belong_to_a_reading_of_the_folder(tmp_path: Path) -> None:
    """Some data sets are known by their bytes, others by their pixels: neither may take the other's word for it."""
    made = class_folders(tmp_path / "images" / "train", WORDNETS, 6)
    class_folders(tmp_path / "images" / "test", WORDNETS, 2, first=90)
    (made.parent / "LOC_synset_mapping.txt").write_text("".join(f"{name} of {name}\n" for name in WORDNETS))
    known, own = (Dataset(name, path=str(made.parent)) for name in ("imagenet1k", "folder"))
    alone = [Store(tmp_path / str(number)).prepare().open(dataset) for number, dataset in enumerate((known, own))]
    store = Store(tmp_path / "both").prepare()
    for dataset, expected in ((known, alone[0]), (own, alone[1]), (known, alone[0])):
        found = Store(store.home).open(dataset)
        assert found.digest == expected.digest and found.splits == expected.splits


def checked(store: Store, subject: Experiment) -> bool:
    """What `run` does before anything is made; whether something is to be made."""
    plan = planned(store, [subject])
    todo = plan.todo()
    prepare(plan, todo, [subject])
    return bool(todo)


def test_noise_that_the_denoiser_does_not_know_is_refused_before_anything_runs(tmp_path: Path) -> None:
    net: Any = UNet2DModel(
        8,
        3,
        3,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    net.save_pretrained(tmp_path / "short" / "unet")
    DDPMScheduler(num_train_timesteps=100).save_pretrained(tmp_path / "short" / "scheduler")
    short: dict[str, Any] = {"denoiser": str(tmp_path / "short")}
    asks: list[dict[str, Any]] = [
        {"recipe": Recipe(steps=2, views=(DiffAugView(),))},
        {"recipe": Recipe(steps=2, views=(DiffAugView(cached=2),))},
        {"evaluations": (Accuracy(predictor=Ensemble()),)},
        {"evaluations": (Accuracy(predictor=Ensemble(margin=0.5)),)},
        {"evaluations": (Accuracy(predictor=DDA()),)},
        {"evaluations": (EntropyOverTime(),)},
        {"evaluations": (Gradients(time=0.4),)},
        {"method": DiffuseDenoise()},
        {"method": ClassifierGuided()},
    ]
    store = Store(tmp_path / "home").prepare()
    for fields in asks:
        with pytest.raises(
            UserError, match=r"^time .* is beyond the denoiser's schedule, which ends at 0.313 \(sigma=1.323"
        ):
            checked(store, tiny(**short | fields))
    noised = DiffAugView(how=Diffusion(denoise=False))
    within = [
        {"recipe": Recipe(steps=2, views=(DiffAugView(how=Diffusion(high=0.3)),))},
        {"evaluations": (Gradients(),)},
        {"recipe": Recipe(steps=2, views=(noised,))},
        {"recipe": Recipe(steps=2, views=(DiffAugView(how=Diffusion(high=0.3)), noised))},
    ]
    for fields in within:
        assert checked(store, tiny(**short | fields))
