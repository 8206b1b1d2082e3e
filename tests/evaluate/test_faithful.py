"""Faithfulness against plain loops, and where there is nothing to compare."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from synthaug.evaluate.faithful import Faithfulness, other_of

CLASSES = ("a", "b", "c")


def judge() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 5), nn.Tanh(), nn.Linear(5, 3))

    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net(images.float() / 255)
            return out

    return Asked()


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)


def measured(made: np.ndarray, labels: np.ndarray, real: np.ndarray, sources: np.ndarray) -> dict[str, float]:
    found = Faithfulness().measure(made, labels, {"subset": real}, CLASSES, judge(), sources)
    return {name.removeprefix("faithful/"): value for name, value in found["metrics"].items()}


def test_against_plain_loops() -> None:
    real, sources = images(9), np.array([0, 1, 2, 3, 4, 5, 0, 4])
    labels = sources % 3
    made = ((real[sources].astype(int) + images(8, 1)) // 2).astype(np.uint8)
    found = measured(made, labels, real, sources)
    net, others = judge(), other_of(sources, labels)
    mean = real.mean(0) / 255

    def features(image: np.ndarray) -> torch.Tensor:
        hidden: torch.Tensor = net.net[:3](torch.from_numpy(image)[None].float() / 255)[0].double()
        return hidden

    def together(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (x / 255 - mean for x in (a, b))
        return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))

    with torch.inference_mode():
        right = [int(net(torch.from_numpy(m)[None]).argmax()) == y for m, y in zip(made, labels, strict=True)]
        near = [float((features(m) - features(real[s])).norm()) for m, s in zip(made, sources, strict=True)]
        far = [float((features(real[o]) - features(real[s])).norm()) for o, s in zip(others, sources, strict=True)]
    assert found["agreement"] == np.mean(right)
    assert found["distance"] == pytest.approx(np.median(near) / np.median(far), rel=1e-5)
    assert found["left"] == pytest.approx(
        np.mean([together(m, real[s]) for m, s in zip(made, sources, strict=True)]), abs=1e-9
    )
    assert found["left_of_others"] == pytest.approx(
        np.mean([together(real[o], real[s]) for o, s in zip(others, sources, strict=True)]), abs=1e-9
    )


def test_the_source_itself_and_another_image_of_its_class() -> None:
    real, sources = images(6), np.arange(6)
    labels = sources % 3
    same = measured(real[sources], labels, real, sources)
    assert same["distance"] == pytest.approx(0, abs=1e-5) and same["left"] == pytest.approx(1)
    others = other_of(sources, labels)
    there = measured(real[others], labels, real, sources)
    assert there["distance"] == pytest.approx(1) and there["left"] == pytest.approx(there["left_of_others"])


def test_another_of_its_class_and_never_itself() -> None:
    sources = np.array([3, 3, 8, 10, 11, 12])
    labels = np.array([0, 0, 0, 1, 1, 2])
    others = other_of(sources, labels)
    assert others.tolist()[:5] == [8, 8, 3, 11, 10] and others[5] == -1


def test_a_class_of_one_image_counts_for_agreement_alone() -> None:
    real = images(3)
    assert set(measured(real, np.arange(3), real, np.arange(3))) == {"agreement"}
    blank = np.zeros_like(images(4))
    found = measured(blank, np.array([0, 0, 1, 1]), blank, np.arange(4))
    assert "distance" not in found and found["left"] == 0, "all alike: nothing to be near to"
