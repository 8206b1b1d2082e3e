"""Codec: the parts of a loaded text-to-image model around its denoiser, each source and each text encoded once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from torch import Tensor

from synthaug.data.sample import resize_image
from synthaug.diffusion.batches import Recent
from synthaug.settings import UserError

# How many encoded ones are kept: the sources of two shards, whose variants come one after the other, and the prompts
# of a thousand classes in some wordings.
_SOURCES, _PROMPTS = 512, 4096
_DECODED_PIXELS = 16 * 512 * 512  # decoded at a time: more gains nothing and takes gigabytes


class Codec:
    """Images to latents and back, texts to what the denoiser reads; `counters` says what was done."""

    def __init__(self, pipe: Any, resolution: int) -> None:
        self.pipe, self.resolution = pipe, resolution
        self.counters = dict.fromkeys(("vae_encodes", "vae_decodes", "text_encodes"), 0)
        self._posteriors = Recent[tuple[Tensor, Tensor]](_SOURCES)
        self._texts = Recent[Tensor](_PROMPTS)

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = self.pipe.vae.dtype
        return found

    @property
    def scale(self) -> float:
        """What latents are multiplied by before they are noised."""
        # Rombach et al. 2022, appendix G: so that they have about unit variance, as the noise has.
        return float(self.pipe.vae.config.scaling_factor)

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of the latents of one image."""
        side = self.resolution // self.pipe.vae_scale_factor
        return self.pipe.vae.config.latent_channels, side, side

    def posterior(self, source: np.ndarray, key: Hashable) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a source's latents; one at a time, so that batches do not change bits."""

        def encode() -> tuple[Tensor, Tensor]:
            self.counters["vae_encodes"] += 1
            # squashed to a square, not cropped: what is cut off may be what the label means (UniDiffDA does the same)
            pixels = torch.from_numpy(resize_image(source, self.resolution)).to(self.pipe.device)
            x = (pixels.permute(2, 0, 1)[None].float() / 255 * 2 - 1).to(self.pipe.vae.dtype)
            posterior = self.pipe.vae.encode(x).latent_dist
            return posterior.mean, posterior.std  # not a draw of it: each row draws with a seed of its own

        return self._posteriors.get(key, encode)

    def text(self, text: str) -> Tensor:
        """What the text encoder says of a prompt (1, tokens, width)."""

        def encode() -> Tensor:
            self.counters["text_encodes"] += 1
            embedding: Tensor = self.pipe.text_encoder(token_ids(self.pipe, [text]))[0]
            return embedding

        return self._texts.get(text, encode)

    def decode(self, z: Tensor) -> Tensor:
        """Images (BCHW, in [0, 1]) of latents; differentiable."""
        size = max(1, _DECODED_PIXELS // self.resolution**2)
        parts = (z / self.scale).to(self.dtype).split(size)
        x = torch.cat([self.pipe.vae.decode(part, return_dict=False)[0] for part in parts])
        self.counters["vae_decodes"] += len(z)
        return (x.float() / 2 + 0.5).clamp(0, 1)

    def forget(self) -> None:
        """Drop what is kept of sources and prompts, so that the next call encodes them again."""
        self._posteriors.values.clear()
        self._texts.values.clear()


def load_pipe(folder: Path, dtype: torch.dtype) -> Any:
    """The diffusers pipeline of a folder, without the parts that judge images and without progress bars."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        return diffusers.DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True,
            # which blackens what it takes for indecent; a black image would be trained on like any other
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    except OSError as error:  # from_pretrained's word for a missing file
        raise UserError(f"the model in {folder} is not complete: {error}") from None


def token_ids(pipe: Any, texts: Sequence[str]) -> Tensor:
    """What the text encoder reads of texts: all of one length, padded."""
    length = pipe.tokenizer.model_max_length
    ids: Tensor = pipe.tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids.to(pipe.device)
