"""UniDiffDA, Table 18: more words in the prompts. Not run here.

suffix-enrich fine-tunes on a description of each training image, suffix-dream generates with phrases imagined for the
class, suffix-exchange with the description of another training image. The phrases are yours to make (`suffixes` in
unidiffda.py says where they are looked for); the paper's are not published.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.experiment import Sweep
from synthaug.methods.prompts import SuffixDream, SuffixExchange


def _sweep(task: protocol.Task, arms: dict[str, protocol.Arm], *, epochs: bool = False) -> Sweep:
    table = protocol.suffixes(task)
    described = tuple(protocol.changed(part, {"suffixes": table}) for part in task.tuned())
    compared: dict[str, protocol.Arm] = {}
    for name in ("Diff-Aug", "Diff-Mix"):
        method = arms[name]["method"]
        dream = protocol.changed(method, {"prompts": SuffixDream(table=table)})
        exchange = protocol.changed(method, {"prompts": SuffixExchange(table=table)})
        compared[name] = arms[name]
        compared[f"{name}, enrich"] = arms[name] | {"finetune": described}
        compared[f"{name}, dream"] = arms[name] | {"method": dream}
        compared[f"{name}, exchange"] = arms[name] | {"method": exchange}
    return protocol.compare(task, compared, epochs=epochs)


def caltech101() -> Sweep:
    """Caltech-101, 45,469 optimiser steps for every arm; the paper's are in caltech101_epochs."""
    return _sweep(protocol.caltech101(), protocol.coarse_arms(protocol.caltech101()))


def caltech101_epochs() -> Sweep:
    """Caltech-101, 100 epochs.

    Paper (base, enrich, dream, exchange): Diff-Aug 71.67 70.24 73.03 72.16, Diff-Mix 75.62 72.54 77.23 76.83.
    """
    return _sweep(protocol.caltech101(), protocol.coarse_arms(protocol.caltech101()), epochs=True)


def cifar100() -> Sweep:
    """CIFAR-100, 187,500 optimiser steps for every arm; the paper's are in cifar100_epochs."""
    return _sweep(protocol.cifar100(), protocol.coarse_arms(protocol.cifar100()))


def cifar100_epochs() -> Sweep:
    """CIFAR-100, 100 epochs.

    Paper (base, enrich, dream, exchange): Diff-Aug 67.73 66.91 69.62 69.15, Diff-Mix 71.45 69.13 73.01 72.89.
    """
    return _sweep(protocol.cifar100(), protocol.coarse_arms(protocol.cifar100()), epochs=True)


def birds_5() -> Sweep:
    """Birds, 5 a class, 128 epochs.

    Paper (base, enrich, dream, exchange): Diff-Aug 60.36 54.87 60.78 61.19, Diff-Mix 62.96 56.29 63.14 63.65.
    """
    return _sweep(protocol.birds(5), protocol.fine_arms(protocol.birds(5)), epochs=True)


def birds_10() -> Sweep:
    """Birds, 10 a class, 128 epochs.

    Paper (base, enrich, dream, exchange): Diff-Aug 71.71 66.95 71.82 72.13, Diff-Mix 73.26 68.81 73.61 74.04.
    """
    return _sweep(protocol.birds(10), protocol.fine_arms(protocol.birds(10)), epochs=True)
