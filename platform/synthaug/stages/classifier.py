"""The classifier as a stage: real images, and generated ones as the experiment uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.classify.mixing import Utilize
from synthaug.classify.recipe import Recipe
from synthaug.data.decoded import decode_all
from synthaug.data.sample import label_matrix
from synthaug.evaluate.base import Result
from synthaug.settings import keyed
from synthaug.stages.base import Cost, Folder, Given, Loop, Outcome, Stage, Trained
from synthaug.stages.data import SUBSET, Pictures, check_noise
from synthaug.training import Entry

if TYPE_CHECKING:
    from torch import nn

    from synthaug.classify.loop import Data

WEIGHTS = "model.safetensors"


class Classifier(Trained["nn.Module"]):
    """`images` are what is generated, of which variants 1..k are used; `copies` are for the recipe's views, by their
    places; `denoiser` is there for views that work with it in the loop, `start` if training goes on from a net."""

    kind, version, cost = "train", 2, "train"

    def __init__(
        self, data: Stage[Pictures], images: Stage[Any] | None, copies: Mapping[int, Stage[Any]],
        denoiser: Stage[Any] | None, start: Stage[Any] | None, recipe: Recipe, utilize: Utilize, k: int, seed: int,
        named: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.recipe, self.utilize, self.k, self.seed = recipe, utilize, k, seed
        self.places = {place: stage.k for place, stage in copies.items()}
        asked, steps = recipe.evaluations, recipe.steps
        self.reports = asked if steps is None else max(1, min(asked, steps))
        settings: dict[str, Any] = {"recipe": keyed(recipe), "seed": seed} | dict(named)
        if images is not None:
            # without images their use decides nothing: plain training is one stage for all methods compared to it
            settings |= {"utilize": keyed(utilize), "k": k}
        looks = {f"copies.{place}": stage for place, stage in copies.items()}
        inputs = {"data": data, "images": images, **looks, "denoiser": denoiser, "start": start}
        # equal views draw from equal copies, which enter the key once
        again = {f"copies.{place}" for place in copies if recipe.views.index(recipe.views[place]) < place}
        super().__init__(settings, inputs, keyed=[role for role in inputs if role not in again])

    def entry_named(self, name: str, entry: Entry) -> Entry:
        """It is what the run is about, so its numbers have no name before them."""
        return entry

    def check(self, given: Given) -> None:
        check_recipe(self.recipe, given["data"])
        if "denoiser" in self.inputs:
            check_noise(self.inputs["denoiser"], max(view.latest for view in self.recipe.views if view.needs_denoiser))

    def estimate(self, given: Given) -> Cost:
        each = sum(view.calls for view in self.recipe.views)
        if not each:
            return Cost(units=self.reports)
        # of epochs the length hangs on how images are used: those of the real ones, which is the least
        length = len(given["data"].entries(SUBSET, self.seed))
        return Cost(units=self.reports, calls=round(each * self.recipe.total_steps(length) * self.recipe.batch_size))

    def fit(self, given: Given, loop: Loop) -> Outcome:
        from safetensors.torch import save

        from synthaug.classify.loop import train

        data = self.training_data(given)
        trained = train(
            self.recipe, self.utilize, data, seed=self.seed, report=loop.report,
            checkpoint=loop.checkpoint, world=loop.world, denoiser=given.denoiser(),
        )  # fmt: skip
        # safetensors takes contiguous tensors only, and channels_last may leave others
        weights = save({name: value.contiguous() for name, value in trained.model.items()})
        counts = {"steps": trained.steps, "images": trained.images_seen, "set": len(data.labels)}
        return Outcome({WEIGHTS: weights}, trained.seconds, trained.denoiser_calls, trained.history, counts=counts)

    def training_data(self, given: Given) -> Data:
        """Real k-shot images and variants 1..k of each, decoded once."""
        import torch

        from synthaug.classify.loop import Data

        pictures: Pictures = given["data"]
        size = pictures.size(self.recipe.image_size)
        entries = pictures.entries(SUBSET, self.seed)
        real = pictures.listing.samples(entries)
        # samples are found by the id of their source, as a filter may have left out any of them
        place = {entry.id: number for number, entry in enumerate(entries)}
        made = given["images"].samples(self.k) if "images" in self.inputs else []
        val_images, val_labels = pictures.arrays("val", self.seed, size)
        labels = label_matrix([s.label for s in real + made], len(pictures.listing.classes))
        return Data(
            # N x 3 x size x size, the real ones first, as `n_real` and `source_of_synthetic` have it
            images=decode_all([s.image for s in real + made], size),
            labels=torch.from_numpy(labels),
            n_real=len(real),
            source_of_synthetic=torch.tensor([place[s.source] for s in made], dtype=torch.long),
            val_images=val_images,
            val_labels=torch.from_numpy(val_labels),
            variants=self.variants(given, size),
            start=given["start"].model.classifier.state_dict() if "start" in self.inputs else None,
        )

    def variants(self, given: Given, size: int) -> dict[int, np.ndarray]:
        """What the views of the recipe draw from, by their places: N x K x C x H x W."""
        pictures: Pictures = given["data"]
        ids = [entry.id for entry in pictures.entries(SUBSET, self.seed)]
        found = {}
        for place, view in enumerate(self.recipe.views):
            if place in self.places:
                # as many as this view asks for: what is there may hold more
                found[place] = given[f"copies.{place}"].stacked(size, variants=range(1, self.places[place] + 1))
            elif (files := view.twins(ids)) is not None:
                found[place] = decode_all([file.read_bytes() for file in files], size)[:, None]  # N x 1 x C x H x W
        return found

    def numbers(
        self, history: Sequence[Entry], result: Result | None, counts: Mapping[str, float]
    ) -> Mapping[str, float]:
        """Those of the evaluation whose weights were kept, and how many images there were to train on."""
        # as training chose: of equal accuracies the lower loss, of equals the first
        best = max(history, key=lambda entry: (entry.get("val/top1", 0.0), -entry.get("val/loss", 0.0)))
        found = {name: best[name] for name in ("val/top1", "val/loss") if name in best}
        return found | ({"train/set": float(counts["set"])} if "set" in counts else {})

    def load(self, at: Folder, given: Given) -> nn.Module:
        return trained_net(self.recipe, given["data"], at.read(WEIGHTS))


def check_recipe(recipe: Recipe, pictures: Pictures) -> None:
    """Refuse one that could not be trained, without making any weights."""
    import torch

    from synthaug.classify import models

    with torch.device("meta"):
        model = models.build(recipe.model, len(pictures.listing.classes))
    # on "meta" the net has shapes and no memory
    models.check_size(model.net, recipe, pictures.size(recipe.image_size))


def trained_net(recipe: Recipe, pictures: Pictures, weights: bytes) -> nn.Module:
    """A trained classifier as it is evaluated, on the device that a denoiser is put on too."""
    import torch
    from safetensors.torch import load

    from synthaug.classify import models

    model = models.build(recipe.model, len(pictures.listing.classes))
    model.load_state_dict(load(weights))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return models.prepared(recipe, model).to(device)


class Judge(Classifier):
    """The classifier of the real images alone, which others ask about generated ones."""

    # `kind` is the classifier's: the judge here and a plain classifier elsewhere are one artefact
    name, cost = "judge", "judge"

    def entry_named(self, name: str, entry: Entry) -> Entry:
        return Trained.entry_named(self, name, entry)

    def numbers(
        self, history: Sequence[Entry], result: Result | None, counts: Mapping[str, float]
    ) -> Mapping[str, float]:
        found = super().numbers(history, result, counts)
        return {f"judge/{name}": value for name, value in found.items() if name.startswith("val/")}
