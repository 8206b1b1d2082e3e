"""Are generated images faithful: do they show what their sources show, and leave behind what is chance in these?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from synthaug.evaluate.base import ImageEvaluation, Result
from synthaug.settings import seed_of, settings

if TYPE_CHECKING:
    from torch import nn


@settings
class Faithfulness(ImageEvaluation):
    """Each generated image beside its source, asked of the classifier of the real images alone.

    - agreement: images that it takes for their class
    - distance: to the source in its features, the median, over that of another source of the class: 0 is the source,
      1 is no nearer to it than any image of its class
    - left: the mean correlation with the source of what either has beyond the mean image; `left_of_others` is that of
      the source with another one of its class, which is what there is where nothing of the source is left

    Faithful is a high agreement with little left. A class of one image has no other and counts for agreement alone.
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
            theirs = features(judge, real["subset"]).double().numpy()
            ours = features(judge, made).double().numpy()
            usual = np.median(np.linalg.norm(theirs[sources] - theirs[others], axis=1))
            if usual > 0:
                distance = np.median(np.linalg.norm(ours - theirs[sources], axis=1))
                found["distance"] = float(distance / usual)
            plain = real["subset"].reshape(len(real["subset"]), -1) / 255
            beyond = plain - plain.mean(0)
            found["left"] = correlation(made.reshape(len(made), -1) / 255 - plain.mean(0), beyond[sources])
            found["left_of_others"] = correlation(beyond[others], beyond[sources])
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


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over rows of what two have in common; of rows that have nothing to compare nothing."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1)[norms > 0] / norms[norms > 0]).mean()) if (norms > 0).any() else 0.0
