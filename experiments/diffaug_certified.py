"""DiffAug, its table of certified accuracy (%) by denoised smoothing, and its figure of entropy over time. Not run
here.

Certificates: n0 = 100, n = 10,000, alpha = 0.001, one test image in 50, the best of three noise levels at each radius,
chosen on the images it is quoted for. With n = 10,000 no certificate reaches 1.6 but from sigma = 1.
"""

from __future__ import annotations

from experiments import diffaug as poster
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.certify import Certified
from synthaug.evaluate.entropy import EntropyOverTime
from synthaug.experiment import Sweep


def vit() -> Sweep:
    """ViT-B/16 at radii 0.5, 1, 1.5, 2, 2.5 and 3. Not run here.

    Poster: ViT 36.30 25.50 16.72 14.10 10.70 8.10; ViT+DiffAug 40.30 32.50 23.62 19.40 15.20 11.00. All are multiples
    of 0.1, as of 1,000 images, but those at radius 1.5. Cost: 12,800,000 denoiser calls to train, and for each arm and
    seed 30,300,000 at most to certify.
    """
    certified = Certified(
        sigma=(0.25, 0.5, 1.0), radii=(0.5, 1.0, 1.5, 2.0, 2.5, 3.0), n0=100, n=10_000, alpha=0.001, every=50
    )
    return poster.compare(poster.vit(), (Accuracy(), certified))


def entropy() -> Sweep:
    """ResNet-50 from scratch, the mean entropy of its answers to denoised test images by time. Not run here.

    Poster: a curve without numbers; with DiffAug it should end near log 1,000 = 6.91 at time 999, without it should
    not. Cost: 115,200,000 denoiser calls to train, 11 an image to ask.
    """
    return poster.compare(poster.resnet50(), (Accuracy(), EntropyOverTime()))
