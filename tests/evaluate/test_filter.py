"""Which images a filter drops, and what the three scores say of planted ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from synthaug.clip import Clip
from synthaug.data import glyphs
from synthaug.evaluate.filter import BaseProb, Candidates, ClipBinary, ClipMulti

CLIP = Clip("nano:clip")


def test_the_lowest_share_goes_of_all_or_of_each_class() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 200)
    scores = rng.random(200) * np.array([0.2, 0.5, 1.0])[targets]
    kept = ClipMulti(drop=0.25).keep(scores, targets)
    assert (~kept).sum() == 50 and scores[~kept].max() < scores[kept].min()
    each = ClipMulti(drop=0.25, per_class=True).keep(scores, targets)
    for target in range(3):
        mine = targets == target
        assert (~each[mine]).sum() == int(0.25 * mine.sum())
        assert scores[mine & ~each].max() < scores[mine & each].min()
    assert (~kept)[targets == 0].mean() > 0.4 > (~each)[targets == 0].mean(), "globally, a weak class pays"


def test_nothing_is_dropped_at_zero_and_ties_go_from_the_end() -> None:
    scores, targets = np.array([0.5, 0.1, 0.5, 0.1, 0.1]), np.zeros(5, int)
    assert ClipMulti(drop=0.0).keep(scores, targets).all()
    assert ClipMulti(drop=0.4).keep(scores, targets).tolist() == [True, True, True, False, False]
    assert ClipMulti(drop=0.19).keep(scores, targets).all(), "less than one image is none"
    with pytest.raises(ValueError, match="drop: Input should be less than 1"):
        ClipMulti(drop=1.0)


def drawn(right: int, wrong: int) -> tuple[Candidates, np.ndarray]:
    """Glyphs under their own class, then glyphs under another one's."""
    rendered = [glyphs.render(2_000_000 + i) for i in range(36 * 12)]
    digits = [(image, label) for image, label, _ in rendered if label < 10][: right + wrong]
    images = np.stack([image.transpose(2, 0, 1) for image, _ in digits])
    labels = np.array([label for _, label in digits])
    is_right = np.arange(len(labels)) < right
    targets = np.where(is_right, labels, (labels + 1 + np.arange(len(labels)) % 9) % 10)
    return Candidates(images, targets, tuple(str(i) for i in range(10)), "digit"), is_right


def test_clip_among_all_classes_finds_images_of_another_class() -> None:
    made, is_right = drawn(60, 40)
    scores = ClipMulti(clip=CLIP).open(None)(made)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[is_right].mean() > 0.8 and scores[~is_right].mean() < 0.2
    kept = ClipMulti(clip=CLIP, drop=0.4).keep(scores, made.targets)
    assert (kept == is_right).mean() > 0.9


def test_clip_yes_or_no_asks_for_the_class_or_for_the_kind_of_thing() -> None:
    made, is_right = drawn(60, 40)
    bare = Candidates(made.images, made.targets, made.words)
    scores = ClipBinary(clip=CLIP).open(None)(bare)
    assert scores[is_right].mean() > scores[~is_right].mean() + 0.5
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    mixed = Candidates(np.concatenate([made.images[:60], noise]), np.concatenate([made.targets[:60], np.full(20, 3)]),
                       made.words, "digit")  # fmt: skip
    found = ClipBinary(clip=CLIP).open(None)(mixed)
    assert found[:60].mean() > found[60:].mean() + 0.4, "no digit at all"


def test_the_base_classifier_gives_the_probability_of_the_target() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().mean((1, 2, 3))[:, None] * torch.tensor([0.0, 0.01]) + self.one

    images = np.stack([np.full((3, 4, 4), v, np.uint8) for v in (0, 100, 200)])
    made = Candidates(images, np.array([0, 1, 0]), ("a", "b"))
    logistic = 1 / (1 + np.exp(-np.array([0.0, 1.0, -2.0])))
    assert BaseProb().open(Net())(made) == pytest.approx(logistic)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nano:clip"):
        ClipMulti(clip=Clip(str(tmp_path))).open(None)(drawn(1, 1)[0])
