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
    their words. Its images must not be those that are tested on.
    """

    backbone: ClassVar[Backbone | None] = None

    upstream: Dataset = Dataset("glyphs")
    split: str = "train"
    clip: Clip = Clip("openai/clip-vit-base-patch32")

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return own_class(sample, variant, context)

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        scorer = models.scorer(self.clip)
        listing = models.kept(self.upstream, self.upstream.open)
        sources = {row.source: image for row, image in zip(rows, images, strict=True)}
        near = {source: number for number, source in enumerate(sources)}
        features = _features(scorer, list(sources.values()))
        made = []
        for row in rows:
            name = models.context.names[row.target]
            entries, theirs = models.kept((self, name), partial(self.shelf, scorer, listing, name))
            if row.variant > len(entries):
                have = f"{self.upstream.name} has {len(entries)} {self.split} images of {name!r}"
                raise UserError(f"{have}, fewer than k={row.variant}", ("method", "upstream"))
            cosines = theirs @ features[near[row.source]]
            order = cosines.argsort(descending=True, stable=True)  # of equal ones the first
            made.append(decode_image(listing.read(entries[int(order[row.variant - 1])].id)))
        return made, [((row.target, 1.0),) for row in rows]

    def shelf(self, scorer: Scorer, listing: Listing, name: str) -> tuple[list[Entry], Tensor]:
        """The images of a class, and their features (N x D)."""
        labels = [n for n, both in enumerate(zip(listing.classes, listing.words, strict=True)) if name in both]
        entries = [entry for entry in listing.split(self.split) if entry.label in labels]
        if not entries:
            raise UserError(f"{self.upstream.name} has no {self.split} images of {name!r}", ("method", "upstream"))
        return entries, _features(scorer, [decode_image(listing.read(entry.id)) for entry in entries])


def _features(scorer: Scorer, images: Sequence[np.ndarray]) -> Tensor:
    """Unit vectors (N x D) of images of any sizes (uint8 HWC), one by one: whose neighbours they are is no matter."""
    import torch

    return torch.cat([scorer.embed(image.transpose(2, 0, 1)[None]) for image in images])
