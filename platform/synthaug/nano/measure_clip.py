"""What the embedded CLIP is worth: does it know the class without training, and does it see what is none?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from synthaug.clip import Scorer
from synthaug.data import glyphs
from synthaug.evaluate.filter import ClipBinary
from synthaug.nano.measure_ddpm import digits
from synthaug.nano.train_clip import empty, kind
from synthaug.settings import seed_of


def unseen_digits() -> tuple[Tensor, Tensor]:
    """The test split of the package's digits, in [-1, 1]."""
    pixels, labels = digits("test")
    return torch.from_numpy(pixels) / 127.5 - 1, torch.from_numpy(labels)


def zero_shot(scorer: Scorer, images: Tensor, texts: Sequence[str]) -> Tensor:
    """The text that CLIP finds likeliest for each image (in [-1, 1])."""
    return scorer.probabilities(scorer.embed(_bytes(images)), texts).argmax(1)


def binary(scorer: Scorer, images: Tensor, labels: Tensor, *, typed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """CLIP-Binary, the filter, of images under their own class, of images under another class (of the other
    sort where `typed`), and of pictures without a character under some class."""
    count = 10 if int(labels.max()) < 10 else 36
    wrong = (labels + 1 + torch.arange(len(labels)) % (count - 1)) % count  # each other class in turn, never its own
    if typed and count == 36:
        # "a type of digit" is not denied by another digit: a digit is called a letter, a letter a digit
        wrong = torch.where(labels < 10, 10 + labels, labels % 10)
    generator = torch.Generator().manual_seed(seed_of("nano:measure", "empty"))
    grey = (images[:, :1] + 1) / 2  # N x 1 x H x W in [0, 1]
    nothing = empty(grey, generator).expand(-1, 3, -1, -1) * 2 - 1
    pairs = ((images, labels), (images, wrong), (nothing, labels))
    good, others, bare = (_yes(scorer, x, y, typed) for x, y in pairs)
    return good, others, bare


def _yes(scorer: Scorer, images: Tensor, labels: Tensor, typed: bool) -> Tensor:
    """The probability that each image shows its class rather than not."""
    words = [glyphs.CLASSES[label] for label in labels.tolist()]
    asked = zip(scorer.embed(_bytes(images)), words, strict=True)
    return torch.tensor([ClipBinary().yes(scorer, f[None], word, kind(word) if typed else "")[0] for f, word in asked])


def _bytes(images: Tensor) -> np.ndarray:
    pixels: np.ndarray = ((images + 1) * 127.5).round().to(torch.uint8).numpy()
    return pixels
