"""Checkpoints of OpenAI's guided-diffusion (ADM) and improved-diffusion as UNet2DModels of diffusers.

The two describe one network with other words; what is not said by the names and shapes of the weights is a parameter.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor

from synthaug.diffusion.denoiser import UNetDenoiser
from synthaug.diffusion.edm_pickle import BROKEN
from synthaug.settings import UserError

Schedule = Literal["linear", "cosine"]
State = Mapping[str, Tensor]
# What a part of a block is called: in a residual block, in attention, in what resamples.
INNER = {
    "": "", "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut", "norm": "group_norm", "qkv": "qkv",
    "proj_out": "to_out.0", "op": "conv", "conv": "conv",
}  # fmt: skip
TIME: dict[str, Any] = {"flip_sin_to_cos": True, "downscale_freq_shift": 0}  # cosines first, 10000^(-i / half)
# What a block is called that every network has in the same place; `_modules` adds the others.
OUTER = {
    "input_blocks.0.0": "conv_in", "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding", "middle_block.0": "mid_block.resnets.0", "out.0": "conv_norm_out",
    "middle_block.1": "mid_block.attentions.0", "middle_block.2": "mid_block.resnets.1", "out.2": "conv_out",
}  # fmt: skip


def load(
    path: str | Path, *, head_channels: int = 64, heads: int | None = None, new_attention_order: bool = False,
    schedule: Schedule = "linear", timesteps: int = 1000, dtype: torch.dtype = torch.float32, device: str = "cpu",
) -> UNetDenoiser:  # fmt: skip
    """The denoiser in a checkpoint. Its `schedule` has `timesteps` steps; what the net is told of time always runs to
    1,000, as in all published ones that can be asked without labels."""
    state = {name: value.to(dtype) for name, value in _read(Path(path)).items()}
    with _naming(path):
        net: Any = convert(state, head_channels, new_attention_order, heads)
    net.time_proj.scale = 1000 / timesteps  # rescale_timesteps, in the original's words
    return UNetDenoiser(net.to(device), alphas_cumprod(schedule, timesteps))


def classes_of(path: str | Path) -> int | None:
    """How many classes a checkpoint can be asked for, None if it knows none; refuses most of what `load` would, and
    reads no weight."""
    state = _read(Path(path), mapped=True)
    with _naming(path):
        return _shape(state).classes


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Say of which file a complaint is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error.message}") from None


def _read(path: Path, *, mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote, or a view of them on the disk; nothing in it is run."""
    try:
        # files from before torch 1.6 are no archives and can only be read whole
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {str(path)!r}: {error.strerror}") from None
    except BROKEN:
        if path.suffix == ".pkl":
            raise UserError(f"{path} is a pickle of EDM, and no net here takes its weights; take a .pt file") from None
        raise UserError(f"{path} is no file of weights; download the .pt file of the model again") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds more than weights; save the state dict of the model alone")
    return state


def alphas_cumprod(schedule: Schedule, timesteps: int) -> Tensor:
    """The share of the image's variance that is left after each step."""
    if schedule == "linear":
        scale = 1000 / timesteps  # so that as much noise is added in all, in more or fewer steps (Ho et al. for 1,000)
        betas = torch.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=torch.float64)
    else:
        # Nichol and Dhariwal 2021, equation 17: the offset keeps the first betas from vanishing, the limit the last
        # ones from reaching 1.
        grid = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        share = ((grid + 0.008) / 1.008 * torch.pi / 2).cos().square()
        betas = (1 - share[1:] / share[:-1]).clamp(max=0.999)
    return (1 - betas).cumprod(0)


@dataclass(frozen=True)
class Shape:
    """What the names and shapes of the weights say; levels are counted from the largest images."""

    time: int  # channels of the time embedding, before its layers
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    layers: int
    resamples: bool  # whether residual blocks change the size of images, not convolutions
    scale_shift: bool
    out_channels: int
    classes: int | None


