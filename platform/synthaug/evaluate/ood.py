"""Out-of-distribution detection from what reaches the last layer, and how well it works.

z are the features before the last layer (N x D), W and b that layer (C x D, C). Every score is higher for images that
look more like those of the training set.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from synthaug.evaluate.base import Evaluation, Result, Subject
from synthaug.evaluate.outliers import Noise, Outliers, Textures
from synthaug.settings import OneOf, UserError, settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from synthaug.diffusion.denoiser import Array

    Scores = Sequence[float] | np.ndarray | Tensor

Percentile = Annotated[float, Field(gt=0, lt=100)]
# the values among which OpenOOD chooses for ASH and SCALE
FROM_65 = tuple(float(p) for p in range(65, 100, 5))


def msp(logits: Array) -> Array:
    """The largest probability (Hendrycks and Gimpel 2017)."""
    import torch

    return _like(logits, torch.as_tensor(logits).softmax(-1).amax(-1))


def react(features: Array, weight: Array, bias: Array, threshold: float) -> Array:
    """logsumexp of the logits of min(z, threshold) (Sun et al. 2021)."""
    return _energy(features, weight, bias, lambda z: z.clamp(max=threshold))


def ash_b(features: Array, weight: Array, bias: Array, percentile: float) -> Array:
    """logsumexp when the units above the percentile share the sum of all equally, the others are 0 (Djurisic et al.
    2023)."""

    def shape(z: Tensor) -> Tensor:
        kept = _largest(z, percentile)
        # each of the kept units becomes s1 / k: the sum stays what it was
        return kept * (z.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True))

    return _energy(features, weight, bias, shape)


def ash_p(features: Array, weight: Array, bias: Array, percentile: float) -> Array:
    """logsumexp when the units above the percentile stay, the others are 0."""
    return _energy(features, weight, bias, lambda z: z * _largest(z, percentile))


def ash_s(features: Array, weight: Array, bias: Array, percentile: float) -> Array:
    """logsumexp when the units above the percentile are scaled by exp(r), the others are 0."""
    return _energy(features, weight, bias, lambda z: z * _largest(z, percentile) * _ratio(z, percentile).exp())


def scale(features: Array, weight: Array, bias: Array, percentile: float) -> Array:
    """logsumexp when all units are scaled by exp(r) (Xu et al. 2024)."""
    return _energy(features, weight, bias, lambda z: z * _ratio(z, percentile).exp())


def _energy(features: Array, weight: Array, bias: Array, shape: Callable[[Tensor], Tensor]) -> Array:
    """logsumexp(W shape(z) + b), in the kind of z."""
    import torch

    z = torch.as_tensor(features)  # shape() makes new tensors: the public code changes the caller's in place
    w, b = torch.as_tensor(weight).to(z), torch.as_tensor(bias).to(z)
    return _like(features, (shape(z) @ w.T + b).logsumexp(-1))


def _like(given: Array, result: Tensor) -> Array:
    return result.numpy() if isinstance(given, np.ndarray) else result


def _largest(z: Tensor, percentile: float) -> Tensor:
    """1 for the units of a row above the percentile, at least one, else 0; of equal ones the first count as larger."""
    import torch

    if not 0 <= percentile < 100:
        raise UserError(f"percentile={percentile} must be at least 0 and below 100")
    units = z.shape[-1]
    kept = max(1, units - round(units * percentile / 100))  # k = n - round(n p / 100), as OpenOOD counts
    # stable, or among equal units (zeros after a ReLU, above all) the device would choose
    best = z.sort(dim=-1, descending=True, stable=True).indices[..., :kept]
    return torch.zeros_like(z).scatter(-1, best, 1.0)


def _ratio(z: Tensor, percentile: float) -> Tensor:
    """r: the sum of all units over the sum of those above the percentile; 1 where that is 0."""
    import torch

    part = (z * _largest(z, percentile)).sum(-1, keepdim=True)
    # r = s1 / s2, at least 1 for units that are not negative; a row of zeros has neither
    safe = torch.where(part == 0, 1.0, part)
    return torch.where(part == 0, 1.0, z.sum(-1, keepdim=True) / safe)


def auroc(id: Scores, ood: Scores) -> float:
    """The probability that an in-distribution score is above an outlier's, ties counted half."""
    inside, outside = _sorted(id, "in-distribution"), _sorted(ood, "out-of-distribution")
    # Mann-Whitney: left counts the outliers below, right those below or equal; their mean halves the ties
    below = np.searchsorted(outside, inside, "left").sum()
    not_above = np.searchsorted(outside, inside, "right").sum()
    return float((below + not_above) / (2 * len(inside) * len(outside)))


