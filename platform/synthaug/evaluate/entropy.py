"""How unsure a classifier becomes as images drown in noise: its entropy over diffusion time."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.special import entr

from synthaug.diffusion.one_step import Diffusion
from synthaug.evaluate.adapt import Adaptation, AtTimes
from synthaug.evaluate.base import Curve, Evaluation, Result, Subject
from synthaug.evaluate.predict import CHUNK
from synthaug.settings import Share, settings

# 0.999 is the last of DDPM's 1,000 times, where a = 0.006 is left of the image
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999)


@settings
class EntropyOverTime(Evaluation):
    """The mean entropy (nats) of the classifier's answer to each image denoised from `times`, and its accuracy there.
    A net that was trained with DiffAug should end at log C, where nothing is left to see."""

    times: Annotated[tuple[Share, ...], Field(min_length=2)] = GRID
    how: Diffusion = Diffusion()

    def copies(self) -> list[tuple[str, Adaptation]]:
        return [(self.split, AtTimes(times=self.times, how=self.how))]

    def __call__(self, subject: Subject) -> Result:
        from synthaug.classify.loop import predict

        assert subject.copy is not None
        ((split, maker),), (_, labels) = self.copies(), subject.sets[self.split]
        unsure, right = np.zeros(len(self.times)), np.zeros(len(self.times))
        # added up chunk by chunk, because the copies of a whole split may not fit in memory
        for first in range(0, len(labels), CHUNK):
            numbers = range(first, min(first + CHUNK, len(labels)))
            for place in range(len(self.times)):
                guesses = subject.copy(maker, split, numbers, place + 1)  # copies are counted from 1
                p = predict(subject.model, guesses).double().softmax(1).numpy()
                unsure[place] += entr(p).sum()
                right[place] += (p.argmax(1) == labels[first : first + CHUNK]).sum()
        unsure, right = unsure / len(labels), right / len(labels)
        metrics = {f"{self.title}/entropy/{time:g}": float(h) for time, h in zip(self.times, unsure, strict=True)}
        limit = math.log(len(subject.classes))  # the entropy of knowing nothing, which no answer exceeds
        lines = {"entropy": unsure.tolist(), "log C": [limit] * len(unsure)}
        curve: Curve = {"x": list(self.times), "y": lines, "label": ["diffusion time", "nats"]}
        top1 = {f"{time:g}": float(share) for time, share in zip(self.times, right, strict=True)}
        return {"metrics": metrics, "curves": {"entropy": curve}, "about": {"top1": top1, "log C": limit}}
