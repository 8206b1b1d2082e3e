"""Targeted augmentation, figure 2: ResNet-18, SGD and SAM. Not run here.

Bars without numbers in the paper. What it says: targeted images improve SGD and SAM alike, by up to 2.8 points
(Tiny-ImageNet, SAM), and bring SGD ahead of SAM on CIFAR-100 and Tiny-ImageNet. With amplification 5 the set of
CIFAR-10 is 2.2 times and that of CIFAR-100 2.6 times as large as the original, which is more than new images of
everything once: so each arm stands here at equal steps and at equal epochs.
"""

from __future__ import annotations

from experiments import targeted as protocol
from synthaug.experiment import Sweep


def cifar10() -> Sweep:
    """Upsampled twice, and new images at amplification 5. Paper: a chart, without the claim of the other two."""
    return _bars("cifar10", 5)


def cifar100() -> Sweep:
    """The same. Paper: a chart; SGD with them is ahead of SAM alone."""
    return _bars("cifar100", 5)


def tiny_imagenet() -> Sweep:
    """At amplification 4. Paper: a chart; SGD with them is ahead of SAM alone, SAM gains 2.8 points."""
    return _bars("tiny-imagenet", 4)


def _bars(dataset: str, amplification: int) -> Sweep:
    arms: protocol.Arms = {
        "original": protocol.ORIGINAL, "upsampled": protocol.upsampled(),
        "targeted": protocol.targeted(amplification),
    }  # fmt: skip
    arms = protocol.also(arms, "SAM", protocol.sharp(protocol.RHO[dataset]))
    arms = protocol.also(arms, "equal epochs", protocol.longer(), protocol.new(arms))
    return protocol.compare(protocol.task(dataset), arms, ("upsampled",))
