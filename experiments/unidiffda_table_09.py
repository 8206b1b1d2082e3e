"""UniDiffDA, Table 9: the strength of Real Guidance, full concatenation. Not run here.

The five strengths are lost from the paper's text; these are the ones of its Figure 11.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.experiment import Choice, Sweep

STRENGTHS = Choice((0.1, 0.3, 0.5, 0.7, 0.9))


def _sweep(task: protocol.Task) -> Sweep:
    base = protocol.one(task, protocol.coarse_arms(task)["Real Guidance"])
    return Sweep(base=base, space={"method.strength": STRENGTHS}, seeds=(0, 1, 2))


def caltech101() -> Sweep:
    """Caltech-101. Paper: 54.96, 56.48, 58.70, 64.31, 65.38 for rising strength."""
    return _sweep(protocol.caltech101())


def cifar100() -> Sweep:
    """CIFAR-100. Paper: 58.10, 59.21, 60.06, 65.16, 66.24 for rising strength."""
    return _sweep(protocol.cifar100())


def imagenet100() -> Sweep:
    """ImageNet-100. Paper: 66.30, 68.16, 70.67, 76.70, 77.12 for rising strength."""
    return _sweep(protocol.imagenet100())
