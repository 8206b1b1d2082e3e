"""ScoreAug's own experiments (Hou et al. 2025, withdrawn from ICLR 2026): what they share. Its numbers are known from
readers and reviewers only, and two versions of it differ; they are in the tables' docstrings.

Nets and recipes are EDM's, whose DDPM++ is diffusers' UNet of the same width here and no copy of it. Frechet distances
are of torchvision's Inception and not of TensorFlow's, so they compare with one another and not with the papers'.
"""

from __future__ import annotations

from typing import Any

from synthaug.data.dataset import Dataset
from synthaug.diffusion.score_models import OnClean, ScoreAug, TrainedDiT, TrainedEDM, TrainedScore
from synthaug.diffusion.transforms import EDMPipe, Flips, OneOrNone, Translation
from synthaug.evaluate.denoising import DenoisingLoss
from synthaug.evaluate.features import InceptionFeatures
from synthaug.evaluate.fidelity import Fidelity
from synthaug.evaluate.memorised import Memorised
from synthaug.experiment import Experiment, Sweep
from synthaug.methods.from_noise import FromNoise

IMAGES = 200_000_000  # that each net sees
INCEPTION = "~/.cache/torch/hub/checkpoints/inception_v3_google-0cc3c7bd.pth"
HOMES: dict[str, str] = {"cifar10": "data/cifar10", "ffhq": "data/ffhq", "afhqv2": "data/afhqv2"}


def ddpmpp(size: int, *, dropout: float, labels: bool = False) -> TrainedEDM:
    """EDM's recipe for 32 pixels (batch 512, rate 1e-3, channels x 2, 2, 2) or 64 (256, 2e-4, x 1, 2, 2, 2)."""
    channels, batch, lr = ((256, 256, 256), 512, 1e-3) if size == 32 else ((128, 256, 256, 256), 256, 2e-4)
    return TrainedEDM(
        channels=channels, layers=4, attention=(16,), image_size=size, dropout=dropout, labels=labels, lr=lr,
        batch_size=batch, steps=IMAGES // batch, warmup=10_000_000, ema=500_000, precision="bf16", replicas=3,
        clip=None, unlabelled=0.0,
    )  # fmt: skip


def dit(layers: int, heads: int, head_size: int = 64, *, labels: bool = True) -> TrainedDiT:
    """SiT's recipe: velocity, batch 256, rate 1e-4, 400,000 steps; its flips are left out (latents are made once), and
    images are squashed to squares. diffusers' net has an embedder in each block, a tenth of its weights."""
    return TrainedDiT(
        layers=layers, heads=heads, head_size=head_size, labels=labels, batch_size=256, lr=1e-4, steps=400_000,
        warmup=256, ema=1_774_000, precision="bf16", replicas=3, clip=None, image_size=256,
    )  # fmt: skip


def measured(dataset: Dataset, net: TrainedScore, *, steps: int, k: int = 1, guidance: float = 1.0) -> Experiment:
    """At most 50,000 samples (k times), beside training and held-out images; of ImageNet beside those alone."""
    quality = Fidelity(reference="train", extractor=InceptionFeatures(INCEPTION), also=("test",))
    looks: tuple[Any, ...] = (quality, Memorised())
    if net.space is not None:  # a million training images in memory are 250 GB
        looks = (Fidelity(reference="test", extractor=InceptionFeatures(INCEPTION)),)
    method = FromNoise(steps=steps, guidance=guidance, most=50_000)
    return Experiment(
        dataset=dataset, denoiser=net, method=method, k=k, evaluations=(*looks, DenoisingLoss(images=5000))
    )


def compare(base: Experiment, p: float) -> Sweep:
    """The paper's arms, and the baseline that it lacks: EDM's flag against augmentation leaves flips out too."""
    pipe = EDMPipe(p=p)
    arms: dict[str, dict[str, Any]] = {
        "none": {},
        "flips": {"denoiser.clean": OnClean(Flips(), told=False)},
        "non-leaky": {"denoiser.clean": OnClean(pipe)},
        "ScoreAug": {"denoiser.scoreaug": ScoreAug()},
        "ScoreAug without brightness": {"denoiser.scoreaug": ScoreAug(OneOrNone(OneOrNone().transforms[1:]))},
        "ScoreAug of the pipe": {"denoiser.scoreaug": ScoreAug(pipe)},
        "ScoreAug's transforms on clean images": {"denoiser.clean": OnClean(OneOrNone())},
        "flips + ScoreAug": {"denoiser.clean": OnClean(Flips(), told=False), "denoiser.scoreaug": ScoreAug()},
        "both": {"denoiser.clean": OnClean(pipe), "denoiser.scoreaug": ScoreAug()},
    }
    # each with what differs from it in one thing
    against: dict[str, tuple[str, ...]] = {
        "ScoreAug": ("none", "ScoreAug's transforms on clean images"),
        "flips + ScoreAug": ("flips",),
        "ScoreAug of the pipe": ("non-leaky",),
        "both": ("non-leaky",),
    }
    return Sweep(base=base, arms=arms, baseline="flips", against=against, seeds=(0, 1, 2))


def translated(base: Experiment) -> Sweep:
    """What the paper does to latents: translation alone."""
    moved = {"denoiser.scoreaug": ScoreAug(OneOrNone((Translation(),)))}
    return Sweep(base=base, arms={"none": {}, "ScoreAug": moved}, baseline="none", seeds=(0, 1, 2))
