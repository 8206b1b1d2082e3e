"""Pipeline: a loaded text-to-image model; any mixture of sources, prompts and seeds in batches of one size."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from synthaug.diffusion.batches import Pieces
from synthaug.diffusion.codec import Codec, load_pipe
from synthaug.diffusion.finetune import Adapter, fuse
from synthaug.diffusion.fit import out_of_memory
from synthaug.diffusion.steps import GRID, Loop, Part, part_of, scheduler_of
from synthaug.diffusion.tokens import check_tokens
from synthaug.settings import UserError

if TYPE_CHECKING:
    from synthaug.diffusion.backbone import Backbone

T = TypeVar("T")
Strength = float | Sequence[float]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SCHEDULERS = "DPMSolverMultistepScheduler, DDIMScheduler, EulerDiscreteScheduler, LCMScheduler"
_SMALLER = "use a smaller backbone.resolution, or backbone.precision=bf16"


@dataclass(frozen=True)
class _Row:
    """One image to make: from a source, from latents, or from pure noise."""

    prompt: str
    seed: int
    part: Part  # the steps that it goes through
    source: np.ndarray | None = None
    key: Hashable = None  # rows of one key have one source, which is encoded once
    latents: np.ndarray | None = None
    later: str | None = None  # the prompt below the loop's `split`


class Pipeline:
    """A loaded model; `counters` says what it has done. Each row owns its randomness: its result depends on the
    rows beside it only by rounding."""

    def __init__(
        self, backbone: Backbone, folder: Path, device: str | None = None, adapters: Sequence[Adapter] = ()
    ) -> None:
        self.backbone = backbone
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cpu":  # sums differ in bits between thread counts, and the key holds the count
            torch.set_num_threads(backbone.threads)
        self.dtype = DTYPES[backbone.precision]
        self.pipe = load_pipe(folder, self.dtype)
        self._attach(adapters)  # on the CPU still: weights are moved once
        self.pipe.to(self.device)
        own = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        self.resolution = backbone.resolution or own
        self.codec = Codec(self.pipe, self.resolution)
        self._counters = {"unet_calls": 0, "unet_batches": 0, "halvings": 0, "micro_batch": backbone.micro_batch}
        self._schedulers: dict[str, Any] = {}
        self.scheduler("DDIMScheduler")  # a wrong name in the backbone is said now
        self._optimise()

    def _attach(self, adapters: Sequence[Adapter]) -> None:
        """What was learned on the data set, then what makes sampling shorter; before anything is compiled."""
        from safetensors.torch import load

        for finetune, file in adapters:
            finetune.attach(self.pipe, load(file.read_bytes()))
        # LCM-LoRA (Luo et al. 2023) is a vector that may be added to any fine-tuned model: so it comes last.
        if self.backbone.lora is not None:
            fuse(self.pipe, self.backbone.lora.folder() / self.backbone.lora.MARK)

    def _optimise(self) -> None:
        """Memory layout and compilation, as the backbone says."""
        if self.backbone.channels_last:
            self.pipe.unet.to(memory_format=torch.channels_last)
            self.pipe.vae.to(memory_format=torch.channels_last)
        if self.backbone.compile:
            self.pipe.unet = torch.compile(self.pipe.unet)
            # the decoder alone: each source is encoded once, which would not pay for compiling
            self.pipe.vae.decoder = torch.compile(self.pipe.vae.decoder)

    @property
    def counters(self) -> dict[str, int]:
        """What it has done so far."""
        return self._counters | self.codec.counters

    # --- what it can do ---

    def img2img(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int], *, strength: Strength,
        steps: int, guidance: float, negative: str = "", guided: tuple[float, float] = (0.0, 1.0),
        keys: Sequence[str] | None = None, latents: bool = False,
    ) -> list[np.ndarray]:  # fmt: skip
        """SDEdit (Meng et al.): each image noised `strength` of the way and denoised under its prompt. `keys` name
        the images, so that the variants of a source share its encoding."""
        rows = self._edits(images, prompts, seeds, strength, steps, keys)
        return self._generate(rows, Loop(steps, guidance, negative, guided=guided), latents=latents)

    def txt2img(
        self, prompts: Sequence[str], seeds: Sequence[int], *, steps: int, guidance: float, negative: str = ""
    ) -> list[np.ndarray]:
        """Images from pure noise."""
        part = part_of(self.backbone.scheduler, steps)
        rows = [_Row(prompt, seed, part) for prompt, seed in zip(prompts, seeds, strict=True)]
        return self._generate(rows, Loop(steps, guidance, negative))

    def instruct(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int], *, steps: int,
        guidance: float, image_guidance: float, keys: Sequence[str] | None = None,
    ) -> list[np.ndarray]:  # fmt: skip
        """InstructPix2Pix (Brooks et al. 2023): each image changed as its prompt says, from pure noise, by a model
        that sees the image."""
        rows = self._edits(images, prompts, seeds, 1.0, steps, keys)
        return self._generate(rows, Loop.instructed(steps, guidance, image_guidance))

    def invert(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], *, steps: int, keys: Sequence[str] | None = None
    ) -> list[np.ndarray]:
        """DDIM inversion without guidance: the latents (float32) from which each image would be drawn."""
        rows = self._edits(images, prompts, [0] * len(images), 1.0, steps, keys)  # no seed: nothing is drawn
        self._check_kind(instructs=False)
        self.check_prompts(prompts)
        loop = Loop.inverted(steps)
        return self._batched(rows, lambda rows: _arrays(self._ascend(rows, loop)))

    def resume(
        self, latents: Sequence[np.ndarray], prompts: Sequence[str], later: Sequence[str], *, split: float,
        steps: int, guidance: float,
    ) -> list[np.ndarray]:  # fmt: skip
        """DDIM from given latents: under `prompts` for the first `split` of the schedule, then under `later`."""
        part = part_of(self.backbone.scheduler, steps)
        given = zip(prompts, latents, later, strict=True)
        rows = [_Row(prompt, 0, part, latents=z, later=after) for prompt, z, after in given]
        return self._generate(rows, Loop.resumed(steps, guidance, split))

    @torch.inference_mode()
    def pixels(self, z: Tensor) -> list[np.ndarray]:
        """Images (uint8 HWC) of latents."""
        return _to_uint8(self.codec.decode(z))

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse a prompt of which the text encoder would not see the end."""
        check_tokens(
            self.pipe.tokenizer, self.pipe.text_encoder.config.max_position_embeddings, dict.fromkeys(prompts, ())
        )

    def scheduler(self, published: str) -> Any:
        """The scheduler that the backbone asks for, or the one a method was published with."""
        name = scheduler_of(published, self.backbone.scheduler)
        if name not in self._schedulers:  # with the noise schedule that the model was trained on
            self._schedulers[name] = _scheduler(name).from_config(self.pipe.scheduler.config)
        return self._schedulers[name]

    # --- rows and batches ---

    def _edits(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int], strength: Strength,
        steps: int, keys: Sequence[str] | None,
    ) -> list[_Row]:  # fmt: skip
        strengths = [strength] * len(images) if isinstance(strength, int | float) else strength
        names = [_content(image) for image in images] if keys is None else keys
        parts = [part_of(self.backbone.scheduler, steps, s, self.backbone.sliced) for s in strengths]
        given = zip(prompts, seeds, parts, images, names, strict=True)
        return [_Row(prompt, seed, part, source=image, key=name) for prompt, seed, part, image, name in given]

    def _generate(self, rows: list[_Row], loop: Loop, *, latents: bool = False) -> list[np.ndarray]:
        """Images, or latents, in the order of the rows."""
        self._check_kind(instructs=loop.image_guidance is not None)
        said = [loop.negative, *(row.prompt for row in rows), *(row.later or "" for row in rows)]
        self.check_prompts(said)
        finish = _arrays if latents else lambda z: _to_uint8(self.codec.decode(z))
        return self._batched(rows, lambda rows: finish(self._denoise(rows, loop)))

    def _check_kind(self, *, instructs: bool) -> None:
        """A network that sees the source beside the latents has twice the channels, and is of no other use."""
        # Brooks et al., section 3.2: the source's channels are concatenated to those of the latents.
        sees = self.pipe.unet.config.in_channels > self.pipe.vae.config.latent_channels
        if instructs and not sees:
            ways = "take timbrooks/instruct-pix2pix, or nano:pix2pix"
            raise UserError(f"{self.backbone.model!r} follows no instructions about images; {ways}", ("backbone",))
        if sees and not instructs:
            ways = "take stable-diffusion-v1-5/stable-diffusion-v1-5, or nano:sd"
            raise UserError(f"{self.backbone.model!r} only follows instructions about images; {ways}", ("backbone",))

    @torch.inference_mode()
    def _batched(self, rows: list[_Row], make: Callable[[list[_Row]], Sequence[T]]) -> list[T]:
        """What `make` makes of the rows, in their order; a batch holds rows that go through the same steps."""
        pieces = Pieces([row.part for row in rows], self.backbone.micro_batch)
        made: dict[int, T] = {}
        for piece in pieces:
            try:
                made |= zip(piece, make([rows[i] for i in piece]), strict=True)
            except RuntimeError as error:  # the rows of this piece alone are made again
                if not out_of_memory(error):
                    raise
                self._halve(pieces)
        return [made[i] for i in range(len(rows))]

    def _halve(self, pieces: Pieces) -> None:
        """Take the last piece back, and cut smaller ones from now on."""
        # Learned by failing, never from the memory that is free: else a batch would hang on who else uses the device.
        if not pieces.halve():
            raise UserError(f"not enough memory for one image of {self.resolution} px; {_SMALLER}")
        self._counters["halvings"] += 1
        self._counters["micro_batch"] = min(self._counters["micro_batch"], pieces.size)

    # --- the loops ---

    def _denoise(self, rows: list[_Row], loop: Loop) -> Tensor:
        """The loop of diffusers' pipelines: latents of rows that go through the same steps."""
        scheduler = self.scheduler(loop.scheduler)
        timesteps = self._timesteps(scheduler, rows[0].part)
        # On the CPU, whose numbers are the same whatever the device; one each, so that no row draws for another.
        generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        extra = {"generator": generators} if "generator" in signature(scheduler.step).parameters else {}
        prompts, later = ([self.codec.text(text) for text in texts] for texts in _texts(rows))
        negative = [self.codec.text(loop.negative)] * len(rows)
        shown = None if loop.image_guidance is None else self._shown(rows)
        z = self._start(scheduler, rows, generators, timesteps[0], from_noise=shown is not None)
        for t in timesteps:
            level = float(t) / scheduler.config.num_train_timesteps
            # Diff-II's first stage is a share of the schedule, not of the steps that are run
            positive = prompts if level >= 1 - loop.split else later
            z_in = scheduler.scale_model_input(z, t)
            out = self._predict(z_in, t, positive, negative, shown, loop, level)
            z = scheduler.step(out, t, z, **extra, return_dict=False)[0]
        return z

    def _predict(
        self, z: Tensor, t: Tensor, positive: list[Tensor], negative: list[Tensor], shown: Tensor | None, loop: Loop,
        level: float,
    ) -> Tensor:  # fmt: skip
        """What the network says of the noise, with the guidance of the loop."""
        width = loop.width(level)
        if width == 1:
            return self._unet(z, t, positive)
        if shown is None and self.pipe.unet.config.get("time_cond_proj_dim") is not None:
            return self._unet(z, t, positive, loop.guidance)  # it was distilled to guide itself (Luo et al. 2023)
        if shown is not None:  # Brooks et al., equation 3; what is not given is the empty prompt and an empty image
            z3 = torch.cat([torch.cat([z] * 3), torch.cat([shown, shown, torch.zeros_like(shown)])], dim=1)
            full, image, nothing = self._unet(z3, t, positive + negative + negative).chunk(3)
            assert loop.image_guidance is not None
            out: Tensor = nothing + loop.guidance * (full - image) + loop.image_guidance * (image - nothing)
            return out
        # Ho and Salimans 2022, equation 6; diffusers' weight is one more than theirs
        uncond, cond = self._unet(torch.cat([z, z]), t, negative + positive).chunk(2)
        return uncond + loop.guidance * (cond - uncond)

    def _unet(self, z: Tensor, t: Tensor, texts: list[Tensor], guidance: float = 1.0) -> Tensor:
        more = self._told(guidance, len(z))
        out: Tensor = self.pipe.unet(z, t, encoder_hidden_states=torch.cat(texts), **more, return_dict=False)[0]
        self._counters["unet_calls"] += len(z)
        self._counters["unet_batches"] += 1
        return out

    def _told(self, guidance: float, rows: int) -> dict[str, Tensor]:
        """What a network that guides itself reads beside the timestep; 1, diffusers' weight for none, is its 0."""
        dim = self.pipe.unet.config.get("time_cond_proj_dim")
        if dim is None:
            return {}
        w = torch.full((rows,), guidance - 1)
        # of diffusers' class and not of `self.pipe`, whose class may be without it
        embedding: Tensor = StableDiffusionPipeline.get_guidance_scale_embedding(self.pipe, w, dim)
        return {"timestep_cond": embedding.to(self.device, self.dtype)}

    def _ascend(self, rows: list[_Row], loop: Loop) -> Tensor:
        """From the mean latents of the sources to noise, a step at a time."""
        # Song et al. 2021, section 4.3: the ODE of DDIM, backwards. Under guidance it would not lead back.
        scheduler = self.scheduler(loop.scheduler)
        scheduler.set_timesteps(loop.steps, device=self.device)
        texts = [self.codec.text(row.prompt) for row in rows]
        # The mean, not a draw: what is inverted is the image, and its latents are to be the same each time.
        means = torch.cat([mean for mean, _ in self._posteriors(rows)])
        z = self.codec.scale * means
        for t in scheduler.timesteps:
            z = scheduler.step(self._unet(z, t, texts), t, z, return_dict=False)[0]
        found: Tensor = z
        return found

    def _timesteps(self, scheduler: Any, part: Part) -> Tensor:
        """When the network is asked, in the steps of a part."""
        if part.level is None:
            scheduler.set_timesteps(part.run + part.skipped, device=self.device)
        else:
            steps = part.run + part.skipped
            scheduler.set_timesteps(steps, self.device, original_inference_steps=GRID, strength=part.level)
        first = part.skipped * scheduler.order  # one of second order has two times a step
        if hasattr(scheduler, "set_begin_index"):  # DDIM finds its place by the timestep
            scheduler.set_begin_index(first)
        timesteps: Tensor = scheduler.timesteps[first:]
        return timesteps

    def _start(
        self, scheduler: Any, rows: list[_Row], generators: list[torch.Generator], t: Tensor, *, from_noise: bool
    ) -> Tensor:
        """Noised latents. A row's generator gives the draw from its source's posterior, then the noise."""
        if rows[0].latents is not None:
            given = np.stack([row.latents for row in rows if row.latents is not None])
            return torch.from_numpy(given).to(self.device, self.dtype)

        def draw() -> Tensor:  # always in float32, so that precisions are paired
            noise = torch.cat([torch.randn(1, *self.codec.shape, generator=generator) for generator in generators])
            return noise.to(self.device, self.dtype)

        if rows[0].source is None or from_noise:
            return draw() * float(scheduler.init_noise_sigma)
        mean, std = (torch.cat(part) for part in zip(*self._posteriors(rows), strict=True))
        # a draw from the posterior, as diffusers takes it; then sqrt(abar) z0 + sqrt(1 - abar) noise (Meng et al.)
        z = self.codec.scale * (mean + std * draw())
        noised: Tensor = scheduler.add_noise(z, draw(), t.expand(len(rows)))
        return noised

    def _posteriors(self, rows: list[_Row]) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation of the latents of each row's source."""
        return [self.codec.posterior(row.source, row.key) for row in rows if row.source is not None]

    def _shown(self, rows: list[_Row]) -> Tensor:
        """What an instructed model sees of the sources: the modes of their latents, unscaled."""
        return torch.cat([mean for mean, _ in self._posteriors(rows)])


def _scheduler(name: str) -> Any:
    """A scheduler class of diffusers."""
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise UserError(f"diffusers has no scheduler {name!r}; it has {_SCHEDULERS}, ...", ("backbone", "scheduler"))
    return found


def _texts(rows: list[_Row]) -> tuple[list[str], list[str]]:
    """The prompts of the first part of the way and of the rest."""
    return [row.prompt for row in rows], [row.prompt if row.later is None else row.later for row in rows]


def _content(image: np.ndarray) -> str:
    # the bytes alone do not tell 2 x 8 from 4 x 4
    return blake2b(image.tobytes(), digest_size=16).hexdigest() + str(image.shape)


def _to_uint8(x: Tensor) -> list[np.ndarray]:
    """BCHW in [0, 1] as HWC images."""
    return list((x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy())


def _arrays(z: Tensor) -> list[np.ndarray]:
    return list(z.float().cpu().numpy())
