"""Recipes as settings."""

import subprocess
import sys

import pytest
import torch

from synthaug.classify import augment
from synthaug.classify.optim import SGD, AdamW
from synthaug.classify.recipe import Recipe
from synthaug.settings import UserError, from_json, to_json

PAPER = Recipe(
    model="resnet50",
    optimizer=SGD(lr=0.01, weight_decay=1e-4),
    epochs=100,
    batch_size=32,
    transforms=(augment.RandomCrop(padding=8, size=224), augment.HorizontalFlip(), augment.CutMix()),
    image_size=256,
)


@pytest.mark.parametrize("recipe", [Recipe(steps=300), PAPER, Recipe(epochs=1, transforms=(augment.RandAugment(),))])
def test_json_both_ways(recipe):
    assert from_json(Recipe, to_json(recipe)) == recipe


@pytest.mark.parametrize(("given", "says"), [({}, "neither"), ({"epochs": 1, "steps": 2}, "both")])
def test_exactly_one_length(given, says):
    with pytest.raises(UserError, match=f"exactly one of epochs and steps, got {says}"):
        from_json(Recipe, given)


@pytest.mark.parametrize(
    "given", [{"evaluations": 21}, {"label_smoothing": 1}, {"warmup": 1.5}, {"precision": "fp8"}, {"transforms": [3]}]
)
def test_ranges(given):
    with pytest.raises(ValueError):
        Recipe(steps=1, **given)


def test_steps_of_epochs_are_rounded_and_at_least_one():
    assert Recipe(epochs=3, batch_size=32).total_steps(50) == round(3 * 50 / 32)
    assert Recipe(epochs=1, batch_size=64).total_steps(3) == 1
    assert Recipe(steps=7).total_steps(1000) == 7
    # a loader that keeps its last batch makes one of 100 images in each epoch, and three of 600 in batches of 256
    assert [Recipe(epochs=128, batch_size=256, keeps_last=k).total_steps(100) for k in (False, True)] == [50, 128]
    assert Recipe(epochs=128, batch_size=256, keeps_last=True).total_steps(600) == 384


def test_optimizers_are_what_they_say():
    params = [torch.nn.Parameter(torch.ones(2))]
    sgd, adamw = SGD(lr=0.2, nesterov=True).build(params), AdamW(betas=(0.8, 0.9)).build(params)
    assert isinstance(sgd, torch.optim.SGD) and isinstance(adamw, torch.optim.AdamW)
    assert {"lr": 0.2, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}.items() <= sgd.defaults.items()
    assert {"lr": 1e-3, "betas": (0.8, 0.9), "weight_decay": 0.05}.items() <= adamw.defaults.items()


def test_settings_do_not_import_torch():
    code = "import sys, synthaug.classify.recipe, synthaug.classify.mixing, synthaug.evaluate.accuracy; "
    assert subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"]).returncode == 0
