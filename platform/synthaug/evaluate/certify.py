"""Certified accuracy by denoised smoothing (Carlini et al. 2023) with the certificates of Cohen et al. 2019.

Noise levels and radii are in units of [0, 1] pixels. The denoiser works on [-1, 1], where the same noise is twice as
large.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, model_validator
from scipy.special import bdtr, betaincinv, ndtri  # scipy.stats takes seconds to import

from synthaug.evaluate.base import Curve, MappedEvaluation, Result, Subject
from synthaug.settings import Count, UserError, seed_of, settings

if TYPE_CHECKING:
    import torch

    from synthaug.diffusion.denoiser import Denoiser

    Counts = Sequence[int] | np.ndarray | torch.Tensor

Level = Annotated[float, Field(gt=0)]
Radius = Annotated[float, Field(ge=0)]


def clopper_pearson_lower(k: int, n: int, alpha: float) -> float:
    """The p at which k or more successes of n have probability alpha: with confidence 1 - alpha, p is not below."""
    if k in (0, n):  # where the beta quantile has a closed form, or none
        return 0.0 if k == 0 else float(alpha ** (1 / n))
    # the alpha quantile of Beta(k, n - k + 1): one-sided, so alpha and not alpha / 2
    return float(betaincinv(k, n - k + 1, alpha))


def least_count(n: int, alpha: float) -> int:
    """The fewest votes of n that certify anything; n + 1 where none do."""
    # the bound rises with k, so halving finds it: 66 of 100 and 5,156 of 10,000 at alpha 0.001
    return bisect_left(range(n + 1), 0.5, key=lambda k: clopper_pearson_lower(k, n, alpha))


def max_radius(n: int, alpha: float, sigma: float) -> float:
    """The radius when all n votes agree: no image can be certified beyond it."""
    # 2.46 sigma with 1,000 votes, 3.20 with 10,000, 3.81 with 100,000: votes are bought dearly
    return max(0.0, sigma * float(ndtri(clopper_pearson_lower(n, n, alpha))))


def certify(counts0: Counts, counts: Counts, *, alpha: float, sigma: float) -> tuple[int | None, float]:
    """The class and the l2 radius within which the smoothed classifier keeps it, wrong with probability alpha at most;
    (None, 0) where nothing can be said. `counts0` select the class; `counts` are votes of other noise."""
    # the class by votes that do not count for the bound: the winner of the same votes would be favoured by them
    label = int(_array(counts0).argmax())
    votes = _array(counts)
    lower = clopper_pearson_lower(int(votes[label]), int(votes.sum()), alpha)
    if lower < 0.5:
        return None, 0.0
    # R = sigma Phi^-1(p), Cohen et al.'s theorem 1 with 1 - p for the runner-up
    return label, sigma * float(ndtri(lower))


def predict(counts: Counts, alpha: float) -> int | None:
    """The smoothed classifier's class, wrong with probability alpha at most, or None: of two equally likely classes,
    one would seldom lead the other by so much."""
    votes = _array(counts)
    second, first = (int(v) for v in np.sort(votes)[-2:])
    # two-sided binomial test of the first two at 1/2; doubling counts the middle twice where they are equal
    p_value = min(1.0, 2 * float(bdtr(second, first + second, 0.5)))
    return int(votes.argmax()) if p_value <= alpha else None


def _array(counts: Counts) -> np.ndarray:
    import torch

    return np.asarray(torch.as_tensor(counts).cpu())


def timestep_for(sigma: float, alphas_cumprod: Any) -> tuple[int, float]:
    """The first timestep (from 1 on) of a variance-preserving schedule whose noise is at least `sigma`, and its noise,
    both in units of [0, 1] pixels: less noise than the certificate speaks of would make it false."""
    import torch

    from synthaug.diffusion.denoiser import sigmas_of

    # sqrt((1 - abar) / abar) on [-1, 1]; the target there is 2 sigma, so half of it is compared with sigma
    grid = sigmas_of(torch.as_tensor(alphas_cumprod)).cpu().numpy() / 2
    enough = np.flatnonzero(grid[1:] >= sigma)  # sigma 0.25, 0.5, 1 of the linear schedule: t = 145, 259, 396
    if len(enough) == 0:
        raise UserError(f"sigma={sigma} is beyond the denoiser's schedule, which ends at {grid[-1]:.4g}")
    t = int(enough[0]) + 1
    return t, float(grid[t])


def level_for(sigma: float, denoiser: Denoiser) -> float:
    """The noise to use for `sigma`: the next level that the denoiser was trained at, or `sigma` if it takes any."""
    alphas = getattr(denoiser, "alphas_cumprod", None)
    return sigma if alphas is None else timestep_for(sigma, alphas)[1]


def certified_accuracy(
    labels: Sequence[int], predicted: Sequence[int | None], radii: Sequence[float], at: Sequence[float] | np.ndarray
) -> np.ndarray:
    """The share of images that are certified to be their class within each radius of `at`."""
    # who abstains is wrong at every radius, 0 too
    correct = np.array([guess is not None and guess == label for guess, label in zip(predicted, labels, strict=True)])
    reached = np.asarray(radii)[:, None] >= np.asarray(at)  # images x radii
    return np.asarray((correct[:, None] & reached).mean(0))


def envelope(accuracies: Sequence[np.ndarray]) -> np.ndarray:
    """The best of several noise levels at each radius, as papers quote it: chosen on the images it is quoted for."""
    return np.asarray(np.max(accuracies, axis=0))


@settings
class Certified(MappedEvaluation):
    """The share of images that no change below a radius (l2, [0, 1] pixels) can make the smoothed classifier miss.

    The smoothed classifier adds noise, denoises once, and takes the class that most noises lead to. For each `sigma`
    `n0` noises select the class and `n` fresh ones bound its probability from below, with confidence 1 - `alpha`;
    drawing ends early when the class cannot win any more. One image in `every` is looked at.
    """

    sigma: Annotated[
        tuple[Level, ...],
        Field(min_length=1),
        # one level may be written without brackets, on the command line above all
        BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value),
    ] = (0.25, 0.5, 1.0)
    radii: Annotated[tuple[Radius, ...], Field(min_length=1)] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    n0: Count = 100
    n: Count = 1000  # for a laptop: published certificates took 10,000 on ImageNet and 100,000 on CIFAR-10
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    every: Count = 1  # 50 on ImageNet in the papers
    batch: Count = 256
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _can_certify(self) -> Certified:
        # with n = 9 at alpha 0.001 even all votes abstain, which would be seen only after the denoiser had worked
        if least_count(self.n, self.alpha) > self.n:
            least = next(n for n in count(1) if least_count(n, self.alpha) <= n)
            raise UserError(f"{self.n} votes certify nothing at alpha={self.alpha}; {least} is the least", ("n",))
        return self

    @property
    def needs_denoiser(self) -> bool:
        return True

    def check(self, alphas_cumprod: torch.Tensor) -> None:
        for sigma in self.sigma:
            timestep_for(sigma, alphas_cumprod)

    def calls(self, images: int) -> int:
        return (self.n0 + self.n) * len(self.sigma) * len(self.chosen(images))

    def chosen(self, count: int) -> Sequence[int]:
        return range(0, count, self.every)

    def rows(self, subject: Subject, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """A certificate for each image and noise level."""
        assert subject.denoiser is not None
        if any(part.training for part in subject.model.modules()):
            raise ValueError("a model in train mode sees its batch, which voids certificates")
        images, labels = subject.sets[self.split]
        grid = [level_for(sigma, subject.denoiser) for sigma in self.sigma]
        found = []
        for number in map(int, numbers):
            certificates = []
            for sigma, sigma_grid in zip(self.sigma, grid, strict=True):
                # noised by the level of the schedule, which is the larger one; certified for sigma
                draw = partial(count_votes, subject, images[number], sigma_grid, self.batch)
                certificates.append(self._certificate(draw, number, sigma) | {"sigma_grid": sigma_grid})
            found.append({"number": number, "label": int(labels[number]), "certificates": certificates})
        return found

    def _certificate(self, draw: Callable[..., np.ndarray], number: int, sigma: float) -> dict[str, Any]:
        """One image at one noise level. The certificate speaks of `sigma`, which is at most the noise that is used."""
        # independent noise for the two stages, or the bound would not hold
        select, estimate = (self._dice(number, sigma, stage) for stage in ("select", "estimate"))
        counts0 = draw(self.n0, select)
        label = int(counts0.argmax())
        counts = draw(self.n, estimate, label, least_count(self.n, self.alpha))
        # what ended early abstains here too: fewer votes allow no more misses
        predicted, radius = certify(counts0, counts, alpha=self.alpha, sigma=sigma)
        drawn = {"selected": label, "votes": int(counts[label]), "draws": int(counts.sum())}
        return {"sigma": sigma, "predicted": predicted, "radius": radius} | drawn

    def _dice(self, number: int, sigma: float, stage: str) -> torch.Generator:
        """On the CPU, so that every device gets the same noise."""
        import torch

        return torch.Generator().manual_seed(seed_of(self.seed, "certify", self.split, number, sigma, stage))

    def result(self, rows: Sequence[dict[str, Any]]) -> Result:
        """Certified accuracy at each radius and as a curve, for every noise level and the best of them."""
        certificates = [[row["certificates"][place] for row in rows] for place in range(len(self.sigma))]
        metrics: dict[str, float] = {}
        for group, values in self._accuracies(rows, self.radii).items():
            head = "" if group == "envelope" else f"{group}/"  # the envelope is what papers call certified accuracy
            metrics |= {f"{head}{radius:g}": float(v) for radius, v in zip(self.radii, values, strict=True)}
        for sigma, found in zip(self.sigma, certificates, strict=True):
            metrics[f"sigma_{sigma:g}/abstained"] = sum(c["predicted"] is None for c in found) / len(rows)
        # of an image, over all noise levels
        metrics["denoiser_calls"] = sum(self.n0 + c["draws"] for found in certificates for c in found) / len(rows)
        # as far as any certificate of these votes can reach
        x = np.linspace(0, max_radius(self.n, self.alpha, max(self.sigma)), 101).tolist()
        y = {name: values.tolist() for name, values in self._accuracies(rows, x).items()}
        curve: Curve = {"x": x, "y": y, "label": ["l2 radius in [0, 1] pixels", "certified accuracy"]}
        named = {f"{self.title}/certified/{name}": value for name, value in metrics.items()}
        return {"metrics": named, "curves": {"certified": curve}, "about": self._about(rows)}

    def _accuracies(self, rows: Sequence[dict[str, Any]], at: Sequence[float]) -> dict[str, np.ndarray]:
        """Certified accuracies within the radii `at` for each noise level, and the envelope of them."""
        labels = [row["label"] for row in rows]
        found = {}
        for place, sigma in enumerate(self.sigma):
            mine = [row["certificates"][place] for row in rows]
            predicted, radii = [c["predicted"] for c in mine], [c["radius"] for c in mine]
            found[f"sigma_{sigma:g}"] = certified_accuracy(labels, predicted, radii, at)
        return found | {"envelope": envelope(list(found.values()))}

    def _about(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """How it was measured, and how far certificates could reach at all."""
        reach = [max_radius(self.n, self.alpha, sigma) for sigma in self.sigma]
        used = [certificate["sigma_grid"] for certificate in rows[0]["certificates"]]
        about = {"images": len(rows), "every": self.every, "n0": self.n0, "n": self.n, "alpha": self.alpha}
        return about | {"sigma": list(self.sigma), "sigma_grid": used, "max_radius": reach, "units": "[0, 1] pixels"}


def count_votes(
    subject: Subject, image: np.ndarray, sigma: float, batch: int, n: int, generator: torch.Generator,
    label: int | None = None, least: int = 0,
) -> np.ndarray:  # fmt: skip
    """The classes that n noises lead to, counted; drawing ends when `label` cannot reach `least` votes any more."""
    import torch

    from synthaug.diffusion.sampling import diffuse_denoise

    assert subject.denoiser is not None
    device = next((p.device for p in subject.model.parameters()), torch.device("cpu"))
    x = torch.as_tensor(image, device=device)[None].float() / 255 * 2 - 1  # 1 C H W in [-1, 1]
    counts, left = np.zeros(len(subject.classes), int), n
    with torch.inference_mode():
        while left and (label is None or counts[label] + left >= least):
            rows = x.expand(min(batch, left), -1, -1, -1)
            # clamped, as the published code does; 2 sigma, because [-1, 1] is twice as wide as [0, 1]
            x_hat = diffuse_denoise(rows, 2 * sigma, subject.denoiser, generator=generator, clamp=(-1, 1))
            classes = subject.model((x_hat + 1) / 2).argmax(1).cpu()
            counts += np.bincount(classes, minlength=len(counts))
            left -= len(classes)
    return counts
