"""How the embedded latent-diffusion model is trained: a VAE, then text encoder and UNet together."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from synthaug.data import glyphs
from synthaug.diffusion.fit import newest_share
from synthaug.nano import captions
from synthaug.settings import seed_of

M = TypeVar("M", bound=nn.Module)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much training, on one core."""

    glyphs: int = 24_000
    vae_steps: int = 700
    vae_batch: int = 32
    vae_rate: float = 2e-3
    steps: int = 5_000  # the class shows late: at chance after 500, 0.9 of real glyphs after 2,500
    batch: int = 48
    rate: float = 1e-3
    threads: int = 1  # a second thread on shared cores spins: a step took 2.7 s with two, 0.2 to 0.5 with one
    seed: int = 0


def load_glyphs(indices: range, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Glyphs as images in [-1, 1] (N, 3, 32, 32) and class indices (N)."""
    rendered = [glyphs.render(index, seed) for index in indices]
    pixels_BHWC = torch.from_numpy(np.stack([image for image, _, _ in rendered]))
    labels = torch.tensor([label for _, label, _ in rendered])
    images_BCHW = pixels_BHWC.permute(0, 3, 1, 2).float()
    return images_BCHW.div_(127.5).sub_(1).contiguous(), labels


def new_vae() -> AutoencoderKL:
    """0.2 million parameters, 32 x 32 x 3 to 8 x 8 x 4."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 32), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, latent_channels=4, norm_num_groups=8,
        sample_size=glyphs.SIZE,
    )  # fmt: skip


