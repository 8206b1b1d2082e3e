"""Targeted augmentation, figure 3 and what is known of its table for newer nets: other nets on CIFAR-10. Not run here.

Nets are torchvision's with stems for 32 pixels; the paper does not say what its are.
"""

from __future__ import annotations

from experiments import targeted as protocol
from synthaug.classify.optim import AdamW
from synthaug.experiment import Sweep, replace


def vgg19() -> Sweep:
    """Paper: a chart; amplification 2 for upsampled ones, 5 for new ones."""
    return _bars("cifar_vgg19")


def densenet121() -> Sweep:
    """Paper: a chart."""
    return _bars("cifar_densenet121")


def vit_s() -> Sweep:
    """Paper: a chart. SGD's rate trains no transformer: AdamW."""
    return _bars("cifar_vit_s", transformer=True)


def convnext_t() -> Sweep:
    """Test error, SGD. Paper: 37.33 (3.12 over seeds), upsampled 34.16 (2.47), targeted 27.40 (1.99)."""
    return _bars("cifar_convnext_t")


def swin_t() -> Sweep:
    """Test error. Paper: 16.10 (0.19), upsampled 14.93 (0.07), targeted 14.57 (0.10)."""
    return _bars("cifar_swin_t", transformer=True)


def _bars(model: str, transformer: bool = False) -> Sweep:
    base = protocol.task("cifar10", model)
    if transformer:
        gentle = {"optimizer": AdamW(lr=5e-4), "warmup": 0.05, "schedule": "Cosine"}
        fields = {
            f"{place}.{name}": value for place in ("recipe", "subset.early.recipe") for name, value in gentle.items()
        }
        base = replace(base, fields)
    arms = {"original": protocol.ORIGINAL, "upsampled": protocol.upsampled(), "targeted": protocol.targeted(5)}
    arms = protocol.also(arms, "equal epochs", protocol.longer(), protocol.new(arms))
    return protocol.compare(base, arms, ("upsampled",))
