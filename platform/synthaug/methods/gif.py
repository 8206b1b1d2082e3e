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
from synthaug.methods.base import Context, Models, Row, own_class
from synthaug.methods.prompts import pick
from synthaug.methods.sdedit import SDEdit
from synthaug.settings import Count, seed_of, settings

if TYPE_CHECKING:
    from torch import Tensor

    from synthaug.diffusion.backbone import Pipeline

DOMAINS = ("an image of", "a real-world photo of", "a cartoon image of", "an oil painting of", "a sketch of")
ADJECTIVES = (
    "", "colorful", "stylized", "high-contrast", "low-contrast", "posterized", "solarized", "sheared", "bright", "dark",
)  # fmt: skip


@settings
class GIF(SDEdit):
    """The `variants` of a source are made together, because the score of each depends on the others. `constraint`
    bounds how far a latent may move; `label` is the class that must be kept: what CLIP says of the source (as the
    authors' code has it), or the true one."""

    version: ClassVar[int] = 2
    variants: Count = 5
    constraint: Annotated[float, Field(gt=0)] = 0.8  # UniDiffDA: 4 for Caltech, 0.1 for medical images
    step: Annotated[float, Field(ge=0)] = 0.1
    rotation: Annotated[float, Field(ge=0, le=180)] = 15.0
    label: Literal["clip", "true"] = "clip"
    domains: Annotated[tuple[str, ...], Field(min_length=1)] = DOMAINS
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
        words = [pick(self.domains, row.seed, "domain"), pick(self.adjectives, row.seed, "adjective")]
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
        turned = [turn(image, seed, self.rotation) for seed, image in zip(first_seeds, images, strict=True)]
        # what is shifted are the denoised latents, as in the authors' code, not the noise as the paper words it
        z = self.edit(rows, turned, models, latents=True)
        scorer = models.scorer(self.clip)
        guide = scorer.texts([self.template.format(name) for name in models.names])
        # The variants of a source are judged together, so that a batch of the decoder holds whole sources.
        size = max(1, models.pipeline.backbone.micro_batch // self.variants)  # sources at a time
        groups = list(by_source.values())
        made: dict[int, np.ndarray] = {}
        for first in range(0, len(groups), size):
            chunk = groups[first : first + size]
            judge = Judge.of(scorer, guide, [images[group[0]] for group in chunk], self.kept(rows, chunk))
            numbers = [number for group in chunk for number in group]
            seeds = [rows[number].seed for number in numbers]
            shifted = self.shift(models.pipeline, judge, np.stack([z[number] for number in numbers]), seeds)
            made |= zip(numbers, models.pipeline.pixels(shifted), strict=True)
        return [made[number] for number in range(len(rows))], [((row.target, 1.0),) for row in rows]

    def kept(self, rows: Sequence[Row], groups: Sequence[Sequence[int]]) -> list[int] | None:
        """The true classes of the sources, if those are to be kept."""
        return [rows[group[0]].target for group in groups] if self.label == "true" else None

    def shift(self, pipeline: Pipeline, judge: Judge, latents: np.ndarray, seeds: Sequence[int]) -> Tensor:
        """One step up the score from a random scale and offset a channel, within `constraint` of the latents."""
        import torch

        z = torch.from_numpy(latents).to(pipeline.device, pipeline.dtype)
        a, b = (part.to(z).requires_grad_() for part in draws(seeds, z.shape[1]))
        # The authors do not bring the mean and deviation of the pixels to CLIP's on this way, only for the source.
        score = judge.score(judge.scorer.images(pipeline.codec.decode(z * (1 + a) + b), normalise=False))
        slopes = torch.autograd.grad(score.sum(), (a, b))
        with torch.no_grad():
            # One step up by the sign, and back into the ball (in the largest norm) around what was edited.
            a_, b_ = (part + self.step * slope.sign() for part, slope in zip((a, b), slopes, strict=True))
            moved: Tensor = torch.clamp(z * (1 + a_) + b_, z - self.constraint, z + self.constraint)
        return moved


@dataclasses.dataclass(frozen=True)
class Judge:
    """How good the variants of some sources are, by CLIP."""

    scorer: Scorer
    guide: Tensor  # C x D: what the classes are called
    entropy: Tensor  # S: how unsure CLIP is of each source
    label: Tensor  # S: the class that its variants should keep

    @classmethod
    def of(cls, scorer: Scorer, guide: Tensor, images: Sequence[np.ndarray], kept: Sequence[int] | None) -> Judge:
        import torch

        features = torch.cat([scorer.embed(image.transpose(2, 0, 1)[None]) for image in images]).to(guide)
        p = (scorer.logit_scale * features @ guide.T).softmax(-1)
        return cls(scorer, guide, entropy(p), p.argmax(-1) if kept is None else torch.tensor(kept).to(p.device))

    def score(self, features: Tensor) -> Tensor:
        """Informativeness, class maintenance and diversity, for each source (features: S M x D, source by source)."""
        # S = mean_i [H(p_i) - H(p_0)] + mean_i p_i[y] + mean_i KL(q || q_i), all weights 1; q_i is the softmax of a
        # variant's feature over its dimensions, q that of their mean, y one class for all variants of a source.
        f_SMD = features.view(len(self.label), -1, features.shape[-1])
        p_SMC = (self.scorer.logit_scale * f_SMD @ self.guide.T).softmax(-1)
        informative = (entropy(p_SMC) - self.entropy[:, None]).mean(1)
        kept = p_SMC.gather(2, self.label[:, None, None].expand(-1, p_SMC.shape[1], 1)).mean((1, 2))
        log_q = f_SMD.log_softmax(-1)
        log_mean = f_SMD.mean(1, keepdim=True).log_softmax(-1)
        diverse = (log_mean.exp() * (log_mean - log_q)).sum(-1).mean(1)
        total: Tensor = informative + kept + diverse
        return total


def entropy(p: Tensor) -> Tensor:
    import torch

    total: Tensor = torch.special.entr(p).sum(-1)  # 0 log 0 = 0
    return total


def turn(image: np.ndarray, seed: int, degrees: float) -> np.ndarray:
    """The source a little rotated and perhaps mirrored; those made together share a seed, that of the first of them."""
    from PIL import Image

    rng = np.random.default_rng(seed_of(seed, "turn"))
    angle, mirrored = rng.uniform(-degrees, degrees), rng.random() < 0.5
    turned = np.array(Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR))
    return turned[:, ::-1].copy() if mirrored else turned


def draws(seeds: Sequence[int], channels: int) -> tuple[Tensor, Tensor]:
    """A scale in [0, 1) and a normal offset for each channel of each row, from the row's own seed."""
    import torch

    generators = [torch.Generator().manual_seed(seed_of(seed, "gif")) for seed in seeds]
    shape = (channels, 1, 1)
    # on the CPU, whose numbers are the same whatever the device
    scale = torch.stack([torch.rand(shape, generator=generator) for generator in generators])
    return scale, torch.stack([torch.randn(shape, generator=generator) for generator in generators])
