"""Fine-tuning as it is run: latents encoded once, then the noise-prediction loss on what may be learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.batches import Recent
from synthaug.diffusion.codec import load_pipe, token_ids
from synthaug.diffusion.finetune import TEMPLATES, Adapter, Finetune, LoRA, TextualInversion
from synthaug.diffusion.fit import Fitted, contained, fit
from synthaug.diffusion.tokens import add_tokens, check_tokens
from synthaug.settings import UserError, seed_of
from synthaug.training import ALONE, Checkpoint, Report, World


@dataclass(frozen=True)
class Example:
    """A training image with what it is called in a caption, and perhaps what else is seen on it."""

    image: np.ndarray
    name: str
    tokens: tuple[str, ...] = ()  # of which its captions must hold some
    suffix: str | None = None

    def captions(self) -> tuple[str, ...]:
        if self.suffix is not None:  # suffix-enrich: one caption, "a photo of a <class>, <suffix>"
            return (f"{TEMPLATES[0].format(self.name)}, {self.suffix}",)
        return tuple(template.format(self.name) for template in TEMPLATES)


class Student(Protocol):
    """What is learned, while it is learned."""

    parameters: dict[str, Tensor]

    def embed(self, captions: Sequence[str]) -> Tensor:
        """The captions for the UNet, with gradient where they are what is learned."""

    def learned(self) -> dict[str, Tensor]:
        """What the adapter file will hold."""


def tune(
    finetune: Finetune, backbone: Backbone, adapters: Sequence[Adapter], examples: Sequence[Example],
    words: Sequence[str], *, seed: int, report: Report, checkpoint: Checkpoint | None = None, world: World = ALONE,
    device: torch.device | None = None,
) -> tuple[dict[str, Tensor], Fitted]:  # fmt: skip
    """What `finetune` learns from the examples, after the adapters before it; `words` are the classes' own names."""
    from safetensors.torch import load

    if finetune.batch_size < world.size:
        raise UserError(f"batch_size {finetune.batch_size} is smaller than the number of workers, {world.size}")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with contained(backbone.threads, device):
        pipe = load_pipe(backbone.folder(), torch.float32)
        if pipe.unet.config.time_cond_proj_dim is not None:  # its loss is another, and it is told the guidance
            way = "fine-tune the model that it was distilled from, and add LCM's LoRA (backbone.lora)"
            raise UserError(f"{backbone.model!r} is a latent consistency model: {way}", ("finetune",))
        for before, file in adapters:
            before.attach(pipe, load(file.read_bytes()))  # in order: LoRA's captions hold the words before it
        pipe.to(device)
        for net in (pipe.unet, pipe.vae, pipe.text_encoder):
            net.requires_grad_(False)
        torch.manual_seed(seed_of(seed, "finetune", "initialisation"))
        student = student_of(finetune, pipe, words)
        _check(pipe, examples)
        resolution = backbone.resolution or pipe.unet.config.sample_size * pipe.vae_scale_factor
        seen = [views(finetune, example.image, resolution, seed, n) for n, example in enumerate(examples)]
        latents = Latents.of(pipe, seen)
        if finetune.checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        lesson = Lesson(finetune, pipe, student, examples, latents, seed, world)
        done = fit(
            student.parameters, lesson.loss, steps=finetune.steps, lr=finetune.lr, weight_decay=finetune.weight_decay,
            clip=finetune.clip, report=report, checkpoint=checkpoint, world=world, smaller=lesson.halve,
        )  # fmt: skip
        done.micro_batch = lesson.micro_batch
        return {name: value.detach().cpu().contiguous() for name, value in student.learned().items()}, done


def student_of(finetune: Finetune, pipe: Any, words: Sequence[str]) -> Student:
    if isinstance(finetune, TextualInversion):
        return NewWords(finetune, pipe, words)
    assert isinstance(finetune, LoRA), finetune
    return LowRank(finetune, pipe)


def _check(pipe: Any, examples: Sequence[Example]) -> None:
    """Every caption is read whole and holds the token that is being learned: else learning would be in vain."""
    # On folders of images UniDiffDA's released code adds <0>, <1>, ... and prompts with <accordion>: it learns nothing,
    # and says nothing.
    positions = pipe.text_encoder.config.max_position_embeddings
    check_tokens(pipe.tokenizer, positions, {caption: e.tokens for e in examples for caption in e.captions()})


