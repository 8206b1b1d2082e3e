"""Pipeline: a loaded text-to-image model; any mixture of sources, prompts and seeds in batches of one size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from inspect import signature
from pathlib import Path
from typing import Any, Generic, TypeVar

import diffusers
import numpy as np
import torch
import transformers
from torch import Tensor

from synthaug.diffusion.backbone import Backbone, refuse_long
from synthaug.sample import resize_image
from synthaug.settings import UserError

T = TypeVar("T")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SOURCES, _PROMPTS = 512, 4096  # how many encoded ones are kept
_DECODED_PIXELS = 16 * 512 * 512  # decoded at a time: more gains nothing and takes gigabytes
_SCHEDULERS = "DPMSolverMultistepScheduler, DDIMScheduler, EulerDiscreteScheduler, LCMScheduler"
_SMALLER = "use a smaller backbone.resolution, or backbone.precision=bf16"
_FULL = ("out of memory", "can't allocate memory", "not enough memory")
_COUNTERS = ("unet_calls", "unet_batches", "vae_encodes", "vae_decodes", "text_encodes", "halvings")


class _Recent(Generic[T]):
    """The values made last, by key."""

    def __init__(self, size: int) -> None:
        self.size, self.values = size, OrderedDict[Hashable, T]()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value at `key`, made if it is not there."""
        value = self.values.pop(key) if key in self.values else make()
        self.values[key] = value
        if len(self.values) > self.size:
            self.values.popitem(last=False)
        return value


@dataclass(frozen=True)
class _Row:
    """One image to make: from pure noise when it has no source."""

    prompt: str
    seed: int
    first: int = 0  # index of its first step
    source: np.ndarray | None = None
    key: Hashable = None


class _Pieces:
    """Cuts the indices of rows into batches of `size` that have one first step."""

    def __init__(self, firsts: list[int], size: int) -> None:
        self.size = size
        self.groups = [[i for i, f in enumerate(firsts) if f == first] for first in sorted(set(firsts), reverse=True)]
        self.piece: list[int] = []

    def __iter__(self) -> Iterator[list[int]]:
        while self.groups:
            pending = self.groups.pop()
            self.piece, rest = pending[: self.size], pending[self.size :]
            self.groups += [rest] * bool(rest)
            yield self.piece

    def halve(self) -> bool:
        """Put the last piece back and halve the size; False when it was a single row."""
        self.groups.append(self.piece)
        self.size = (len(self.piece) + 1) // 2
        return len(self.piece) > 1


@dataclass(frozen=True)
class _Loop:
    """What all rows of a call share."""

    steps: int
    guidance: float
    negative: str


