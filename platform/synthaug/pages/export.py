"""Generated images as an ImageFolder, for people who train elsewhere."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from urllib.parse import quote

from synthaug.data.sample import Sample
from synthaug.experiment import Experiment, Sweep
from synthaug.runtime.disk import Disk
from synthaug.runtime.make import Here, Plan, make
from synthaug.runtime.store import Store
from synthaug.settings import UserError

COLUMNS = ("file_name", "source", "class", "label", "variant", "prompt", "seed", "strength", "method")


def export_images(subject: Experiment | Sweep, folder: Path, home: str | Path) -> str:
    """Write class folders and metadata.csv of the images that would be trained on; what is missing is made first."""
    if isinstance(subject, Sweep) or subject.method is None:
        raise UserError(
            "export needs an experiment with a method: a sweep, or plain training, has no images of its own"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} is there already and not empty; name a new folder")
    store = Store(home).prepare()
    images = store.line(subject).images
    assert images is not None
    plan = Plan(store).add(subject, [images])
    # as `run` does: what can be known to be wrong is said first
    for stage in plan.todo():
        stage.check(store.planned(stage))
    make(plan, Here())
    samples, classes = store.load(images).samples(subject.k), store.open(subject.dataset).classes
    out = Disk(folder)
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    for number, sample in enumerate(samples):
        # by number, because ids may be paths; metadata.csv says which is which
        name = f"{folder_name(classes[sample.target])}/{number:07d}.{suffix(sample.image)}"
        out.write(name, sample.image)
        writer.writerow([name, *_row(sample, classes)])
    # last, so that what was stopped is seen to be no whole export
    out.write("metadata.csv", table.getvalue().encode())
    return f"{len(samples)} images in {folder}"


def folder_name(name: str) -> str:
    """A class name as one folder below where it belongs, whatever the name is; unlike names stay unlike."""
    # "." and ".." are folders already
    return quote(name, safe=" ").replace(".", "%2E") if set(name) <= {"."} else quote(name, safe=" .")


def suffix(image: bytes) -> str:
    # by the bytes: how its results are stored is for each method to say
    return "png" if image.startswith(b"\x89PNG") else "jpg"


def _row(sample: Sample, classes: tuple[str, ...]) -> list[str | int | float]:
    label = json.dumps({classes[index]: weight for index, weight in sample.label}, ensure_ascii=False)
    lineage: list[str | int | float] = [sample.source, classes[sample.target], label, sample.variant]
    return [*lineage, sample.prompt, sample.seed, sample.strength, sample.method]
