"""Scorer: a loaded CLIP; images and texts as unit vectors, and how likely each text is for an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from synthaug.settings import UserError


class Scorer:
    """A CLIP in float32 on one device. Gradients flow to float images, never to the weights."""

    def __init__(self, folder: Path, logit_scale: float, device: str | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.logit_scale = logit_scale
        self.model, self.tokenizer = _load(folder)
        self.model.to(self.device).eval().requires_grad_(False)
        self.side: int = self.model.config.vision_config.image_size
        processor = json.loads((folder / "preprocessor_config.json").read_text())
        self.mean, self.std = (
            torch.tensor(processor[name], device=self.device).view(3, 1, 1) for name in ("image_mean", "image_std")
        )
        self._texts: dict[str, Tensor] = {}

    def pixels(self, images: Tensor, normalise: bool = True) -> Tensor:
        """What the model sees of BCHW images (uint8, or floats in [0, 1]): the shorter side resized, the middle cut
        out, as CLIP's own preprocessor does it. `normalise=False` leaves out mean and std, as GIF's code does."""
        x = resize(images.to(self.device), [self.side], InterpolationMode.BICUBIC, antialias=True)
        top, left = ((length - self.side) // 2 for length in x.shape[2:])
        x = x[:, :, top : top + self.side, left : left + self.side]
        x = x / 255 if x.dtype == torch.uint8 else x
        seen: Tensor = (x - self.mean) / self.std if normalise else x
        return seen

    def images(self, images: Tensor, normalise: bool = True) -> Tensor:
        """Unit vectors (N x D) of BCHW images."""
        features = self.model.get_image_features(self.pixels(images, normalise)).pooler_output
        return F.normalize(features, dim=1)

    @torch.inference_mode()
    def embed(self, images: np.ndarray, batch: int = 256) -> Tensor:
        """Unit vectors (N x D, on the CPU) of uint8 images (N x 3 x H x W), a batch at a time."""
        return torch.cat([self.images(piece).cpu() for piece in torch.from_numpy(images).split(batch)])

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (T x D) of texts; each is read alone and once, so that its vector does not depend on others."""
        for text in texts:
            if text not in self._texts:
                self._texts[text] = self._read(text)
        return torch.stack([self._texts[text] for text in texts])

    def probabilities(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        """How likely each of the texts is for each image vector (N x T)."""
        return (self.logit_scale * features.to(self.device) @ self.texts(texts).T).softmax(1)

    @torch.inference_mode(False)  # what is kept may meet a gradient later
    @torch.no_grad()
    def _read(self, text: str) -> Tensor:
        ids = self.tokenizer(text, return_tensors="pt", verbose=False).input_ids
        longest = self.model.config.text_config.max_position_embeddings
        if ids.shape[1] > longest:
            raise UserError(f"the text {text!r} has {ids.shape[1]} tokens, the CLIP model reads {longest}")
        return F.normalize(self.model.get_text_features(ids.to(self.device)).pooler_output[0], dim=0)


def _load(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a folder."""
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        return model, transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except OSError as error:
        raise UserError(f"the model in {folder} is not complete: {error}") from None
