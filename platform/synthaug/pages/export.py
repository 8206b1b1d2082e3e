"""Generated images as an ImageFolder, beside the real ones of each split, for people who train elsewhere."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from synthaug.data.sample import Sample
from synthaug.experiment import Experiment, Sweep
from synthaug.runtime.disk import Disk
from synthaug.runtime.make import Here, Plan, make
from synthaug.runtime.rows import alone
from synthaug.runtime.store import Store
from synthaug.settings import UserError

COLUMNS = (
    "file_name", "split", "source", "class", "label", "variant", "prompt", "seed", "strength", "method", "stage"
)  # fmt: skip
SYNTHETIC = "synthetic"
UNSAFE = set('/\\:*?"<>|%')  # what a name of a folder must not hold on one system or another, and the sign of a quote


def export_images(subject: Experiment | Sweep, folder: Path, home: str | Path, *, real: bool = True) -> str:
    """Write synthetic/ with class folders of the images that would be trained on, train/, val/ and test/ with the
    `real` ones, as they are split here, and metadata.csv about all; what is missing is made first."""
    experiment = alone(subject)
    if experiment is None or experiment.method is None:
        said = "plain training has no images of its own; of a sweep name a row: FILE:FUNCTION:ROW"
        raise UserError(f"export needs an experiment with a method: {said}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} is there already and not empty; name a new folder")
    store = Store(home).prepare()
    line = store.line(experiment)
    images = line.images
    assert images is not None
    plan = Plan(store).add(experiment, [images])
    # as `run` does: what can be known to be wrong is said first
    for stage in plan.todo():
        stage.check(store.planned(stage))
    make(plan, Here())
    samples, pictures = store.load(images).samples(experiment.k), store.load(line.data)
    out, classes = Disk(folder), pictures.listing.classes
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    for number, sample in enumerate(samples):
        # by number, because ids may be paths; metadata.csv says which is which
        name = f"{SYNTHETIC}/{folder_name(classes[sample.target])}/{number:07d}.{suffix(sample.image)}"
        out.write(name, sample.image)
        lineage = sample.variant, sample.prompt, sample.seed, sample.strength, type(experiment.method).__name__
        writer.writerow([name, SYNTHETIC, *_about(sample, classes), *lineage, sample.method])
    counts = [f"{len(samples)} synthetic images"]
    for split, found in pictures.parts(experiment.seed).items() if real else ():
        counts.append(f"{len(found)} of {split}")
        for number, entry in enumerate(found):  # one at a time: there may be a million
            (sample,) = pictures.listing.samples([entry])
            name = f"{split}/{folder_name(classes[sample.target])}/{number:07d}.{suffix(sample.image)}"
            out.write(name, sample.image)
            writer.writerow([name, split, *_about(sample, classes), *[""] * 6])
    # last, so that what was stopped is seen to be no whole export
    out.write("metadata.csv", table.getvalue().encode())
    return f"{', '.join(counts)} in {folder}"


def folder_name(name: str) -> str:
    """A class name as one folder below where it belongs, whatever the name is; unlike names stay unlike."""
    quoted = "".join(f"%{ord(c):02X}" if c in UNSAFE or ord(c) < 32 else c for c in name)
    # "." and ".." are folders already
    return quoted.replace(".", "%2E") if set(quoted) <= {"."} else quoted


def suffix(image: bytes) -> str:
    """By the bytes: how its results are stored is for each method to say, and real ones may be anything."""
    known = {b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif", b"RIFF": "webp"}
    return next((name for start, name in known.items() if image.startswith(start)), "jpg")


def _about(sample: Sample, classes: tuple[str, ...]) -> list[str]:
    label = json.dumps({classes[index]: weight for index, weight in sample.label}, ensure_ascii=False)
    return [sample.source, classes[sample.target], label]