def fpr95(id: Scores, ood: Scores) -> float:
    """The share of in-distribution images at or below the lowest threshold that catches 95 % of the outliers. (Some
    papers take the other side for the positive one; the numbers agree where both scores have the same spread.)"""
    inside, outside = _sorted(id, "in-distribution"), _sorted(ood, "out-of-distribution")
    catch = -(-95 * len(outside) // 100)  # rounded up, in whole numbers: 0.95 is none in binary
    return float((inside <= outside[catch - 1]).mean())


def _sorted(scores: Scores, what: str) -> np.ndarray:
    import torch

    found: np.ndarray = torch.as_tensor(scores).detach().double().flatten().sort().values.cpu().numpy()
    if len(found) == 0:
        raise UserError(f"there are no {what} scores")
    return found


class Layer(NamedTuple):
    """The last layer, and the features of the validation images."""

    weight: np.ndarray
    bias: np.ndarray
    usual: np.ndarray


@settings
class Detector(ABC):
    """A way to tell images that are like those of the training set from others."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def choices(self) -> tuple[Detector, ...]:
        """The same with other settings, among which validation chooses; the first wins a tie."""
        return (self,)

    @abstractmethod
    def score(self, features: np.ndarray, layer: Layer) -> np.ndarray:
        """One number an image, higher for those that are like the training images."""

    def about(self) -> dict[str, float]:
        """The settings that were chosen."""
        return {}


@settings
class MSP(Detector):
    """The largest probability."""

    def score(self, features: np.ndarray, layer: Layer) -> np.ndarray:
        return msp(features @ layer.weight.T + layer.bias)


@settings
class _Shaping(Detector):
    """What has a percentile: its own is the published one, and validation may choose one of `sweep` instead."""

    percentile: Percentile = 90.0
    sweep: tuple[Percentile, ...] = FROM_65

    @property
    def choices(self) -> tuple[Detector, ...]:
        # its own first: where validation sees no difference the published one stays
        return (self, *(dataclasses.replace(self, percentile=p) for p in self.sweep if p != self.percentile))

    def about(self) -> dict[str, float]:
        return {"percentile": self.percentile}


@settings
class ReAct(_Shaping):
    """Features cut at a percentile of all activations of validation images."""

    sweep: tuple[Percentile, ...] = (85.0, 90.0, 95.0, 99.0)

    def score(self, features: np.ndarray, layer: Layer) -> np.ndarray:
        # one threshold for all units, from all activations flattened
        threshold = float(np.percentile(layer.usual, self.percentile))
        return react(features, layer.weight, layer.bias, threshold)


@settings
class ASH(_Shaping):
    """The largest features alone: with equal shares of the sum (B), as they are (P), or scaled (S)."""

    form: Literal["B", "P", "S"] = "B"

    @property
    def name(self) -> str:
        return f"ASH-{self.form}"

    def score(self, features: np.ndarray, layer: Layer) -> np.ndarray:
        ash = {"B": ash_b, "P": ash_p, "S": ash_s}[self.form]
        return ash(features, layer.weight, layer.bias, self.percentile)


@settings
class SCALE(_Shaping):
    """All features, scaled by how much the largest ones stand out."""

    percentile: Percentile = 85.0  # the published default; ReAct's and ASH's is 90

    def score(self, features: np.ndarray, layer: Layer) -> np.ndarray:
        return scale(features, layer.weight, layer.bias, self.percentile)


@settings
class OutOfDistribution(Evaluation):
    """How well outliers, `near` and `far` ones, are told from the images of a split: AUROC and FPR at 95 % TPR.

    Each detector's percentile is the one that tells the outliers in `val` best from the validation images; without
    any it is the published one. What is near depends on the classes, so there is no default.
    """

    near: tuple[OneOf[Outliers], ...] = ()
    far: tuple[OneOf[Outliers], ...] = (Noise(), Textures())
    val: tuple[OneOf[Outliers], ...] = (Textures(),)
    detectors: Annotated[tuple[OneOf[Detector], ...], Field(min_length=1)] = (MSP(), ReAct(), ASH(), SCALE())

    @model_validator(mode="after")
    def _sound(self) -> OutOfDistribution:
        if self.split == "val" and self.val:
            raise UserError("percentiles are chosen on val; report on another split, or set val=[]", ("split",))
        if not self.near + self.far:
            raise UserError("name the outliers, near or far")
        for field in ("near", "far", "val", "detectors"):
            names = [part.name for part in getattr(self, field)]
            if twice := [name for name in names if names.count(name) > 1]:
                raise UserError(f"two are called {twice[0]!r}, and so would their numbers be", (field,))
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("val", self.split)))

    def __call__(self, subject: Subject) -> Result:
        usual, images = subject.sets["val"][0], subject.sets[self.split][0]
        if len(usual) == 0:
            raise UserError("there are no validation images to choose by; set dataset.val_share above 0")
        size = images.shape[2]
        # other outliers to choose by than to report on, or the percentile would be fitted to the answer
        choosing = {f"val/{source.name}": source.images(size, "val") for source in self.val}
        reported = {f"near/{source.name}": source.images(size, "test") for source in self.near}
        reported |= {f"far/{source.name}": source.images(size, "test") for source in self.far}
        refuse_shared(choosing, reported)
        sets = {"val": usual, self.split: images} | choosing | reported
        # each image goes through the net once, whatever the number of detectors and percentiles
        seen = {name: penultimate(subject.model, made) for name, made in sets.items()}
        layer = last_layer(subject.model, seen["val"])
        metrics: dict[str, float] = {}
        chosen: dict[str, dict[str, float]] = {}
        for detector in self.detectors:
            best = choose(detector, layer, [seen[name] for name in choosing])
            found = rated(best, layer, seen[self.split], {name: seen[name] for name in reported})
            metrics |= {f"{self.title}/ood/{best.name}/{name}": value for name, value in found.items()}
            chosen[best.name] = best.about()
        return {"metrics": metrics, "about": {"chosen": chosen, "images": {n: len(made) for n, made in sets.items()}}}


def choose(detector: Detector, layer: Layer, outliers: Sequence[np.ndarray]) -> Detector:
    """The settings of a detector that tell validation images best from outliers (all of them together)."""
    if not outliers:
        return detector
    count = len(layer.usual)
    features = np.concatenate([layer.usual, *outliers])
    scores = {choice: choice.score(features, layer) for choice in detector.choices}
    # max keeps the first of equals
    return max(scores, key=lambda choice: auroc(scores[choice][:count], scores[choice][count:]))


def rated(detector: Detector, layer: Layer, inside: np.ndarray, outliers: dict[str, np.ndarray]) -> dict[str, float]:
    """AUROC and FPR on each set of outliers ("near/letters") and their means over "near" and "far"."""
    scores = detector.score(inside, layer)
    found: dict[str, float] = {}
    for measure in (auroc, fpr95):
        values = {name: measure(scores, detector.score(z, layer)) for name, z in outliers.items()}
        for group in dict.fromkeys(name.partition("/")[0] for name in values):
            mine = {name: value for name, value in values.items() if name.startswith(f"{group}/")}
            found |= {f"{name}/{measure.__name__}": value for name, value in mine.items()}
            # over sets: a large one counts no more than a small one
            found[f"{group}/{measure.__name__}"] = float(np.mean(list(mine.values())))
    return found


def refuse_shared(choosing: dict[str, np.ndarray], reported: dict[str, np.ndarray]) -> None:
    """Refuse to report on an image that a setting was chosen by."""
    there = {image.tobytes() for images in choosing.values() for image in images}
    for name, images in reported.items():
        if shared := sum(image.tobytes() in there for image in images):
            raise UserError(f"{shared} images of {name} are among those to choose by; take others for one", ("val",))


def penultimate(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """What reaches the last linear layer, N x D in float64: probabilities near 1 would be ties in float32."""
    import torch

    from synthaug.classify.loop import predict
    from synthaug.classify.models import head

    found: list[Tensor] = []
    # what enters the head are the features, in any architecture
    with head(model)[1].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].double().cpu())):
        predict(model, images)
    return torch.cat(found).numpy()


def last_layer(model: nn.Module, usual: np.ndarray) -> Layer:
    from synthaug.classify.models import head

    weight, bias = (p.detach().double().cpu().numpy() for p in (head(model)[1].weight, head(model)[1].bias))
    return Layer(weight, bias, usual)
