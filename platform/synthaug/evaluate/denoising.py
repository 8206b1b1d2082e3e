"""Measurements of a denoiser itself: how much better it knows the images that it was trained on; what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from synthaug.diffusion.transforms import PAPER, Transforms
from synthaug.evaluate import figures
from synthaug.evaluate.base import DenoiserEvaluation, Result
from synthaug.settings import Count, seed_of, settings

if TYPE_CHECKING:
    from torch import Tensor

    from synthaug.diffusion.denoiser import NetDenoiser

ROWS = 256  # images at a time
COLUMNS = ("x0", "x0 + n", "T(x0 + n)", "answer", "T(x0)")


@settings
class DenoisingLoss(DenoiserEvaluation):
    """EDM's weighted loss on training images and on images that were held out, and the gap between the two: how much of
    what it knows it knows by heart. At the noise levels that part EDM's distribution of them into `levels` equal
    shares (the middle of each), so that the plain mean over them is the loss that an EDM net of coloured images trains
    (a grey one is asked through its mean of three channels, at levels lower by the root of three); of at most `images`
    of either split, `draws` of noise each."""

    in_latents: ClassVar[bool] = True

    heldout: str = "test"
    levels: Count = 8
    images: Count = 512
    draws: Count = 1

    @property
    def needs(self) -> tuple[str, ...]:
        return ("subset", self.heldout)

    @property
    def sigmas(self) -> list[float]:
        """The noise levels, in units of [-1, 1]."""
        from scipy.stats import norm

        return [math.exp(-1.2 + 1.2 * float(norm.ppf((i + 0.5) / self.levels))) for i in range(self.levels)]

    def chosen(self, split: str, count: int) -> Sequence[int]:
        # of a large split any, but always the same
        return sorted(range(count), key=lambda number: seed_of("denoising", split, number))[: self.images]

    def calls(self, images: int) -> int:
        return 2 * min(images, self.images) * self.levels * self.draws

    def measure(self, denoiser: NetDenoiser, real: Mapping[str, tuple[Tensor, Tensor]], labels: bool) -> Result:
        """The loss on either split and the gap, over all levels; and the curves over the levels."""
        losses = {name: self._of(denoiser, name, *real[name], labels) for name in self.needs}
        train, heldout = (losses[name] for name in self.needs)
        found = {"train": float(train.mean()), "heldout": float(heldout.mean())}
        # levels of much noise have small losses, of which a plain difference would say nothing
        found |= {
            "gap": found["heldout"] - found["train"],
            "gap share": float((heldout / train.clip(1e-12)).mean() - 1),
        }
        about = {"heldout": self.heldout, "levels": self.sigmas, "draws": self.draws}
        about |= {f"{name} images": len(real[name][0]) for name in self.needs}
        both = {"train": train.tolist(), self.heldout: heldout.tolist()}
        curve: Any = {"x": self.sigmas, "y": both, "label": ["noise level", "weighted loss"]}
        return {
            "metrics": {f"denoising/{name}": value for name, value in found.items()},
            "about": about, "curves": {"denoising loss": curve},
        }  # fmt: skip

    def _of(self, denoiser: NetDenoiser, split: str, x0: Tensor, labels: Tensor, asks: bool) -> np.ndarray:
        """The mean loss at each level."""
        import torch

        from synthaug.diffusion.denoiser import precondition

        found = []
        for number, sigma in enumerate(self.sigmas):
            weight = float(precondition(torch.tensor(sigma, dtype=torch.float64)).weight)
            errors = []
            for draw in range(self.draws):
                dice = torch.Generator().manual_seed(seed_of("denoising", split, number, draw))
                noise = torch.randn(x0.shape, generator=dice)
                for rows in torch.arange(len(x0)).split(ROWS):
                    x = (x0[rows] + sigma * noise[rows]).to(denoiser.net.device)
                    cond = labels[rows].to(x.device) if asks else None
                    with torch.inference_mode():
                        errors.append((denoiser(x, sigma, cond).cpu() - x0[rows]).square().flatten(1).mean(1))
            found.append(weight * float(torch.cat(errors).double().mean()))
        return np.array(found)


@settings
class Answers(DenoiserEvaluation):
    """Pictures, as the paper's figure 1: for some held-out images the image, the noisy one, the noisy one under a
    transform, the net's answer when it is told of that, and the image under the transform."""

    informed: ClassVar[bool] = True

    split: str = "test"
    sigma: Annotated[float, Field(gt=0)] = 0.5
    images: Count = 4  # each under each transform
    transforms: Transforms = PAPER

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.split,)

    def chosen(self, split: str, count: int) -> Sequence[int]:
        return range(min(count, self.images))

    def calls(self, images: int) -> int:
        return self.images * len(self.transforms)

    def measure(self, denoiser: NetDenoiser, real: Mapping[str, tuple[Tensor, Tensor]], labels: bool) -> Result:
        """A strip of pictures for each transform, and the error of the net's answers under each."""
        import torch

        from synthaug.diffusion.score_net import Told
        from synthaug.diffusion.scoreaug import Omega, apply, encode

        device, (x0, classes) = denoiser.net.device, real[self.split]
        dice = torch.Generator().manual_seed(seed_of("answers"))
        cond = classes.to(device) if labels else None
        noisy = x0 + self.sigma * torch.randn(x0.shape, generator=dice)
        pictures, errors = {}, {}
        for transform in self.transforms:
            omega = Omega(**{transform.field: transform.values(len(x0), x0.shape[2], dice)})
            y, target = apply(noisy, omega), apply(x0, omega)
            told = Told(cond, omega=encode(omega).to(device))
            with torch.inference_mode():
                answer = denoiser(y.to(device), self.sigma, told).cpu()
            name = type(transform).__name__.lower()
            errors[f"answers/{name}"] = float((answer - target).square().mean())
            columns = [x0, noisy, y, answer, target]
            rows = ((torch.cat(columns, 3).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
            pictures[name] = figures.png(np.concatenate(list(rows)))
        return {"metrics": errors, "about": {"sigma": self.sigma, "columns": COLUMNS}, "pictures": pictures}
