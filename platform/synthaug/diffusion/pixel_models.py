"""Which denoiser an experiment works with: one that is there already, or one trained on its own images."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from synthaug.settings import ContentOf, Count, UserError, settings
from synthaug.weights import Weights, files_of

if TYPE_CHECKING:
    from torch import Tensor

    from synthaug.diffusion.denoiser import UNetDenoiser

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # named: no torch here
FOLDER = "denoiser"  # of a trained one, in its stage's folder


@settings
class DenoiserModel(ABC):
    """A pixel denoiser; images in [-1, 1]."""

    @abstractmethod
    def load(self, folder: Path | None, device: str | None = None) -> UNetDenoiser:
        """The denoiser in memory; `folder` is where its stage left it, if it has one."""

    @abstractmethod
    def alphas_cumprod(self) -> Tensor:
        """Its schedule."""

    def notes(self, shots: int | None) -> list[str]:
        """What people should know of it before anything runs."""
        return []


@settings(key="synthaug.diffusion.denoisers:PretrainedUNet")
class PretrainedUNet(DenoiserModel, Weights):
    """An unconditional pixel model of diffusers, embedded, on disk, or downloaded: a folder with unet/ and scheduler/,
    or with what is in those two."""

    MARK: ClassVar[str] = "scheduler_config.json"
    PLACES: ClassVar[tuple[str, ...]] = (".", "scheduler")
    SORT: ClassVar[str] = "pixel model of diffusers"
    WAYS_OUT: ClassVar[str] = (
        "name the folder of a downloaded one (--set denoiser=/path/to/model), take the embedded one, which knows only "
        "digits (--set denoiser=nano:ddpm), or train one on your own images (--set denoiser=TrainedUNet)"
    )

    precision: Precision = "fp32"

    def weight_files(self) -> list[Path]:
        root = self.folder()
        parts = [root / part for part in ("unet", "scheduler")] if (root / "unet").is_dir() else [root]
        return [file for part in parts for file in files_of(part)]  # model_index.json says nothing that is used

    def load(self, folder: Path | None, device: str | None = None) -> UNetDenoiser:
        return _load(self.folder(), device, self.precision)

    def alphas_cumprod(self) -> Tensor:
        from synthaug.diffusion.denoiser import parts_of, schedule_of

        found: Tensor = schedule_of(parts_of(self.folder())[1]).alphas_cumprod
        return found

    def notes(self, shots: int | None) -> list[str]:
        if shots is None:
            return []
        # DiffAug adds no data: with few shots a pretrained denoiser would bring some in.
        return [f"{self.model} has seen more images than the {shots} a class; TrainedUNet sees only those"]


@settings(key="synthaug.diffusion.denoisers:GuidedDiffusion")
class GuidedDiffusion(DenoiserModel):
    """A checkpoint of OpenAI's guided-diffusion or improved-diffusion (a .pt file), as DiffAug was published with.

    What its weights do not tell is said here; `schedule` is that of its training, of `timesteps` steps.
    """

    checkpoint: ContentOf[str]
    precision: Precision = "fp32"
    # Those of 256x256_diffusion_uncond.pt, which DiffAug's code takes.
    head_channels: Count = 64
    new_attention_order: bool = False
    schedule: Literal["linear", "cosine"] = "linear"
    timesteps: Count = 1000

    def load(self, folder: Path | None, device: str | None = None) -> UNetDenoiser:
        import torch

        from synthaug.diffusion import adm

        place = Path(self.checkpoint).expanduser()
        found = adm.load(
            place, head_channels=self.head_channels, new_attention_order=self.new_attention_order,
            schedule=self.schedule, timesteps=self.timesteps, dtype=getattr(torch, _DTYPES[self.precision]),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )  # fmt: skip
        found.net.requires_grad_(False)  # gradients are asked of images only
        return found

    def alphas_cumprod(self) -> Tensor:
        from synthaug.diffusion import adm

        return adm.alphas_cumprod(self.schedule, self.timesteps)


@settings(key="synthaug.diffusion.denoisers:TrainedUNet")
class TrainedUNet(DenoiserModel):
    """Trained as a stage, on exactly the images that the classifier may see; equal settings on equal images share it.

    `channels` and `layers` are the UNet's; its lowest resolution has attention. The default is for images of 32 pixels.
    Of several `replicas`, seeds of their own, the experiment's seeds take turns: what is said of a mean over seeds is
    then not said of one denoiser.
    """

    version: ClassVar[int] = 1

    channels: Annotated[tuple[Count, ...], Field(min_length=2)] = (16, 32, 64, 64)
    layers: Count = 1
    steps: Count = 4000
    batch_size: Count = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Count = 1
    replicas: Count = 1

    def of(self, seed: int) -> TrainedUNet:
        """The replica that an experiment's seed works with."""
        return dataclasses.replace(self, seed=self.seed + seed % self.replicas, replicas=1)

    def load(self, folder: Path | None, device: str | None = None) -> UNetDenoiser:
        assert folder is not None
        return _load(folder / FOLDER, device, "fp32")

    def alphas_cumprod(self) -> Tensor:
        from synthaug.diffusion.unet import new_scheduler

        found: Tensor = new_scheduler().alphas_cumprod
        return found

    def check(self, size: int) -> None:
        """Refuse images that cannot be halved as often as the UNet does."""
        depth = 2 ** (len(self.channels) - 1)  # every level but the lowest ends in halving
        if size % depth:
            raise UserError(f"{len(self.channels)} channels halve {size} px unevenly; take a multiple of {depth} px")


def _load(folder: Path, device: str | None, precision: Precision) -> UNetDenoiser:
    import torch

    from synthaug.diffusion.denoiser import UNetDenoiser

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = UNetDenoiser.from_folder(folder, device, getattr(torch, _DTYPES[precision]))
    found.net.to(memory_format=torch.channels_last).requires_grad_(False)
    return found


PlacedDenoiser = tuple[DenoiserModel, Path | None]  # and the folder of its stage, if it was trained as one
