"""How the embedded instruct-pix2pix model is trained: nano:sd learns to redraw a glyph in an asked style."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn

from synthaug import nano
from synthaug.data import glyphs
from synthaug.nano.styles import PROMPT, STYLES, stylise
from synthaug.nano.train import Average, encode, fit_vae, new_scheduler, optimise
from synthaug.settings import seed_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much training, on one core."""

    glyphs: int = 18_000
    vae_steps: int = 1_200
    vae_batch: int = 32
    vae_rate: float = 1e-3
    steps: int = 3_000
    batch: int = 48
    rate: float = 1e-3
    threads: int = 1
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Glyphs and the same glyphs in a style, in [-1, 1]."""

    sources: Tensor
    styled: Tensor
    styles: Tensor  # indices into STYLES
    labels: Tensor


def load_pairs(indices: range, seed: int = 0) -> Pairs:
    """A glyph per index, with a style of its own."""
    rendered = [glyphs.render(index, seed) for index in indices]
    styles = [seed_of("nano:pix2pix", "style", index, seed) % len(STYLES) for index in indices]
    images = [image for image, _, _ in rendered]
    styled = [stylise(image, STYLES[style], index) for image, style, index in zip(images, styles, indices, strict=True)]
    labels = torch.tensor([label for _, label, _ in rendered])
    return Pairs(_tensor(images), _tensor(styled), torch.tensor(styles), labels)


def _tensor(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def widened(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same net with four more channels to see the source image in, to which it is blind as yet."""
    # Brooks et al. 2023: the new channels' weights begin at zero, so at first the net is the one it came from.
    wide = UNet2DConditionModel.from_config({**unet.config, "in_channels": 8})
    weights = unet.state_dict()
    first = weights["conv_in.weight"]  # C_out x 4 x 3 x 3
    weights["conv_in.weight"] = torch.cat([first, torch.zeros_like(first)], dim=1)
    wide.load_state_dict(weights)
    return wide


def train_pix2pix(folder: Path, budget: Budget) -> None:
    """First the VAE learns colours, then text encoder and UNet styles; saved as float16 safetensors."""
    torch.set_num_threads(budget.threads)
    torch.manual_seed(seed_of("nano:pix2pix", "initialisation", budget.seed))
    sd = StableDiffusionPipeline.from_pretrained(nano.path("nano:sd"), dtype=torch.float32)
    pairs = load_pairs(range(budget.glyphs), budget.seed)
    vae = _coloured(sd.vae, pairs, budget)
    nets = nn.ModuleDict({"unet": widened(sd.unet), "text_encoder": sd.text_encoder}).train()
    nets["unet"].to(memory_format=torch.channels_last)
    average = Average(nets)
    turns = np.arange(1, budget.steps + 1) / budget.steps  # warm-up in the first twentieth, then half a cosine
    rates = budget.rate * np.minimum(turns * 20, 1) * np.cos(0.5 * math.pi * turns) ** 2
    optimise(list(nets.parameters()), _losses(nets, sd.tokenizer, vae, pairs, budget), rates.tolist(), average)
    shipped = copy.deepcopy(average.shadow).to(memory_format=torch.contiguous_format)  # as safetensors wants it
    configured: list[Any] = [vae, shipped["unet"]]
    for net in configured:
        net.register_to_config(_name_or_path="nano:sd")  # else where it lay on this machine
    StableDiffusionInstructPix2PixPipeline(
        vae=vae, unet=shipped["unet"], text_encoder=shipped["text_encoder"], tokenizer=sd.tokenizer,
        scheduler=EulerAncestralDiscreteScheduler.from_config(new_scheduler().config),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)  # fmt: skip


def _coloured(vae: AutoencoderKL, pairs: Pairs, budget: Budget) -> AutoencoderKL:
    """nano:sd's VAE has seen grey only: it goes on with styled glyphs and, a fifth, plain ones."""
    generator = torch.Generator().manual_seed(seed_of("nano:pix2pix", "vae", budget.seed))
    # As it is it loses 42 % of the variance of styled glyphs. Plain ones, because it encodes the sources as well.
    images = torch.cat([pairs.styled, pairs.sources[: len(pairs.sources) // 4]])
    images = images[torch.randperm(len(images), generator=generator)]
    steps, batch, rate = budget.vae_steps, budget.vae_batch, budget.vae_rate
    return fit_vae(vae.train(), images, generator, steps=steps, batch=batch, rate=rate)


def _losses(
    nets: nn.ModuleDict, tokenizer: object, vae: AutoencoderKL, pairs: Pairs, budget: Budget
) -> Iterator[Tensor]:
    """Epsilon prediction beside the source's latents, which diffusers does not scale. In 5 % of the rows the text is
    empty, in 5 % the source, in 5 % both: what the two guidances are differences from."""
    given = encode(vae, pairs.sources)
    z = encode(vae, pairs.styled) * vae.config.scaling_factor
    texts = [*(PROMPT.format(style) for style in STYLES), ""]
    # ten texts in all: each is encoded once a batch, and its rows are looked up
    ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids  # type: ignore[operator]
    scheduler = new_scheduler()
    generator = torch.Generator().manual_seed(seed_of("nano:pix2pix", "unet", budget.seed))
    while True:
        rows = torch.randint(len(z), (budget.batch,), generator=generator)
        u = torch.rand(budget.batch, generator=generator)
        # u: no text up to 0.05, neither up to 0.1, no source up to 0.15, both above
        asked = torch.where(u < 0.1, len(STYLES), pairs.styles[rows])
        seen = (u < 0.05) | (u >= 0.15)
        source = given[rows] * seen[:, None, None, None]  # B x 4 x 8 x 8; zeros are what guidance shows for no image
        noise = torch.randn(source.shape, generator=generator)
        t = torch.randint(1000, (budget.batch,), generator=generator)
        x = torch.cat([scheduler.add_noise(z[rows], noise, t), source], dim=1)
        read = nets["text_encoder"](ids)[0][asked]
        predicted = nets["unet"](x.contiguous(memory_format=torch.channels_last), t, read).sample
        yield F.mse_loss(predicted, noise)
