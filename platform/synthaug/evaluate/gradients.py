"""Perceptually aligned gradients: what a classifier would change in an image, seen through the denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from synthaug.diffusion.one_step import check_time, sigma_at
from synthaug.evaluate import figures
from synthaug.evaluate.base import Evaluation, Result, Subject
from synthaug.settings import Count, Share, seed_of, settings

if TYPE_CHECKING:
    from torch import Tensor


@settings
class Gradients(Evaluation):
    """A gallery of the first `images` of each split at `time`: the image, the denoiser's guess, the gradient of its
    class's log probability through the denoiser, and the same without it. What the denoiser's derivative should be, a
    covariance, is measured beside it: its asymmetry is 0 and its curvature is not negative where the denoiser is
    exact."""

    time: Share = 0.3  # t = 300, where the paper shows them
    images: Count = 10

    @property
    def needs_denoiser(self) -> bool:
        return True

    def check(self, alphas_cumprod: Tensor) -> None:
        check_time(self.time, alphas_cumprod)

    def __call__(self, subject: Subject) -> Result:
        import torch

        from synthaug.diffusion.jacobian import asymmetry, class_gradient, curvature
        from synthaug.diffusion.sampling import standard_noise

        assert subject.denoiser is not None
        images, labels = (array[: self.images] for array in subject.sets[self.split])
        device = next(subject.model.parameters()).device
        x0 = torch.from_numpy(images).to(device).float() / 127.5 - 1  # B C H W in [-1, 1]
        wanted = torch.as_tensor(labels, device=device)
        sigma = float(sigma_at(torch.tensor(self.time)))
        names = subject.ids.get(self.split, [str(number) for number in range(len(labels))])
        # noise by the image's name: all nets are asked about the same noisy images
        draws = [torch.Generator().manual_seed(seed_of("gradient", names[number])) for number in range(len(labels))]
        x = x0 + sigma * standard_noise(x0, draws)  # variance-exploding coordinates, as denoisers take them

        def log_p(guess: Tensor) -> Tensor:
            # not clamped: where pixels are cut the derivative would be 0
            logits: Tensor = subject.model((guess + 1) / 2)
            return logits.log_softmax(1).gather(1, wanted[:, None])[:, 0]

        # total: J' times the gradient at the guess, J = Cov[x0 | x] / sigma^2 (theorem 1); partial: J taken as 1
        total, guess = class_gradient(log_p, subject.denoiser, x, sigma)
        partial, _ = class_gradient(log_p, subject.denoiser, x, sigma, total=False)
        v = standard_noise(x0, draws)  # random directions to look at J along; drawn after x, from the same generators
        metrics = {
            "asymmetry": float(asymmetry(subject.denoiser, x, sigma, v).mean()),
            "curvature": float(curvature(subject.denoiser, x, sigma, v).mean()),
            "roughness": roughness(total),
            "roughness-detached": roughness(partial),
        }
        columns = [x0, guess.clamp(-1, 1), *(spread(slope) for slope in (total, partial))]
        rows = ((torch.cat(columns, 3).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        pictures = {"gradients": figures.png(np.concatenate(list(rows)))}
        named = {f"{self.title}/gradient/{name}": value for name, value in metrics.items()}
        return {"metrics": named, "pictures": pictures, "about": {"time": self.time, "sigma": sigma}}


def spread(slope: Tensor) -> Tensor:
    """Each row from its least value to its largest as [-1, 1]."""
    flat = slope.flatten(1)
    low, high = flat.min(1).values, flat.max(1).values
    scale = (high - low).clamp_min(1e-30)  # a flat gradient is dark, not nan
    return ((slope - low[:, None, None, None]) / scale[:, None, None, None]) * 2 - 1


def roughness(slope: Tensor) -> float:
    """How much neighbouring pixels differ, as a share of what they would in white noise: 1 is noise, 0 a flat image."""
    across = (slope[..., 1:] - slope[..., :-1]).square().mean()
    down = (slope[..., 1:, :] - slope[..., :-1, :]).square().mean()
    # two independent pixels differ by twice their variance, and there are two directions
    return float((across + down) / (4 * slope.square().mean()).clamp_min(1e-30))
