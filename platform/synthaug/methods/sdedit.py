"""SDEdit (Meng et al. 2022), which five of the methods share: noise a real image part of the way, denoise it under a
prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from synthaug.data.sample import Label, Sample
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.steps import Loop
from synthaug.methods.base import Context, Method, Models, Row, own_class
from synthaug.methods.prompts import Plain, Prompts
from synthaug.settings import Count, OneOf, Share, UserError, settings

if TYPE_CHECKING:
    import numpy as np


@settings
class SDEdit(Method):
    """Of `steps` steps strength x steps are run. Guidance is applied between the noise levels of `guided` only
    (shares of the schedule; Kynkaanniemi et al. 2024), elsewhere the prompt alone decides, at half the cost."""

    # UniDiffDA's setting for coarse classes; fine-grained ones ask for less where the model is not fitted to them.
    strength: Annotated[float, Field(gt=0, le=1)] = 0.9
    steps: Count = 25
    guidance: Annotated[float, Field(ge=0)] = 7.5  # not given in the paper: diffusers' default, which its code runs
    guided: tuple[Share, Share] = (0.0, 1.0)
    prompts: OneOf[Prompts] = Plain()

    @model_validator(mode="after")
    def _interval(self) -> SDEdit:
        if self.guided[0] >= self.guided[1]:  # equal ends would guide at most one step, by chance
            raise UserError(f"{self.guided} is no interval: its first number must be the smaller one", ("guided",))
        return self

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return self.prompts(own_class(sample, variant, context, strength=self.strength), context)

    def edit(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models, *, latents: bool = False
    ) -> list[np.ndarray]:
        """The edited images, or their latents."""
        # a strength a row: DA-Fusion draws it
        return models.pipeline.img2img(
            images, [row.prompt for row in rows], [row.seed for row in rows], strength=[row.strength for row in rows],
            steps=self.steps, guidance=self.guidance, guided=self.guided, latents=latents,
        )  # fmt: skip

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        return self.edit(rows, images, models), [((row.target, 1.0),) for row in rows]

    @property
    def loop(self) -> Loop:
        return Loop(self.steps, self.guidance, guided=self.guided)

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        assert backbone is not None, "this method needs a backbone"
        return backbone.calls(self.loop, row.strength)

    def begins(self, row: Row, backbone: Backbone | None) -> float | None:
        assert backbone is not None, "this method needs a backbone"
        return backbone.start(self.loop, row.strength)

    def notes(self) -> list[str]:
        if self.steps * self.strength >= 1:
            return []
        return [f"strength {self.strength} of {self.steps} steps is less than one step: one is run"]


@settings
class SeveralStrengths(SDEdit):
    """Variants of different strengths, in their order and then from the first again: targeted augmentation's images
    from several step counts. `strength` is that of `strengths` in its turn."""

    strengths: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.5, 0.4, 0.6, 0.3)

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        strength = self.strengths[(variant - 1) % len(self.strengths)]
        return self.prompts(own_class(sample, variant, context, strength=strength), context)


@settings
class FromPrompt(Method):
    """Text to image: nothing of the source goes in but its class. An edit of strength 1 is not that, as the last level
    of a schedule leaves some hundredths of the source."""

    steps: Count = 25
    guidance: Annotated[float, Field(ge=0)] = 7.5
    prompts: OneOf[Prompts] = Plain()

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        return self.prompts(own_class(sample, variant, context, strength=1.0), context)

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        made = models.pipeline.txt2img(
            [row.prompt for row in rows], [row.seed for row in rows], steps=self.steps, guidance=self.guidance
        )
        return made, [((row.target, 1.0),) for row in rows]

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        assert backbone is not None, "this method needs a backbone"
        return backbone.calls(Loop(self.steps, self.guidance), 1.0)
