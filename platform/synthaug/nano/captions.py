"""The words of the embedded text-to-image model: its tokenizer and the captions it learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from synthaug.diffusion import finetune as personalize

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

PHOTO = "a photo of a {}"
# The templates that textual inversion trains with, and three more.
TEMPLATES = (*personalize.TEMPLATES, "{}", "an image of a {}", "a picture of a {}")
# Words that other methods put around the class: the model learns to look past them.
WORDS = (
    "image", "real", "world", "cartoon", "oil", "painting", "sketch", "colorful", "stylized", "high", "low",
    "contrast", "posterized", "solarized", "sheared", "bright", "dark", "transformed", "version", "into", "this",
    "that", "with", "and", "on", "in", "at", "background", "foreground", "paper", "board", "wall", "white", "black",
    "gray", "red", "green", "blue", "handwritten", "printed", "written", "drawn", "digit", "letter", "number",
    "character", "symbol", "style", "snowy", "sunset", "autumn", "watercolor", "art", "mosaic", "ukiyo", "rainbow",
    "aurora", "crystal", "night", "day", "light", "old", "new", "thick", "thin", "bold", "large", "small", "tiny",
    "big", "blurry", "sharp", "soft", "by", "from", "under", "over", "near", "the", "a", "an", "of", "for", "is",
    "it", "its",
)  # fmt: skip


def _pieces() -> list[str]:
    """Whole words that are one token each."""
    words = {word for template in TEMPLATES for word in template.replace("-", " ").split() if word.isalpha()}
    return sorted(words | set(WORDS), key=lambda word: (-len(word), word))


def _split(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding of one word: the merges in order of rank."""
    parts = [*word[:-1], word[-1] + "</w>"]
    for pair in merges:
        i = 0
        while i + 1 < len(parts):
            if (parts[i], parts[i + 1]) == pair:
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            i += 1
    return parts


def _merges() -> list[tuple[str, str]]:
    """Merges after which every piece is one token: later ones rank lower, so they leave earlier words whole."""
    merges: list[tuple[str, str]] = []
    for word in _pieces():
        # What earlier merges make of the word, glued from left to right.
        left, *rest = _split(word, merges)
        for right in rest:
            merges.append((left, right))
            left += right
    return merges


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer over bytes, in which the words of the captions are one token each."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = sorted(bytes_to_unicode().values())
    # Every byte twice, inside a word and at its end: so any text can be read, if need be letter by letter.
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters)])
    merges = _merges()
    tokens |= dict.fromkeys(left + right for left, right in merges)
    # The end-of-text token comes last, as in CLIP; its id must not be 2, which transformers takes for an old config.
    vocab = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=77)


def caption(word: str, rng: np.random.Generator, drop: float = 0.1) -> str:
    """A random caption; empty with probability `drop`, for classifier-free guidance."""
    u = rng.random()
    if u < drop:
        return ""
    if u < 0.6:  # half of all: what most methods prompt with
        return PHOTO.format(word)
    text = TEMPLATES[rng.integers(len(TEMPLATES))].format(word)
    if u < 0.8:
        return text
    extra = rng.choice(WORDS, size=rng.integers(1, 6)).tolist()
    words = [text, *extra] if rng.random() < 0.5 else [*extra, word]
    return " ".join(words)
