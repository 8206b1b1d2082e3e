"""DiffuseMix (Islam et al., CVPR 2024): half the image, half a restyled version of it, and a touch of a fractal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from synthaug.data.sample import Label, Sample, resize_image
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.steps import Loop
from synthaug.methods import fractals
from synthaug.methods.base import Context, Method, Models, Row, own_class, pick
from synthaug.settings import Count, Share, seed_of, settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

STYLES = (
    "autumn", "snowy", "watercolor art", "sunset", "rainbow", "aurora", "mosaic", "ukiyo-e", "a sketch with crayon",
)  # fmt: skip


@settings
class DiffuseMix(Method):
    """An instructed model restyles the image at 256 px (or its own size, if smaller); `ramp` is the width of the seam
    in pixels of 256. `styles` None are the data set's own prompts, if it has any, or else the authors' nine.

    DiffuseMix is patented in the United States (US 12657783 B1, June 2026): look at the patent before you use it there
    for more than research.
    """

    version: ClassVar[int] = 2
    backbone: ClassVar[Backbone | None] = Backbone(model="timbrooks/instruct-pix2pix", resolution=256)

    steps: Count = 100  # these three as UniDiffDA runs it
    guidance: Annotated[float, Field(ge=0)] = 4.0
    image_guidance: Annotated[float, Field(ge=0)] = 1.5
    template: str = "A transformed version of image into {}"
    styles: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    fractal: Share = 0.2
    ramp: Annotated[int, Field(ge=0)] = 20

    @classmethod
    def as_published(cls) -> DiffuseMix:
        """The authors' own prompt: the bare word for the style."""
        return cls(template="{}")

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        row = own_class(sample, variant, context)
        # drawn for each variant; the authors make one image of each style, so that their set grows with the styles
        own = row.prompt if context.own_prompts else pick(STYLES, row.seed, "style")
        style = own if self.styles is None else pick(self.styles, row.seed, "style")
        # all the way: an instructed model begins with pure noise, and is shown the source beside it
        return dataclasses.replace(row, prompt=self.template.format(style), strength=1.0)

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        assert backbone is not None, "this method needs a backbone"
        return backbone.calls(Loop.instructed(self.steps, self.guidance, self.image_guidance))

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        restyled = models.pipeline.instruct(
            images, [row.prompt for row in rows], [row.seed for row in rows], steps=self.steps,
            guidance=self.guidance, image_guidance=self.image_guidance,
        )  # fmt: skip
        made = [self.blend(row, image, new) for row, image, new in zip(rows, images, restyled, strict=True)]
        return made, [((row.target, 1.0),) for row in rows]

    def blend(self, row: Row, image: np.ndarray, restyled: np.ndarray) -> np.ndarray:
        """The source on the left (or above), the restyled one on the right (or below), the fractal over both."""
        size = len(restyled)
        ramp = max(1, round(self.ramp * size / 256)) if self.ramp else 0  # never rounded away
        real = seam(size, ramp)[:, None]
        # horizontal or vertical, by the toss of a coin; the real half is always the first, as in the authors' code
        mask = real if seed_of(row.seed, "seam") % 2 else real.transpose(1, 0, 2)
        hybrid = mask * resize_image(image, size) + (1 - mask) * restyled
        # drawn here, where the authors mix in a set that one has to download
        fractal = fractals.render(seed_of(row.seed, "fractal") % fractals.COUNT, size)
        return np.asarray(np.rint((1 - self.fractal) * hybrid + self.fractal * fractal), np.uint8)


def seam(size: int, ramp: int) -> NDArray[np.float64]:
    """The share of the source along the way (size x 1): 1, then a straight fall over `ramp` pixels around the middle,
    then 0."""
    way = np.arange(size) + 0.5 - size / 2  # from the middle to the centres of the pixels
    return np.clip(0.5 - way / ramp, 0, 1)[:, None] if ramp else (way < 0).astype(np.float64)[:, None]