def new_unet() -> UNet2DConditionModel:
    """2.2 million parameters on 8 x 8 x 4 latents; attention at 4 x 4 only, because it is most of the cost at 8 x 8."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(48, 96), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64, attention_head_dim=2, norm_num_groups=16,
    )  # fmt: skip


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 64; the pooled token is the tokenizer's own end of text."""
    config = CLIPTextConfig(
        # 77 positions, as every CLIP has: a prompt too long for one is too long for the other
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, projection_dim=64, hidden_act="gelu", bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


def optimise(
    parameters: list[nn.Parameter], losses: Iterator[Tensor], rates: Iterable[float], after: Callable[[int], None]
) -> None:
    """AdamW: one loss of `losses` for each learning rate."""
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    began, running = time.monotonic(), 0.0
    for step, rate in enumerate(rates, start=1):
        optimizer.param_groups[0]["lr"] = rate
        loss = next(losses)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        after(step)
        running += (loss.item() - running) / min(step, 100)  # the mean at first, then over about the last hundred
        if step % 100 == 0:
            print(f"step {step} loss {running:.4f} {time.monotonic() - began:.0f} s", file=sys.stderr)


def train_vae(images: Tensor, budget: Budget) -> AutoencoderKL:
    """The VAE of nano:sd."""
    generator = torch.Generator().manual_seed(seed_of("nano:sd", "vae", budget.seed))
    steps, batch, rate = budget.vae_steps, budget.vae_batch, budget.vae_rate
    return fit_vae(new_vae(), images, generator, steps=steps, batch=batch, rate=rate)


def fit_vae(
    vae: AutoencoderKL, images: Tensor, generator: torch.Generator, *, steps: int, batch: int, rate: float
) -> AutoencoderKL:
    """Reconstruction with a slight pull of the latents towards the unit Gaussian."""
    vae = vae.to(memory_format=torch.channels_last)

    def losses() -> Iterator[Tensor]:
        while True:
            x = images[torch.randint(len(images), (batch,), generator=generator)]
            posterior = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist
            # not posterior.sample(): the noise is this generator's, not the process's
            noise = torch.randn(posterior.mean.shape, generator=generator)
            x_hat = vae.decode(posterior.mean + posterior.std * noise).sample
            yield F.mse_loss(x_hat, x) + 0.3 * F.l1_loss(x_hat, x) + 1e-5 * posterior.kl().mean()

    rates = rate * np.cos(0.5 * math.pi * np.arange(steps) / steps) ** 2
    optimise(list(vae.parameters()), losses(), rates.tolist(), lambda _: None)
    vae = vae.to(memory_format=torch.contiguous_format).half().float().eval()  # as it will be shipped
    # Unit variance for the UNet, whose schedule is made for it; counted after rounding to what is shipped.
    z = encode(vae, images[:2048])
    vae.register_to_config(scaling_factor=round(1 / z.std().item(), 4))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Means of the latents, not yet scaled."""
    return torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(256)])


class Average(Generic[M]):
    """The power-function average of parameters: always over about the last tenth of training."""

    def __init__(self, modules: M) -> None:
        self.live = modules
        self.shadow: M = copy.deepcopy(modules).requires_grad_(False)

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Move towards the live parameters; `step` counts from 1."""
        torch._foreach_lerp_(list(self.shadow.parameters()), list(self.live.parameters()), newest_share(step))


def train_text_to_image(
    z: Tensor, labels: Tensor, tokenizer: CLIPTokenizer, budget: Budget, keep: Callable[[nn.ModuleDict], None]
) -> None:
    """Epsilon prediction on scaled latents; `keep` gets the averaged `unet` and `text_encoder` now and then."""
    nets = nn.ModuleDict({"unet": new_unet(), "text_encoder": new_text_encoder(tokenizer)})
    nets["unet"].to(memory_format=torch.channels_last)
    scheduler = new_scheduler()
    generator = torch.Generator().manual_seed(seed_of("nano:sd", "unet", budget.seed))
    rng = np.random.default_rng(seed_of("nano:sd", "captions", budget.seed))

    def losses() -> Iterator[Tensor]:
        while True:
            rows = torch.randint(len(z), (budget.batch,), generator=generator)
            texts = [captions.caption(glyphs.CLASSES[label], rng) for label in labels[rows].tolist()]
            ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
            # Half of the captions are "a photo of a ...", a tenth are empty: each is encoded once a batch.
            unique, back = ids.unique(dim=0, return_inverse=True)
            noise = torch.randn(z[rows].shape, generator=generator)
            t = torch.randint(1000, (budget.batch,), generator=generator)
            noisy = scheduler.add_noise(z[rows], noise, t).contiguous(memory_format=torch.channels_last)
            cond = nets["text_encoder"](unique)[0][back]  # B x 77 x 64
            yield F.mse_loss(nets["unet"](noisy, t, cond).sample, noise)

    average = Average(nets)

    def after(step: int) -> None:
        average(step)
        if step % 500 == 0 or step == budget.steps:
            shadow: nn.ModuleDict = copy.deepcopy(average.shadow)
            keep(shadow.to(memory_format=torch.contiguous_format))

    # The rate does not depend on the number of steps: a training cut short is that of a smaller budget.
    rates = [budget.rate * min(step / 100, 1, (1000 / step) ** 0.5) for step in range(1, budget.steps + 1)]
    optimise(list(nets.parameters()), losses(), rates, after)


def train_sd(folder: Path, budget: Budget) -> None:
    """Train the whole pipeline and save it as float16 safetensors, every 500 steps."""
    torch.set_num_threads(budget.threads)
    torch.manual_seed(seed_of("nano:sd", "initialisation", budget.seed))
    images, labels = load_glyphs(range(budget.glyphs), budget.seed)
    vae = train_vae(images, budget)
    z = encode(vae, images) * vae.config.scaling_factor  # once: the VAE is frozen from here on
    tokenizer = captions.tokenizer()

    def keep(nets: nn.ModuleDict) -> None:
        pipeline = StableDiffusionPipeline(
            # a copy, for it is made float16 below, and kept again 500 steps later
            vae=copy.deepcopy(vae), unet=nets["unet"], text_encoder=nets["text_encoder"], tokenizer=tokenizer,
            scheduler=new_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)

    train_text_to_image(z, labels, tokenizer, budget, keep)
