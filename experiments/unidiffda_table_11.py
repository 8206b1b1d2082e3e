"""UniDiffDA, Table 11: newer backbones under Real Guidance. Not run here.

Stable Diffusion 3.5 (64.76 at 512 px and 65.44 at 1024 px on Caltech-101, 65.10 and 66.17 on CIFAR-100) is not
among the arms: its transformer is no UNet, which is what is driven here.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.diffusion.backbone import Backbone
from synthaug.experiment import Sweep

SD21 = "stabilityai/stable-diffusion-2-1"


def _sweep(task: protocol.Task, *, epochs: bool = False) -> Sweep:
    chosen = protocol.coarse_arms(task)["Real Guidance"]
    arms = {"SD1.5": chosen}
    for size in (512, 768):
        arms[f"SD2.1, {size} px"] = chosen | {"backbone": Backbone(model=SD21, precision="fp16", resolution=size)}
    return protocol.compare(task, arms, epochs=epochs)


def caltech101() -> Sweep:
    """Caltech-101, 45,469 optimiser steps for every arm; the paper's are in caltech101_epochs."""
    return _sweep(protocol.caltech101())


def caltech101_epochs() -> Sweep:
    """Caltech-101, 100 epochs. Paper: SD1.5 65.38, SD2.1 63.34 at 512 px and 65.27 at 768 px."""
    return _sweep(protocol.caltech101(), epochs=True)


def cifar100() -> Sweep:
    """CIFAR-100, 187,500 optimiser steps for every arm; the paper's are in cifar100_epochs."""
    return _sweep(protocol.cifar100())


def cifar100_epochs() -> Sweep:
    """CIFAR-100, 100 epochs. Paper: SD1.5 66.24, SD2.1 59.87 at 512 px and 66.86 at 768 px."""
    return _sweep(protocol.cifar100(), epochs=True)
