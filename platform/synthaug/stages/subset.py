"""Which images are learned slowly: the net that tells, and the choice that it leads to."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import Layer, Signals, Subset
from synthaug.data.listing import Entry as Image
from synthaug.evaluate import figures
from synthaug.evaluate.base import Result
from synthaug.progress import say
from synthaug.settings import keyed, seed_of
from synthaug.stages.base import Folder, Given, Loop, Outcome, Stage, Trained
from synthaug.stages.classifier import WEIGHTS, check_recipe, trained_net
from synthaug.stages.data import SUBSET, Mask, Pictures
from synthaug.training import Entry

if TYPE_CHECKING:
    from torch import nn

SEEN, SCORES = "seen.npz", "scores.csv"
POINTS = 20  # of a curve that people look at
SHOWN = 12, 8  # classes of a gallery, and images of each


@dataclass(frozen=True)
class Learner:
    """The net after its last epoch, as it is evaluated, and what was seen of each image after each (E x N)."""

    model: nn.Module
    losses: np.ndarray
    margins: np.ndarray


class EarlyNet(Trained[Learner]):
    """Trained on the real images for a few epochs. Nothing of validation or test images enters it."""

    kind, cost = "early", "early"

    def __init__(
        self, data: Stage[Pictures], subset: Subset, recipe: Recipe, seed: int, named: Mapping[str, str]
    ) -> None:
        self.early, self.seed = subset.early, seed
        self.recipe = self.early.of(recipe)
        self.reports = self.early.epochs
        settings = {"recipe": keyed(self.recipe), "slows": self.early.slows, "seed": seed} | dict(named)
        super().__init__(settings, {"data": data})

    def check(self, given: Given) -> None:
        check_recipe(self.recipe, given["data"])

    def fit(self, given: Given, loop: Loop) -> Outcome:
        import torch
        from safetensors.torch import save

        from synthaug.classify.early import train_early

        pictures: Pictures = given["data"]
        images, labels = pictures.arrays(SUBSET, self.seed, pictures.size(self.recipe.image_size))
        hard = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), len(pictures.listing.classes)).double()
        found = train_early(
            self.recipe, self.early, torch.from_numpy(images), hard, seed=self.seed, report=loop.report,
            checkpoint=loop.checkpoint, world=loop.world,
        )  # fmt: skip
        out = io.BytesIO()
        np.savez(out, losses=found.losses, margins=found.margins)
        weights = save({name: value.contiguous() for name, value in found.model.items()})
        counts = {
            "steps": found.steps, "images": found.steps * self.recipe.batch_size, "epochs": len(found.losses)
        }  # fmt: skip
        files = {WEIGHTS: weights, SEEN: out.getvalue()}
        return Outcome(files, found.seconds, history=found.history, counts=counts)

    def load(self, at: Folder, given: Given) -> Learner:
        with np.load(io.BytesIO(at.read(SEEN))) as seen:
            net = trained_net(self.recipe, given["data"], at.read(WEIGHTS))
            return Learner(net, seen["losses"], seen["margins"])


class Chosen(Mask):
    """The images that a `Subset` chooses by that net; new ones are made of these alone."""

    kind, version, cost = "slow", 2, "early"

    def __init__(self, data: Stage[Pictures], learner: EarlyNet, subset: Subset, seed: int) -> None:
        self.subset, self.seed = subset, seed
        # how the net was trained is in its own key, and what it is used for afterwards decides nothing here
        settings = {name: value for name, value in keyed(subset).items() if name not in ("early", "restart")}
        super().__init__({"subset": settings, "seed": seed}, {"data": data, "learner": learner})

    def choose(self, given: Given) -> Collection[str]:
        return {entry.id for entry, chosen in zip(*self.chosen(given), strict=True) if chosen}

    def chosen(self, given: Given) -> tuple[tuple[Image, ...], np.ndarray]:
        """All training images, and which of them are chosen."""
        from synthaug.classify.early import outputs

        pictures: Pictures = given["data"]
        learner: Learner = given["learner"]
        learned: EarlyNet = self.inputs["learner"]  # type: ignore[assignment]
        images, labels = pictures.arrays(SUBSET, self.seed, pictures.size(learned.recipe.image_size))

        def asked(layer: Layer) -> np.ndarray:
            return outputs(learner.model, images, layer)

        signals = Signals(labels, learner.losses, learner.margins, asked)
        return pictures.entries(SUBSET, self.seed), self.subset(signals, self.seed)

    def compute(self, given: Given) -> Outcome:
        entries, chosen = self.chosen(given)
        learner: Learner = given["learner"]
        made = self.outcome(entry.id for entry, wanted in zip(entries, chosen, strict=True) if wanted)
        _, sizes = np.unique([entry.label for entry in entries], return_counts=True)
        counts = {**made.counts, "of": len(entries), "alone in their class": int((sizes == 1).sum())}
        if (sizes == 1).any():
            say(f"classes of one image: {(sizes == 1).sum()}; nothing tells it from others, and it counts as slow")
        result: Result = {
            "metrics": {}, "curves": {"loss of slow and fast images": curve(learner.losses, chosen)},
            "pictures": {
                "images of which new ones are made, the slow ones": self.gallery(given, entries, chosen),
                "images that stand for themselves, the fast ones": self.gallery(given, entries, ~chosen),
            },
        }  # fmt: skip
        files = {**made.files, SCORES: table(given["data"].listing.classes, entries, learner, chosen)}
        return Outcome(files, result=result, counts=counts)

    def gallery(self, given: Given, entries: Sequence[Image], chosen: np.ndarray) -> str:
        """Some of the images, a row for each class, any of them but always the same; as a PNG in base64."""
        pictures: Pictures = given["data"]
        rows: dict[int, list[bytes]] = {}
        mine = [entry for entry, wanted in zip(entries, chosen, strict=True) if wanted]
        for entry in sorted(mine, key=lambda entry: seed_of("gallery", entry.id)):
            row = rows.setdefault(entry.label, [])
            if len(row) < SHOWN[1]:
                row.append(pictures.listing.read(entry.id))
        return figures.png(figures.tiles([rows[label] for label in sorted(rows)][: SHOWN[0]]))

    def numbers(
        self, history: Sequence[Entry], result: Result | None, counts: Mapping[str, float]
    ) -> Mapping[str, float]:
        return {"slow/images": float(counts["chosen"]), "slow/share": counts["chosen"] / counts["of"]}


def table(classes: Sequence[str], entries: Sequence[Image], learner: Learner, chosen: np.ndarray) -> bytes:
    """What was seen of each image in the end, the hardest first, as CSV."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["id", "class", "loss", "margin", "chosen"])
    for n in np.argsort(-learner.losses[-1], kind="stable"):
        loss, margin = learner.losses[-1][n], learner.margins[-1][n]
        lines.writerow([entries[n].id, classes[entries[n].label], f"{loss:.6g}", f"{margin:.6g}", int(chosen[n])])
    return out.getvalue().encode()


def curve(losses: np.ndarray, chosen: np.ndarray) -> Any:
    """Mean loss of both parts after each epoch."""
    places = np.unique(np.linspace(0, len(losses) - 1, POINTS).round().astype(int))
    lines = {name: [float(x) for x in losses[places][:, part].mean(1)] for name, part in parts(chosen).items()}
    return {"x": [float(place + 1) for place in places], "y": lines, "label": ["epoch", "mean loss"]}


def parts(chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Both parts by name, without one that is empty."""
    return {name: part for name, part in {"slow": chosen, "fast": ~chosen}.items() if part.any()}
