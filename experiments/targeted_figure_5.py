"""Targeted augmentation, figure 5: how often, from where, and how far; ResNet-18 on CIFAR-10. Not run here."""

from __future__ import annotations

from experiments import targeted as protocol
from synthaug.experiment import Sweep


def amplification() -> Sweep:
    """Paper: a chart; upsampling hurts from 3 on, new images go on helping up to 5."""
    arms: protocol.Arms = {"original": protocol.ORIGINAL}
    for times in (2, 3, 4, 5):
        arms |= {f"upsampled {times}": protocol.upsampled(times), f"targeted {times}": protocol.targeted(times)}
    arms = protocol.also(arms, "equal epochs", protocol.longer(), protocol.new(arms))
    against = {f"targeted {times}": ("original", f"upsampled {times}") for times in (2, 3, 4, 5)}
    return protocol.compare(protocol.task("cifar10"), arms, against=against)


def from_noise() -> Sweep:
    """Paper: a chart; images from nothing but noise are worse than none."""
    arms: protocol.Arms = {
        "original": protocol.ORIGINAL, "from noise": {"method": protocol.FROM_NOISE}, "targeted": protocol.targeted(2),
        "from one count": protocol.targeted(5),
        "from several counts": {"method": protocol.FROM_SEVERAL, "amplification": 5},
    }  # fmt: skip
    arms = protocol.also(arms, "equal epochs", protocol.longer(), protocol.new(arms))
    against = {"targeted": ("original", "from noise"), "from several counts": ("original", "from one count")}
    return protocol.compare(protocol.task("cifar10"), arms, against=against)


def steps() -> Sweep:
    """Paper: a chart; of 10 to 100 denoising steps 50 are best at amplification 2."""
    arms: protocol.Arms = {"original": protocol.ORIGINAL, "upsampled": protocol.upsampled()}
    arms |= {f"{count} steps": {"method.strength": count / 100} for count in range(10, 101, 10)}
    return protocol.compare(protocol.task("cifar10"), arms, ("upsampled",))
