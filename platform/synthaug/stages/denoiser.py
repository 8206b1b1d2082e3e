"""The denoiser as a stage: trained on exactly the images that the classifier may see."""

from __future__ import annotations

from synthaug.diffusion.pixel_models import FOLDER, PlacedDenoiser, TrainedUNet
from synthaug.settings import keyed
from synthaug.stages.base import Folder, Given, Loop, Outcome, Stage, Trained
from synthaug.stages.data import SUBSET, Pictures
from synthaug.training import reports_in


class TrainedDenoiser(Trained[PlacedDenoiser]):
    """`subset_seed` is the seed that the images hang on, if they do; `size` what the recipe squashes them to."""

    kind, cost = "denoiser", "denoiser"

    def __init__(
        self, data: Stage[Pictures], model: TrainedUNet, seed: int, subset_seed: int | None, size: int | None
    ) -> None:
        self.model, self.seed, self.size = model, seed, size
        self.reports = reports_in(model.steps)
        # `subset_seed` and not the experiment's seed: where that chooses no images, all seeds share one denoiser
        settings = {"denoiser": keyed(model), "version": model.version, "seed": subset_seed, "size": size}
        super().__init__(settings, {"data": data})

    def check(self, given: Given) -> None:
        pictures: Pictures = given["data"]
        self.model.check(pictures.size(self.size))

    def fit(self, given: Given, loop: Loop) -> Outcome:
        from synthaug.diffusion.unet import train_unet, unet_files

        pictures: Pictures = given["data"]
        # it never sees a label, nor an image that the classifier may not see
        images, _ = pictures.arrays(SUBSET, self.seed, pictures.size(self.size))
        net, done = train_unet(
            self.model, images, report=loop.report, checkpoint=loop.checkpoint, world=loop.world
        )  # fmt: skip
        files = {f"{FOLDER}/{name}": data for name, data in unet_files(net).items()}
        counts = {"steps": done.step, "images": done.step * self.model.batch_size}
        return Outcome(files, done.seconds, history=done.history, counts=counts)

    def load(self, at: Folder, given: Given) -> PlacedDenoiser:
        return self.model, at.local()
