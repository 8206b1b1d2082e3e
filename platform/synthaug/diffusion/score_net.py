"""Nets that are told what was done to their images. Asked of images that nothing was done to, they are plain nets of
diffusers, and are kept as such."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from diffusers import (
    DDPMScheduler,
    DiTTransformer2DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from synthaug.diffusion.denoiser import NetDenoiser, Preconditioned, Sigma, per_row
from synthaug.diffusion.layout import ABOUT, TOLD, By, Target
from synthaug.diffusion.scoreaug import WIDTH
from synthaug.diffusion.targets import coefficients

_FIRST = "conv_in"


class Told(NamedTuple):
    """What a net is told of a batch, each B rows; None: no class is asked for, or nothing was done."""

    labels: Tensor | None = None  # whole numbers
    clean: Tensor | None = None
    omega: Tensor | None = None


class Around(nn.Module):
    """Around a net of diffusers."""

    net: Any

    @property
    def device(self) -> torch.device:
        found: torch.device = self.net.device
        return found

    @property
    def config(self) -> Any:
        return self.net.config


class Informed(Around):
    """A net of diffusers in which one linear layer without a bias is told all there is to tell: the class (one more
    stands for none), what was done before noise came, and what after. The layer begins with zeros, so that nets which
    are told different things begin as one."""

    def __init__(self, net: Any, *, classes: int = 0, clean: bool = False, omega: By | None = None) -> None:
        super().__init__()
        self.net, self.classes, self.clean, self.omega = net, classes, clean, omega
        self.labels = classes + 1 if classes else 0
        width = self.labels + (clean + (omega == "embedding")) * WIDTH
        self.tables = _tables(net, width) if width else []  # their names
        self.first = omega in ("channels", "scale and shift")
        if self.first:
            assert omega is not None
            net.conv_in = First(net.conv_in, omega)

    def forward(self, x: Tensor, c_noise: Tensor, told: Told | None) -> Tensor:
        told = told or Told()
        if self.first:
            self.net.conv_in.omega = told.omega
        said = {"class_labels": self._row(told, x)} if self.tables else {}
        found: Tensor = self.net(x, c_noise, return_dict=False, **said)[0]
        return found

    def _row(self, told: Told, x: Tensor) -> Tensor:
        """What the linear layer is given."""
        nothing = x.new_zeros(len(x), WIDTH)
        parts = []
        if self.classes:
            none = torch.full((len(x),), self.classes, device=x.device)
            labels = none if told.labels is None else told.labels
            parts.append(functional.one_hot(labels, self.labels).to(x.dtype))
        if self.clean:
            parts.append(nothing if told.clean is None else told.clean.to(x.dtype))
        if self.omega == "embedding":
            parts.append(nothing if told.omega is None else told.omega.to(x.dtype))
        return torch.cat(parts, 1)


class First(nn.Module):
    """The first layer of a UNet, which hears what was done as more channels, or in the scale and shift of its own."""

    def __init__(self, conv: nn.Conv2d, by: By) -> None:
        super().__init__()
        self.conv, self.by = conv, by
        self.omega: Tensor | None = None  # set before each call: the UNet in between passes nothing on
        out = conv.out_channels
        self.told: Any = (
            nn.Conv2d(WIDTH, out, 3, padding=1, bias=False)
            if by == "channels"
            else nn.Linear(WIDTH, 2 * out, bias=False)
        )
        nn.init.zeros_(self.told.weight)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        if self.omega is None:
            return found
        omega = self.omega.to(x.dtype)
        if self.by == "channels":
            extra: Tensor = self.told(omega[:, :, None, None].expand(-1, -1, *x.shape[2:]))
            return found + extra
        scale, shift = self.told(omega)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(found + shift, found, scale)


def _tables(net: Any, width: int) -> list[str]:
    """Put a linear layer into each place where a net of diffusers looks up its class; their names."""
    if isinstance(net, UNet2DModel):
        net.class_embedding = _silent(width, net.time_embedding.linear_2.out_features)
        return ["class_embedding"]
    for block in net.transformer_blocks:
        block.norm1.emb.class_embedder = _silent(width, net.inner_dim)
    return [f"transformer_blocks.{i}.norm1.emb.class_embedder" for i in range(len(net.transformer_blocks))]


def _silent(width: int, out: int) -> nn.Linear:
    layer = nn.Linear(width, out, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


# --- as diffusers knows them -----------------------------------------------------------------------------------------


class Plain(Around):
    """A net of diffusers that may be told a class; `none` stands for no class, where it has learned that."""

    def __init__(self, net: Any, none: int | None) -> None:
        super().__init__()
        self.net, self.none = net, none

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None and self.none is not None:
            labels = torch.full((len(x),), self.none, device=x.device)
        said = {} if labels is None else {"class_labels": labels}
        found: Tensor = self.net(x.to(self.net.dtype), c_noise, return_dict=False, **said)[0]
        return found.to(x.dtype)


class Grey:
    """A denoiser of one channel for images of several, of which it sees the mean."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.net, self.alphas_cumprod = denoiser, denoiser.net, denoiser.alphas_cumprod

    @property
    def rows(self) -> int:
        found: int = self.denoiser.rows
        return found

    def __call__(self, x: Tensor, sigma: Sigma, cond: Any = None) -> Tensor:
        s = per_row(sigma, x)
        # The mean of C channels has a C-th of the noise's variance, and of an image without colours tells all there is.
        guess: Tensor = self.denoiser(x.mean(1, keepdim=True), s.flatten() / math.sqrt(x.shape[1]), cond)
        return torch.where(s == 0, x, guess.expand_as(x).to(x.dtype))