def convert(
    state: State, head_channels: int = 64, new_attention_order: bool = False, heads: int | None = None
) -> UNet2DModel:
    """The network with the weights of `state`, in their type. `head_channels`, or else the number of `heads` at every
    level, must be that of the training: another number that divides the channels would make another network.

    For this process, not for `save_pretrained`: a config of diffusers can say neither `heads` nor a first level that
    is narrower than the time embedding.
    """
    shape = _shape(state)
    attended = [c for c, on in zip(shape.channels, shape.attention, strict=True) if on]
    attended.append(shape.channels[-1])  # the middle block always has attention
    if uneven := [c for c in attended if c % (heads or head_channels)]:
        given = f"head_channels={head_channels}" if heads is None else f"heads={heads}"
        raise UserError(f"{given} does not divide the {uneven[0]} channels that have attention")
    net = _empty(shape, head_channels, heads)
    split = partial(_split, head_channels=head_channels, heads=heads, new_order=new_attention_order)
    renamed = _renamed(state, shape, split)
    for name in sorted(net.state_dict().keys() ^ renamed.keys()):
        _refuse(f"{name!r} (in diffusers' words) is {'one too many' if name in renamed else 'missing'}")
    for name, value in net.state_dict().items():
        if value.shape != renamed[name].shape:
            _refuse(f"{name!r} (in diffusers' words) is {tuple(renamed[name].shape)}, not {tuple(value.shape)}")
    net.load_state_dict(renamed, assign=True)  # in place of the meta tensors, which hold nothing to copy into
    return net.eval()


