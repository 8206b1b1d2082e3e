"""UniDiffDA, Table 6: Semi-iNat at three levels of the taxonomy, top-1 and top-5. Not run here.

The paper does not give strength, use or recipe: as on Birds, low strength for models that are not fitted, high for
those that are, and half of the images replaced from the whole set. Its test images are taken to be the official val/.
"""

from __future__ import annotations

from experiments import unidiffda as protocol
from synthaug.classify.mixing import GlobalRandomReplace
from synthaug.experiment import Sweep
from synthaug.methods.diff_aug import DiffAug
from synthaug.methods.diff_mix import DiffMix
from synthaug.methods.gif import GIF
from synthaug.methods.real_guidance import RealGuidance


def _sweep(level: str, classes: int) -> Sweep:
    task, use = protocol.semi_inat(level, classes), GlobalRandomReplace(0.5)
    arms = {
        "Real Guidance": protocol.arm(RealGuidance(strength=0.1), use),
        "GIF": protocol.arm(GIF(strength=0.1), use),
        "Diff-Aug": protocol.arm(DiffAug(strength=0.9), use, task.tuned()),
        "Diff-Mix": protocol.arm(DiffMix(strength=0.9), use, task.tuned()),
    }
    return protocol.compare(task, arms, epochs=True)


def species() -> Sweep:
    """Semi-iNat, 810 species, all 9,721 labelled images.

    Paper (top-1/top-5): baseline 41.88/64.15, Real Guidance 38.96/61.89, GIF 37.83/60.21, Diff-Aug 32.91/55.73,
    Diff-Mix 37.04/60.86.
    """
    return _sweep("species", 810)


def family() -> Sweep:
    """Semi-iNat, 339 families, all 9,721 labelled images.

    Paper (top-1/top-5): baseline 47.85/70.79, Real Guidance 44.78/66.63, GIF 43.91/66.26, Diff-Aug 43.96/66.37,
    Diff-Mix 45.06/67.20.
    """
    return _sweep("family", 339)


def order() -> Sweep:
    """Semi-iNat, 123 orders, all 9,721 labelled images.

    Paper (top-1/top-5): baseline 54.96/79.43, Real Guidance 53.85/78.27, GIF 53.16/77.83, Diff-Aug 54.58/79.81,
    Diff-Mix 55.42/81.94.
    """
    return _sweep("order", 123)
