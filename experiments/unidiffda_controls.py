"""UniDiffDA's methods beside the controls that its tables lack: each also with TrivialAugment, and real images of the
generator's own training data, retrieved by CLIP, in place of generated ones (Geng et al. 2024). Not run here.

Set `UPSTREAM` to a folder with a folder of such images for each class, best a part of LAION that was filtered by the
names of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments import unidiffda as protocol
from synthaug.classify.augment import TrivialAugment
from synthaug.data.dataset import Dataset
from synthaug.experiment import Sweep
from synthaug.methods.retrieval import Retrieval

UPSTREAM = "upstream"
WITH = " + TrivialAugment"


def _controlled(task: protocol.Task, arms: Mapping[str, protocol.Arm]) -> Sweep:
    """Every gain over plain, TrivialAugment and retrieved images that are used in the same way, at equal steps."""
    stronger = {"recipe.transforms": (*protocol.FLIP_AND_CROP, TrivialAugment())}
    # all images of a folder: without train/ and test/ a fifth of them would be taken for a test set
    retrieval = Retrieval(Dataset("folder", path=UPSTREAM, val_share=0.0), split=None)
    found: dict[str, protocol.Arm] = {"TrivialAugment": stronger}
    against: dict[str, tuple[str, ...]] = {}
    for name, arm in arms.items():
        control = f"retrieval, {type(arm['utilize']).__name__} {getattr(arm['utilize'], 'p', '')}".strip()
        found[control] = {"method": retrieval, "utilize": arm["utilize"]}
        found |= {name: arm, f"{control}{WITH}": found[control] | stronger, f"{name}{WITH}": arm | stronger}
        against[control] = ("Baseline", "TrivialAugment")
        against |= {name: (*against[control], control), f"{control}{WITH}": ("TrivialAugment",)}
        against[f"{name}{WITH}"] = ("TrivialAugment", f"{control}{WITH}")
    return protocol.compare(task, found, against=against)


def caltech101() -> Sweep:
    """Caltech-101, 45,469 optimiser steps for every arm."""
    task = protocol.caltech101()
    return _controlled(task, protocol.coarse_arms(task, 4.0))


def birds_5() -> Sweep:
    """Birds, 5 a class, ImageNet weights."""
    task = protocol.birds(5)
    return _controlled(task, protocol.fine_arms(task))
