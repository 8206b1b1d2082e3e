"""Targeted augmentation, figure 4: which images are made anew, and TrivialAugment on top; ResNet-18. Not run here."""

from __future__ import annotations

from typing import Any

from experiments import targeted as protocol
from synthaug.classify.subset import Forgotten, HighLoss, LowMargin, Misclassified, Subset
from synthaug.experiment import Sweep


def cifar10() -> Sweep:
    """Paper: a chart; new images of the slow 30 % once are ahead of as many of any, and of new images of all."""
    return _which("cifar10")


def cifar100() -> Sweep:
    """Paper: a chart; the same of the slow 40 %."""
    return _which("cifar100")


def more_of_all() -> Sweep:
    """CIFAR-10: new images of all at amplification 10 and 30, as earlier papers needed. Paper: "10 to 30 times"."""
    base, arms = protocol.task("cifar10"), {"original": protocol.ORIGINAL, "targeted": protocol.targeted(5)}
    arms |= {f"all, {times} times": protocol.of_all(times) for times in (2, 10, 30)}
    return protocol.compare(base, protocol.both_lengths(arms, protocol.EPOCHS))


def selectors() -> Sweep:
    """CIFAR-10, table 7: which images. Paper: clusters are ahead of the highest losses and of what is misclassified."""
    base = protocol.task("cifar10")
    assert base.subset is not None
    early: dict[str, Any] = {"early": base.subset.early}
    arms = {"original": protocol.ORIGINAL, "slow": protocol.targeted(2), "any": protocol.random_of_as_many(base)}
    others: dict[str, Subset] = {"highest loss": HighLoss(**early), "lowest margin": LowMargin(**early)}
    others |= {"misclassified": Misclassified(**early), "forgotten": Forgotten()}
    arms |= {name: {"subset": subset, "amplification": 2} for name, subset in others.items()}
    return protocol.compare(base, protocol.both_lengths(arms, protocol.EPOCHS), controls=("any",))


def trivial_augment() -> Sweep:
    """CIFAR-10 with TrivialAugment. Paper: a chart; with it new images at amplification 5 are the best of all."""
    arms = {"original": protocol.ORIGINAL, "targeted": protocol.targeted(5)}
    arms = arms | {f"{name}, TrivialAugment": protocol.trivial(arm, 32) for name, arm in arms.items()}
    arms = protocol.both_lengths(arms, protocol.EPOCHS)
    return protocol.compare(protocol.task("cifar10"), arms, controls=("original, TrivialAugment",))


def _which(dataset: str) -> Sweep:
    base = protocol.task(dataset)
    arms = {
        "original": protocol.ORIGINAL, "any": protocol.random_of_as_many(base), "all": protocol.of_all(),
        "targeted": protocol.targeted(2),
    }  # fmt: skip
    return protocol.compare(base, protocol.both_lengths(arms, protocol.EPOCHS), controls=("any", "all"))
