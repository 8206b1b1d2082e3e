"""Fidelity: how near generated images are to real ones, and how much of the real ones they cover, in a feature space.

The functions take N x D features (numpy or torch), count in float64 and never hold all pairs of images at once. A tie
between a distance and a radius is seen as a tie, whatever the rounding: distances come from products of matrices, whose
last bits depend on their shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import model_validator

from synthaug.classify.recipe import Recipe
from synthaug.evaluate.base import ImageEvaluation, Result
from synthaug.evaluate.features import ClipFeatures, Extractor
from synthaug.evaluate.stats import mean_interval
from synthaug.settings import Count, OneOf, UserError, seed_of, settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    Features = np.ndarray | torch.Tensor

Reference = Literal["test", "train", "subset"]
CHUNK = 1024  # images at a time: beside 50,000 others that is 0.4 GB
_TIE = 1e-12  # of the squared lengths of two points: above the rounding of their distance


@settings
class Fidelity(ImageEvaluation):
    """Frechet and kernel distance, precision, recall, density and coverage of generated images beside real ones.

    Numbers compare only with others of the same extractor, reference and counts: Frechet distance and recall are
    biased when images are few, the kernel distance is not. `also` are other references, whose numbers have their name
    in theirs (fidelity/train/fid). With `sets` the images are parted at random, and the Frechet distances of the parts
    have a mean and an interval: what the choice of samples does to the number. Few images make it larger.
    """

    reference: Reference = "test"
    k: Count = 3  # neighbours of precision and recall; 3 and 5 are what the papers use
    density_k: Count = 5
    extractor: OneOf[Extractor] = ClipFeatures()
    also: tuple[Reference, ...] = ()
    sets: Count = 1

    @model_validator(mode="after")
    def _told_apart(self) -> Fidelity:
        if twice := {name for name in self._references if self._references.count(name) > 1}:
            raise UserError(f"{twice.pop()} stands there twice", ("also",))
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        return self._references

    @property
    def _references(self) -> tuple[str, ...]:
        return (self.reference, *self.also)

    @property
    def examiner(self) -> Recipe | None:
        return self.extractor.trained_by

    def measure(
        self, made: np.ndarray, labels: np.ndarray, real: Mapping[str, np.ndarray], classes: Sequence[str],
        judge: nn.Module | None = None,
    ) -> Result:  # fmt: skip
        """The six numbers, and the spread of the kernel distance over its subsets."""
        for name in self._references:
            self._check(name, len(real[name]), len(made))
        embed = self.extractor.of(judge)
        here, found = embed(made), dict[str, float]()
        for name in self._references:
            before = "fidelity/" if name == self.reference else f"fidelity/{name}/"
            found |= {f"{before}{number}": value for number, value in self._numbers(embed(real[name]), here).items()}
        about = {"extractor": self.extractor.about(), "reference": self.reference, "k": self.k}
        about |= {"density_k": self.density_k, "made": len(here), "real": len(real[self.reference])}
        return {"metrics": found, "about": about | {"dimensions": here.shape[1]}}

    def _numbers(self, there: torch.Tensor, here: torch.Tensor) -> dict[str, float]:
        found = {"fid": frechet_distance(there, here)}
        # a seed of its own and not the experiment's: equal images give equal numbers
        found["kid"], found["kid_std"] = kernel_distance(there, here, seed=0)
        found["precision"], found["recall"] = precision_recall(there, here, self.k)
        found["density"], found["coverage"] = density_coverage(there, here, self.density_k)
        if self.sets > 1:
            order = np.random.default_rng(0).permutation(len(here))
            parts = [frechet_distance(there, here[np.sort(rows)]) for rows in np.array_split(order, self.sets)]
            _, low, high = mean_interval(parts)
            found |= {"fid_of_sets": float(np.mean(parts)), "fid_of_sets_low": low, "fid_of_sets_high": high}
        return found

    def _check(self, name: str, real: int, made: int) -> None:
        """Refuse too few images before the extractor has worked for nothing."""
        _enough(self.k, real, f"{name} images", "Fidelity.k")
        _enough(self.k, made, "generated images", "Fidelity.k")
        _enough(self.density_k, real, f"{name} images", "Fidelity.density_k")
        if made // self.sets < 2:
            raise UserError(f"{made} generated images make no {self.sets} sets of two or more", ("Fidelity", "sets"))


def frechet_distance(a: Features, b: Features) -> float:
    """Distance of the Gaussians fitted to two sets: |ma - mb|^2 + tr(Sa + Sb - 2 (Sa Sb)^(1/2)) (Heusel et al. 2017).

    With Sa = Ra' Ra and Sb = Rb' Rb the last trace is the sum of the singular values of Ra Rb', which is real and
    accurate for fewer images than features too.
    """
    import torch

    mean_a, factor_a = _gaussian(_prepared(a, 2))
    mean_b, factor_b = _gaussian(_prepared(b, 2))
    # Sa Sb = Ra' (Ra Rb') Rb has the eigenvalues of (Ra Rb')(Ra Rb')', whose roots are singular values; the usual
    # matrix root of Sa Sb comes out complex where covariances are singular
    cross = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    # tr(R' R) is the squared length of R
    spread = factor_a.square().sum() + factor_b.square().sum() - 2 * cross
    return float((mean_a - mean_b).square().sum() + spread.clamp(min=0))  # rounding may fall below 0


def _gaussian(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, and a factor R of the unbiased covariance R' R with at most D rows."""
    import torch

    mean = x.mean(0)
    # the triangle of a QR, so that the product above is at most D x D however many images there are
    return mean, torch.linalg.qr((x - mean) / math.sqrt(len(x) - 1), mode="r").R


