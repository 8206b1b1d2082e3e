"""Accuracy, calibration and confusion, against loops over images and torchmetrics."""

import json

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

from synthaug.evaluate.accuracy import Accuracy, confusion, expected_calibration_error, per_class, top_k
from synthaug.evaluate.base import Evaluation, Subject
from synthaug.settings import from_json, to_json

rng = np.random.default_rng(0)
LABELS = rng.integers(0, 8, 400)
SCORES = rng.normal(size=(400, 8)) + 1.5 * np.eye(8)[LABELS]
PROBABILITIES = np.exp(log_softmax(SCORES, 1))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_top_k(k):
    slow = np.mean(
        [label in sorted(range(8), key=lambda c: -row[c])[:k] for row, label in zip(SCORES, LABELS, strict=True)]
    )
    theirs = MulticlassAccuracy(8, top_k=k, average="micro")(torch.tensor(SCORES), torch.tensor(LABELS))
    assert top_k(SCORES, LABELS, k) == pytest.approx(slow) == pytest.approx(float(theirs))


def test_ties_do_not_count_twice():
    assert top_k(np.zeros((3, 4)), np.array([0, 1, 3]), 2) == pytest.approx(2 / 3)


def test_expected_calibration_error():
    slow = 0.0
    for low in range(15):
        inside = [i for i, p in enumerate(PROBABILITIES) if low / 15 < p.max() <= (low + 1) / 15]
        if inside:
            right = np.mean([PROBABILITIES[i].argmax() == LABELS[i] for i in inside])
            slow += len(inside) / 400 * abs(right - np.mean([PROBABILITIES[i].max() for i in inside]))
    ours = expected_calibration_error(PROBABILITIES, LABELS)
    theirs = MulticlassCalibrationError(8, n_bins=15, norm="l1")(torch.tensor(PROBABILITIES), torch.tensor(LABELS))
    assert ours == pytest.approx(slow) and ours == pytest.approx(float(theirs), abs=1e-6)
    assert expected_calibration_error(np.eye(8)[LABELS], LABELS) == 0
    assert expected_calibration_error(np.eye(8)[LABELS], (LABELS + 1) % 8) == 1


def test_confusion_and_per_class():
    predicted = SCORES.argmax(1)
    counts = confusion(LABELS, predicted, 9)
    assert counts.shape == (9, 9)
    assert all(counts[i, j] == np.sum((i == LABELS) & (j == predicted)) for i in range(9) for j in range(9))
    theirs = MulticlassConfusionMatrix(8)(torch.tensor(predicted), torch.tensor(LABELS))
    assert np.array_equal(counts[:8, :8], theirs.numpy())
    assert per_class(counts)[8] is None
    assert per_class(counts)[2] == pytest.approx(np.mean(predicted[LABELS == 2] == 2))


class FirstPixels(nn.Module):
    """Logits are the first pixels of the image, so that a test can write them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.classes = classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 0, : self.classes] / 255 * self.scale


@pytest.mark.parametrize(("classes", "split"), [(8, "test"), (5, "val")])
def test_evaluation(classes, split):
    images = rng.integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    labels = rng.integers(0, classes, 50)
    names = [f"class {c}" for c in range(classes)]
    result = Accuracy(split=split)(Subject(FirstPixels(classes), names, {split: (images, labels)}))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    metrics = result["metrics"]
    assert set(metrics) == {f"{split}/{n}" for n in ("top1", "ece", "loss", *(["top5"] if classes > 5 else []))}
    logits = torch.tensor(images[:, 0, 0, :classes] / 255 * 8)
    assert metrics[f"{split}/top1"] == pytest.approx(float((logits.argmax(1) == torch.tensor(labels)).double().mean()))
    loss = float(nn.functional.cross_entropy(logits, torch.tensor(labels)))
    assert metrics[f"{split}/loss"] == pytest.approx(loss, rel=1e-5)
    assert sum(map(sum, result["confusion"])) == 50 and list(result["per_class"])[1] == "class 1"


def test_settings_both_ways():
    assert from_json(Evaluation, to_json(Accuracy(split="val"))) == Accuracy(split="val")


def test_of_several_true_classes_any_is_right():
    """A pen may be called a ballpoint, a quill or a fountain pen, as ImageNet-D counts it."""

    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([[0.0, 3, 2, 1], [3.0, 0, 1, 2], [0.0, 1, 3, 2]]))

        def forward(self, images):
            return self.logits[images[:, 0, 0, 0].long()]

    images = np.arange(3, dtype=np.uint8)[:, None, None, None] + np.zeros((3, 3, 2, 2), np.uint8)
    labels = np.array([1, 1, 0])

    def top1(also):
        return Accuracy()(Subject(Told(), "abcd", {"test": (images, labels)}, also=also))["metrics"]["test/top1"]

    assert top1({}) == pytest.approx(1 / 3) and top1({1: (1, 0)}) == pytest.approx(2 / 3)
    assert top1({0: (0, 2, 3)}) == pytest.approx(2 / 3) and top1({1: (1, 0), 0: (0, 2)}) == 1
