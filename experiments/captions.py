"""Tables of suffixes (what is seen on training images, what may be imagined of a class), as data for prompts.

`python experiments/captions.py digits OUT.json` makes the one that comes with the package;
`python experiments/captions.py MODEL OUT.json DIR` asks a captioner of the Hugging Face sort (such as a downloaded
Salesforce/blip-image-captioning-base) what is on the images below DIR.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from synthaug.data.dataset import Dataset
from synthaug.data.listing import Listing
from synthaug.data.sample import decode_image

DREAMS = (
    "handwritten on paper", "thick and large", "thin and small", "bold and dark", "a light thin drawing",
    "written on a board", "a soft blurry image", "sharp and bright", "a small sketch", "printed in an old style",
)  # fmt: skip


def digits() -> dict[str, object]:
    """For each class ten suffixes in words that nano:sd reads as one token each; for each image how thick it is
    written and how large, measured on its pixels (a third of the images each)."""
    listing = Dataset("digits").open()
    ids = [entry.id for split in ("train", "val", "test") for entry in listing.splits[split]]
    pixels = {id: decode_image(listing.read(id))[..., 0] / 255 for id in ids}
    ink = {id: float(x.mean()) for id, x in pixels.items()}
    width = {id: float((x.max(0) > 0.3).sum()) for id, x in pixels.items()}
    thick, wide = _third(ink, ("thin", "", "thick")), _third(width, ("small", "", "large"))
    seen = {id: " and ".join(filter(None, (thick[id], wide[id]))) or "clean" for id in ids}
    return {"classes": {name: DREAMS for name in listing.classes}, "images": seen}


def _third(values: dict[str, float], words: tuple[str, str, str]) -> dict[str, str]:
    """A word for each value: whether it is among the lowest, the middle or the highest third."""
    bounds = np.quantile(list(values.values()), (1 / 3, 2 / 3))
    return {id: words[int(np.searchsorted(bounds, value))] for id, value in values.items()}


def of_folder(model: str, root: str) -> dict[str, object]:
    """What a captioner says of every training image of a folder; the classes get what was said of their images."""
    from transformers import pipeline

    listing = Dataset("folder", path=root).open()
    return describe(listing, pipeline("image-text-to-text", model=model))


def describe(listing: Listing, captioner: Callable[..., list[dict[str, str]]]) -> dict[str, object]:
    """The table of a data set by a captioner that takes an image and returns [{"generated_text": ...}]."""
    from PIL import Image

    seen: dict[str, str] = {}
    classes: dict[str, list[str]] = {}
    for entry in listing.splits["train"]:
        image = Image.fromarray(decode_image(listing.read(entry.id)))
        seen[entry.id] = captioner(images=image, text="")[0]["generated_text"].strip().rstrip(".")
        classes.setdefault(listing.words[entry.label], []).append(seen[entry.id])
    return {"classes": {name: _unique(texts) for name, texts in classes.items()}, "images": seen}


def _unique(texts: Iterable[str]) -> list[str]:
    return sorted(set(texts))


if __name__ == "__main__":
    what, out, *root = sys.argv[1:]
    table = digits() if what == "digits" else of_folder(what, *root)
    Path(out).write_text(json.dumps(table, indent=0, sort_keys=True))
