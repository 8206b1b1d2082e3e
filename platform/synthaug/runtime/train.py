"""Training and evaluating as stages: in this process, in a Tune trial, or by the workers of a TorchTrainer."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.dataset import Dataset, subset
from synthaug.experiment import Experiment, load
from synthaug.listing import Entry
from synthaug.runtime.generate import open_job, read_images
from synthaug.runtime.store import Artefact, Say, Store, write_bytes
from synthaug.sample import Sample, decode_image, label_matrix, resize_image
from synthaug.settings import UserError, canonical, to_json

if TYPE_CHECKING:
    import torch

    from synthaug.classify.loop import Data, World

Report = Callable[[dict[str, float]], None]
Arrays = tuple[np.ndarray, np.ndarray]


class FileCheckpoint:
    """The state of a training run in its own folder, at most every `every_s` seconds."""

    def __init__(self, folder: Path, every_s: float, writes: bool = True) -> None:
        self.path, self.every_s, self.writes = folder / "checkpoint.pt", every_s, writes
        self.last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        import torch

        return torch.load(self.path, weights_only=True) if self.path.exists() else None

    def due(self) -> bool:
        return self.writes and time.monotonic() - self.last >= self.every_s

    def save(self, state: dict[str, Any]) -> None:
        import torch

        out = io.BytesIO()
        torch.save(state, out)
        write_bytes(self.path, out.getvalue())
        self.last = time.monotonic()


def train_stage(store: Store, experiment: Experiment, report: Report, say: Say, workers: int = 0) -> Artefact:
    """The trained classifier of an experiment, chosen on validation data."""

    def make(folder: Path) -> dict[str, Any]:
        if workers:
            _train_with_ray(store, experiment, folder, workers, report)
        else:
            _train_here(store, experiment, folder, report)
        return dict(json.loads((folder / "trained.json").read_bytes()))

    return store.stage(experiment.nodes(store.identify)["train"], make, say)


def _train_here(store: Store, experiment: Experiment, folder: Path, report: Report, world: World | None = None) -> None:
    """Train and leave model.safetensors and trained.json in the folder; of several workers, the first writes."""
    from safetensors.torch import save

    from synthaug.classify import loop

    world = world or loop.World()
    first = world.rank == 0
    checkpoint = FileCheckpoint(folder, experiment.resources.checkpoint_s, writes=first)
    data = training_data(store, experiment)
    trained = loop.train(
        experiment.recipe,
        experiment.utilize,
        data,
        seed=experiment.seed,
        report=report,
        checkpoint=checkpoint,
        world=world,
    )
    if first:
        write_bytes(folder / "model.safetensors", save({k: v.contiguous() for k, v in trained.model.items()}))
        notes = {
            "history": trained.history,
            "steps": trained.steps,
            "images": trained.images_seen,
            "seconds": trained.seconds,
        }
        write_bytes(folder / "trained.json", canonical(notes))
        checkpoint.path.unlink(missing_ok=True)


def evaluate_stages(store: Store, experiment: Experiment, say: Say) -> dict[str, Artefact]:
    """The numbers of an experiment, each evaluation a stage of its own."""
    nodes = experiment.nodes(store.identify)
    found = {}
    for (name, node), evaluation in zip(
        ((n, node) for n, node in nodes.items() if n.startswith("evaluate")), experiment.evaluations, strict=True
    ):

        def make(folder: Path, evaluation: Any = evaluation) -> dict[str, Any]:
            started = time.monotonic()
            listing = store.open(experiment.dataset)
            images, labels = split_arrays(
                store.home, experiment.dataset, evaluation.split, image_size(store, experiment)
            )
            result = evaluation(load_model(store, experiment), images, labels, listing.classes)
            return {"result": result, "seconds": time.monotonic() - started}

        found[name] = store.stage(node, make, say)
    return found


def check_recipe(store: Store, experiment: Experiment) -> None:
    """Refuse a recipe that could not be trained, without making any weights."""
    import torch

    from synthaug.classify import models

    size = image_size(store, experiment)
    with torch.device("meta"):
        model = models.build(experiment.recipe.model, len(store.open(experiment.dataset).classes))
    models.check_size(model.net, experiment.recipe, size)


def load_model(store: Store, experiment: Experiment) -> torch.nn.Module:
    """The trained classifier."""
    from safetensors.torch import load as load_tensors

    from synthaug.classify import models

    folder = store.folder(experiment.nodes(store.identify)["train"])
    model = models.build(experiment.recipe.model, len(store.open(experiment.dataset).classes))
    model.load_state_dict(load_tensors((folder / "model.safetensors").read_bytes()))
    return models.prepared(experiment.recipe, model)


# --- data -----------------------------------------------------------------------------------------------------------


def training_data(store: Store, experiment: Experiment) -> Data:
    """Real k-shot images and variants 1..k of each, decoded once."""
    import torch

    from synthaug.classify.loop import Data

    listing = store.open(experiment.dataset)
    entries = subset(listing, experiment.dataset, experiment.seed)
    samples = listing.samples(entries)
    place = {entry.id: number for number, entry in enumerate(entries)}
    made: list[Sample] = []
    if experiment.method is not None:
        made = read_images(store, open_job(store, experiment), experiment.k)
    size = image_size(store, experiment)
    val_images, val_labels = split_arrays(store.home, experiment.dataset, "val", size)
    labels = label_matrix([s.label for s in samples + made], len(listing.classes))
    return Data(
        images=torch.from_numpy(decode_all([s.image for s in samples + made], size)),
        labels=torch.from_numpy(labels),
        n_real=len(samples),
        source_of_synthetic=torch.tensor([place[s.source] for s in made], dtype=torch.long),
        val_images=torch.from_numpy(val_images),
        val_labels=torch.from_numpy(val_labels),
    )


def decode_all(images: Sequence[bytes], size: int) -> np.ndarray:
    """Encoded images as one uint8 N x 3 x size x size array, so that no epoch decodes again."""
    out = np.empty((len(images), 3, size, size), np.uint8)
    with ThreadPoolExecutor() as threads:
        for number, pixels in enumerate(threads.map(lambda data: resize_image(decode_image(data), size), images)):
            out[number] = pixels.transpose(2, 0, 1)
    return out


@lru_cache(maxsize=4)
def split_arrays(home: Path, dataset: Dataset, split: str, size: int) -> Arrays:
    """Images and class indices of a held-out split; a process that runs many trials decodes them once."""
    listing = Store(home).open(dataset)
    entries: Sequence[Entry] = listing.splits[split]
    images = decode_all([listing.read(entry.id) for entry in entries], size)
    return images, np.array([entry.label for entry in entries])


def image_size(store: Store, experiment: Experiment) -> int:
    """The recipe's image size, or that of the images when all are squares of one size."""
    if experiment.recipe.image_size is not None:
        return experiment.recipe.image_size
    return _common_size(store.home, experiment.dataset)


