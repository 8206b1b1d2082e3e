"""The denoiser as a stage: trained on exactly the images that the classifier may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from synthaug.diffusion.layout import FOLDER
from synthaug.diffusion.pixel_models import PlacedDenoiser, TrainedModel
from synthaug.evaluate.base import Result
from synthaug.settings import keyed
from synthaug.stages.base import Folder, Given, Loop, Outcome, Stage, Trained
from synthaug.stages.data import SUBSET, Pictures
from synthaug.stages.images import Images
from synthaug.training import Entry, reports_in


class TrainedDenoiser(Trained[PlacedDenoiser]):
    """`subset_seed` is the seed that the images hang on, if they do; `size` what the recipe squashes them to."""

    kind, cost = "denoiser", "denoiser"

    def __init__(
        self, data: Stage[Pictures], latents: Stage[Images] | None, model: TrainedModel, seed: int,
        subset_seed: int | None, size: int | None, named: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.model, self.seed, self.size = model, seed, size
        self.reports = reports_in(model.steps)
        # `subset_seed` and not the experiment's seed: where that chooses no images, all seeds share one denoiser
        settings = {"denoiser": keyed(model), "version": model.version, "seed": subset_seed, "size": size}
        super().__init__(settings | dict(named), {"data": data, "latents": latents})

    def check(self, given: Given) -> None:
        if self.model.space is not None:
            return
        pictures: Pictures = given["data"]
        self.model.check(pictures.size(self.size))

    def fit(self, given: Given, loop: Loop) -> Outcome:
        pictures: Pictures = given["data"]
        # no image that the classifier may not see
        if "latents" in self.inputs:
            entries = pictures.entries(SUBSET, self.seed)
            latents: Images = given["latents"]
            images, labels = np.stack([latents.array_of(e.id) for e in entries]), np.array([e.label for e in entries])
        else:
            images, labels = pictures.arrays(SUBSET, self.seed, pictures.size(self.size))
        made, done = self.model.train(
            images, labels, len(pictures.listing.classes), report=loop.report, checkpoint=loop.checkpoint,
            world=loop.world,
        )  # fmt: skip
        files = {f"{FOLDER}/{name}": data for name, data in made.items()}
        counts = {"steps": done.step, "images": done.step * self.model.batch_size}
        counts |= {"flops": done.flops} if done.flops else {}
        return Outcome(files, done.seconds, history=done.history, counts=counts)

    def numbers(
        self, history: Sequence[Entry], result: Result | None, counts: Mapping[str, float]
    ) -> Mapping[str, float]:
        # of one image in one call; a step of training costs three times that, for there and back
        return {"denoiser/gflops": counts["flops"] / 1e9} if "flops" in counts else {}

    def load(self, at: Folder, given: Given) -> PlacedDenoiser:
        return self.model, at.local()
