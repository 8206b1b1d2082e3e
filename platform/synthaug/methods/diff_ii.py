"""Diff-II (Wang et al., CVPR 2025): interpolate the inversions of two images of a class around the circle that they
span, then denoise in two stages, the first under a prompt with a suffix."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from synthaug.data.sample import Label, Sample
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.finetune import Finetune, LoRA, TextualInversion
from synthaug.diffusion.steps import Loop
from synthaug.methods.base import Context, Maker, Method, Models, Row, own_class
from synthaug.settings import ContentOf, Count, Share, seed_of, settings


@settings
class Inversion(Maker):
    """The latents at the top of the schedule from which each source would be drawn (DDIM inversion, no guidance)."""

    steps: Count = 200

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        row = own_class(sample, variant, context)
        # No seed: nothing is drawn.
        return dataclasses.replace(row, prompt=context.text(sample.target, None, super_class=True), seed=0)

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        latents = models.pipeline.invert(images, [row.prompt for row in rows], steps=self.steps)
        return latents, [((row.target, 1.0),) for row in rows]

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        assert backbone is not None, "inversion needs a backbone"
        return backbone.calls(Loop.inverted(self.steps))

    def encode(self, made: np.ndarray) -> bytes:
        return encoded_array(made)


@settings
class DiffII(Method):
    """`split` of the schedule goes by under "..., <suffix>"; the suffixes of an image's variants differ as long as
    there are enough. `alone` lets an image be its own partner, as released, which leaves its latents as they are; an
    image without another of its class always is. `suffixes` is a table (data/suffixes.py), None the one for digits."""

    finetune: ClassVar[tuple[Finetune, ...]] = (TextualInversion(), LoRA())

    steps: Count = 25
    guidance: Annotated[float, Field(ge=0)] = 7.5
    inversion_steps: Count = 200  # more than steps, for an inversion in few does not lead back to the image
    split: Share = 0.3
    alone: bool = False
    suffixes: ContentOf[str | None] = None

    @classmethod
    def as_released(cls) -> DiffII:
        """The partner may be the image itself."""
        return cls(alone=True)

    @property
    def before(self) -> Maker:
        return Inversion(self.inversion_steps)

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        row = own_class(sample, variant, context, strength=1.0)  # all the way: it begins with inverted latents
        plain = context.text(sample.target, row.seed, super_class=True)
        others = [id for id in context.peers[sample.target] if self.alone or id != sample.id] or [sample.id]
        pool = context.table(self.suffixes).of_class(context.names[sample.target])
        # An image's variants go round the pool from a place of its own: drawn without replacement, and yet a variant's
        # suffix does not hang on how many variants there are.
        first = seed_of(context.seed, "suffix", sample.id) % len(pool)
        prompt = f"{plain}, {pool[(first + variant - 1) % len(pool)]}"
        partner = others[seed_of(row.seed, "partner") % len(others)]
        return dataclasses.replace(row, prompt=prompt, later=plain, partner=partner)

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        assert backbone is not None, "this method needs a backbone"
        return backbone.calls(Loop.resumed(self.steps, self.guidance, self.split))

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        assert models.earlier is not None
        latents = [around(models.earlier(row.source), models.earlier(row.partner), turn(row.seed)) for row in rows]
        made = models.pipeline.resume(
            latents, [row.prompt for row in rows], [row.later for row in rows], split=self.split, steps=self.steps,
            guidance=self.guidance,
        )  # fmt: skip
        return made, [((row.target, 1.0),) for row in rows]


def encoded_array(made: np.ndarray) -> bytes:
    """What is stored of an array, float32 on the CPU, that it can be read on any device."""
    out = io.BytesIO()
    np.save(out, made)
    return out.getvalue()


def turn(seed: int) -> float:
    """Where on the circle an image lies: uniform in [0, 1)."""
    return float(np.random.default_rng(seed_of(seed, "turn")).random())


def around(z1: np.ndarray, z2: np.ndarray, turn: float) -> np.ndarray:
    """A point of the circle through z1 and z2: `turn` of the whole way round, from z1 away from z2.

    sin((1 + a) theta) / sin(theta) z1 - sin(a theta) / sin(theta) z2 with a = 2 pi turn / theta.
    """
    # in double precision: two images of nearly one direction divide by a small sine
    a, b = z1.astype(np.float64).ravel(), z2.astype(np.float64).ravel()
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    theta = math.acos(np.clip(cosine, -1, 1))
    if math.sin(theta) < 1e-6:  # one direction, or two opposite ones: there is no such circle
        return z1
    angle = 2 * math.pi * turn  # a theta, which needs no division by theta
    mixed = (math.sin(theta + angle) * a - math.sin(angle) * b) / math.sin(theta)
    return np.asarray(mixed.reshape(z1.shape), z1.dtype)