@lru_cache(maxsize=4)
def _common_size(home: Path, dataset: Dataset) -> int:
    from PIL import Image

    listing = Store(home).open(dataset)
    entries = listing.splits["train"][:64]
    sizes = {Image.open(io.BytesIO(listing.read(entry.id))).size for entry in entries}
    if len(sizes) > 1 or len(set(*sizes)) > 1:
        raise UserError("the images differ in size or are no squares; --set recipe.image_size=224 squashes them")
    return sizes.pop()[0]


# --- Ray Train ------------------------------------------------------------------------------------------------------


def _train_with_ray(store: Store, experiment: Experiment, folder: Path, workers: int, report: Report) -> None:
    """Train with `workers` processes that average their gradients; the first one's reports are passed on."""
    import ray.train
    from ray.train.torch import TorchTrainer

    from synthaug.runtime.cluster import has_gpu, start, worker_paths

    start(actors=workers, cpus_each=0.9, dashboard=True)
    config = {"experiment": canonical(to_json(experiment)).decode(), "home": str(store.home), "folder": str(folder)}
    gpu = has_gpu()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config | {"paths": worker_paths()},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker=None if gpu else {"CPU": 0.9}
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{folder.name}",
            storage_path=str(store.home / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=3),
        ),
    )
    trainer.fit()
    for metrics in json.loads((folder / "trained.json").read_bytes())["history"]:
        report(metrics)


def train_worker(config: Mapping[str, Any]) -> None:
    """What each worker of a TorchTrainer runs; checkpoints lie in the stage's folder, not in Ray's."""
    sys.path += [path for path in config["paths"] if path not in sys.path]
    import ray.train

    from synthaug.classify.loop import World

    context = ray.train.get_context()
    world = World(rank=context.get_world_rank(), size=context.get_world_size())
    experiment = load(config["experiment"])
    assert isinstance(experiment, Experiment)
    _train_here(Store(config["home"]), experiment, Path(config["folder"]), ray.train.report, world)
