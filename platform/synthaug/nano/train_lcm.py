"""How the embedded few-step LoRA is made: consistency distillation of nano:sd (Luo et al., LCM-LoRA)."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.func import functional_call

from synthaug import nano
from synthaug.data import glyphs
from synthaug.nano import captions
from synthaug.nano.train import Average, encode, load_glyphs, optimise
from synthaug.settings import seed_of

_OUTER = ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")  # as in lcm-lora-sdv1-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much training, on one core."""

    glyphs: int = 18_000
    rank: int = 32
    steps: int = 1_200
    batch: int = 32
    rate: float = 2e-3
    guidance: float = 5.0  # that is distilled into the student: it cannot be chosen afterwards
    ema: float = 0.95  # of the student's weights, for its targets
    threads: int = 1
    seed: int = 0


class LoRA(nn.Module):
    """A low-rank change of each convolution and linear layer inside the blocks of a frozen UNet."""

    def __init__(self, unet: UNet2DConditionModel, rank: int) -> None:
        super().__init__()
        layers = unet.named_modules()
        inner = [name for name, m in layers if isinstance(m, nn.Conv2d | nn.Linear) and name not in _OUTER]
        self.base = {name: unet.get_submodule(name).weight.detach() for name in inner}
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in self.base.items():
            width = weight[0].numel()  # C_in, or C_in x 3 x 3 of a convolution
            # uniform as torch's linear layers begin, and zeros: at first the net is the teacher
            self.down[_safe(name)] = (2 * torch.rand(rank, width) - 1) / math.sqrt(width)
            self.up[_safe(name)] = torch.zeros(len(weight), rank)

    def weights(self) -> dict[str, Tensor]:
        """The changed weights by their names in the UNet."""
        found = {}
        for name, weight in self.base.items():
            change = self.up[_safe(name)] @ self.down[_safe(name)]  # C_out x width; alpha = rank, so no factor
            found[f"{name}.weight"] = weight + change.view_as(weight)
        return found

    def layers(self) -> dict[str, Tensor]:
        """The factors in the format of peft, where those of a convolution are convolutions."""
        found = {}
        for name, weight in self.base.items():
            down, up = self.down[_safe(name)].detach(), self.up[_safe(name)].detach()
            found[f"{name}.lora_A.weight"] = down.view(-1, *weight.shape[1:])
            found[f"{name}.lora_B.weight"] = up.view(*up.shape, *[1] * (weight.ndim - 2))
        return {name: tensor.half().contiguous() for name, tensor in found.items()}


def _safe(name: str) -> str:
    return name.replace(".", "-")  # torch allows no dots