@dataclass(frozen=True)
class Latents:
    """The posteriors of all views of all images, encoded once; `first[i]` is where image i begins."""

    mean: Tensor
    std: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, pipe: Any, images: Sequence[Sequence[np.ndarray]]) -> Latents:
        parts = []
        for image in (view for views in images for view in views):
            # one at a time, so that its latents do not hang on the images beside it
            x = torch.from_numpy(image.copy()).to(pipe.device).permute(2, 0, 1)[None].float() / 127.5 - 1
            posterior = pipe.vae.encode(x).latent_dist
            parts.append((posterior.mean, posterior.std))
        mean, std = (torch.cat(part).clone() for part in zip(*parts, strict=True))
        count = torch.tensor([len(views) for views in images])
        scale = pipe.vae.config.scaling_factor  # the UNet's latents have about unit variance: 0.18215 for SD 1
        return cls(scale * mean, scale * std, count.cumsum(0) - count, count)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A view of each image, and a draw from its posterior."""
        lot = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        # Images may have different numbers of views, and each must be drawn as often as another.
        place = self.first[rows] + (lot * self.count[rows]).long()
        noise = torch.randn(len(rows), *self.mean.shape[1:], generator=generator)
        place = place.to(self.mean.device)
        return self.mean[place] + self.std[place] * noise.to(self.mean)


def views(finetune: Finetune, image: np.ndarray, size: int, seed: int, number: int) -> list[np.ndarray]:
    """What is encoded of an image: for words the squashed one and its mirror image, for LoRA random squares."""
    from PIL import Image

    picture = Image.fromarray(image)
    if isinstance(finetune, TextualInversion):
        # Textual inversion's images: squashed to a square by bicubic, flipped half of the time.
        squashed = np.array(picture.resize((size, size), Image.Resampling.BICUBIC))
        return [squashed, squashed[:, ::-1]] if finetune.mirror else [squashed]
    assert isinstance(finetune, LoRA), finetune
    # DreamBooth's: the shorter side by Lanczos, a random crop, no flip.
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    whole = np.array(picture.resize((width, height), Image.Resampling.LANCZOS))
    rng = np.random.default_rng(seed_of(seed, "finetune", "crop", number))
    corners = [(rng.integers(height - size + 1), rng.integers(width - size + 1)) for _ in range(finetune.crops)]
    # each corner once: of a square picture there is but one crop
    return [whole[top : top + size, left : left + size] for top, left in dict.fromkeys(corners)]


class NewWords:
    """One row of the token embedding for each new token; all other rows are not touched, because they are not
    parameters."""

    def __init__(self, finetune: TextualInversion, pipe: Any, words: Sequence[str]) -> None:
        self.pipe = pipe
        self.tokens = [token for label in range(len(words)) for token in finetune.tokens(label)]
        table = pipe.text_encoder.get_input_embeddings()
        begin = [_begin(pipe, word if finetune.init == "name" else finetune.init) for word in words]
        # a word of several tokens begins at their mean; all vectors of a class begin alike
        start = torch.stack([table.weight[ids].mean(0) for ids in begin])
        start = start.repeat_interleave(finetune.vectors, 0)
        ids = add_tokens(pipe.tokenizer, self.tokens)  # behind all others, so the first tells which are new
        self.rows = nn.Parameter(start.clone())
        pipe.text_encoder.set_input_embeddings(_Table(table, self.rows, ids[0]))
        self.parameters: dict[str, Tensor] = {"rows": self.rows}

    def embed(self, captions: Sequence[str]) -> Tensor:
        found: Tensor = self.pipe.text_encoder(token_ids(self.pipe, captions))[0]
        return found

    def learned(self) -> dict[str, Tensor]:
        return {token: row[None] for token, row in zip(self.tokens, self.rows, strict=True)}


class _Table(nn.Module):
    """A token embedding with learned rows behind the frozen ones."""

    def __init__(self, frozen: nn.Module, rows: nn.Parameter, first: int) -> None:
        super().__init__()
        self.frozen, self.rows, self.first = frozen, rows, first

    def forward(self, ids: Tensor) -> Tensor:
        new = ids >= self.first
        # Both tables are asked for every token, so each is given an index that it has where the other's row is taken.
        known: Tensor = self.frozen(ids.masked_fill(new, 0))
        learned = self.rows[(ids - self.first).clamp(min=0)]
        return torch.where(new[..., None], learned, known)


def _begin(pipe: Any, word: str) -> list[int]:
    """The tokens of a word."""
    ids: list[int] = pipe.tokenizer(word, add_special_tokens=False).input_ids
    return ids


class LowRank:
    """LoRA layers in the UNet's attention, by peft; captions are encoded once each, for the text encoder is frozen."""

    def __init__(self, finetune: LoRA, pipe: Any) -> None:
        from peft import LoraConfig

        self.pipe, self.finetune = pipe, finetune
        alpha = finetune.rank if finetune.alpha is None else finetune.alpha
        self.scale = alpha / finetune.rank
        # gaussian for the first factor, zeros for the second: at first the net is as it was
        config = LoraConfig(
            r=finetune.rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(finetune.TARGETS)
        )
        pipe.unet.add_adapter(config)
        self.parameters: dict[str, Tensor] = {n: p for n, p in pipe.unet.named_parameters() if p.requires_grad}
        self.known = Recent[Tensor](8192)

    def embed(self, captions: Sequence[str]) -> Tensor:
        return torch.cat([self.known.get(caption, partial(self._encode, caption)) for caption in captions])

    @torch.no_grad()
    def _encode(self, caption: str) -> Tensor:
        found: Tensor = self.pipe.text_encoder(token_ids(self.pipe, [caption]))[0]
        return found

    def learned(self) -> dict[str, Tensor]:
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict

        state = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.pipe.unet))
        found = {}
        for name, value in state.items():
            # alpha goes into the second factor, so that the file says all there is to say
            second = ".up." in name or "lora_B" in name
            found[f"unet.{name}"] = value * (self.scale if second else 1.0)
        return found


