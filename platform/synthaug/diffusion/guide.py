"""A classifier of noisy images, which steers a denoiser towards a class; trained on the experiment's own images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from synthaug.settings import Count, settings

if TYPE_CHECKING:
    from synthaug.diffusion.guide_net import GuideNet

FILE = "guide.safetensors"  # in its stage's folder


@settings(key="synthaug.diffusion.guides:Guide")
class Guide:
    """Trained as a stage, on exactly the images that the classifier may see and their labels, at uniformly random
    times; equal settings on equal images share it.

    `second` is what it sees beside the noisy image, through a stem of its own: nothing (the usual noisy classifier),
    the denoiser's guess (the denoise-augmented one), or the noisy image once more: the control with as many weights as
    the second. `channels` are those of its levels, each half as large as the one before.
    """

    version: ClassVar[int] = 1

    second: Literal["none", "denoised", "noisy"] = "none"
    # in eights, because the norms have eight groups
    channels: Annotated[tuple[Annotated[int, Field(ge=8, multiple_of=8)], ...], Field(min_length=1)] = (16, 32, 64)
    steps: Count = 2000
    batch_size: Count = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Count = 1

    @property
    def needs_denoiser(self) -> bool:
        """Whether training it asks the denoiser."""
        return self.second == "denoised"

    def load(self, folder: Path, device: str) -> GuideNet:
        """The net that its stage left in a folder."""
        from synthaug.diffusion.guide_net import read

        return read(self, (folder / FILE).read_bytes(), device)


PlacedGuide = tuple[Guide, Path]  # and the folder of its stage