class Consistency:
    """Noise levels, the DDIM solver on LCM's grid, and the function that is to be consistent along its path."""

    def __init__(self, scheduler: LCMScheduler) -> None:
        self.scheduler = scheduler
        # LCM's skipping step: 1,000 / 50 = 20, so the grid is 19, 39, ..., 999
        self.stride = scheduler.config.num_train_timesteps // scheduler.config.original_inference_steps
        self.alpha, self.sigma = scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()

    def start(self, count: int, generator: torch.Generator) -> Tensor:
        """Random timesteps of the grid."""
        steps = self.scheduler.config.original_inference_steps
        t: Tensor = torch.randint(1, steps + 1, (count,), generator=generator) * self.stride - 1
        return t

    def clean(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The image that a prediction of the noise amounts to."""
        x0: Tensor = (x - self._at(self.sigma, t) * noise) / self._at(self.alpha, t)
        return x0

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The image with that much noise."""
        x: Tensor = self._at(self.alpha, t) * x0 + self._at(self.sigma, t) * noise
        return x

    def back(self, t: Tensor) -> Tensor:
        """The next timestep of the grid towards the image."""
        before: Tensor = (t - self.stride).clamp(min=0)  # from 19 to 0, where f is the identity
        return before

    def f(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Where the path from x ends; x itself at t = 0 (LCM's boundary condition)."""
        # c_skip = 1 and c_out = 0 at t = 0; without it a constant f would be consistent, too
        skip, out = self.scheduler.get_scalings_for_boundary_condition_discrete(t[:, None, None, None])
        end: Tensor = skip * x + out * self.clean(x, t, noise)
        return end

    def _at(self, values: Tensor, t: Tensor) -> Tensor:
        return values[t][:, None, None, None]


def train_lcm(folder: Path, budget: Budget) -> None:
    """Distil, and save the LoRA as diffusers and peft load it, in float16."""
    torch.set_num_threads(budget.threads)
    torch.manual_seed(seed_of("nano:lcm", "initialisation", budget.seed))
    sd = StableDiffusionPipeline.from_pretrained(nano.path("nano:sd"), dtype=torch.float32)
    sd.unet.requires_grad_(False).to(memory_format=torch.channels_last)
    lora = LoRA(sd.unet, budget.rank)
    # Two averages: a short one that gives the targets, and that over the last tenth, which is shipped.
    target, average = copy.deepcopy(lora).requires_grad_(False), Average(lora)

    def after(step: int) -> None:
        average(step)
        torch._foreach_lerp_(list(target.parameters()), list(lora.parameters()), 1 - budget.ema)

    turns = np.arange(1, budget.steps + 1) / budget.steps  # warm-up in the first twentieth, then half a cosine
    rates = budget.rate * np.minimum(turns * 20, 1) * np.cos(0.5 * math.pi * turns) ** 2
    optimise(list(lora.parameters()), _losses(sd, lora, target, budget), rates.tolist(), after)
    layers = average.shadow.layers()
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)


def _losses(sd: StableDiffusionPipeline, lora: LoRA, target: LoRA, budget: Budget) -> Iterator[Tensor]:
    """The student at t should end where its own average ends one guided DDIM step of the teacher further."""
    images, labels = load_glyphs(range(budget.glyphs))
    z = encode(sd.vae, images) * sd.vae.config.scaling_factor
    path = Consistency(LCMScheduler.from_config(sd.scheduler.config))
    generator = torch.Generator().manual_seed(seed_of("nano:lcm", "batches", budget.seed))
    texts, uncond = _texts(sd, budget), _read(sd, [""]).expand(budget.batch, -1, -1)
    while True:
        rows = torch.randint(len(z), (budget.batch,), generator=generator)
        said = torch.randint(texts.shape[1], (budget.batch,), generator=generator)
        cond = texts[labels[rows], said]  # B x 77 x 64
        t = path.start(budget.batch, generator)
        x_t = path.noised(z[rows], t, torch.randn(z[rows].shape, generator=generator))
        with torch.no_grad():
            # The teacher, which is the UNet with its own weights, unconditional and conditional in one batch.
            guess = _predict(sd.unet, {}, torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([uncond, cond]))
            plain, asked = guess.chunk(2)
            noise = plain + budget.guidance * (asked - plain)
            s = path.back(t)
            # DDIM at eta 0: the clean image of this noise, noised by the same noise as far as s
            x_s = path.noised(path.clean(x_t, t, noise), s, noise)
            # The student is asked without guidance: it must answer as the guided teacher does.
            aim = path.f(x_s, s, _predict(sd.unet, target.weights(), x_s, s, cond))
        end = path.f(x_t, t, _predict(sd.unet, lora.weights(), x_t, t, cond))
        yield _huber(end - aim)


def _predict(unet: UNet2DConditionModel, weights: dict[str, Tensor], x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """The noise that the UNet with these weights in place of its own sees in x."""
    x = x.contiguous(memory_format=torch.channels_last)
    predicted: Tensor = functional_call(unet, weights, (x, t, cond)).sample
    return predicted


def _huber(x: Tensor, c: float = 1e-3) -> Tensor:
    # LCM's pseudo-Huber loss: for errors above c nearly their absolute value
    return ((x.square() + c**2).sqrt() - c).mean()


def _texts(sd: StableDiffusionPipeline, budget: Budget, per_class: int = 40) -> Tensor:
    """Captions of each class as the UNet gets them (classes, captions, tokens, width)."""
    rng = np.random.default_rng(seed_of("nano:lcm", "captions", budget.seed))
    # Read beforehand, for the text encoder is frozen. None is empty: without guidance nobody samples without a prompt.
    found = [_read(sd, [captions.caption(word, rng, drop=0) for _ in range(per_class)]) for word in glyphs.CLASSES]
    return torch.stack(found)


@torch.no_grad()
def _read(sd: StableDiffusionPipeline, texts: list[str]) -> Tensor:
    ids = sd.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    read: Tensor = sd.text_encoder(ids)[0]
    return read
