"""AugMix (Hendrycks et al. 2020): images blended with mixtures of their own variants, and the consistency of what a net
says of them. Operations that ImageNet-C would test (contrast, brightness, colour, sharpness) are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from synthaug.classify import policy
from synthaug.classify.policy import Reach


def augmix(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    width: int = 3,
    depth: int = -1,
    severity: int = 1,
    alpha: float = 1.0,
) -> torch.Tensor:
    """Each image (uint8 BCHW) blended with a mixture of its own: float BCHW in [0, 255].

    The mixture has `width` chains of `depth` operations (below 1: 1 to 3, each chain its own number), weighted by
    Dirichlet(alpha); its share in the result is Beta(alpha, alpha).
    """
    # the order of the draws is what a seed stands for
    weights = shares(len(images), width, alpha, generator).to(images.device)
    blend = shares(len(images), 2, alpha, generator)[:, 0].to(images.device)
    # on the CPU, where apply() asks which images have which operation: on a GPU each answer would be a wait
    ops, level = (drawn.cpu() for drawn in draw(len(images), width, depth, severity, generator))
    mixed = torch.zeros(images.shape, device=images.device)
    for chain in range(width):
        variant = images
        for step in range(len(ops)):
            variant = policy.apply(variant, ops[step, chain], level[step, chain], limits(images), OPERATIONS)
        mixed += weights[:, chain, None, None, None] * variant
    # (1 - m) x + m mixture, m ~ Beta(alpha, alpha); left as floats, rounded nowhere
    return torch.lerp(images.float(), mixed, blend[:, None, None, None])


def shares(rows: int, parts: int, alpha: float, generator: torch.Generator) -> torch.Tensor:
    """Rows of Dirichlet(alpha, ..., alpha), which for two parts is Beta; torch's distributions take no generator."""
    return torch._sample_dirichlet(torch.full((rows, parts), alpha, device=generator.device), generator)


def draw(
    count: int, width: int, depth: int, severity: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The operation and the level of each step of each chain of each image (steps x width x count); 0 is no operation.

    A level is uniform between 0.1 and `severity`, of 10, with a random sign.
    """
    device = generator.device
    shape = (depth if depth > 0 else 3, width, count)
    ops = torch.randint(1, len(OPERATIONS), shape, generator=generator, device=device)
    level, sign = (torch.rand(shape, generator=generator, device=device) for _ in range(2))
    if depth < 1:
        # three steps are drawn for all, and those beyond a chain's own length do nothing
        length = torch.randint(1, 4, shape[1:], generator=generator, device=device)
        ops = torch.where(torch.arange(3, device=device)[:, None, None] < length, ops, 0)
    level = (0.1 + (severity - 0.1) * level) / 10  # levels are published as parts of 10, Reach speaks of parts of 1
    return ops, torch.where(sign < 0.5, -level, level)


def limits(images: torch.Tensor) -> Reach:
    """What level 1 does: AugMix moves an image by up to a third of its size."""
    high, wide = images.shape[2:]
    return Reach(shear=0.3, translate=(wide / 3, high / 3), rotate=30, enhance=0, posterize=4, smooth=True)


def jensen_shannon(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """How far the predictions for the same images (B x C each) are apart: the sum over images of the mean KL(p || M),
    M the mean prediction, at least 1e-7 everywhere."""
    logs = torch.stack([each.log_softmax(1) for each in logits])  # V B C
    mean = logs.exp().mean(0).clamp(1e-7, 1)  # a class that no view believes in would give log 0
    # KL(p || M) = sum p (log p - log M); the sum over the batch, because the loop divides by its size
    return (logs.exp() * (logs - mean.log())).sum() / len(logits)


def _rotate(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
    """By whole degrees."""
    degrees = (level * reach.rotate).trunc()
    return policy.OPERATIONS[5](images, degrees / reach.rotate, reach)


def _posterize(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
    """4 bits are left at the lowest level, and fewer at a higher one, as in the published code."""
    # the published code hands Pillow 4 - level as the bits that stay; here they are the 8 - cut upper ones
    cut = (4 + (level.abs() * reach.posterize).trunc()).to(torch.uint8)[:, None, None, None]
    return (images >> cut) << cut


def _solarize(images: torch.Tensor, level: torch.Tensor, reach: Reach) -> torch.Tensor:
    # 256, not 255: at level 0 nothing is inverted, white neither
    threshold = 256 - (level.abs() * 256).trunc()[:, None, None, None]
    return torch.where(images >= threshold, 255 - images, images)


# 6 to 9 of the policy, which ImageNet-C would test, are left out
OPERATIONS: tuple[Callable[..., torch.Tensor], ...] = (
    policy.OPERATIONS[0],  # the identity
    *policy.OPERATIONS[1:5],  # shear and translate, along x and y
    _rotate,
    _posterize,
    _solarize,
    *policy.OPERATIONS[12:],  # autocontrast, equalize
)
