"""GIF-SD (Zhang et al., NeurIPS 2023): edit, then shift each image's latents so that CLIP finds the variants of a
source informative, of its class, and different from one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from synthaug.clip import Clip, Scorer
from synthaug.data.sample import Label, Sample
from synthaug.methods.base import Context, Models, Row, own_class, pick
from synthaug.methods.sdedit import SDEdit
from synthaug.settings import Count, seed_of, settings

if TYPE_CHECKING:
    from torch import Tensor

    from synthaug.diffusion.backbone import Pipeline
    from synthaug.diffusion.codec import Codec

DOMAINS = ("an image of", "a real-world photo of", "a cartoon image of", "an oil painting of", "a sketch of")
ADJECTIVES = (
    "", "colorful", "stylized", "high-contrast", "low-contrast", "posterized", "solarized", "sheared", "bright", "dark",
)  # fmt: skip


@settings
class GIF(SDEdit):
    """The `variants` of a source are made together, because the score of each depends on the others. `constraint`
    bounds how far a latent may move; `label` is the class that must be kept: what CLIP says of the source (as the
    authors' code has it), or the true one. `domains` None are the data set's own prompts, if it has any (as UniDiffDA
    has it for medical images), or else the authors' five, each with one of the `adjectives`. `mirror` mirrors half of
    the sources, where the data set says that they are still of their class."""

    version: ClassVar[int] = 3
    variants: Count = 5
    constraint: Annotated[float, Field(gt=0)] = 0.8  # UniDiffDA: 4 for Caltech, 0.1 for medical images
    step: Annotated[float, Field(ge=0)] = 0.1
    rotation: Annotated[float, Field(ge=0, le=180)] = 15.0
    label: Literal["clip", "true"] = "clip"
    mirror: bool = True
    domains: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    adjectives: Annotated[tuple[str, ...], Field(min_length=1)] = ADJECTIVES
    template: str = "This is a photo of a {}"
    clip: Clip = Clip("openai/clip-vit-base-patch32")

    @classmethod
    def as_published(cls) -> GIF:
        """The authors' own setting for natural images: two variants, guidance 50."""
        return cls(guidance=50.0, variants=2)

    @property
    def together(self) -> int:
        return self.variants

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        row = own_class(sample, variant, context, strength=self.strength)
        if self.domains is None and context.own_prompts:
            return self.prompts(row, context)
        domains = DOMAINS if self.domains is None else self.domains
        words = [pick(domains, row.seed, "domain"), pick(self.adjectives, row.seed, "adjective")]
        # an empty adjective leaves no second space, as it does in the authors' strings
        prompt = " ".join(filter(None, [*words, context.words[sample.target]]))
        return self.prompts(dataclasses.replace(row, prompt=prompt), context)

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        by_source: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            by_source.setdefault(row.source, []).append(number)
        # A source is turned once, and its variants are edits of one and the same image.
        first_seeds = [rows[by_source[row.source][0]].seed for row in rows]
        mirror = self.mirror and models.context.can_mirror
        turned = [turn(image, seed, self.rotation, mirror) for seed, image in zip(first_seeds, images, strict=True)]
        # what is shifted are the denoised latents, as in the authors' code, not the noise as the paper words it
        z = self.edit(rows, turned, models, latents=True)
        scorer = models.scorer(self.clip)
        guide = scorer.texts([self.template.format(name) for name in models.context.names])
        made: dict[int, np.ndarray] = {}
        for numbers in by_source.values():
            kept = rows[numbers[0]].target if self.label == "true" else None
            judge = Judge.of(scorer, guide, images[numbers[0]], kept)
            seeds = [rows[number].seed for number in numbers]
            shifted = self.shift(models.pipeline, judge, np.stack([z[number] for number in numbers]), seeds)
            made |= zip(numbers, models.pipeline.pixels(shifted), strict=True)
        return [made[number] for number in range(len(rows))], [((row.target, 1.0),) for row in rows]

    def shift(self, pipeline: Pipeline, judge: Judge, latents: np.ndarray, seeds: Sequence[int]) -> Tensor:
        """One step up the score from a random scale and offset a channel, within `constraint` of the latents."""
        import torch

        # in float32: of the step only the sign counts, and a gradient that is added up in half precision has none
        z = torch.from_numpy(latents).to(pipeline.device, torch.float32)
        a, b = (part.to(z) for part in draws(seeds, z.shape[1]))
        slopes = slopes_of(pipeline.codec, judge, z, a, b)
        # One step up by the sign, and back into the ball (in the largest norm) around what was edited.
        a, b = (part + self.step * slope.sign() for part, slope in zip((a, b), slopes, strict=True))
        moved: Tensor = torch.clamp(z * (1 + a) + b, z - self.constraint, z + self.constraint)
        return moved.to(pipeline.dtype)


def slopes_of(codec: Codec, judge: Judge, z: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The direction in which the score of a source's variants rises by `a` and `b`, up to one factor for all."""
    import torch

    # The score needs all variants at once, the decoder one after another: so only one latent's graph of the decoder is
    # ever in memory (3.5 GiB at 512 px, where sixty take 180), and no bit hangs on how much of that there is.
    with torch.no_grad():
        x = torch.cat([codec.decode(row.to(codec.dtype)) for row in (z * (1 + a) + b).split(1)])
    x.requires_grad_()
    # The authors do not bring the mean and deviation of the pixels to CLIP's on this way, only for the source.
    score = judge.score(judge.scorer.images(x, normalise=False))
    (by_pixel,) = torch.autograd.grad(score, x)
    # A pixel's share is some 1e-8, which half precision rounds to 0; a factor common to all changes no sign.
    by_pixel /= by_pixel.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    found = []
    for row, scale, offset, up in zip(*(part.split(1) for part in (z, a, b, by_pixel)), strict=True):
        leaves = scale.requires_grad_(), offset.requires_grad_()
        decoded = codec.decode((row * (1 + scale) + offset).to(codec.dtype))
        found.append(torch.autograd.grad(decoded, leaves, up))
    by_a, by_b = (torch.cat(parts) for parts in zip(*found, strict=True))
    return by_a, by_b


@dataclasses.dataclass(frozen=True)
class Judge:
    """How good the variants of a source are, by CLIP."""

    scorer: Scorer
    guide: Tensor  # C x D: what the classes are called
    entropy: Tensor  # how unsure CLIP is of the source
    label: int  # the class that its variants should keep

    @classmethod
    def of(cls, scorer: Scorer, guide: Tensor, image: np.ndarray, kept: int | None) -> Judge:
        feature = scorer.embed(image.transpose(2, 0, 1)[None]).to(guide)
        p = (scorer.logit_scale * feature @ guide.T).softmax(-1)[0]
        return cls(scorer, guide, entropy(p), int(p.argmax()) if kept is None else kept)

    def score(self, features: Tensor) -> Tensor:
        """Informativeness, class maintenance and diversity of the variants (features: M x D)."""
        # S = mean_i [H(p_i) - H(p_0)] + mean_i p_i[y] + mean_i KL(q || q_i), all weights 1; q_i is the softmax of a
        # variant's feature over its dimensions, q that of their mean.
        p_MC = (self.scorer.logit_scale * features @ self.guide.T).softmax(-1)
        log_q = features.log_softmax(-1)
        log_mean = features.mean(0, keepdim=True).log_softmax(-1)
        diverse = (log_mean.exp() * (log_mean - log_q)).sum(-1).mean()
        total: Tensor = (entropy(p_MC) - self.entropy).mean() + p_MC[:, self.label].mean() + diverse
        return total


def entropy(p: Tensor) -> Tensor:
    import torch

    total: Tensor = torch.special.entr(p).sum(-1)  # 0 log 0 = 0
    return total


def turn(image: np.ndarray, seed: int, degrees: float, mirror: bool) -> np.ndarray:
    """The source a little rotated and, if it may be, perhaps mirrored; those made together share a seed."""
    from PIL import Image

    rng = np.random.default_rng(seed_of(seed, "turn"))
    angle, mirrored = rng.uniform(-degrees, degrees), rng.random() < 0.5
    turned = np.array(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))
    return turned[:, ::-1].copy() if mirror and mirrored else turned


def draws(seeds: Sequence[int], channels: int) -> tuple[Tensor, Tensor]:
    """A scale in [0, 1) and a normal offset for each channel of each row, from the row's own seed."""
    import torch

    generators = [torch.Generator().manual_seed(seed_of(seed, "gif")) for seed in seeds]
    shape = (channels, 1, 1)
    # on the CPU, whose numbers are the same whatever the device
    scale = torch.stack([torch.rand(shape, generator=generator) for generator in generators])
    return scale, torch.stack([torch.randn(shape, generator=generator) for generator in generators])
