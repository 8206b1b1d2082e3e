"""Tables of suffixes: what may stand behind "a photo of a <class>, " for each class and for each training image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from synthaug.settings import UserError

DIGITS = Path(__file__).parent / "suffixes_digits.json"


@dataclass(frozen=True)
class Suffixes:
    """`classes`: phrases imagined for a class; `images`: what was seen on a training image, by its id."""

    place: str
    classes: dict[str, tuple[str, ...]]
    images: dict[str, str]

    def of_class(self, name: str) -> tuple[str, ...]:
        if not (self.classes.get(name) or self.classes.get("*")):
            raise UserError(f'{self.place} has no suffixes for the class {name!r}; add them under "classes"')
        return self.classes.get(name) or self.classes["*"]  # one list may serve all classes, as Diff-II's do

    def of_image(self, id: str) -> str:
        if id not in self.images:
            raise UserError(f'{self.place} has no suffix for the image {id!r}; add it under "images"')
        return self.images[id]


def read(file: str | None) -> Suffixes:
    """The table in a JSON file {"classes": {class: [suffix, ...]}, "images": {id: suffix}}, or the one for digits."""
    path = Path(file).expanduser() if file is not None else DIGITS
    try:
        # Either part may be missing: dreaming needs the classes only, exchange the images only.
        data = json.loads(path.read_bytes())
        classes = {name: tuple(map(str, texts)) for name, texts in data.get("classes", {}).items()}
        return Suffixes(str(path.name), classes, {id: str(text) for id, text in data.get("images", {}).items()})
    except (OSError, ValueError, AttributeError, TypeError) as error:  # no file, no JSON, or JSON of another shape
        raise UserError(f"{path} is no table of suffixes: {error}") from None
