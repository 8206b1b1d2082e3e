"""UniDiffDA, Table 12: newer backbones, fine-tuned. Not run here.

Stable Diffusion 3.5 (Diff-Aug 71.52 66.97 44.65 58.13, Diff-Mix 75.21 70.64 46.10 60.27 on Caltech-101, CIFAR-100,
Birds with 5 and 10 shots) is not among the arms: its transformer is no UNet, which is what is driven here.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.diffusion.backbone import Backbone
from synthaug.experiment import Sweep

SD21 = Backbone(model="stabilityai/stable-diffusion-2-1", precision="fp16")


def _sweep(task: protocol.Task, arms: dict[str, protocol.Arm], *, epochs: bool = False) -> Sweep:
    compared = {}
    for name in ("Diff-Aug", "Diff-Mix"):
        compared[f"{name}, SD1.5"] = arms[name]
        compared[f"{name}, SD2.1"] = arms[name] | {"backbone": SD21}
    return protocol.compare(task, compared, epochs=epochs)


def caltech101() -> Sweep:
    """Caltech-101, 45,469 optimiser steps for every arm; the paper's are in caltech101_epochs."""
    return _sweep(protocol.caltech101(), protocol.coarse_arms(protocol.caltech101()))


def caltech101_epochs() -> Sweep:
    """Caltech-101, 100 epochs. Paper (SD1.5, SD2.1): Diff-Aug 71.67 71.27, Diff-Mix 75.62 75.35."""
    return _sweep(protocol.caltech101(), protocol.coarse_arms(protocol.caltech101()), epochs=True)


def cifar100() -> Sweep:
    """CIFAR-100, 187,500 optimiser steps for every arm; the paper's are in cifar100_epochs."""
    return _sweep(protocol.cifar100(), protocol.coarse_arms(protocol.cifar100()))


def cifar100_epochs() -> Sweep:
    """CIFAR-100, 100 epochs. Paper (SD1.5, SD2.1): Diff-Aug 67.73 68.19, Diff-Mix 71.45 71.57."""
    return _sweep(protocol.cifar100(), protocol.coarse_arms(protocol.cifar100()), epochs=True)


def birds_5() -> Sweep:
    """Birds, 5 a class, 128 epochs. Paper (SD1.5, SD2.1): Diff-Aug 60.36 48.73, Diff-Mix 62.96 51.14."""
    return _sweep(protocol.birds(5), protocol.fine_arms(protocol.birds(5)), epochs=True)


def birds_10() -> Sweep:
    """Birds, 10 a class, 128 epochs. Paper (SD1.5, SD2.1): Diff-Aug 71.71 64.01, Diff-Mix 73.26 67.75."""
    return _sweep(protocol.birds(10), protocol.fine_arms(protocol.birds(10)), epochs=True)
