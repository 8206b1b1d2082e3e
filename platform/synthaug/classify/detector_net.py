"""Training the classifier that tells what was done to an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn

from synthaug.classify import models
from synthaug.diffusion.fit import Fitted, contained, fit
from synthaug.diffusion.scoreaug import apply, encode
from synthaug.diffusion.transforms import OneOrNone
from synthaug.settings import seed_of
from synthaug.training import ALONE, Checkpoint, Report, World

if TYPE_CHECKING:
    from synthaug.classify.detector import TransformDetector


FILE = "detector.safetensors"  # in its stage's folder


def new_net(detector: TransformDetector) -> nn.Module:
    """As it is before training; it takes images in [0, 1] or as they are stored."""
    seed = seed_of(detector.seed, "detector", "initialisation")
    return models.build(detector.model, len(detector.kinds), seed=seed)


def read(detector: TransformDetector, data: bytes) -> nn.Module:
    """The net in a file."""
    net = new_net(detector)
    net.load_state_dict(load(data))
    return net.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def train_detector(
    detector: TransformDetector, images: np.ndarray, *, report: Report, checkpoint: Checkpoint | None = None,
    world: World = ALONE, device: torch.device | None = None,
) -> tuple[nn.Module, Fitted]:  # fmt: skip
    """A classifier of what was done to `images` (uint8 NCHW)."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with contained(detector.threads, device):
        net = new_net(detector).to(device).train()
        pictures = torch.from_numpy(images)

        def loss(step: int) -> tuple[Tensor]:
            generator = torch.Generator().manual_seed(seed_of(detector.seed, "detector", step))
            rows = torch.randint(len(pictures), (detector.batch_size,), generator=generator)
            shown, kinds = _drawn(detector, pictures[rows], generator)
            mine = world.mine
            logits = net(shown[mine].to(device))
            return (nn.functional.cross_entropy(logits, kinds[mine].to(device), reduction="sum") / detector.batch_size,)

        done = fit(
            dict(net.named_parameters()), loss, steps=detector.steps, lr=detector.lr, weight_decay=1e-2, clip=1.0,
            report=report, checkpoint=checkpoint, world=world,
        )  # fmt: skip
        return net.cpu().eval(), done


def _drawn(detector: TransformDetector, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] after one of the transforms or none, and which."""
    kinds = torch.randint(len(detector.kinds), (len(images),), generator=generator)
    omega = OneOrNone(transforms=detector.transforms).chosen(kinds, images.shape[2], generator)
    x = apply(images.float() / 127.5 - 1, omega)  # what is cut out is grey, 0, as it is for the diffusion net
    # a shift by no pixel is drawn now and then, and is none
    kinds = torch.where((encode(omega) == 0).all(1), len(detector.kinds) - 1, kinds)
    return (x.clamp(-1, 1) + 1) / 2, kinds


def transformed(detector: TransformDetector, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images as a generator would leave them (uint8) after a transform or none, and which: always the same."""
    generator = torch.Generator().manual_seed(seed_of("transformed"))
    shown, kinds = _drawn(detector, torch.from_numpy(images), generator)
    return (shown * 255).round().to(torch.uint8).numpy(), kinds.numpy()
