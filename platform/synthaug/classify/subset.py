"""Which training images new ones are made of: those that a net learns slowly (targeted augmentation), and the choices
that this one is compared with."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field

from synthaug.classify.optim import Steps
from synthaug.classify.recipe import Recipe
from synthaug.settings import Count, Share, UserError, seed_of, settings

if TYPE_CHECKING:
    import torch

    Arrays = TypeVar("Arrays", np.ndarray, torch.Tensor)

Layer = Literal["logits", "features"]


@settings
class Early:
    """How the net is trained whose answers tell images apart: for some epochs on the real images alone, at its peak
    rate, else as the recipe says (None: the experiment's own; of SAM its base; a warm-up is that share of these
    epochs). It stops sooner once the error on the training images falls by less than `slows` of the most that an epoch
    has lowered it by."""

    # 8 is what USEFUL, on which the paper builds, has for ResNet-18 on CIFAR-10
    epochs: Count = 8
    slows: Annotated[float, Field(gt=0, lt=1)] | None = None
    recipe: Recipe | None = None

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe of that net, for its longest."""
        chosen = self.recipe or recipe
        return dataclasses.replace(
            chosen, optimizer=chosen.optimizer.plain, epochs=self.epochs, steps=None, schedule=Steps(at=()),
            keeps_last=False, views=(), clean_weight=1.0, evaluations=1,
        )  # fmt: skip

    def is_over(self, errors: list[float]) -> bool:
        """Whether the error, here after each epoch from before the first on, has begun to fall more slowly."""
        falls = [before - after for before, after in zip(errors, errors[1:], strict=False)]
        return self.slows is not None and len(falls) > 1 and falls[-1] < self.slows * max(falls)


@dataclass(frozen=True)
class Signals:
    """What that net said of N training images: their losses and margins after each epoch (E x N; a margin is the
    probability of the right class less the highest of the others), and what a layer of it put out in the end."""

    labels: np.ndarray
    losses: np.ndarray
    margins: np.ndarray
    outputs: Callable[[Layer], np.ndarray]  # N x C or N x D


@settings
class Subset(ABC):
    """A choice among the training images. Training starts anew with the new images, or goes on from the early net by
    the whole recipe, and so has that net's epochs more."""

    early: Early = Early()
    restart: bool = True

    def __call__(self, signals: Signals, seed: int) -> np.ndarray:
        """The images that new ones are made of; of each class some and never all, if it has more than one."""
        return in_both(self.choose(signals, seed), signals.losses[-1], signals.labels)

    @abstractmethod
    def choose(self, signals: Signals, seed: int) -> np.ndarray:
        """A mask over the images."""


@settings
class Slow(Subset):
    """Each class in clusters by what the net puts out: the cluster whose mean loss is the highest."""

    layer: Layer = "logits"
    clusters: Annotated[int, Field(ge=2)] = 2

    def choose(self, signals: Signals, seed: int) -> np.ndarray:
        found: np.ndarray = slow_learnable(
            signals.outputs(self.layer), signals.losses[-1], signals.labels, seed=seed, clusters=self.clusters
        )
        return found


@settings
class Ranked(Subset):
    """As many of each class as `Slow` of this layer and these clusters would choose by the same net, in another
    order."""

    layer: Layer = "logits"
    clusters: Annotated[int, Field(ge=2)] = 2

    def choose(self, signals: Signals, seed: int) -> np.ndarray:
        scores = self.scores(signals, seed)
        counts = self.counts(signals, seed)
        chosen = np.zeros(len(scores), bool)
        for label, count in counts.items():
            members = np.flatnonzero(signals.labels == label)
            # of equals the first
            chosen[members[np.argsort(-scores[members], kind="stable")[:count]]] = True
        return chosen

    def counts(self, signals: Signals, seed: int) -> dict[int, int]:
        """How many of each class."""
        like = Slow(layer=self.layer, clusters=self.clusters)(signals, seed)
        return {int(label): int(like[signals.labels == label].sum()) for label in np.unique(signals.labels)}

    @abstractmethod
    def scores(self, signals: Signals, seed: int) -> np.ndarray:
        """The images with the highest are chosen."""


@settings
class HighLoss(Ranked):
    """Those of the highest loss; with a `share` that much of each class."""

    share: Share | None = None

    def counts(self, signals: Signals, seed: int) -> dict[int, int]:
        if self.share is None:
            return super().counts(signals, seed)
        labels, sizes = np.unique(signals.labels, return_counts=True)
        return {int(label): round(self.share * size) for label, size in zip(labels, sizes.tolist(), strict=True)}

    def scores(self, signals: Signals, seed: int) -> np.ndarray:
        loss: np.ndarray = signals.losses[-1]
        return loss


