"""Accuracy, calibration and confusion of a classifier."""

from __future__ import annotations

import numpy as np

from synthaug.evaluate.adapt import Adaptation
from synthaug.evaluate.base import Result, Subject
from synthaug.evaluate.predict import Asked, ask
from synthaug.settings import settings


@settings
class Accuracy(Asked):
    """Top-1, top-5 (with more than five classes), expected calibration error, loss, per-class accuracy, confusion."""

    def copies(self) -> list[tuple[str, Adaptation]]:
        maker = self.predictor.adaptation(None)
        return [] if maker is None else [(self.split, maker)]

    def __call__(self, subject: Subject) -> Result:
        log_p, calls = ask(self.predictor, subject, self.split)
        classes = subject.classes
        labels = subject.meant(self.split, log_p)  # of several true classes the one that the net likes best
        found = {"top1": top_k(log_p, labels, 1)}
        if len(classes) > 5:
            found["top5"] = top_k(log_p, labels, 5)
        found["ece"] = expected_calibration_error(np.exp(log_p), labels)
        found["loss"] = float(-log_p[np.arange(len(labels)), labels].mean())
        found |= {"calls": calls} if self.copies() else {}
        counts = confusion(labels, log_p.argmax(1), len(classes))
        return {
            "metrics": {f"{self.prefix}/{name}": value for name, value in found.items()},
            "per_class": dict(zip(classes, per_class(counts), strict=True)),
            "confusion": counts.tolist(),
        }


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The share of images whose class is among the k with the highest score; of equal scores the lower index wins."""
    # stable, so that ties are broken alike on every platform, and as argmax breaks them
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((best == np.asarray(labels)[:, None]).any(1).mean())


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean |accuracy - confidence| over equal bins (a, b], weighted by their images (Guo et al. 2017, Eq. 3)."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    member = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # (a, b]: the upper end belongs
    # |B| |acc(B) - conf(B)| is the absolute sum of what each image adds, so no bin is divided by its size
    gap = np.bincount(member, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts of (true class, predicted class)."""
    pairs = np.asarray(labels) * classes + np.asarray(predicted)  # row and column as one number
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def per_class(counts: np.ndarray) -> list[float | None]:
    """The share of each class's images that is recognised; None for a class without images."""
    return [float(row[i] / row.sum()) if row.sum() else None for i, row in enumerate(counts)]
