"""What nano:ddpm's card says: its guesses against those of the exact denoiser of the images it was trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from synthaug.data.dataset import Dataset
from synthaug.data.sample import decode_image
from synthaug.diffusion.denoiser import UNetDenoiser
from synthaug.diffusion.one_step import Diffusion
from synthaug.diffusion.oracle import EmpiricalDenoiser
from synthaug.nano import measure
from synthaug.settings import seed_of

TIMES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8)


def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images (uint8 NCHW) and labels of a split."""
    listing = Dataset("digits").open()
    entries = listing.splits[split]
    images = np.stack([decode_image(listing.read(entry.id)).transpose(2, 0, 1) for entry in entries])
    return images, np.array([entry.label for entry in entries])


@torch.inference_mode()
def by_time(denoiser: UNetDenoiser, judge: nn.Module, pixels: np.ndarray, labels: np.ndarray) -> Iterator[str]:
    """At each time the root mean square error of the guess, that of the exact denoiser of the training images, and the
    share of guesses that are still read as their class."""
    # The answer of a net that had learned its images by heart: far off on test digits, where a good net is not.
    exact = EmpiricalDenoiser(digits("train")[0] / 127.5 - 1)
    x, wanted = torch.from_numpy(pixels[:400]).float() / 255, torch.from_numpy(labels[:400])
    for time in TIMES:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed_of("nano:ddpm", "measure", time)))
        at = torch.full((len(x),), time)
        guess, best = (Diffusion()(x, at, d, noise) for d in (denoiser, exact))  # both under one noise
        # twice: images are in [0, 1] here, errors are told in [-1, 1]
        error, least = (float((2 * (found - x)).square().mean().sqrt()) for found in (guess, best))
        read = measure.accuracy(judge, guess * 2 - 1, wanted)
        yield f"time {time}: error {error:.3f}, of the exact one {least:.3f}, read {read:.3f}"
