"""Fine-tuning as a stage: what a backbone learns of the data set's own images, one way after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synthaug.data import suffixes
from synthaug.data.sample import decode_image
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.finetune import Adapter, Finetune, tokens_of, words_after
from synthaug.settings import keyed
from synthaug.stages.base import Folder, Given, Loop, Outcome, Stage, Trained
from synthaug.stages.data import SUBSET, Pictures
from synthaug.training import reports_in

FILE = "adapter.safetensors"


class Tuned(Trained[tuple[Adapter, ...]]):
    """The last of `tuning`, learned on top of those before it, which are its input `adapter`.

    `backbone_key` is the backbone as it enters keys, with what its weights hold.
    """

    kind, cost = "finetune", "finetune"

    def __init__(
        self, data: Stage[Pictures], before: Stage[Any] | None, tuning: Sequence[Finetune], backbone: Backbone,
        seed: int, backbone_key: Mapping[str, Any], named: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.tuning, self.backbone, self.seed = tuple(tuning), backbone, seed
        self.finetune = self.tuning[-1]
        self.reports = reports_in(self.finetune.steps)
        # words of a key stay those of its first version, whatever things are called now: another word is another key
        settings = {"finetune": keyed(self.finetune), "version": self.finetune.version, "seed": seed}
        super().__init__(settings | dict(backbone_key) | dict(named), {"data": data, "adapter": before})

    def fit(self, given: Given, loop: Loop) -> Outcome:
        from safetensors.torch import save

        from synthaug.diffusion.tuning import Example, tune

        pictures: Pictures = given["data"]
        listing, kind = pictures.listing, pictures.dataset.kind_word
        table = suffixes.read(self.finetune.suffixes) if self.finetune.suffixes is not None else None
        # after textual inversion a class is called by its new word, also while a LoRA is learned on top
        names = [f"{word} {kind}".strip() for word in words_after(self.tuning, listing.words)]
        examples = [
            Example(
                decode_image(sample.image), names[sample.target], tokens_of(self.tuning, sample.target),
                table.of_image(sample.id) if table else None,
            )
            for sample in listing.samples(pictures.entries(SUBSET, self.seed))
        ]  # fmt: skip
        # a checkpoint holds all of the state, so the outcome is the same however often it was stopped
        learned, done = tune(
            self.finetune, self.backbone, given.get("adapter") or (), examples, listing.words, seed=self.seed,
            report=loop.report, checkpoint=loop.checkpoint, world=loop.world,
        )  # fmt: skip
        counts = {"steps": done.step, "images": done.step * self.finetune.batch_size, "micro_batch": done.micro_batch}
        return Outcome({FILE: save(learned)}, done.seconds, history=done.history, counts=counts)

    def load(self, at: Folder, given: Given) -> tuple[Adapter, ...]:
        before: tuple[Adapter, ...] = given.get("adapter") or ()
        # in their order: each was learned with those before it in place
        return *before, (self.finetune, at.local(FILE))
