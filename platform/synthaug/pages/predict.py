"""What a trained classifier says of other images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from synthaug.data.sample import decode_image, resize_image, why_unreadable
from synthaug.data.walk import files_below, sidecar
from synthaug.experiment import Experiment, Sweep
from synthaug.progress import say
from synthaug.runtime.rows import alone
from synthaug.runtime.store import Store
from synthaug.settings import UserError

BATCH = 64


def predict(subject: Experiment | Sweep, folder: Path, home: str | Path) -> Iterator[str]:
    """Lines of CSV: file, class and its probability, for every image below a folder."""
    experiment = alone(subject)
    if experiment is None or experiment.recipe is None:
        raise UserError(
            "predict needs an experiment that trains a classifier; of a sweep name a row: FILE:FUNCTION:ROW"
        )
    if not folder.is_dir():
        raise UserError(f"there is no folder {str(folder)!r}")
    store = Store(home)
    line = store.line(experiment)
    if not store.is_made(line.classifier):  # whether it is damaged is told where it is loaded
        raise UserError("this has not been trained in this home yet: synthaug run it first, or name another --home")
    model, pictures = store.load(line.classifier), store.load(line.data)
    size = pictures.size(experiment.recipe.image_size)
    found = _files(folder)
    yield _line("file", "class", "probability")
    names, images = list[str](), list[np.ndarray]()
    for name in found:
        try:
            images.append(resize_image(decode_image((folder / name).read_bytes()), size))
            names.append(name)
        except Exception as error:
            say(f"left out: {name} ({why_unreadable(error)})")
        if len(names) == BATCH:
            yield from _asked(model, names, images, pictures.listing.classes)
            names, images = [], []
    if names:
        yield from _asked(model, names, images, pictures.listing.classes)


def _files(folder: Path) -> list[str]:
    """What training would take for images below a folder."""
    lost: list[str] = []
    found = sorted(name for name in files_below(folder, lost, ()) if not sidecar(name))
    for name in lost:
        say(f"left out: {name} (a link that leads nowhere or to a folder that it is in)")
    if not found:
        raise UserError(f"{str(folder)!r} has no images, at any depth")
    return found


def _asked(model: object, names: list[str], images: list[np.ndarray], classes: tuple[str, ...]) -> Iterator[str]:
    import torch

    device = next(model.parameters()).device  # type: ignore[attr-defined]
    with torch.no_grad():
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device)
        best = model(batch).float().softmax(1).max(1)  # type: ignore[operator]
    for name, label, share in zip(names, best.indices.tolist(), best.values.tolist(), strict=True):
        yield _line(name, classes[label], f"{share:.4f}")


def _line(*cells: str) -> str:
    out = io.StringIO()
    # with the usual end of a line, which is what tells the writer which cells to quote
    csv.writer(out).writerow(cells)
    return out.getvalue().removesuffix("\r\n")
