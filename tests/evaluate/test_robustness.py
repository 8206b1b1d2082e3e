"""Accuracy on corrupted images, and on another data set, whose classes are found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import synthaug
from making import key_of
from shapes import tiny
from synthaug.data.dataset import Dataset
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.adapt import corrupted
from synthaug.evaluate.base import Subject
from synthaug.evaluate.corruptions import FAMILIES
from synthaug.evaluate.predict import among
from synthaug.evaluate.robustness import FIFTEEN, Robustness
from synthaug.experiment import replace
from synthaug.settings import UserError


class Bright(nn.Module):
    """Says 1 for an image whose mean lies above the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images if images.is_floating_point() else images.float() / 255
        high = (pixels.mean((1, 2, 3)) - 0.5) * 100 * self.one
        return torch.stack([-high, high], 1)


def subject(count: int = 30) -> Subject:
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 60, (count, 3, 32, 32)) + 98).astype(np.uint8)
    labels = (images.mean((1, 2, 3)) > 127.5).astype(int)
    return Subject(Bright(), ["dark", "bright"], {"test": (images, labels)}, {"test": [f"i{n}" for n in range(count)]})


def test_each_cell_is_the_accuracy_on_those_corrupted_images() -> None:
    seen = subject()
    evaluation = Robustness(corruptions=("brightness", "gaussian_noise", "contrast"), severities=(1, 5))
    result = evaluation(seen)
    images, labels = seen.sets["test"]
    slow = {}
    for name in evaluation.corruptions:
        for place, severity in enumerate((1, 5)):
            changed = corrupted((name, severity), images, seen.ids["test"])
            answers = Bright()(torch.from_numpy(changed)).argmax(1).numpy()
            slow[name, severity] = float((answers == labels).mean())
            assert result["about"]["top1"][name][place] == pytest.approx(slow[name, severity])
    metrics = result["metrics"]
    assert metrics["test-c/top1"] == pytest.approx(np.mean(list(slow.values())))
    assert metrics["test-c/noise/top1"] == pytest.approx((slow["gaussian_noise", 1] + slow["gaussian_noise", 5]) / 2)
    assert metrics["test-c/severity-5/top1"] == pytest.approx(
        np.mean([v for (_, severity), v in slow.items() if severity == 5])
    )
    digital = [v for (name, _), v in slow.items() if name == "contrast"]
    assert metrics["test-c/digital/top1"] == pytest.approx(np.mean(digital)), "brightness is weather"
    assert slow["brightness", 5] < 1, "else this shows nothing"


def test_an_image_is_corrupted_alike_wherever_it_stands() -> None:
    images, _ = subject().sets["test"]
    names = [f"i{n}" for n in range(30)]
    whole = corrupted(("gaussian_noise", 3), images, names)
    assert np.array_equal(corrupted(("gaussian_noise", 3), images[[4, 2]], ["i4", "i2"]), whole[[4, 2]])
    assert not np.array_equal(corrupted(("gaussian_noise", 3), images[[4]], ["i5"]), whole[[4]])


def test_the_fifteen_are_those_of_the_benchmark() -> None:
    assert len(FIFTEEN) == 15 and not set(FIFTEEN) & set(FAMILIES["extra"])
    with pytest.raises(UserError, match="no corruption is called 'fogg'; did you mean fog"):
        Robustness(corruptions=("fogg",))


def folders(root: Path, classes: dict[str, int], shift: int = 0) -> Path:
    rng = np.random.default_rng(1)
    for split in ("train", "test"):
        for name, level in classes.items():
            for number in range(8):
                file = root / split / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 30, (32, 32, 3)) + level + shift
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    return root


def test_another_data_set_is_mapped_by_the_names_of_its_classes(tmp_path: Path) -> None:
    mine = folders(tmp_path / "mine", {"a": 20, "b": 90, "c": 150, "d": 210})
    other = folders(tmp_path / "other", {"b": 90, "d": 210}, shift=5)
    looks: Any = (Accuracy(), Accuracy(dataset=Dataset("folder", path=str(other))))
    subject = tiny(steps=60, evaluations=looks, method=None)
    subject = replace(subject, {"dataset": {"name": "folder", "path": str(mine)}})
    answer = synthaug.run(subject, home=tmp_path / "home")
    metrics = answer["metrics"]
    assert metrics["test/top1"] > 0.9 and metrics["folder/test/top1"] > 0.9, "b is the second class of mine"
    strange = folders(tmp_path / "strange", {"b": 90, "e": 210})
    wrong = replace(subject, {"evaluations.1.dataset.path": str(strange)})
    assert key_of(wrong, "evaluate.2") != key_of(subject, "evaluate.2"), "what it holds is part of the key"
    with pytest.raises(UserError, match="1 classes of folder were not learned, the first is 'e'"):
        synthaug.run(wrong, home=tmp_path / "home")


def test_only_classes_that_are_there_can_be_answered() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([5.0, 1.0, 3.0, 2.0]))

        def forward(self, images: Tensor) -> Tensor:
            return self.logits.expand(len(images), -1)

    p = among(Fixed(), [1, 3], 4)(torch.zeros(2, 3, 4, 4)).softmax(1)
    assert p[0].tolist() == pytest.approx([0, 1 / (1 + np.e), 0, np.e / (1 + np.e)], abs=1e-6)
