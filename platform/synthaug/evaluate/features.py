"""Features: the vectors in which images are compared. Which network makes them is part of every number."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.classify.recipe import Recipe
from synthaug.clip import Clip
from synthaug.settings import ContentOf, Count, UserError, hash_of, keyed, settings

if TYPE_CHECKING:
    import torch
    from torch import nn

Embed = Callable[[np.ndarray], "torch.Tensor"]


@settings
class Extractor(ABC):
    """A network that turns images into features."""

    @property
    def trained_by(self) -> Recipe | None:
        """How the network is trained on the data set's own images, where it is not there already."""
        return None

    @abstractmethod
    def load(self) -> Embed:
        """The network as a function from N images (uint8 NCHW) to N x D features."""

    def of(self, net: nn.Module | None) -> Embed:
        """The same, where `net` was trained by its recipe."""
        return self.load()

    @abstractmethod
    def about(self) -> dict[str, str]:
        """Its name and the digest of its weights, wherever they lie."""


@settings
class ClipFeatures(Extractor):
    """The image embeddings of a CLIP model, each of length 1. They tell apart what the model was trained to see: the
    embedded one serves letters and digits only."""

    clip: Clip = Clip("openai/clip-vit-base-patch32")

    def load(self) -> Embed:
        return self.clip.load().embed

    def about(self) -> dict[str, str]:
        digests = [[name, _sha256(path)] for name, path in self.clip.identity_files().items()]
        local = Path(self.clip.model).expanduser()
        return {"name": f"CLIP {local.name if local.is_dir() else self.clip.model}", "digest": hash_of(digests)}


@settings
class InceptionFeatures(Extractor):
    """The 2,048 pooled features of torchvision's Inception v3, of images squashed to 299 x 299 (bilinear, antialiased).

    `weights` is a state dict of that net, such as torchvision's Inception_V3_Weights.IMAGENET1K_V1 (.pth, or as
    .safetensors). Papers mostly quote Frechet distances of another net, the TensorFlow one of 2015 with its 1,008
    classes; its weights are refused because its pooling differs.
    """

    weights: ContentOf[str]
    batch: Count = 64

    def load(self) -> Embed:
        import torch

        from synthaug.classify.loop import predict
        from synthaug.classify.models import CENTRED, Classifier, Prepared

        device = "cuda" if torch.cuda.is_available() else "cpu"
        found = Prepared(Classifier(self._net(), *CENTRED), size=299, crop=None).to(device)
        return lambda images: predict(found, images, self.batch)

    def about(self) -> dict[str, str]:
        return {"name": "torchvision inception_v3 pool3", "digest": _sha256(self._file())}

    def _file(self) -> Path:
        file = Path(self.weights).expanduser()
        if not file.is_file():
            raise UserError(f"there is no file {self.weights!r}", ("weights",))
        return file

    def _net(self) -> Any:
        import torch
        from torchvision.models import inception_v3

        from synthaug.classify.models import read_state

        net = inception_v3(weights=None, aux_logits=False, init_weights=False)
        net.fc = torch.nn.Identity()
        state = read_state(self._file())
        if len(state.get("fc.bias", ())) == 1008:
            raise UserError(f"{self.weights} is TensorFlow's Inception, which pools otherwise; take one of torchvision")
        try:
            net.load_state_dict({k: v for k, v in state.items() if not k.startswith(("AuxLogits.", "fc."))})
        except RuntimeError as error:
            said = str(error).splitlines()[1].strip()
            raise UserError(f"{self.weights} does not fit Inception v3: {said}", ("weights",)) from None
        return net


@settings
class OwnFeatures(Extractor):
    """What goes into the last layer of a classifier that is trained on all training images of the data set, whatever
    the experiment's own subset: for images of which no published network knows anything. It is a stage of its own, and
    the same for every arm and seed."""

    recipe: Recipe = Recipe(steps=1000)

    @property
    def trained_by(self) -> Recipe | None:
        return self.recipe

    def load(self) -> Embed:
        raise AssertionError("OwnFeatures is given the classifier of its recipe")

    def of(self, net: nn.Module | None) -> Embed:
        from synthaug.classify.loop import features

        assert net is not None, "OwnFeatures is given the classifier of its recipe"
        return partial(features, net)

    def about(self) -> dict[str, str]:
        return {"name": f"{self.recipe.model} trained on all training images", "digest": hash_of(keyed(self))}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
