"""Classifiers: images in [0, 1] (or uint8) BCHW to logits; a small net of our own, everything in torchvision, its nets
with stems for small images, and everything in timm.

torchvision is imported where it is used: it takes seconds, and the small net needs none of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import nn

from synthaug.classify.augment import RandomCrop
from synthaug.classify.recipe import TIMM, Recipe, check_name
from synthaug.classify.small_models import SMALL, from_timm
from synthaug.settings import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std that torchvision's weights were trained with
CENTRED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # to [-1, 1]


class Classifier(nn.Module):
    """A net behind the normalisation it was made for."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.net = net
        # not persistent: a state dict holds the weights of the net and nothing else
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images if images.is_floating_point() else images.float() / 255
        logits: torch.Tensor = self.net((pixels - self.mean) / self.std)
        return logits


class Prepared(nn.Module):
    """A classifier that takes images as they are stored: the fixed part of a recipe's transforms comes first."""

    def __init__(self, classifier: nn.Module, size: int | None, crop: int | None) -> None:
        super().__init__()
        self.classifier, self.size, self.crop = classifier, size, crop

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = resized(images, self.size)
        logits: torch.Tensor = self.classifier(centre(images, self.crop))
        return logits


def prepared(recipe: Recipe, classifier: nn.Module) -> nn.Module:
    """`classifier` for evaluation: squash to `image_size`, then cut the centre where training cut at random."""
    return Prepared(classifier, recipe.image_size, crop_of(recipe)).eval()


def crop_of(recipe: Recipe) -> int | None:
    """The size that training crops to, if it crops."""
    crops = [transform.size for transform in recipe.transforms if isinstance(transform, RandomCrop)]
    return crops[-1] if crops else None  # the last one decides what size reaches the net


def check_size(net: nn.Module, recipe: Recipe, stored: int) -> None:
    """Refuse images of another size than the one that a net is made for."""
    # in the order of the pipeline, from its end: crop, then squash, then what lies on the disk
    size = crop_of(recipe) or recipe.image_size or stored
    only = only_size(net)
    if only not in (None, size):
        raise UserError(f"{recipe.model} takes {only} px images, not {size}; set recipe.image_size={only}")


def only_size(net: nn.Module) -> int | None:
    """The one size of images that a net takes, as vision transformers do; None of all others."""
    told = getattr(net, "pretrained_cfg", {})  # timm's nets have it
    found = told["input_size"][-1] if told.get("fixed_input_size") else getattr(net, "image_size", None)
    return cast(int | None, found)


def resized(images: torch.Tensor, size: int | None) -> torch.Tensor:
    """Images squashed to size x size; None, or the size they have, leaves them alone."""
    if size is None or images.shape[2:] == (size, size):
        return images
    from torchvision.transforms.v2.functional import resize

    # antialias, or a smaller image skips pixels
    return cast(torch.Tensor, resize(images, [size, size], antialias=True))


def centre(images: torch.Tensor, size: int | None) -> torch.Tensor:
    """The middle size x size pixels; None, or the size they have, leaves images alone."""
    if size is None or images.shape[2:] == (size, size):
        return images
    from torchvision.transforms.v2.functional import center_crop

    return cast(torch.Tensor, center_crop(images, [size, size]))


def build(name: str, classes: int, *, weights: str | Path | None = None, seed: int | None = None) -> Classifier:
    """The net called `name` with `classes` outputs, initialised from `seed`, then from the state dict in `weights`."""
    # nets are initialised on the CPU from torch's global generator, which is given back as it was
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = _made(name, classes)
    if weights is not None:
        _load(model, Path(weights).expanduser())
    return model


def _made(name: str, classes: int) -> Classifier:
    check_name(name)
    if name == "small":
        return Classifier(small(classes), *CENTRED)
    if name.startswith(TIMM):
        net = from_timm(name.removeprefix(TIMM), classes)
        told = cast(dict[str, tuple[float, ...]], net.pretrained_cfg)
        return Classifier(net, told["mean"], told["std"])
    return Classifier(_from_zoo(name, classes), *IMAGENET)


def small(classes: int) -> nn.Sequential:
    """Three convolutions for small images; group norm, so that batch and process count do not matter."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.GroupNorm(8, 16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(2)),
        # 2 x 2, not 1 x 1: with one mean over the image the plain baseline at five shots was 4 points weaker, and
        # augmentation seemed to help where it does not (experiments/LOG.md)
        *(nn.Conv2d(32, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(4 * 64, classes)),
    )


def _from_zoo(name: str, classes: int) -> nn.Module:
    if name in SMALL:
        return SMALL[name](classes)
    from torchvision import models as zoo

    # the two old nets with extra heads would return tuples in training
    extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return cast(nn.Module, zoo.get_model(name, weights=None, num_classes=classes, **extra))


def head(model: nn.Module) -> tuple[str, nn.Linear]:
    """The last linear layer and its name: its input are the features, its output the logits."""
    # modules are named in the order they were made, the head last
    linear = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        # some of timm's end in a convolution; they can be trained, but not do what needs features
        raise UserError("the model has no linear layer, and this needs its last one; choose another model")
    return linear[-1]


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file."""
    if path.suffix == ".safetensors":
        return load_file(path)
    # weights only: a pickle may run any code
    return cast(dict[str, torch.Tensor], torch.load(path, map_location="cpu", weights_only=True))


def _load(model: Classifier, path: Path) -> None:
    """Weights from a file; a head for another number of classes is left as initialised."""
    if not path.is_file():
        raise UserError(f"weights: there is no file {path}")
    # what this project saved is a Classifier's, what torchvision ships is the bare net's
    state = {key.removeprefix("net."): value for key, value in read_state(path).items()}
    last, linear = head(model.net)
    bias = state.get(f"{last}.bias")
    if bias is not None and len(bias) != linear.out_features:
        state |= {key: value for key, value in model.net.state_dict().items() if key.startswith(f"{last}.")}
    try:
        model.net.load_state_dict(state)
    except RuntimeError as error:
        # torch's first line only says that something is wrong, the second is the first thing that is
        raise UserError(f"weights: {path} does not fit the model: {str(error).splitlines()[1].strip()}") from None
