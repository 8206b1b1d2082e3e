"""Retrieval: real images in place of generated ones, the control of Geng et al. (2024)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from synthaug.clip import Clip
from synthaug.data.dataset import Dataset
from synthaug.data.listing import Entry, Listing
from synthaug.data.sample import Label, Sample, decode_image
from synthaug.diffusion.backbone import Backbone
from synthaug.methods.base import Context, Method, Models, Row, own_class
from synthaug.settings import UserError, settings

if TYPE_CHECKING:
    from torch import Tensor

    from synthaug.clip import Scorer


@settings
class Retrieval(Method):
    """Variant v of a source is the image of its class in `upstream` whose CLIP feature is v-th nearest to the source's.

    Images of a generator carry nothing that was not in what it was trained on: so what they gain must be more than what
    is gained by taking as many of those images themselves ("The Unmet Promise of Synthetic Training Images"). Name a
    data set that the generator has seen, as glyphs are for the embedded models; classes are found by their names or
    their words, among the images of `split` (None: of all). Images of the data set itself are
    refused: some are tested on, and the others are more shots than anybody else has. They are known by what their
    readers hash, so a copy in another form, such as a folder of exported digits, is not seen to be one.
    """

    backbone: ClassVar[Backbone | None] = None

    upstream: Dataset = Dataset("glyphs")
    split: str | None = "train"
    clip: Clip = Clip("openai/clip-vit-base-patch32")

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return own_class(sample, variant, context)

    def check(self, own: Listing, names: Sequence[str], k: int) -> None:
        upstream = self.upstream.open()
        held = {entry.pixels for entries in own.splits.values() for entry in entries}
        for name in names:
            entries = self.entries(upstream, name)
            if len(entries) < k:
                why = f"{self.upstream.name} has {len(entries)} images of {name!r}, fewer than k={k}"
                raise UserError(why, ("method", "upstream"))
            if twins := sum(entry.pixels in held for entry in entries):
                why = f"{twins} images of {name!r} are those of the data set itself; name another one"
                raise UserError(why, ("method", "upstream"))

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        scorer = models.scorer(self.clip)
        upstream = models.kept(self.upstream, self.upstream.open)
        sources = {row.source: image for row, image in zip(rows, images, strict=True)}
        near = {source: number for number, source in enumerate(sources)}
        features = _features(scorer, list(sources.values()))
        made = []
        for row in rows:
            name = models.context.names[row.target]
            entries, theirs = models.kept((self, name), partial(self.shelf, scorer, upstream, name))
            cosines = theirs @ features[near[row.source]]
            order = cosines.argsort(descending=True, stable=True)  # of equal ones the first
            made.append(decode_image(upstream.read(entries[int(order[row.variant - 1])].id)))
        return made, [((row.target, 1.0),) for row in rows]

    def entries(self, upstream: Listing, name: str) -> list[Entry]:
        """The images of a class."""
        labels = [n for n, both in enumerate(zip(upstream.classes, upstream.words, strict=True)) if name in both]
        splits = upstream.splits if self.split is None else (self.split,)
        return [entry for split in splits for entry in upstream.split(split) if entry.label in labels]

    def shelf(self, scorer: Scorer, upstream: Listing, name: str) -> tuple[list[Entry], Tensor]:
        """The images of a class, and their features (N x D)."""
        entries = self.entries(upstream, name)
        return entries, _features(scorer, [decode_image(upstream.read(entry.id)) for entry in entries])


def _features(scorer: Scorer, images: Sequence[np.ndarray]) -> Tensor:
    """Unit vectors (N x D) of images of any sizes (uint8 HWC), one by one: whose neighbours they are is no matter."""
    import torch

    return torch.cat([scorer.embed(image.transpose(2, 0, 1)[None]) for image in images])
