"""Are generated images faithful: do they show what their sources show, and leave behind what is chance in these?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from synthaug.evaluate.base import ImageEvaluation, Result
from synthaug.settings import seed_of, settings

if TYPE_CHECKING:
    from torch import nn


CHUNK = 1024  # images


@settings
class Faithfulness(ImageEvaluation):
    """Each generated image beside its source, asked of the classifier of the real images alone.

    - agreement: images that it takes for their class
    - distance: to the source in its features, the median, over that of another source of the class: 0 is the source,
      1 is no nearer to it than any image of its class
    - left: the mean correlation with the source of what either has beyond the mean image; `left_of_others` is that of
      the source with another one of its class, which is what there is where nothing of the source is left

    Faithful is a high agreement with little left. The judge has seen the sources in training, so what is close to them
    it knows in any case. A class of one image has no other and counts for agreement alone.
    """

    needs_classifier: ClassVar[bool] = True
    paired: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        return ("subset",)

    def measure(
        self, made: np.ndarray, labels: np.ndarray, real: Mapping[str, np.ndarray], classes: Sequence[str],
        judge: nn.Module | None = None, sources: np.ndarray | None = None,
    ) -> Result:  # fmt: skip
        from synthaug.classify.loop import features, predict

        assert judge is not None and sources is not None, "Faithfulness needs the judge and the sources"
        top1 = (predict(judge, made).argmax(1).numpy() == labels).mean()
        found, about = {"agreement": float(top1)}, {"made": len(made)}
        others = other_of(sources, labels)
        mine = others >= 0
        if mine.any():
            sources, others, made = sources[mine], others[mine], made[mine]
            theirs, ours = (features(judge, images).numpy() for images in (real["subset"], made))
            usual = np.median(np.linalg.norm(theirs[sources] - theirs[others], axis=1))
            if usual > 0:
                distance = np.median(np.linalg.norm(ours - theirs[sources], axis=1))
                found["distance"] = float(distance / usual)
            found["left"] = correlation(made, real["subset"], sources)
            found["left_of_others"] = correlation(real["subset"], real["subset"], sources, others)
        return {"metrics": {f"faithful/{name}": value for name, value in found.items()}, "about": about}


def other_of(sources: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each image another source of its class, any but always the same; -1 where there is none."""
    found = np.full(len(sources), -1)
    for label in np.unique(labels):
        mine = np.unique(sources[labels == label])
        if len(mine) < 2:
            continue
        for row in np.flatnonzero(labels == label):
            there = int(np.searchsorted(mine, sources[row]))
            step = 1 + seed_of("other", int(sources[row])) % (len(mine) - 1)
            found[row] = mine[(there + step) % len(mine)]
    return found


def correlation(images: np.ndarray, real: np.ndarray, sources: np.ndarray, rows: np.ndarray | None = None) -> float:
    """The mean correlation of images (or some rows of them) with their sources, of what is beyond the mean of the real
    ones; of images without anything beyond it none. Some at a time: as numbers they are many times as large."""
    mean, found = real.mean(0) / 255, list[np.ndarray]()
    for first in range(0, len(sources), CHUNK):
        mine = slice(first, first + CHUNK)
        a = (images[mine] if rows is None else images[rows[mine]]) / 255 - mean
        b = real[sources[mine]] / 255 - mean
        a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found.append((a * b).sum(1)[norms > 0] / norms[norms > 0])
    values = np.concatenate(found)
    return float(values.mean()) if len(values) else 0.0
