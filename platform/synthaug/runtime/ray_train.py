"""Ray Train: one training shared by several processes, which average their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from synthaug.progress import Progress
from synthaug.runtime import cluster
from synthaug.runtime.disk import Disk
from synthaug.runtime.make import Heard, Plan, note_of, said, train
from synthaug.runtime.order import order, received
from synthaug.settings import UserError
from synthaug.stages.base import Trained
from synthaug.training import World

RAY = "ray"  # a folder of the home
ABORT_S = 10.0  # after which Ctrl-C waits no longer for workers to end


def fit_by_workers(plan: Plan, stage: Trained[Any], workers: int, heard: Heard) -> None:
    """Train with so many processes; what the first one reports is passed on when they are done."""
    import ray.train

    # Train's cleaner asks the State API before it frees the CPUs of a run that ended early; that is in the dashboard.
    workers = cluster.fitting(workers, cpus_each=0.9, dashboard=True)
    gpu = cluster.has_gpu()
    trainer = trainer_class()(
        train_worker,
        train_loop_config={"order": order(plan, [stage])},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker=None if gpu else {"CPU": 0.9}
        ),
        run_config=ray.train.RunConfig(
            # Train goes on from any run of this name that it finds: the key tells one from another
            name=f"train-{stage.key}",
            storage_path=str(plan.store.home / RAY),  # absolute, as it must be
            failure_config=ray.train.FailureConfig(max_failures=3),  # all start again, from our checkpoint
        ),
    )
    with Progress(stage.name, "reports", stage.reports) as progress:
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise RuntimeError(said(error)) from error
        except KeyboardInterrupt:
            trainer.abort()
            raise
        finally:
            _tidy(Disk(plan.store.home), f"{RAY}/train-{stage.key}")
        manifest = plan.store.manifest(stage)
        if manifest is None:  # the first worker closes the stage, or says why it cannot be
            raise UserError(str(getattr(result, "return_value", "")))  # Train's type is still that of before
        for entry in manifest.history:
            heard(stage, dict(entry))
            progress.add(1, note_of(dict(entry)))


def _tidy(home: Disk, name: str) -> None:
    """Remove what Train leaves in its folder, though our checkpoints lie elsewhere."""
    home.remove(name)
    home.remove_empty(RAY)


@cache
def trainer_class() -> type[Any]:
    """Ray's trainer, without its own handler of Ctrl-C: that one ends the process with code 0 or swallows what comes
    between two trainings, and is never taken back."""
    import ray
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        controller: Any = None

        def _register_sigint_handler(self, controller: Any) -> None:
            self.controller = controller

        def abort(self) -> None:
            """Let the workers go, who would train on."""
            with suppress(ray.exceptions.RayError):  # it ends itself, which counts as one
                if self.controller is not None:
                    ray.get(self.controller.abort.remote(), timeout=ABORT_S)

    return Trainer


def train_worker(config: Mapping[str, Any]) -> str:
    """What each worker of a TorchTrainer runs; checkpoints lie in the stage's folder, not in Ray's. It gives what the
    user has to mend: said and not raised, because what is raised is tried three times more."""
    import ray.train

    context = ray.train.get_context()
    world = World(rank=context.get_world_rank(), size=context.get_world_size())
    store, [(experiment, stage)] = received(config["order"])
    assert isinstance(stage, Trained)
    if not store.is_ready(stage):  # the first worker may have closed it before another was lost
        # its report is a barrier: all workers report equally often, or wait for one another for ever
        try:
            train(store, stage, experiment.resources.checkpoint_s, ray.train.report, world)
        except UserError as error:
            return str(error)
    return ""
