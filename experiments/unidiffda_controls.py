"""UniDiffDA's methods beside the controls that its tables lack: each also with TrivialAugment, and real images of the
generator's own training data, retrieved by CLIP, in place of generated ones (Geng et al. 2024). Not run here.

`--set arms.retrieval.method.upstream.path=DIR` names a folder with a folder of such images for each class, best a part
of LAION that was filtered by the names of the classes; without it, leave retrieval out.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments import unidiffda as protocol
from synthaug.classify.augment import TrivialAugment
from synthaug.data.dataset import Dataset
from synthaug.experiment import Sweep
from synthaug.methods.retrieval import Retrieval

WITH = " + TrivialAugment"


def _controlled(task: protocol.Task, arms: Mapping[str, protocol.Arm]) -> Sweep:
    """Every gain over plain, TrivialAugment and retrieval at equal steps."""
    stronger = {"recipe.transforms": (*protocol.FLIP_AND_CROP, TrivialAugment())}
    retrieved = protocol.Arm(method=Retrieval(Dataset("folder", val_share=0.0)))
    everything = {"TrivialAugment": stronger, "retrieval": retrieved, **arms}
    both = {f"{name}{WITH}": arm | stronger for name, arm in {"retrieval": retrieved, **arms}.items()}
    against: dict[str, tuple[str, ...]] = {name: ("TrivialAugment", f"retrieval{WITH}") for name in both}
    against[f"retrieval{WITH}"] = ("TrivialAugment",)
    return protocol.compare(task, everything | both, controls=("TrivialAugment", "retrieval"), against=against)


def caltech101() -> Sweep:
    """Caltech-101, 45,469 optimiser steps for every arm."""
    task = protocol.caltech101()
    return _controlled(task, protocol.coarse_arms(task, 4.0))


def birds_5() -> Sweep:
    """Birds, 5 a class, ImageNet weights."""
    task = protocol.birds(5)
    return _controlled(task, protocol.fine_arms(task))