@settings
class LowMargin(Ranked):
    """Those whose right class is least ahead of the others."""

    def scores(self, signals: Signals, seed: int) -> np.ndarray:
        margin: np.ndarray = signals.margins[-1]
        return -margin


@settings
class Forgotten(Ranked):
    """Those that were right after one epoch and wrong after the next the most often, and before them those that were
    never right (Toneva et al. 2019, who count at each batch); of equals those of the highest loss. It takes more epochs
    than telling slow from fast does."""

    early: Early = Early(epochs=50)

    def scores(self, signals: Signals, seed: int) -> np.ndarray:
        right = signals.margins > 0
        events = (right[:-1] & ~right[1:]).sum(0).astype(float)
        events[~right.any(0)] = np.inf
        order = np.lexsort((signals.losses[-1], events))  # by events, then by loss
        ranks = np.empty(len(order))
        ranks[order] = np.arange(len(order))
        return ranks


@settings
class AtRandom(Ranked):
    """Any: what is gained by how many, and not by which."""

    def scores(self, signals: Signals, seed: int) -> np.ndarray:
        return np.random.default_rng(seed_of(seed, "subset")).random(len(signals.labels))


@settings
class Misclassified(Subset):
    """Those that the net gets wrong, however many they are."""

    def choose(self, signals: Signals, seed: int) -> np.ndarray:
        chosen: np.ndarray = signals.margins[-1] <= 0
        return chosen


def slow_learnable(outputs: Arrays, losses: Arrays, labels: Arrays, *, seed: int, clusters: int = 2) -> Arrays:
    """The images that are learned slowly (a mask): the outputs of each class in clusters (k-means), the one whose mean
    loss is the highest. A class of one image is slow; of images that are all alike the one of the highest loss is."""
    found = _slow(_array(outputs), _array(losses), _array(labels), seed, clusters)
    if isinstance(labels, np.ndarray) or not hasattr(labels, "device"):
        return found  # type: ignore[return-value]
    import torch

    return torch.from_numpy(found).to(labels.device)


def _array(values: Any) -> np.ndarray:
    """Numbers of numpy, torch or a list as an array; half precision as the single one that it stands for."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _slow(outputs: np.ndarray, losses: np.ndarray, labels: np.ndarray, seed: int, clusters: int) -> np.ndarray:
    if not len(outputs) == len(losses) == len(labels):
        raise UserError(f"{len(outputs)} outputs, {len(losses)} losses and {len(labels)} labels are not of one set")
    if not (np.isfinite(outputs).all() and np.isfinite(losses).all()):
        raise UserError("some outputs or losses are no numbers: the net has diverged; lower the lr of its recipe")
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        groups = clustered(outputs[members].reshape(len(members), -1), clusters, seed_of(seed, "slow"))
        means = [losses[members[groups == group]].mean() for group in range(groups.max() + 1)]
        if len(means) > 1:
            chosen[members[groups == int(np.argmax(means))]] = True
    return in_both(chosen, losses, labels)


def clustered(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """The number of each point's cluster; as many as there are different points at most. The order of points is no
    matter; where there are no clusters, starts are, and so the seed."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    points = points.astype(float)
    # equal images have outputs that differ in their last bits, by where in a batch they were
    if np.ptp(points, axis=0).max() <= 1e-6 * np.abs(points).max():
        return np.zeros(len(points), int)
    different = len(np.unique(points, axis=0))
    order = np.lexsort(points.T)
    found = np.empty(len(points), int)
    # of one thread, so that sums are the same wherever they are made; of ten starts the best
    with threadpool_limits(1):
        found[order] = KMeans(min(clusters, different), n_init=10, random_state=seed % 2**32).fit_predict(points[order])
    return found


def in_both(chosen: np.ndarray, losses: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The choice, with the hardest of each class in it and the easiest out of it where all are on one side; an image
    that is alone in its class is in it."""
    made = chosen.copy()
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if not chosen[members].any():
            made[members[np.argmax(losses[members])]] = True
        elif chosen[members].all() and len(members) > 1:
            # of equal losses not the one that would be chosen if it were the other way round
            made[members[len(members) - 1 - np.argmin(losses[members][::-1])]] = False
    return made
