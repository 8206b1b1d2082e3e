"""What the embedded models are worth: is what they make recognised, and does it help a classifier?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor, nn

from synthaug.data import glyphs
from synthaug.nano import styles
from synthaug.nano.captions import PHOTO
from synthaug.settings import seed_of


def conv_net(classes: int, widths: Sequence[int] = (16, 32, 64)) -> nn.Sequential:
    """Three convolutions, each halved, then the mean over what is left."""
    # Global pooling is a weaker baseline than the package's small net, and gains more from added images.
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def fit(net: nn.Module, images: Tensor, labels: Tensor, *, steps: int, batch: int, rate: float, seed: int) -> nn.Module:
    """AdamW on a one-cycle schedule; rows are drawn with replacement."""
    generator = torch.Generator().manual_seed(seed_of("fit", seed))  # equal seeds: equal rows in paired arms
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.train()
    for _ in range(steps):
        rows = torch.randint(len(images), (batch,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1."""
    hits = [net(x).argmax(1) == y for x, y in zip(images.split(256), labels.split(256), strict=True)]
    return torch.cat(hits).float().mean().item()


def _seeds(*parts: object, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed_of("nano:measure", *parts, i)) for i in range(count)]


def draw(
    pipeline: StableDiffusionPipeline, words: Sequence[str], *, guidance: float, steps: int, seed: int,
    solver: Any = DPMSolverMultistepScheduler,
) -> Tensor:  # fmt: skip
    """One text-to-image sample in [-1, 1] per word."""
    pipeline.scheduler = solver.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [PHOTO.format(word) for word in words]
    # Diffusers' own pipeline, not ours: what is measured is the model as anybody would load it.
    images: Tensor = pipeline(
        prompts, guidance_scale=guidance, num_inference_steps=steps, output_type="pt",
        generator=_seeds("draw", seed, count=len(words)),
    ).images  # fmt: skip
    return images * 2 - 1


def real_guidance(
    pipeline: StableDiffusionPipeline, images: Tensor, words: Sequence[str], *, strength: float = 0.9, steps: int = 10,
    guidance: float = 7.5, seed: int = 0, solver: Any = DPMSolverMultistepScheduler,
) -> Tensor:  # fmt: skip
    """A variant of each image (in [-1, 1]) by noising it and denoising it under its own class word."""
    # of the same parts, loaded once
    edit = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    edit.scheduler = solver.from_config(pipeline.scheduler.config)
    edit.set_progress_bar_config(disable=True)
    prompts = [PHOTO.format(word) for word in words]
    edited: Tensor = edit(
        prompts, image=(images + 1) / 2, strength=strength, guidance_scale=guidance, num_inference_steps=steps,
        output_type="pt", generator=_seeds("edit", seed, count=len(words)),
    ).images  # fmt: skip
    return edited * 2 - 1


def restyle(
    pipeline: StableDiffusionInstructPix2PixPipeline, images: Tensor, asked: Sequence[str], *, steps: int,
    guidance: float = 4.0, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Each image (in [-1, 1]) redrawn in the asked style, as DiffuseMix does it."""
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    edited: Tensor = pipeline(
        [styles.PROMPT.format(style) for style in asked], image=(images + 1) / 2, num_inference_steps=steps,
        guidance_scale=guidance, image_guidance_scale=1.5, output_type="pt",  # 1.5: the pipeline's own
        generator=_seeds("restyle", seed, count=len(asked)),
    ).images  # fmt: skip
    return edited * 2 - 1


def load_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits in [-1, 1] at 32 x 32."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = torch.from_numpy(bunch.images / 16).float()[:, None]  # N x 1 x 8 x 8, of ink from 0 to 16
    images = F.interpolate(images, size=(glyphs.SIZE, glyphs.SIZE), mode="bilinear")
    return (images * 2 - 1).repeat(1, 3, 1, 1), torch.from_numpy(bunch.target).long()


@torch.no_grad()
def through(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images (in [-1, 1]) encoded and decoded."""
    return torch.cat([vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1) for x in images.split(256)])


def reconstruction(vae: AutoencoderKL, images: Tensor) -> float:
    """The share of the images' variance that is lost between encoder and decoder."""
    error = (through(vae, images) - images).square().mean()
    return (error / images.var()).item()


def recognised(
    pipeline: StableDiffusionPipeline, judge: nn.Module, *, guidance: float, steps: int = 25, per_class: int = 10,
    solver: Any = DPMSolverMultistepScheduler,
) -> float:  # fmt: skip
    """How often the judge reads a text-to-image sample as what was asked for."""
    labels = torch.arange(len(glyphs.CLASSES)).repeat(per_class)
    words = [glyphs.CLASSES[label] for label in labels.tolist()]
    drawn = draw(pipeline, words, guidance=guidance, steps=steps, seed=0, solver=solver)
    return accuracy(judge, drawn, labels)


def few_shot_gain(
    pipeline: StableDiffusionPipeline, seed: int, *, shots: int = 5, k: int = 5, guidance: float = 7.5,
    strength: float = 0.9, steps: int = 300,
) -> tuple[float, float]:  # fmt: skip
    """Test accuracy on digits without and with Real Guidance, k variants a real image, equal optimiser steps."""
    images, labels = load_digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed_of("digits", seed)))
    test, pool = order[:800], order[800:]  # of 1,797
    real = torch.cat([pool[labels[pool] == digit][:shots] for digit in range(10)])
    x, y = images[real], labels[real]
    words = [str(label) for label in y.tolist()] * k
    made = real_guidance(pipeline, x.repeat(k, 1, 1, 1), words, strength=strength, guidance=guidance, seed=seed)
    scores = []
    for train_x, train_y in ((x, y), (torch.cat([x, made]), y.repeat(k + 1))):
        # Both arms begin as the same net, and take the same number of steps: more images, not more training.
        torch.manual_seed(seed_of("initialisation", seed))
        net = fit(conv_net(10), train_x, train_y, steps=steps, batch=64, rate=3e-3, seed=seed)
        scores.append(accuracy(net, images[test], labels[test]))
    return scores[0], scores[1]