@dataclass
class Lesson:
    """Everything that the loss of a step needs. `micro_batch` images are in memory at once: learned by failing, never
    from the memory that is free."""

    finetune: Finetune
    pipe: Any
    student: Student
    examples: Sequence[Example]
    latents: Latents
    seed: int
    world: World
    micro_batch: int = field(init=False)

    def __post_init__(self) -> None:
        mine = len(range(self.finetune.batch_size)[self.world.mine])
        self.micro_batch = min(mine, self.finetune.micro_batch or mine)

    def halve(self) -> None:
        """Smaller parts from now on."""
        if self.micro_batch == 1:
            way = "take a smaller backbone.resolution" if self.finetune.checkpointing else "set checkpointing=true"
            raise UserError(f"there is not enough memory to learn from one image; {way}", ("finetune",))
        self.micro_batch = (self.micro_batch + 1) // 2

    @cached_property
    def scheduler(self) -> Any:
        return DDPMScheduler.from_config(self.pipe.scheduler.config)  # PNDM, which SD 1.5 brings, knows no v

    def loss(self, step: int) -> Iterator[Tensor]:
        """This process's part of the mean squared error of the predicted noise (or velocity), part by part."""
        # Every process draws the whole batch on the CPU and takes its share: equal on any device, with any number.
        generator = torch.Generator().manual_seed(seed_of(self.seed, "finetune", step))
        size = self.finetune.batch_size
        rows = torch.randint(len(self.examples), (size,), generator=generator)
        z = self.latents.draw(rows, generator)
        noise = torch.randn(z.shape, generator=generator).to(z)
        scheduler = self.scheduler
        t = torch.randint(scheduler.config.num_train_timesteps, (size,), generator=generator).to(z.device)
        lot = torch.randint(len(TEMPLATES), (size,), generator=generator)
        captions = [self.examples[i].captions() for i in rows.tolist()]
        texts = [choices[n % len(choices)] for choices, n in zip(captions, lot.tolist(), strict=True)]
        noisy = scheduler.add_noise(z, noise, t)
        # Stable Diffusion 2.1 at 768 pixels predicts v, the others noise.
        is_v = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(z, noise, t) if is_v else noise
        numbers = range(size)[self.world.mine]
        for first in range(0, len(numbers), self.micro_batch):
            part = list(numbers[first : first + self.micro_batch])
            with torch.autocast(z.device.type, torch.bfloat16, enabled=self.finetune.precision == "bf16"):
                said = self.student.embed([texts[number] for number in part])
                out = self.pipe.unet(noisy[part], t[part], encoder_hidden_states=said).sample
            error: Tensor = (out.float() - target[part]).square().flatten(1).mean(1)  # in float32, after autocast too
            yield error.sum() / size  # of the whole batch: the parts' gradients are summed
