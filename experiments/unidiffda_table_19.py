"""UniDiffDA, Table 19: fewer diffusion steps, with and without a latent consistency model (LCM). Not run here.

The paper does not say which LCM, nor its guidance: here the LCM-LoRA for Stable Diffusion 1.5, on top of what was
fine-tuned, without guidance.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.experiment import Sweep


def _sweep(
    task: protocol.Task, arms: dict[str, protocol.Arm], names: tuple[str, str], *, epochs: bool = False
) -> Sweep:
    compared: dict[str, protocol.Arm] = {}
    for name in names:
        for steps in (25, 10, 5):
            compared[f"{name}, {steps} steps"] = arms[name] | {"method.steps": steps}
        for steps in (5, 3):
            few = {"backbone": protocol.LCM, "method.steps": steps, "method.guidance": 1.0}
            compared[f"{name}, LCM, {steps} steps"] = arms[name] | few
    return protocol.compare(task, compared, epochs=epochs)


def _coarse(task: protocol.Task, *, epochs: bool = False) -> Sweep:
    return _sweep(task, protocol.coarse_arms(task), ("Real Guidance", "Diff-Aug"), epochs=epochs)


def _birds(shots: int) -> Sweep:
    task = protocol.birds(shots)
    return _sweep(task, protocol.fine_arms(task), ("Diff-Aug", "Diff-Mix"), epochs=True)


def caltech101() -> Sweep:
    """Caltech-101, 45,469 optimiser steps for every arm; the paper's are in caltech101_epochs."""
    return _coarse(protocol.caltech101())


def caltech101_epochs() -> Sweep:
    """Caltech-101, 100 epochs.

    Paper (25, 10, 5 steps, LCM 5, LCM 3): Real Guidance 65.38 65.26 64.25 64.78 63.57, Diff-Aug 71.67 71.42 69.75 70.86
    67.71.
    """
    return _coarse(protocol.caltech101(), epochs=True)


def cifar100() -> Sweep:
    """CIFAR-100, 187,500 optimiser steps for every arm; the paper's are in cifar100_epochs."""
    return _coarse(protocol.cifar100())


def cifar100_epochs() -> Sweep:
    """CIFAR-100, 100 epochs.

    Paper (25, 10, 5 steps, LCM 5, LCM 3): Real Guidance 66.24 66.57 66.00 66.37 65.33, Diff-Aug 67.73 67.69 67.47 67.83
    66.56.
    """
    return _coarse(protocol.cifar100(), epochs=True)


def birds_5() -> Sweep:
    """Birds, 5 a class, 128 epochs.

    Paper (25, 10, 5 steps, LCM 5, LCM 3): Diff-Aug 60.36 59.93 57.64 59.46 56.71, Diff-Mix 62.96 62.77 58.85 62.04
    59.30.
    """
    return _birds(5)


def birds_10() -> Sweep:
    """Birds, 10 a class, 128 epochs.

    Paper (25, 10, 5 steps, LCM 5, LCM 3): Diff-Aug 71.71 71.28 69.83 70.83 68.33, Diff-Mix 73.26 72.82 71.07 72.26
    71.14.
    """
    return _birds(10)
