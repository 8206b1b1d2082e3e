"""Which denoiser an experiment works with: one that is there already, or one trained on its own images."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.layout import ABOUT, FOLDER
from synthaug.settings import ContentOf, Count, UserError, settings
from synthaug.training import Checkpoint, Report, World
from synthaug.weights import Weights, files_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from synthaug.diffusion.denoiser import NetDenoiser
    from synthaug.diffusion.fit import Fitted

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # named: no torch here
_TRAINED = "or train one on your own images (--set denoiser=TrainedUNet)"
_UNLABELLED = f"it is asked without labels: take 256x256_diffusion_uncond.pt, {_TRAINED}"


class _Published(NamedTuple):
    """What the weights of a checkpoint do not say: the settings other than GuidedDiffusion's defaults, and why it is of
    no use here, if it is not."""

    settings: dict[str, Any]
    why_not: str | None = None


_CONDITIONAL = f"is class-conditional, and {_UNLABELLED}"
_CLASSIFIER = "is a classifier of noisy images and no denoiser; take 256x256_diffusion_uncond.pt"
_UPSAMPLER = "enlarges small images and is no denoiser; take 256x256_diffusion_uncond.pt"
_COSINE: dict[str, Any] = {"heads": 4, "schedule": "cosine", "timesteps": 4000}
# From the flags in the READMEs of guided-diffusion and improved-diffusion (whose code has the old order of attention).
_PUBLISHED = {
    "64x64_diffusion.pt": _Published({"new_attention_order": True, "schedule": "cosine"}, _CONDITIONAL),
    "128x128_diffusion.pt": _Published({"heads": 4}, _CONDITIONAL),
    "256x256_diffusion.pt": _Published({}, _CONDITIONAL),
    "512x512_diffusion.pt": _Published({}, _CONDITIONAL),
    "256x256_diffusion_uncond.pt": _Published({}),
    **{f"lsun_{name}.pt": _Published({}) for name in ("bedroom", "cat", "horse", "horse_nodropout")},
    **{f"{size}x{size}_classifier.pt": _Published({}, _CLASSIFIER) for size in (64, 128, 256, 512)},
    **{name: _Published({}, _UPSAMPLER) for name in ("64_256_upsampler.pt", "128_512_upsampler.pt")},
    "imagenet64_cond_270M_250K.pt": _Published(_COSINE, _CONDITIONAL),
    **{f"imagenet64_uncond_{name}100M_1500K.pt": _Published(_COSINE) for name in ("", "vlb_")},
    **{f"cifar10_uncond_{name}50M_500K.pt": _Published(_COSINE) for name in ("", "vlb_")},
    **{f"lsun_uncond_100M_{name}.pt": _Published({"heads": 1}) for name in ("1200K_bs128", "2400K_bs64")},
    "upsample_cond_500K.pt": _Published({}, _UPSAMPLER),
}


@settings
class DenoiserModel(ABC):
    """A pixel denoiser; images in [-1, 1]."""

    @abstractmethod
    def load(self, folder: Path | None, device: str | None = None) -> NetDenoiser:
        """The denoiser in memory; `folder` is where its stage left it, if it has one."""

    @abstractmethod
    def alphas_cumprod(self) -> Tensor:
        """Its schedule."""

    @property
    def mirrors(self) -> bool:
        """Whether it is trained on mirrored images too."""
        return False

    @property
    def labels(self) -> bool:
        """Whether it can be asked for a class."""
        return False

    @property
    def space(self) -> Backbone | None:
        """The model in whose latents it works; None: in pixels."""
        return None

    def notes(self, shots: int | None) -> list[str]:
        """What people should know of it before anything runs."""
        return []


@settings(key="synthaug.diffusion.denoisers:PretrainedUNet")
class PretrainedUNet(DenoiserModel, Weights):
    """A pixel model of diffusers, embedded, on disk, or downloaded: a folder with unet/ and scheduler/, or with what is
    in those two. It must not want to be told a class, unless it was trained here; run:KEY is what a stage of this home
    left."""

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
        ours = [root / ABOUT] if (root / ABOUT).is_file() else []
        # model_index.json says nothing that is used
        return [file for part in parts for file in files_of(part)] + ours

    def load(self, folder: Path | None, device: str | None = None) -> NetDenoiser:
        self._parts()
        return _load(self.folder(), device, self.precision)

    @property
    def labels(self) -> bool:
        return bool(self._about().get("classes"))

    def _about(self) -> dict[str, Any]:
        """How a net that was trained here is told things."""
        file = self.folder() / ABOUT
        found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        return found

    def alphas_cumprod(self) -> Tensor:
        from synthaug.diffusion.denoiser import levels, schedule_of

        if self._about():
            return levels()
        found: Tensor = schedule_of(self._parts()[1]).alphas_cumprod
        return found

    def _parts(self) -> tuple[Path, Path]:
        """Where its unet and its schedule are; a unet that wants to be told a class is refused."""
        from synthaug.diffusion.denoiser import parts_of

        unet, scheduler = parts_of(self.folder())
        config = json.loads((unet / "config.json").read_text())
        told = config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None
        if told and not self.labels:
            ways = f"it is asked without labels: take an unconditional one, {_TRAINED}"
            raise UserError(f"{self.model!r} is class-conditional, and {ways}")
        return unet, scheduler

    def notes(self, shots: int | None) -> list[str]:
        if shots is None:
            return []
        # DiffAug adds no data: with few shots a pretrained denoiser would bring some in.
        return [f"{self.model} has seen more images than the {shots} a class; TrainedUNet sees only those"]


@settings(key="synthaug.diffusion.denoisers:GuidedDiffusion")
class GuidedDiffusion(DenoiserModel):
    """A checkpoint of OpenAI's guided-diffusion or improved-diffusion (a .pt file), as DiffAug was published with.

    What its weights do not tell is said here; `schedule` is that of its training, of `timesteps` steps. Where attention
    was trained with one number of `heads` at all levels (--num_heads), `head_channels` says nothing. A published file
    is known by its name, and other settings than those of its training are refused.
    """

    checkpoint: ContentOf[str]
    precision: Precision = "fp32"
    # Those of 256x256_diffusion_uncond.pt, which DiffAug's code takes.
    head_channels: Count = 64
    new_attention_order: bool = False
    schedule: Literal["linear", "cosine"] = "linear"
    timesteps: Count = 1000
    heads: Count | None = None  # None: as many as head_channels go into the channels of a level

    @model_validator(mode="after")
    def _as_published(self) -> GuidedDiffusion:
        # With settings of another training the weights would run, too, as another network.
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        if self.heads is not None and self.head_channels != usual["head_channels"]:
            raise UserError("heads and head_channels exclude each other; give the one of the training", ("heads",))
        name = Path(self.checkpoint).name
        if (known := _PUBLISHED.get(name)) is None:
            return self
        if known.why_not is not None:
            raise UserError(f"{name} {known.why_not}", ("checkpoint",))
        asked = ("head_channels", "new_attention_order", "schedule", "timesteps", "heads")
        trained = {field: known.settings.get(field, usual[field]) for field in asked}
        if wrong := {field: value for field, value in trained.items() if getattr(self, field) != value}:
            said = {field: value if isinstance(value, str) else json.dumps(value) for field, value in wrong.items()}
            ways = " ".join(f"--set denoiser.{field}={value}" for field, value in said.items())
            raise UserError(f"{name} was trained with other settings: {ways}")
        return self

    def load(self, folder: Path | None, device: str | None = None) -> NetDenoiser:
        import torch

        from synthaug.diffusion import adm

        self._check()
        found = adm.load(
            Path(self.checkpoint).expanduser(), head_channels=self.head_channels, heads=self.heads,
            new_attention_order=self.new_attention_order, schedule=self.schedule, timesteps=self.timesteps,
            dtype=getattr(torch, _DTYPES[self.precision]),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )  # fmt: skip
        found.net.requires_grad_(False)  # gradients are asked of images only
        return found

    def alphas_cumprod(self) -> Tensor:
        from synthaug.diffusion import adm

        self._check()  # it is asked for the schedule before anything is made
        return adm.alphas_cumprod(self.schedule, self.timesteps)

    def _check(self) -> None:
        """Refuse what could not be asked, before its weights are read."""
        from synthaug.diffusion import adm

        if adm.classes_of(Path(self.checkpoint).expanduser()) is not None:
            raise UserError(f"{self.checkpoint} {_CONDITIONAL}")


@settings
class TrainedModel(DenoiserModel):
    """Trained as a stage, on exactly the images that the classifier may see; equal settings on equal images share it.
    Of several `replicas`, seeds of their own, the experiment's seeds take turns."""

    version: ClassVar[int] = 1

    steps: Count = 4000
    batch_size: Count = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Count = 1
    replicas: Count = 1
    image_size: Count | None = None  # what images are squashed to, where no recipe says so

    def of(self, seed: int) -> TrainedModel:
        """The replica that an experiment's seed works with."""
        return dataclasses.replace(self, seed=self.seed + seed % self.replicas, replicas=1)

    @abstractmethod
    def check(self, size: int) -> None:
        """Refuse images of a size that the net cannot take."""

    @abstractmethod
    def train(
        self, images: np.ndarray, labels: np.ndarray, classes: int, *, report: Report, checkpoint: Checkpoint | None,
        world: World,
    ) -> tuple[dict[str, bytes], Fitted]:  # fmt: skip
        """The files of a net that has seen these images (uint8 NCHW, or where it has a `space` their latents as
        methods/latents.py makes them) and no others, for `load`."""