class Pipeline:
    """A loaded model; `counters` says what it has done. Each row owns its randomness: its result depends on the
    rows beside it only by rounding."""

    def __init__(self, backbone: Backbone, folder: Path, device: str | None = None) -> None:
        self.backbone = backbone
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cpu":
            torch.set_num_threads(backbone.threads)
        self.pipe = _load(folder, _DTYPES[backbone.precision]).to(self.device)
        self.scheduler: Any = _scheduler(backbone.scheduler).from_config(self.pipe.scheduler.config)
        self.dtype = _DTYPES[backbone.precision]
        self.resolution = backbone.resolution or self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        self.counters = dict.fromkeys(_COUNTERS, 0) | {"micro_batch": backbone.micro_batch}
        self._posteriors = _Recent[tuple[Tensor, Tensor]](_SOURCES)
        self._embeddings = _Recent[Tensor](_PROMPTS)
        self._optimise()

    def _optimise(self) -> None:
        """Memory layout and compilation, as the backbone says."""
        if self.backbone.channels_last:
            self.pipe.unet.to(memory_format=torch.channels_last)
            self.pipe.vae.to(memory_format=torch.channels_last)
        if self.backbone.compile:
            self.pipe.unet = torch.compile(self.pipe.unet)
            self.pipe.vae.decoder = torch.compile(self.pipe.vae.decoder)

    def img2img(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int], *,
        strength: float | Sequence[float], steps: int, guidance: float, negative: str = "",
        keys: Sequence[str] | None = None,
    ) -> list[np.ndarray]:  # fmt: skip
        """SDEdit (Meng et al.): each image noised `strength` of the way and denoised under its prompt. `keys` name
        the images, so that the variants of a source share its encoding."""
        rows = self._edits(images, prompts, seeds, strength, steps, keys)
        return self._generate(rows, _Loop(steps, guidance, negative), _to_uint8)

    def txt2img(
        self, prompts: Sequence[str], seeds: Sequence[int], *, steps: int, guidance: float, negative: str = ""
    ) -> list[np.ndarray]:
        """Images from pure noise."""
        rows = [_Row(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return self._generate(rows, _Loop(steps, guidance, negative), _to_uint8)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse a prompt of which the text encoder would not see the end."""
        tokenizer, positions = self.pipe.tokenizer, self.pipe.text_encoder.config.max_position_embeddings
        texts = (self.pipe.maybe_convert_prompt(prompt, tokenizer) for prompt in dict.fromkeys(prompts))
        refuse_long(tokenizer, positions, texts)

    def _edits(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int],
        strength: float | Sequence[float], steps: int, keys: Sequence[str] | None,
    ) -> list[_Row]:  # fmt: skip
        strengths = [strength] * len(images) if isinstance(strength, int | float) else strength
        names = [_content(image) for image in images] if keys is None else keys
        firsts = [steps - max(1, min(int(steps * s), steps)) for s in strengths]
        return [_Row(*row) for row in zip(prompts, seeds, firsts, images, names, strict=True)]

    @torch.inference_mode()
    def _generate(self, rows: list[_Row], loop: _Loop, finish: Callable[[Tensor], Sequence[T]]) -> list[T]:
        """`finish`ed images in the order of the rows; a batch holds rows that start at one step."""
        self.check_prompts([loop.negative, *(row.prompt for row in rows)])
        pieces = _Pieces([row.first for row in rows], self.backbone.micro_batch)
        made: dict[int, T] = {}
        for piece in pieces:
            try:
                made |= zip(piece, finish(self._denoise([rows[i] for i in piece], loop)), strict=True)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._halve(pieces)
        return [made[i] for i in range(len(rows))]

    def _halve(self, pieces: _Pieces) -> None:
        """Take the last piece back, and cut smaller ones from now on."""
        if not pieces.halve():
            raise UserError(f"not enough memory for one image of {self.resolution} px; {_SMALLER}")
        self._count(halvings=1)
        self.counters["micro_batch"] = min(self.counters["micro_batch"], pieces.size)

    def _denoise(self, rows: list[_Row], loop: _Loop) -> Tensor:
        """The loop of diffusers' StableDiffusionImg2ImgPipeline: images (BCHW, in [0, 1]) of rows with one start."""
        first = rows[0].first * self.scheduler.order
        self.scheduler.set_timesteps(loop.steps, device=self.device)
        if hasattr(self.scheduler, "set_begin_index"):  # DDIM finds its place by the timestep
            self.scheduler.set_begin_index(first)
        generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        extra = {"generator": generators} if "generator" in signature(self.scheduler.step).parameters else {}
        guided = loop.guidance > 1
        texts = [loop.negative] * len(rows) * guided + [row.prompt for row in rows]
        cond = torch.cat([self._embedding(text) for text in texts])
        z = self._start(rows, generators, self.scheduler.timesteps[first])
        for t in self.scheduler.timesteps[first:]:
            z_in = self.scheduler.scale_model_input(torch.cat([z, z]) if guided else z, t)
            out = self.pipe.unet(z_in, t, encoder_hidden_states=cond, return_dict=False)[0]
            self._count(unet_calls=len(z_in), unet_batches=1)
            if guided:
                uncond, out = out.chunk(2)
                out = uncond + loop.guidance * (out - uncond)
            z = self.scheduler.step(out, t, z, **extra, return_dict=False)[0]
        return self._decode(z)

    def _start(self, rows: list[_Row], generators: list[torch.Generator], t: Tensor) -> Tensor:
        """Noised latents. A row's generator gives the draw from its source's posterior, then the noise."""
        side = self.resolution // self.pipe.vae_scale_factor
        shape = (1, self.pipe.vae.config.latent_channels, side, side)

        def draw() -> Tensor:  # always in float32, so that precisions are paired
            noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
            return noise.to(self.device, self.dtype)

        if rows[0].source is None:
            return draw() * float(self.scheduler.init_noise_sigma)
        mean, std = (torch.cat(part) for part in zip(*map(self._posterior, rows), strict=True))
        z = self.pipe.vae.config.scaling_factor * (mean + std * draw())
        noised: Tensor = self.scheduler.add_noise(z, draw(), t.expand(len(rows)))
        return noised

    def _posterior(self, row: _Row) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the source's latents; one at a time, so that batches do not change bits."""

        def encode() -> tuple[Tensor, Tensor]:
            assert row.source is not None
            self._count(vae_encodes=1)
            pixels = torch.from_numpy(resize_image(row.source, self.resolution)).to(self.device)
            x = (pixels.permute(2, 0, 1)[None].float() / 255 * 2 - 1).to(self.dtype)
            posterior = self.pipe.vae.encode(x).latent_dist
            return posterior.mean, posterior.std

        return self._posteriors.get(row.key, encode)

    def _embedding(self, text: str) -> Tensor:
        """What the text encoder says of a prompt (1, tokens, width)."""

        def encode() -> Tensor:
            self._count(text_encodes=1)
            embedding: Tensor = self.pipe.encode_prompt([text], self.device, 1, False)[0]
            return embedding

        return self._embeddings.get(text, encode)

    def _decode(self, z: Tensor) -> Tensor:
        """Images in [0, 1]."""
        size = max(1, _DECODED_PIXELS // self.resolution**2)
        scaled = (z / self.pipe.vae.config.scaling_factor).split(size)
        x = torch.cat([self.pipe.vae.decode(part, return_dict=False)[0] for part in scaled])
        self._count(vae_decodes=len(z))
        return (x.float() / 2 + 0.5).clamp(0, 1)

    def forget(self) -> None:
        """Drop what is kept of sources and prompts, as after a change of the text encoder."""
        self._posteriors.values.clear()
        self._embeddings.values.clear()

    def _count(self, **more: int) -> None:
        for name, number in more.items():
            self.counters[name] += number


def _load(folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline of a folder, without the parts that judge images and without progress bars."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        return diffusers.DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"the model in {folder} is not complete: {error}") from None


def _scheduler(name: str) -> Any:
    """A scheduler class of diffusers."""
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise UserError(f"diffusers has no scheduler {name!r}; it has {_SCHEDULERS}, ...", ("backbone", "scheduler"))
    return found


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error).lower() for text in _FULL)


def _content(image: np.ndarray) -> str:
    return blake2b(image.tobytes(), digest_size=16).hexdigest() + str(image.shape)


def _to_uint8(x: Tensor) -> list[np.ndarray]:
    """BCHW in [0, 1] as HWC images."""
    return list((x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy())
