"""The classifier of noisy images that steers a method, as a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from synthaug.diffusion.guide import FILE, Guide, PlacedGuide
from synthaug.evaluate.base import Result
from synthaug.settings import keyed
from synthaug.stages.base import Cost, Folder, Given, Loop, Outcome, Stage, Trained
from synthaug.stages.data import SUBSET, Pictures
from synthaug.training import Entry, reports_in


class TrainedGuide(Trained[PlacedGuide]):
    """Trained on exactly the images that the classifier may see; `denoiser` is there if it looks at guesses."""

    kind, version, cost = "guide", 2, "guide"

    def __init__(
        self, data: Stage[Pictures], denoiser: Stage[object] | None, guide: Guide, seed: int, subset_seed: int | None,
        size: int | None,
    ) -> None:  # fmt: skip
        self.guide, self.seed, self.size = guide, seed, size
        self.reports = reports_in(guide.steps)
        # `subset_seed` and not the experiment's seed: where that chooses no images, all seeds share one guide
        settings = {"guide": keyed(guide), "version": guide.version, "seed": subset_seed, "size": size}
        super().__init__(settings, {"data": data, "denoiser": denoiser})

    def estimate(self, given: Given) -> Cost:
        guesses = self.guide.steps * self.guide.batch_size if "denoiser" in self.inputs else 0
        return Cost(units=self.reports, calls=guesses)

    def fit(self, given: Given, loop: Loop) -> Outcome:
        from safetensors.torch import save

        from synthaug.diffusion.guide_net import train_guide

        pictures: Pictures = given["data"]
        size = pictures.size(self.size)
        train, val = (pictures.arrays(name, self.seed, size) for name in (SUBSET, "val"))
        net, done = train_guide(
            self.guide, train, val, len(pictures.listing.classes), given.denoiser(), report=loop.report,
            checkpoint=loop.checkpoint, world=loop.world,
        )  # fmt: skip
        images = done.step * self.guide.batch_size
        counts = {"steps": done.step, "images": images}
        # one guess a training image; a resumed run would not have counted those before it was stopped
        calls = images if "denoiser" in self.inputs else 0
        return Outcome({FILE: save(net.state_dict())}, done.seconds, calls, done.history, counts=counts)

    def numbers(
        self, history: Sequence[Entry], result: Result | None, counts: Mapping[str, float]
    ) -> Mapping[str, float]:
        return {"guide/val/top1": history[-1]["val/top1"]}  # averaged weights: the last are kept

    def load(self, at: Folder, given: Given) -> PlacedGuide:
        return self.guide, at.local()