@settings(key="synthaug.diffusion.denoisers:TrainedUNet")
class TrainedUNet(TrainedModel):
    """An unconditional UNet on DDPM's schedule. `channels` and `layers` are the UNet's; its lowest resolution has
    attention. The default is for images of 32 pixels."""

    channels: Annotated[tuple[Count, ...], Field(min_length=2)] = (16, 32, 64, 64)
    layers: Count = 1

    def load(self, folder: Path | None, device: str | None = None) -> NetDenoiser:
        assert folder is not None
        return _load(folder / FOLDER, device, "fp32")

    def alphas_cumprod(self) -> Tensor:
        from synthaug.diffusion.unet import new_scheduler

        found: Tensor = new_scheduler().alphas_cumprod
        return found

    def check(self, size: int) -> None:
        check_halving(self.channels, size)

    def train(
        self, images: np.ndarray, labels: np.ndarray, classes: int, *, report: Report, checkpoint: Checkpoint | None,
        world: World,
    ) -> tuple[dict[str, bytes], Fitted]:  # fmt: skip
        from synthaug.diffusion.unet import train_unet, unet_files

        # it never sees a label
        net, done = train_unet(self, images, report=report, checkpoint=checkpoint, world=world)
        return unet_files(net), done


def check_halving(channels: Sequence[int], size: int) -> None:
    """Refuse images that cannot be halved as often as a UNet does."""
    depth = 2 ** (len(channels) - 1)  # every level but the lowest ends in halving
    if size % depth:
        ways = f"take images of a multiple of {depth} px (recipe.image_size), or fewer denoiser.channels"
        raise UserError(f"{len(channels)} channels halve {size} px unevenly; {ways}")


def _load(folder: Path, device: str | None, precision: Precision) -> NetDenoiser:
    import torch

    from synthaug.diffusion.denoiser import UNetDenoiser

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if (folder / ABOUT).is_file():
        from synthaug.diffusion.score_net import read

        return read(folder, device, getattr(torch, _DTYPES[precision]))
    found = UNetDenoiser.from_folder(folder, device, getattr(torch, _DTYPES[precision]))
    found.net.to(memory_format=torch.channels_last).requires_grad_(False)
    return found


PlacedDenoiser = tuple[DenoiserModel, Path | None]  # and the folder of its stage, if it was trained as one