def _empty(shape: Shape, head_channels: int, heads: int | None) -> UNet2DModel:
    """The network without weights."""
    with torch.device("meta"):  # initialising would take long, and random numbers
        net: Any = UNet2DModel(**_config(shape, head_channels if heads is None else 1))
        if shape.time != shape.channels[0]:  # at 512 px the first level is half as wide; diffusers knows one width
            net.time_proj = Timesteps(shape.time, **TIME)
            net.time_embedding = TimestepEmbedding(shape.time, 4 * shape.time)
    for module in net.modules() if heads is not None else ():
        if isinstance(module, Attention):  # diffusers knows one width of heads, not one number at all levels
            module.heads, module.scale = heads, (module.inner_dim // heads) ** -0.5
    found: UNet2DModel = net
    return found


def _refuse(why: str) -> NoReturn:
    raise UserError(f"these are not the weights of a UNet of guided-diffusion for RGB images: {why}")


def _shape(state: State) -> Shape:
    # Each level has `layers` blocks and a downsampler on the way in, and `layers` + 1 blocks on the way out, the last
    # of which enlarges the image: so the first that does tells `layers`, and both ways have one stride.
    blocks = 1 + max((int(name.split(".")[1]) for name in state if name.startswith("output_blocks.")), default=-1)
    ends = [block for block in range(blocks) if _upsampler(state, block)]
    layers = ends[0] if ends else blocks - 1
    firsts = [f"input_blocks.{1 + block}" for block in range(0, blocks, layers + 1)] if layers > 0 else []
    if "input_blocks.0.0.weight" in state and not firsts and _classifies(state):
        raise UserError("this is a classifier of noisy images and no denoiser; take the weights of the diffusion model")
    needed = ["input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight"]
    for first in firsts:
        needed += [f"{first}.0.in_layers.2.weight", f"{first}.0.emb_layers.1.weight"]
    missing = [name for name in needed if name not in state]
    if not firsts:
        missing.append("output_blocks")
    if missing:
        _refuse(f"{missing[0]!r} is missing")
    channels = tuple(len(state[f"{first}.0.in_layers.2.weight"]) for first in firsts)
    return _checked(state, Shape(
        time=state["time_embed.0.weight"].shape[-1],
        channels=channels,
        attention=tuple(f"{first}.1.qkv.weight" in state for first in firsts),
        layers=layers,
        resamples=bool(ends) and ".in_layers." in str(_upsampler(state, ends[0])),
        scale_shift=len(state[f"{firsts[0]}.0.emb_layers.1.weight"]) == 2 * channels[0],  # a factor and a summand
        out_channels=len(state["out.2.weight"]),
        classes=len(state["label_emb.weight"]) if "label_emb.weight" in state else None,
    ))  # fmt: skip


def _classifies(state: State) -> bool:
    """Whether the half network ends in something other than a convolution: it pools what it knows of an image."""
    last = state.get("out.2.weight")
    return (last is None or last.ndim != 4) and any(name.startswith("out.") for name in state)


def _upsampler(state: State, block: int) -> str | None:
    """A weight of what ends an output block by enlarging images: its second part, or its third behind attention."""
    names = [f"output_blocks.{block}.{i}.{inner}.weight" for i in (1, 2) for inner in ("conv", "in_layers.0")]
    return next((name for name in names if name in state), None)


def _checked(state: State, shape: Shape) -> Shape:
    first, time = state["input_blocks.0.0.weight"], state["time_embed.0.weight"]
    if first.shape[1] != 3 or shape.out_channels not in (3, 6):
        _refuse(f"{first.shape[1]} channels go in and {shape.out_channels} come out; 3 go in and 3 or 6 come out")
    if len(first) != shape.channels[0]:
        _refuse(f"{len(first)} channels go into its first level, which has {shape.channels[0]}")
    if len(time) != 4 * shape.time:
        _refuse(f"its time embedding makes {len(time)} channels of {shape.time}, not {4 * shape.time}")
    return shape


def _config(shape: Shape, head_channels: int) -> dict[str, Any]:
    # Only with these names does diffusers resample in residual blocks where there is no attention (resblock_updown).
    kind, plain = ("resnet", "Resnet{}sampleBlock2D") if shape.resamples else ("conv", "{}Block2D")

    def types(way: str) -> list[str]:
        return [f"Attn{way}Block2D" if on else plain.format(way) for on in shape.attention]

    return {
        "out_channels": shape.out_channels, "block_out_channels": shape.channels, "layers_per_block": shape.layers,
        "down_block_types": tuple(types("Down")), "up_block_types": tuple(reversed(types("Up"))),
        "downsample_type": kind, "upsample_type": kind, "attention_head_dim": head_channels, "norm_num_groups": 32,
        "attn_norm_num_groups": 32, "norm_eps": 1e-5,
        "time_embedding_dim": 4 * shape.time,
        "flip_sin_to_cos": TIME["flip_sin_to_cos"], "freq_shift": TIME["downscale_freq_shift"],
        "resnet_time_scale_shift": "scale_shift" if shape.scale_shift else "default", "num_class_embeds": shape.classes,
    }  # fmt: skip


def _modules(shape: Shape) -> dict[str, str]:
    """Where the parts of the original are in diffusers' network."""
    found, levels, layers = dict(OUTER), len(shape.channels), shape.layers
    for level in range(levels):
        down, up, lowest = f"down_blocks.{level}", f"up_blocks.{level}", level + 1 == levels
        for i in range(layers + 1):
            block = level * (layers + 1) + i
            into, out = f"input_blocks.{1 + block}", f"output_blocks.{block}"
            found[f"{out}.0"] = f"{up}.resnets.{i}"
            after = 1  # the place of the upsampler
            if shape.attention[levels - 1 - level]:  # the way out begins at the lowest level
                found[f"{out}.1"] = f"{up}.attentions.{i}"
                after = 2
            if i < layers:
                found[f"{into}.0"] = f"{down}.resnets.{i}"
                found[f"{into}.1"] = f"{down}.attentions.{i}"  # where there is none, no weight asks for it
            elif not lowest:
                found[f"{into}.0"] = f"{down}.downsamplers.0"
                found[f"{out}.{after}"] = f"{up}.upsamplers.0"
    return found


def _renamed(state: State, shape: Shape, split: Callable[[Tensor], tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """The weights under diffusers' names; the original's linear layers of attention are convolutions of width 1."""
    modules, renamed = _modules(shape), dict[str, Tensor]()
    for name, value in state.items():
        # A name is block (one to three words), part and leaf: input_blocks.4.0 . in_layers.2 . weight.
        parts = name.split(".")
        size = next((size for size in (1, 2, 3) if ".".join(parts[:size]) in modules), 0)
        inner, leaf = ".".join(parts[size:-1]), parts[-1]
        if size == 0 or inner not in INNER:
            _refuse(f"{name!r} is one too many")
        block = modules[".".join(parts[:size])]
        place = ".".join(filter(None, (block, INNER[inner], leaf)))  # a convolution is a block without parts
        if inner in ("qkv", "proj_out") and leaf == "weight":
            value = value.flatten(1)  # C_out x C_in x 1 as C_out x C_in
        if inner == "qkv":
            for new, part in zip(("to_q", "to_k", "to_v"), split(value), strict=True):
                renamed[place.replace(".qkv.", f".{new}.")] = part
        else:
            renamed[place] = value
    return renamed


def _split(value: Tensor, head_channels: int, heads: int | None, new_order: bool) -> tuple[Tensor, ...]:
    """Queries, keys and values of all heads; in the old order each head has its three beside one another."""
    if new_order:
        return value.chunk(3)
    number = heads or len(value) // 3 // head_channels
    apart = value.reshape(number, 3, -1, *value.shape[1:])  # heads x (q, k, v) x channels [x C_in]
    return tuple(apart[:, i].flatten(0, 1) for i in range(3))