def split(informed: Informed) -> tuple[Any, dict[str, Tensor]]:
    """The plain net of diffusers that it is where nothing was done, and the weights that this leaves out."""
    state, told, labels = dict(informed.net.state_dict()), dict[str, Tensor](), informed.labels
    for name in informed.tables:
        table = state.pop(f"{name}.weight")
        told[f"{name}.weight"] = table[:, labels:].contiguous()
        if labels:
            state[_place(name)] = table[:, :labels].T.contiguous()
    if informed.first:
        told[f"{_FIRST}.told.weight"] = state.pop(f"{_FIRST}.told.weight")
        state |= {f"{_FIRST}.{part}": state.pop(f"{_FIRST}.conv.{part}") for part in ("weight", "bias")}
    plain = _of_kind(informed.net, labels)
    plain.load_state_dict(state)
    return plain, {name: value for name, value in told.items() if value.numel()}


def join(plain: Any, told: Mapping[str, Tensor], **about: Any) -> Informed:
    """The net that `split` took apart."""
    informed = Informed(_of_kind(plain, 0), **about)
    state = dict(plain.state_dict())
    for name in informed.tables:
        looked_up = [state.pop(_place(name)).T] if informed.labels else []
        state[f"{name}.weight"] = torch.cat(looked_up + [told[n] for n in (f"{name}.weight",) if n in told], 1)
    if informed.first:
        state |= {f"{_FIRST}.conv.{part}": state.pop(f"{_FIRST}.{part}") for part in ("weight", "bias")}
        state[f"{_FIRST}.told.weight"] = told[f"{_FIRST}.told.weight"]
    informed.net.load_state_dict(state)
    return informed


def _place(table: str) -> str:
    """Where a net of diffusers keeps what we have as a linear layer."""
    return f"{table}.weight" if table == "class_embedding" else f"{table}.embedding_table.weight"


def _of_kind(net: Any, labels: int) -> Any:
    """A net of diffusers like this one, with so many classes to look up."""
    config = {name: value for name, value in net.config.items() if not name.startswith("_")}
    if isinstance(net, UNet2DModel):
        config["num_class_embeds"] = labels or None
    return type(net).from_config(config)


def files_of(informed: Informed, target: Target) -> dict[str, bytes]:
    """The plain net and its schedule in diffusers' layout, and beside it what else was learned."""
    plain, told = split(informed)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        plain.save_pretrained(place / _part(plain), safe_serialization=True)
        _scheduler(target).save_pretrained(place / "scheduler")
        files = [file for file in sorted(place.rglob("*")) if file.is_file()]
        found = {file.relative_to(place).as_posix(): file.read_bytes() for file in files}
    about = {"classes": informed.classes, "clean": informed.clean, "omega": informed.omega}
    return found | {ABOUT: json.dumps({"target": target} | about).encode()} | ({TOLD: save(told)} if told else {})


def _part(net: Any) -> str:
    return "unet" if isinstance(net, UNet2DModel) else "transformer"


def _scheduler(target: Target) -> Any:
    if target == "edm":
        return EDMEulerScheduler()  # sigma_data 0.5, levels from 80 to 0.002
    if target == "velocity":
        return FlowMatchEulerDiscreteScheduler()
    return DDPMScheduler(prediction_type="epsilon" if target == "epsilon" else "sample")


def read(folder: Path, device: str | None = None, dtype: torch.dtype = torch.float32) -> NetDenoiser:
    """The denoiser in a folder of `files_of`, of images that nothing was done to; `cond` is the class of each."""
    plain, target, about = _open(folder, dtype)
    return _ready(Plain(plain, about["classes"] or None), target, device)


def read_informed(folder: Path, device: str | None = None) -> NetDenoiser:
    """The same net as it was trained; `cond` is what it is told (Told)."""
    plain, target, about = _open(folder, torch.float32)
    told = load((folder / TOLD).read_bytes()) if (folder / TOLD).is_file() else {}
    return _ready(join(plain, told, **about), target, device)


def _open(folder: Path, dtype: torch.dtype) -> tuple[Any, Target, dict[str, Any]]:
    about = json.loads((folder / ABOUT).read_text())
    part, kind = ("unet", UNet2DModel) if (folder / "unet").is_dir() else ("transformer", DiTTransformer2DModel)
    plain: Any = kind.from_pretrained(folder / part, torch_dtype=dtype)
    return plain, about.pop("target"), about


def _ready(net: Any, target: Target, device: str | None) -> NetDenoiser:
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = denoiser_of(net.to(device, memory_format=torch.channels_last).eval().requires_grad_(False), target)
    return Grey(found) if net.config.in_channels == 1 else found


def denoiser_of(net: Any, target: Target) -> Preconditioned:
    return Preconditioned(net, partial(coefficients, target))
