"""UniDiffDA, Table 16: other classifiers: MobileNetV3-Large, ResNet-50, ViT-B/16. Not run here."""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.experiment import Sweep


def _caltech101(*, epochs: bool = False) -> Sweep:
    task = protocol.caltech101()
    arms = protocol.coarse_arms(task, 4.0)
    chosen = {name: arms[name] for name in ("Real Guidance", "GIF", "Diff-Mix")}
    sweep = protocol.compare(task, chosen, epochs=epochs)
    return protocol.changed(sweep, {"space": {"recipe.model": tuple(protocol.PRETRAINED)}})


def caltech101() -> Sweep:
    """Caltech-101 from scratch, 45,469 optimiser steps for every arm; the paper's are in caltech101_epochs."""
    return _caltech101()


def caltech101_epochs() -> Sweep:
    """Caltech-101 from scratch, 100 epochs.

    Paper (MobileNet, ResNet, ViT): baseline 60.11 54.33 26.29, Real Guidance 72.35 65.38 33.71, GIF 75.18 76.49 39.77,
    Diff-Mix 77.00 77.62 40.51.
    """
    return _caltech101(epochs=True)


def birds_5() -> Sweep:
    """Birds, 5 a class, ImageNet weights, 128 epochs.

    Paper (MobileNet, ResNet, ViT): baseline 33.26 52.50 58.09, DiffuseMix 36.42 55.50 58.47, DA-Fusion 39.32 56.04
    59.84, Diff-Mix 44.10 62.91 66.09.
    """
    task = protocol.birds(5)
    arms = protocol.fine_arms(task)
    chosen: dict[str, protocol.Arm] = {"Baseline": {}}
    chosen |= {name: arms[name] for name in ("DiffuseMix", "DA-Fusion", "Diff-Mix")}
    compared, against = dict(chosen), dict[str, tuple[str, ...]]()
    for model in ("mobilenet_v3_large", "vit_b_16"):
        classifier = {"recipe.model": model, "recipe.weights": protocol.PRETRAINED[model]}
        compared |= {f"{name}, {model}": fields | classifier for name, fields in chosen.items()}
        # each classifier has a baseline of its own
        against |= {f"{name}, {model}": (f"Baseline, {model}",) for name in chosen if name != "Baseline"}
        against[f"Baseline, {model}"] = ()
    return protocol.compare(task, compared, epochs=True, against=against)
