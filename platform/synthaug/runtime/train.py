"""Training and fine-tuning as stages: in this process, in a Tune trial, or by the workers of a TorchTrainer."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthaug.experiment import Experiment, beforehand
from synthaug.runtime.adapters import TRAINED, denoiser_of, fit_adapter, fit_denoiser, fit_guide
from synthaug.runtime.data import training_data
from synthaug.runtime.images import image_size
from synthaug.runtime.place import arrived, sent
from synthaug.runtime.store import Artefact, Say, Store, write_bytes
from synthaug.settings import canonical
from synthaug.training import ALONE, Checkpoint, Report, World


class FileCheckpoint:
    """The state of a training run in its own folder, at most every `every_s` seconds."""

    def __init__(self, folder: Path, every_s: float, writes: bool = True) -> None:
        self.path, self.every_s, self.writes = folder / "checkpoint.pt", every_s, writes
        self.last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        import torch

        return torch.load(self.path, map_location="cpu", weights_only=True) if self.path.exists() else None

    def due(self) -> bool:
        return self.writes and time.monotonic() - self.last >= self.every_s

    def save(self, state: dict[str, Any]) -> None:
        import torch

        out = io.BytesIO()
        torch.save(state, out)
        write_bytes(self.path, out.getvalue())
        self.last = time.monotonic()


def train_stage(
    store: Store, experiment: Experiment, report: Report, say: Say, workers: int = 0, *, stage: str = "train"
) -> Artefact:
    """What a stage that trains leaves: the classifier of an experiment, or what its backbone is fine-tuned by."""

    def make(folder: Path) -> dict[str, Any]:
        if workers:
            _train_with_ray(store, experiment, stage, folder, workers, report)
        else:
            _train_here(store, experiment, stage, folder, report, ALONE)
        return dict(json.loads((folder / TRAINED).read_bytes()))

    return store.stage(store.nodes(experiment)[stage], make, say)


def _train_here(store: Store, experiment: Experiment, stage: str, folder: Path, report: Report, world: World) -> None:
    """Train, and leave the result and, last, trained.json in the folder; of several workers, the first writes."""
    if (folder / TRAINED).exists():
        return  # somebody was stopped after this and before the manifest
    checkpoint = FileCheckpoint(folder, experiment.resources.checkpoint_s, writes=world.rank == 0)
    if stage == "train":
        fit_classifier(store, experiment, folder, report, checkpoint, world)
    elif stage == "denoiser":
        fit_denoiser(store, experiment, folder, report, checkpoint, world)
    elif stage == "guide":
        fit_guide(store, experiment, folder, report, checkpoint, world)
    else:
        fit_adapter(store, experiment, stage, folder, report, checkpoint, world)
    if world.rank == 0:
        checkpoint.path.unlink(missing_ok=True)


def fit_classifier(
    store: Store, experiment: Experiment, folder: Path, report: Report, checkpoint: Checkpoint, world: World
) -> None:
    """Train the classifier of an experiment, chosen on validation data."""
    from safetensors.torch import save

    from synthaug.classify import loop

    looping = [view for view in experiment.recipe.views if view.needs_denoiser and beforehand(view) is None]
    placed = denoiser_of(store, experiment) if looping else None
    trained = loop.train(
        experiment.recipe, experiment.utilize, training_data(store, experiment), seed=experiment.seed, report=report,
        checkpoint=checkpoint, world=world, denoiser=placed[0].load(placed[1]) if placed else None,
    )  # fmt: skip
    if world.rank == 0:
        write_bytes(folder / "model.safetensors", save({k: v.contiguous() for k, v in trained.model.items()}))
        notes = {"history": trained.history, "steps": trained.steps, "images": trained.images_seen}
        notes |= {"denoiser_calls": trained.denoiser_calls} if looping else {}
        write_bytes(folder / TRAINED, canonical(notes | {"seconds": trained.seconds}))


def check_recipe(store: Store, experiment: Experiment) -> None:
    """Refuse a recipe that could not be trained, without making any weights."""
    import torch

    from synthaug.classify import models

    size = image_size(store, experiment)
    with torch.device("meta"):
        model = models.build(experiment.recipe.model, len(store.open(experiment.dataset).classes))
    models.check_size(model.net, experiment.recipe, size)


# --- Ray Train ------------------------------------------------------------------------------------------------------


def _train_with_ray(
    store: Store, experiment: Experiment, stage: str, folder: Path, workers: int, report: Report
) -> None:
    """Train with `workers` processes that average their gradients; the first one's reports are passed on."""
    import ray.train
    from ray.train.torch import TorchTrainer

    from synthaug.runtime.cluster import has_gpu, start

    start(actors=workers, cpus_each=0.9, dashboard=True)
    config = {"place": sent(store, experiment), "folder": str(folder), "stage": stage}
    gpu = has_gpu()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config,
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
    for metrics in json.loads((folder / TRAINED).read_bytes())["history"]:
        report(metrics)


def train_worker(config: Mapping[str, Any]) -> None:
    """What each worker of a TorchTrainer runs; checkpoints lie in the stage's folder, not in Ray's."""
    import ray.train

    context = ray.train.get_context()
    world = World(rank=context.get_world_rank(), size=context.get_world_size())
    store, experiment = arrived(config["place"])
    _train_here(store, experiment, config["stage"], Path(config["folder"]), ray.train.report, world)