def kernel_distance(
    a: Features, b: Features, *, seed: int, subsets: int = 100, size: int = 1000
) -> tuple[float, float]:
    """Mean and standard deviation, over random subsets, of the unbiased squared MMD with the kernel (x'y / D + 1)^3.

    Binkowski et al. 2018. A subset holds `size` images, or as many as the smaller set has.
    """
    import torch

    x, y = _prepared(a, 2), _prepared(b, 2)
    size = min(size, len(x), len(y))
    values = []
    for number in range(subsets):
        dice = torch.Generator().manual_seed(seed_of(seed, "kernel distance", number))
        # without replacement: an image beside itself would bias what is unbiased
        rows = [torch.randperm(len(z), generator=dice)[:size].to(z.device) for z in (x, y)]
        values.append(_mmd(x[rows[0]], y[rows[1]]))
    return float(np.mean(values)), float(np.std(values))


def _mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    n, dimensions = x.shape
    xx, yy, xy = (((p @ q.T) / dimensions + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    # the U statistic: pairs of an image with itself, on the diagonal, are left out
    within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (n * (n - 1))
    return float(within - 2 * xy.mean())


def precision_recall(real: Features, fake: Features, k: int = 3, *, chunk: int = CHUNK) -> tuple[float, float]:
    """The share of fake points on the manifold of the real ones, and of real points on that of the fake ones.

    A manifold is the union of closed balls around its points that reach their k-th nearest other point (Kynkaanniemi
    et al. 2019, Eq. 1).
    """
    x, y = _pair(real, fake)
    _enough(k, len(x), "real images")
    _enough(k, len(y), "generated images")
    # precision: fake points in real balls; recall: the same with the two changed about
    on_real = [inside.any(1) for inside in _balls(y, x, _radii(x, k, chunk), chunk, closed=True)]
    on_fake = [inside.any(1) for inside in _balls(x, y, _radii(y, k, chunk), chunk, closed=True)]
    return _share(on_real), _share(on_fake)


def density_coverage(real: Features, fake: Features, k: int = 5, *, chunk: int = CHUNK) -> tuple[float, float]:
    """How many real balls a fake point lies in, over k, and the share of real balls that hold a fake point.

    Naeem et al. 2020, Eq. 3 and 4. Balls are open, so that a set beside itself has density 1.
    """
    import torch

    x, y = _pair(real, fake)
    _enough(k, len(x), "real images")
    inside, reached = 0, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for block in _balls(y, x, _radii(x, k, chunk), chunk, closed=False):
        inside += int(block.sum())  # density counts balls, and may exceed 1
        reached |= block.any(0)  # coverage asks of each real ball whether anything is in it
    return inside / (k * len(y)), _share([reached])


def nearest(points: Features, others: Features, *, chunk: int = CHUNK) -> tuple[np.ndarray, np.ndarray]:
    """The distance from each point to the nearest of `others`, and which it is."""
    import torch

    x, y = _pair(points, others)
    # a near tie may fall either way, and the distance is the same then
    found = torch.cat([_squared(part, y).argmin(1) for part in x.split(chunk)])
    # afresh, because a product of matrices gives copies a distance above 0
    distances = torch.cat([(p - y[i]).norm(dim=1) for p, i in zip(x.split(chunk), found.split(chunk), strict=True)])
    return distances.cpu().numpy(), found.cpu().numpy()


def nearest_two(points: Features, others: Features, *, chunk: int = CHUNK) -> tuple[np.ndarray, np.ndarray]:
    """The distances from each point to the nearest of `others` and to the next."""
    import torch

    x, y = _pair(points, others)
    _enough(1, len(y), "training images")
    found = []
    for part in x.split(chunk):
        two = _squared(part, y).topk(2, largest=False).indices
        found.append(torch.stack([(part - y[two[:, place]]).norm(dim=1) for place in (0, 1)]))
    both = torch.cat(found, 1).sort(0).values.cpu().numpy()  # a near tie may have come in the other order
    return both[0], both[1]


def _prepared(features: Features, least: int = 1) -> torch.Tensor:
    import torch

    x = torch.as_tensor(features).double()
    assert x.ndim == 2, f"features are N x D, got {tuple(x.shape)}"
    if len(x) < least:
        raise UserError(f"{least} images are the fewest that can be measured, got {len(x)}")
    return x


def _pair(a: Features, b: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets moved to where the first has its mean: distances stay, and lose fewer digits."""
    x, y = _prepared(a), _prepared(b)
    mean = x.mean(0)
    return x - mean, y - mean


def _enough(k: int, count: int, what: str, field: str = "k") -> None:
    if not 1 <= k < count:
        raise UserError(f"{field}={k} must be at least 1 and below the number of {what}, which is {count}")


def _squared(a: torch.Tensor, b: torch.Tensor, stretch: float = 0.0) -> torch.Tensor:
    """Squared distances, shortened or lengthened by `stretch` times the squared lengths of both points."""
    # |a - b|^2 = |a|^2 + |b|^2 - 2 a'b, one product of matrices instead of N M D differences
    lengths = a.square().sum(1, keepdim=True) + b.square().sum(1)
    return lengths.mul_(1 + stretch).addmm_(a, b.T, alpha=-2)


def _radii(x: torch.Tensor, k: int, chunk: int) -> torch.Tensor:
    """The squared distance from each point to its k-th nearest other point."""
    import torch

    found = []
    for start in range(0, len(x), chunk):
        squared = _squared(x[start : start + chunk], x)
        squared.diagonal(start).fill_(math.inf)  # a point is no neighbour of itself
        found.append(squared.topk(k, largest=False).values[:, -1])
    return torch.cat(found)


def _balls(
    points: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor, chunk: int, *, closed: bool
) -> Iterator[torch.Tensor]:
    """Which points lie in which balls, for `chunk` points at a time."""
    # a tie is in a closed ball and outside an open one: distances are moved by more than their rounding, to that side
    for part in points.split(chunk):
        yield _squared(part, centres, -_TIE) <= radii if closed else _squared(part, centres, _TIE) < radii


def _share(parts: Sequence[torch.Tensor]) -> float:
    import torch

    return float(torch.cat(list(parts)).double().mean())
