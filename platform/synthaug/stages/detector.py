"""The classifier that tells what was done to an image, as a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synthaug.classify.detector import TransformDetector
from synthaug.settings import keyed
from synthaug.stages.base import Folder, Given, Loop, Outcome, Stage, Trained
from synthaug.stages.data import Pictures
from synthaug.training import reports_in

if TYPE_CHECKING:
    from torch import nn


class TrainedDetector(Trained["nn.Module"]):
    """Trained on the whole pool of training images, so that it is one for all arms, seeds and subsets."""

    kind, cost = "detector", "evaluate"

    def __init__(self, data: Stage[Pictures], detector: TransformDetector, size: int | None) -> None:
        self.detector, self.size = detector, size
        self.reports = reports_in(detector.steps)
        super().__init__({"detector": keyed(detector), "version": detector.version, "size": size}, {"data": data})

    def fit(self, given: Given, loop: Loop) -> Outcome:
        from safetensors.torch import save

        from synthaug.classify.detector_net import FILE, train_detector

        pictures: Pictures = given["data"]
        images, _ = pictures.arrays("train", 0, pictures.size(self.size))
        net, done = train_detector(
            self.detector, images, report=loop.report, checkpoint=loop.checkpoint, world=loop.world
        )  # fmt: skip
        counts = {"steps": done.step, "images": done.step * self.detector.batch_size}
        return Outcome({FILE: save(net.state_dict())}, done.seconds, history=done.history, counts=counts)

    def load(self, at: Folder, given: Given) -> nn.Module:
        from synthaug.classify.detector_net import FILE, read

        return read(self.detector, at.read(FILE))
