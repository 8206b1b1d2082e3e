"""Clip: which CLIP model judges how well images fit texts. Loading it gives a Scorer: images and texts as unit vectors,
and how likely each text is for an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from synthaug.settings import UserError, settings
from synthaug.weights import Weights, files_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@settings
class Clip(Weights):
    """A CLIP model, and the factor of its cosines inside a softmax."""

    MARK: ClassVar[str] = "config.json"
    SORT: ClassVar[str] = "CLIP model"
    WAYS_OUT: ClassVar[str] = (
        "name the folder of a downloaded one (clip=/path/to/clip-vit-base-patch32), "
        "or take the embedded one, which knows only letters and digits (clip=nano:clip)"
    )

    # GIF: p = softmax(100 f W^T). UniDiffDA names no scale for its filters; 100 is CLIP's own, exp(4.605).
    logit_scale: Annotated[float, Field(gt=0)] = 100.0

    def weight_files(self) -> list[Path]:
        return files_of(self.folder())

    def load(self, device: str | None = None) -> Scorer:
        """The model in memory, on the first GPU unless told otherwise."""
        folder = self.folder()
        sort = json.loads((folder / self.MARK).read_text()).get("model_type")
        if sort != "clip":  # transformers would load it all the same, and fill the gaps at random
            raise UserError(f"{folder} holds a {sort} model, not a {self.SORT}; {self.WAYS_OUT}")
        return Scorer(folder, self.logit_scale, device)


class Scorer:
    """A CLIP in float32 on one device. Gradients flow to float images, never to the weights."""

    def __init__(self, folder: Path, logit_scale: float, device: str | None = None) -> None:
        import torch

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.logit_scale = logit_scale
        self.model, self.tokenizer = _load(folder)
        self.model.to(self.device).eval().requires_grad_(False)
        self.side: int = self.model.config.vision_config.image_size
        processor = json.loads((folder / "preprocessor_config.json").read_text())
        # 3 x 1 x 1, against images of B x 3 x H x W
        self.mean = torch.tensor(processor["image_mean"], device=self.device).view(3, 1, 1)
        self.std = torch.tensor(processor["image_std"], device=self.device).view(3, 1, 1)
        self._texts: dict[str, Tensor] = {}

    def pixels(self, images: Tensor, normalise: bool = True) -> Tensor:
        """What the model sees of BCHW images (uint8, or floats in [0, 1]): the shorter side resized, the middle cut
        out, as CLIP's own preprocessor does it. `normalise=False` leaves out mean and std, as GIF's code does."""
        import torch
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import resize

        # Written with tensors, because GIF's gradient must flow through it.
        x = resize(images.to(self.device), [self.side], InterpolationMode.BICUBIC, antialias=True)
        # rounded down, as transformers' center_crop does
        top, left = ((length - self.side) // 2 for length in x.shape[2:])
        x = x[:, :, top : top + self.side, left : left + self.side]
        # Only now: the preprocessor resizes bytes, too, and rounds them.
        x = x / 255 if x.dtype == torch.uint8 else x
        seen: Tensor = (x - self.mean) / self.std if normalise else x
        return seen

    def images(self, images: Tensor, normalise: bool = True) -> Tensor:
        """Unit vectors (N x D) of BCHW images."""
        from torch.nn import functional

        features = self.model.get_image_features(self.pixels(images, normalise)).pooler_output
        return functional.normalize(features, dim=1)

    def embed(self, images: np.ndarray, batch: int = 256) -> Tensor:
        """Unit vectors (N x D, on the CPU) of uint8 images (N x 3 x H x W), a batch at a time."""
        import torch

        with torch.inference_mode():
            # To the CPU piece by piece, so that the device holds one batch however many images there are.
            return torch.cat([self.images(piece).cpu() for piece in torch.from_numpy(images).split(batch)])

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (T x D) of texts; each is read alone and once, so that its vector does not depend on others."""
        import torch

        for text in texts:
            if text not in self._texts:
                self._texts[text] = self._read(text)
        return torch.stack([self._texts[text] for text in texts])

    def probabilities(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        """How likely each of the texts is for each image vector (N x T)."""
        logits_NT = self.logit_scale * features.to(self.device) @ self.texts(texts).T  # both of unit length: cosines
        return logits_NT.softmax(1)

    def _read(self, text: str) -> Tensor:
        import torch
        from torch.nn import functional

        # No gradient, yet no inference tensor either: what is kept may meet a gradient later.
        with torch.inference_mode(False), torch.no_grad():
            ids = self.tokenizer(text, return_tensors="pt", verbose=False).input_ids
            longest = self.model.config.text_config.max_position_embeddings
            if ids.shape[1] > longest:
                raise UserError(f"the text {text!r} has {ids.shape[1]} tokens, the CLIP model reads {longest}")
            features = self.model.get_text_features(ids.to(self.device)).pooler_output
            return functional.normalize(features[0], dim=0)


def _load(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a folder."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        return model, transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except OSError as error:
        raise UserError(f"the model in {folder} is not complete: {error}") from None
