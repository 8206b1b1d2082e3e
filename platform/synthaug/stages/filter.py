"""Which generated images are used: a score for each, shard by shard, and the choice by all scores together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synthaug.changes import replace
from synthaug.data.decoded import decode_all
from synthaug.data.sample import Sample
from synthaug.evaluate.filter import Candidates, Filter, Score
from synthaug.settings import canonical, keyed
from synthaug.stages.base import Computed, Cost, Folder, Given, Mapped, Outcome, Part, Stage
from synthaug.stages.data import Pictures
from synthaug.stages.images import Images, Made
from synthaug.stages.shards import read_part

SCORES = "scores.json"
ScoresRead = tuple[list[str], np.ndarray, np.ndarray]  # ids of images, the classes they were to show, how well they do


class Scores(Mapped[ScoresRead]):
    """How well each generated image shows its class; whatever share is dropped in the end, the scores are the same."""

    kind, cost, suffix = "scores", "filter", "json"

    def __init__(
        self, filter: Filter, data: Stage[Pictures], images: Made, judge: Stage[Any] | None, size: int | None,
        named: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.filter, self.images, self.size, self.k = filter, images, size, images.k
        # with one choice for all: filters that differ in nothing else share their scores
        every = keyed(replace(filter, {"drop": 0.0, "per_class": False}))
        # which data it is about is in the key of the images
        inputs = {"images": images, "judge": judge, "data": data}
        super().__init__({"filter": every, "size": size} | dict(named), inputs, keyed=("images", "judge"))

    def units(self, given: Given) -> Sequence[int]:
        return self.images.units(given.within("images"))

    def measure(self, unit: int, given: Given) -> Cost:
        return Cost(units=self.images.measure(unit, given.within("images")).images)

    def open(self, given: Given) -> tuple[Given, Score]:
        return given, self.filter.open(given.get("judge"))

    def make(self, unit: int, opened: tuple[Given, Score]) -> Part:
        given, score = opened
        images: Images = given["images"]
        pictures: Pictures = given["data"]
        # units are the shards of the images: one of them in memory at a time
        samples = images.shard(unit)
        targets = np.array([sample.target for sample in samples])
        decoded = decode_all([sample.image for sample in samples], pictures.size(self.size))
        made = Candidates(decoded, targets, pictures.listing.words, pictures.dataset.kind_word)
        scores = [float(value) for value in score(made)]
        found = {"ids": [sample.id for sample in samples], "targets": targets.tolist(), "scores": scores}
        return Part(canonical(found), len(samples))

    def load(self, at: Folder, given: Given) -> ScoresRead:
        parts = [json.loads(read_part(at, unit, self.suffix)) for unit in self.units(given)]
        ids = [id for part in parts for id in part["ids"]]
        targets, scores = (np.array([v for part in parts for v in part[name]]) for name in ("targets", "scores"))
        return ids, targets, scores


class Filtered(Computed["Kept"]):
    """The images that stay, of variants 1..k."""

    kind, cost = "filter", "filter"

    def __init__(self, filter: Filter, scores: Scores, k: int, named: Mapping[str, str]) -> None:
        self.filter, self.k = filter, k
        # scores once were no stage: the key is that of before, of what they are made from
        inputs = {**scores.inputs, "scores": scores}
        super().__init__({"filter": keyed(filter), "k": k} | dict(named), inputs, keyed=scores.keyed)

    def compute(self, given: Given) -> Outcome:
        ids, targets, scores = given["scores"]
        # makers of several variants at once leave more than k of them
        mine = np.array([int(id.rpartition("#")[2]) <= self.k for id in ids], bool)
        kept = self.filter.keep(scores[mine], targets[mine])
        used = [id for id, is_mine in zip(ids, mine, strict=True) if is_mine]
        stay = [id for id, stays in zip(used, kept, strict=True) if stays]
        known = dict(zip(used, map(float, scores[mine]), strict=True))
        counts = {"kept": int(kept.sum()), "dropped": int((~kept).sum())}
        return Outcome({SCORES: canonical({"kept": stay, "scores": known})}, counts=counts)

    def load(self, at: Folder, given: Given) -> Kept:
        # ids only: the images stay where they are, and are read when they are asked for
        return Kept(given["images"], frozenset(json.loads(at.read(SCORES))["kept"]))


@dataclass(frozen=True)
class Kept:
    """Generated images without those that were dropped."""

    images: Images
    ids: frozenset[str]

    def samples(self, k: int) -> list[Sample]:
        return [sample for sample in self.images.samples(k) if sample.id in self.ids]
