"""Diffusion nets that are trained here as EDM trains them, with what is done to their images: settings, no torch."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.layout import FOLDER, By, Target
from synthaug.diffusion.pixel_models import TrainedModel, check_halving
from synthaug.diffusion.transforms import Augmentation, EDMPipe, OneOrNone
from synthaug.settings import Count, OneOf, Share, UserError, settings
from synthaug.training import Checkpoint, Report, World

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from synthaug.diffusion.denoiser import NetDenoiser
    from synthaug.diffusion.fit import Fitted

Positive = Annotated[float, Field(gt=0)]


@settings
class OnClean:
    """Augmentation before noise is added; a net that is told of it (EDM's non-leaky one) can be asked for images that
    nothing was done to."""

    how: OneOf[Augmentation] = EDMPipe()
    told: bool = True


@settings
class ScoreAug:
    """Augmentation of the noisy image and of what the net is to answer.

    `told` is what it hears of it: the truth, nothing, or, as controls, what was done to another image of the batch, or
    with the truth about the next transform's parameters in the list (none is the last): a lie that can be learned.
    `by` is where it hears that: added to the embedding of the noise level by a linear layer (as published, but after
    the embedding's own two layers, where diffusers adds a class, and silent at first), as channels of the input, or as
    scale and shift of the first layer's features. `reading` is for transforms that are not linear
    (`scoreaug.loss`); `renorm` divides the loss by the square of a brightness.
    """

    how: OneOf[Augmentation] = OneOrNone()
    told: Literal["truth", "nothing", "another's", "the next one"] = "truth"
    by: By = "embedding"
    reading: Literal["I", "II", "III"] = "I"
    renorm: bool = False

    @model_validator(mode="after")
    def _can_lie(self) -> ScoreAug:
        if self.told == "the next one" and not isinstance(self.how, OneOrNone):
            raise UserError("only of OneOrNone there is a next one", ("told",))
        return self


@settings
class TrainedScore(TrainedModel):
    """Trained as a stage, on exactly the images that the classifier may see; equal settings on equal images share it.

    `labels` makes it class-conditional; it also learns to do without for a share of `unlabelled` images, so that it can
    be asked with and without, and guided by the difference (with a share of 0 it must not be asked without). With both
    kinds of augmentation an image has one after the other, or one of the two by the toss of a coin (`mixture`). What is
    kept is the average of the weights: over the last tenth of training, or with a half-life of `ema` images as in EDM;
    the rate rises over `warmup` images. `dropout` draws masks in each process: with more of them the net is another.
    """

    target: Target = "edm"
    labels: bool = False
    unlabelled: Share = 0.1
    clean: OneOf[OnClean] | None = None
    scoreaug: OneOf[ScoreAug] | None = None
    mixture: bool = False
    warmup: Annotated[int, Field(ge=0)] = 0  # 0: 100 steps up, and after 1,000 down like the root
    ema: Annotated[int, Field(ge=0)] = 0
    clip: Positive | None = 1.0  # of the norm of the gradient
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False  # pays on a GPU

    @model_validator(mode="after")
    def _both(self) -> TrainedScore:
        if self.mixture and (self.clean is None or self.scoreaug is None):
            raise UserError("a mixture needs both kinds, `clean` and `scoreaug`", ("mixture",))
        return self

    @property
    def mirrors(self) -> bool:
        return any(part.how.mirrors for part in (self.clean, self.scoreaug) if part is not None)

    def load(self, folder: Path | None, device: str | None = None) -> NetDenoiser:
        from synthaug.diffusion.score_net import read

        assert folder is not None
        return read(folder / FOLDER, device)

    def informed(self, folder: Path) -> NetDenoiser:
        """The net as it was trained, to be told what was done to an image."""
        from synthaug.diffusion.score_net import read_informed

        return read_informed(folder / FOLDER)

    @abstractmethod
    def new(self, size: int, classes: int) -> Any:
        """A net of diffusers as it is before training."""

    def train(
        self, images: np.ndarray, labels: np.ndarray, classes: int, *, report: Report, checkpoint: Checkpoint | None,
        world: World,
    ) -> tuple[dict[str, bytes], Fitted]:  # fmt: skip
        from synthaug.diffusion.score_net import files_of
        from synthaug.diffusion.score_training import train

        net, done = train(self, (images, labels), classes, report=report, checkpoint=checkpoint, world=world)
        return files_of(net, self.target), done

    def alphas_cumprod(self) -> Tensor:
        from synthaug.diffusion.denoiser import levels

        return levels()


@settings
class TrainedEDM(TrainedScore):
    """A UNet of diffusers on pixels. `channels` and `layers` are its own, at the sizes in `attention` (in pixels) it
    looks at the whole image; None: at the lowest. The default is for images of 32 pixels. `grey` trains it on the mean
    of the colours, for images that have none."""

    channels: Annotated[tuple[Annotated[int, Field(ge=8, multiple_of=8)], ...], Field(min_length=1)] = (32, 64, 64)
    layers: Count = 1
    attention: tuple[Count, ...] | None = None
    grey: bool = False

    def check(self, size: int) -> None:
        check_halving(self.channels, size)
        sizes = [size // 2**level for level in range(len(self.channels))]
        if unknown := set(self.attention or ()) - set(sizes):
            raise UserError(
                f"no level of the net has {unknown.pop()} px; they have {', '.join(map(str, sizes))}", ("attention",)
            )

    def new(self, size: int, classes: int) -> Any:
        from synthaug.diffusion.score_training import new_unet

        return new_unet(self, size)


@settings
class TrainedDiT(TrainedScore):
    """A transformer of diffusers on the latents of a model's VAE, as SiT is: by default it predicts the velocity. With
    `patch` 2 the paper's shapes are S (12 layers, 6 heads of 64), B (12, 12 of 64), L (24, 16 of 64) and XL (28, 16 of
    72)."""

    target: Target = "velocity"
    vae: Backbone = Backbone("stable-diffusion-v1-5/stable-diffusion-v1-5", resolution=256)
    layers: Count = 12
    heads: Count = 6
    head_size: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    patch: Count = 2

    @model_validator(mode="after")
    def _told_by_embedding(self) -> TrainedDiT:
        if self.scoreaug is not None and self.scoreaug.by != "embedding":
            raise UserError("a transformer is told by its embedding only", ("scoreaug", "by"))
        return self

    @property
    def space(self) -> Backbone:
        return self.vae

    def check(self, size: int) -> None:
        """Images are brought to the VAE's resolution, whatever they are."""

    def new(self, size: int, classes: int) -> Any:
        from synthaug.diffusion.score_training import new_dit

        return new_dit(self, size, classes)
