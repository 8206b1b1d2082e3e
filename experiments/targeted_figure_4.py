"""Targeted augmentation, figure 4: which images are made anew, and TrivialAugment on top; ResNet-18. Not run here."""

from __future__ import annotations

from typing import Any

from experiments import targeted as protocol
from synthaug.classify.subset import AtRandom, Early, Forgotten, HighLoss, LowMargin, Misclassified, Slow, Subset
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
    arms |= {f"all {times} times": protocol.of_all(times) for times in (2, 10, 30)}
    return protocol.compare(base, protocol.also(arms, "equal epochs", protocol.longer(), protocol.new(arms)))


def selectors() -> Sweep:
    """CIFAR-10, table 7: which images; each beside as many of any. Paper: clusters are ahead of the highest losses and
    of what is misclassified (of which there are as many as there are)."""
    base = protocol.task("cifar10")
    assert base.subset is not None
    early: dict[str, Any] = {"early": base.subset.early}
    late: dict[str, Any] = {"early": Early(epochs=50, recipe=base.recipe)}
    chosen: dict[str, Subset] = {
        "slow": Slow(**early), "any": AtRandom(**early), "highest loss": HighLoss(**early),
        "lowest margin": LowMargin(**early), "misclassified": Misclassified(**early), "forgotten": Forgotten(**late),
        "any as forgotten": AtRandom(**late),
    }  # fmt: skip
    arms: protocol.Arms = {"original": protocol.ORIGINAL} | {name: {"subset": which} for name, which in chosen.items()}
    arms = protocol.also(arms, "equal epochs", protocol.longer(), protocol.new(arms))
    against = {"forgotten": ("original", "any as forgotten"), "any as forgotten": ("original",)}
    return protocol.compare(base, arms, ("any",), against)


def trivial_augment() -> Sweep:
    """CIFAR-10 with TrivialAugment. Paper: a chart; with it new images at amplification 5 are the best of all."""
    arms = {"original": protocol.ORIGINAL, "upsampled": protocol.upsampled(5), "targeted": protocol.targeted(5)}
    arms = protocol.also(arms, "TrivialAugment", protocol.trivial(32))
    arms = protocol.also(arms, "equal epochs", protocol.longer(), protocol.new(arms))
    return protocol.compare(protocol.task("cifar10"), arms, ("upsampled",))


def _which(dataset: str) -> Sweep:
    base = protocol.task(dataset)
    arms = {
        "original": protocol.ORIGINAL, "any": protocol.random_of_as_many(base), "all": protocol.of_all(),
        "targeted": protocol.targeted(2),
    }  # fmt: skip
    arms = protocol.also(arms, "equal epochs", protocol.longer(), protocol.new(arms))
    return protocol.compare(base, arms, ("any",), {"all": ("original",), "targeted": ("original", "any", "all")})
