"""MLflow: one run per experiment, a parent per sweep, written by the driver alone."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthaug.evaluate import figures
from synthaug.evaluate.base import Result
from synthaug.experiment import Experiment
from synthaug.runtime import database
from synthaug.runtime.disk import Disk
from synthaug.runtime.finished import Finished
from synthaug.runtime.make import Made
from synthaug.settings import UserError, hash_of, to_json
from synthaug.stages.base import Stage, Trained

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient, entities

KEY, PARENT = "synthaug.key", "mlflow.parentRunId"
SWEEP = "synthaug.sweep"  # on everything below a sweep: its run
SKEW_S = 600.0  # by which clocks of machines may differ
MAX_PARAM, MAX_PARAMS, MAX_METRICS = 6000, 100, 900  # MLflow's limits: of a value, and of one batch


class Tracker:
    """The runs of one home. The database is made under a lock, because two first users break each other."""

    def __init__(self, home: Path, experiment: str) -> None:
        self.home, self.name, self.disk = home, experiment, Disk(home)
        # absolute: by default it would be a file in the current folder, and where that has an ./mlruns MLflow fails
        if re.search(r"\?|%[0-9a-fA-F]{2}", str(home)):  # its address of a database means something else by them
            raise UserError(f"MLflow cannot keep its database below {str(home)!r}: take a --home without ? and %")
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / database.NAME}"

    @cached_property
    def client(self) -> MlflowClient:
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        logging.getLogger("alembic").setLevel(logging.ERROR)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        with self.lock():
            if own := self.uri == f"sqlite:///{self.home / database.NAME}":
                database.prepare(self.home)
            client = MlflowClient(self.uri)
            try:
                client.search_experiments(max_results=1)
            except MlflowException as error:
                if not own or "out-of-date" not in str(error):
                    raise
                database.upgrade(self.home)
                client = MlflowClient(self.uri)
        return client

    @cached_property
    def experiment(self) -> str:
        """The id of the MLflow experiment; its artifacts lie below the home, wherever a run is started."""
        client = self.client  # takes the same lock
        with self.lock():
            if (found := client.get_experiment_by_name(self.name)) is not None:
                # MLflow keeps the names of deleted ones, so there can be no new one of this name
                if found.lifecycle_stage != "active":
                    raise UserError(
                        f"the MLflow experiment {self.name!r} was deleted; restore it in the UI or with mlflow"
                    )
                return str(found.experiment_id)
            # Said here, because it cannot be changed later: by default it would be below the folder of who ran first.
            # A server knows a place of its own.
            place = (
                None
                if self.uri.startswith("http")
                else (self.home / "artifacts" / self.name.replace("/", "_")).as_uri()
            )
            return str(client.create_experiment(self.name, artifact_location=place))

    def below(self, sweep: str, since: float = 0.0) -> dict[tuple[str, str], Run]:
        """The runs of a sweep but its own, by their parents (of points none) and keys; those begun since a time."""
        begun = f" and attributes.start_time > {1000 * (since - SKEW_S):.0f}" if since else ""
        found = self.client.search_runs([self.experiment], f"tags.`{SWEEP}` = '{sweep}'{begun}", max_results=50_000)
        runs = {}
        for run in found:
            place = run.data.tags.get(PARENT, ""), run.data.tags.get(KEY, "")
            runs[place] = Run(self, run)
            runs[place].seeds = int(run.data.metrics.get("seeds", 0))
        return runs

    def open(self, key: str, name: str, tags: Mapping[str, str], known: str = "") -> Run:
        """The run of `key`, opened again if there is one; `known` is one that a record tells of, which may have had
        another key in an older home."""
        tags = dict(tags) | {KEY: key}
        experiment = self.experiment  # takes the same lock
        with self.lock():  # two that ask at once get the same run
            if found := self.client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1):
                return Run(self, found[0]).again()
            return self.adopt(known, tags) or self.create(name, tags)

    def adopt(self, known: str, tags: Mapping[str, str]) -> Run | None:
        """A run by its id, if it is there, as what the tags say."""
        query = f"attributes.run_id = '{known}'"
        if not known or not (found := self.client.search_runs([self.experiment], query)):
            return None
        for tag, value in tags.items():
            self.client.set_tag(known, tag, value)
        return Run(self, found[0]).again()

    def create(self, name: str, tags: Mapping[str, str]) -> Run:
        return Run(self, self.client.create_run(self.experiment, tags=dict(tags), run_name=name))

    def lock(self) -> AbstractContextManager[None]:
        """Held by whoever asks for something and makes it where it is not there."""
        return self.disk.lock("mlflow.lock", lambda: None)


class Run:
    """One tracked execution."""

    def __init__(self, tracker: Tracker, run: entities.Run) -> None:
        self.client, self.lock = tracker.client, tracker.lock
        self.id, self.finished = str(run.info.run_id), str(run.info.status) == "FINISHED"
        self.told = set(run.data.params)  # its parameters, which MLflow does not let change
        self.seeds = 0  # of a point: those that its numbers are of
        self.names = set(run.data.metrics)
        self.steps: dict[str, set[int]] = {}  # of curves, those that have been told
        self.running = run.info.status == "RUNNING"

    def again(self) -> Run:
        """Who failed or was killed runs again; what is finished stays so until it ends once more."""
        if not self.running and not self.finished:
            self.client.update_run(self.id, status="RUNNING")
            self.running = True
        return self

    def log(self, params: Mapping[str, Any], entries: Iterable[tuple[int, Mapping[str, float]]] = ()) -> None:
        """Those parameters that are not there yet, and (step, values) pairs of metrics: at once, where MLflow takes
        them at once."""
        from mlflow.entities import Metric, Param

        new = [Param(name, str(value)[:MAX_PARAM]) for name, value in params.items() if name not in self.told]
        self.told |= {param.key for param in new}
        now = int(time.time() * 1000)
        points = [Metric(name, float(v), now, step) for step, values in entries for name, v in values.items()]
        while new or points:
            self.client.log_batch(self.id, metrics=points[:MAX_METRICS], params=new[:MAX_PARAMS])
            new, points = new[MAX_PARAMS:], points[MAX_METRICS:]

    def metrics(self, entries: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Log (step, values) pairs."""
        self.log({}, entries)

    def untold(self, entries: Iterable[tuple[int, Mapping[str, float]]]) -> list[tuple[int, Mapping[str, float]]]:
        """Points of curves that are not there yet: a training that goes on from its checkpoint reports some again."""
        left = ((step, {n: v for n, v in values.items() if step not in self._steps(n)}) for step, values in entries)
        return [(step, values) for step, values in left if values]

    def _steps(self, name: str) -> set[int]:
        if name not in self.steps:
            known = self.client.get_metric_history(self.id, name) if name in self.names else []
            self.steps[name] = {point.step for point in known}
        return self.steps[name]

    def curve(self, entries: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """What a training reports, each point once."""
        new = self.untold(entries)
        self.metrics(new)
        for step, values in new:
            for name in values:
                self.steps[name].add(step)

    def has_finished(self) -> bool:
        """Asked anew: another process may have finished it."""
        self.finished = self.finished or str(self.client.get_run(self.id).info.status) == "FINISHED"
        return self.finished

    def data(self, name: str, digest: str, context: str) -> None:
        """Say which data, by content, so that runs group by it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow takes at most 36 characters of a digest
        dataset = Dataset(name=name, digest=digest[:32], source_type="local", source=name)
        with self.lock():  # MLflow looks for the data set first and adds it then: two at once break each other
            self.client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def json(self, name: str, data: Any) -> None:
        self.client.log_dict(self.id, data, name)

    def text(self, name: str, text: str) -> None:
        self.client.log_text(self.id, text, name)

    def image(self, name: str, pixels: np.ndarray) -> None:
        self.client.log_image(self.id, pixels, artifact_file=name)

    def shown(self, key: str, pixels: np.ndarray, step: int) -> None:
        """In the image grid, whose slider goes over the steps."""
        key = re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", key)  # MLflow takes no other characters
        self.client.log_image(self.id, pixels, key=key, step=step, synchronous=True)

    def end(self, status: str = "FINISHED") -> None:
        self.client.set_terminated(self.id, status)
        self.finished, self.running = status == "FINISHED", False

    @contextmanager
    def told_of_its_end(self, others: Callable[[], Iterable[Run]] = tuple) -> Iterator[None]:
        """What is left by an error ends as failed, by Ctrl-C as killed, with those `others` that run then; what is not
        goes on."""
        # not by an except for all: whatever comes, Ray's own errors too, passes through as it is
        status = "FAILED"
        try:
            yield
            status = ""
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            if status:
                for run in (self, *(run for run in others() if run.running)):
                    run.end(status)


# --- what of an experiment is logged ----------------------------------------------------------------------------------


def history_of(finished: Finished) -> Iterator[tuple[int, Mapping[str, float]]]:
    """What its trainings reported, where nobody listened while they ran."""
    for name, stage in finished.stages.items():
        if isinstance(stage, Trained):
            yield from ((int(entry["step"]), stage.entry_named(name, entry)) for entry in finished.history(stage))


def log_finished(
    run: Run, finished: Finished, made: Made, params: Mapping[str, Any] | None = None,
    more: Iterable[tuple[int, Mapping[str, float]]] = (),
) -> None:  # fmt: skip
    """Everything about a finished experiment that people compare in the UI, with other parameters and `more` metrics
    that are told with it."""
    experiment = finished.experiment
    run.log(dict(params or {}) | params_of(experiment), [*more, (0, finished.said(made))])
    run.data(experiment.dataset.name, finished.store.open(experiment.dataset).digest, "training")
    run.json("experiment.json", to_json(experiment))
    for name, result in finished.results.items():
        log_result(run, name, result)
    if gallery := gallery_of(finished):
        run.image("gallery.png", gallery[0])
    run.end()


def log_result(run: Run, name: str, result: Result) -> None:
    """What one evaluation found, as files and pictures."""
    if "per_class" in result:
        run.json("per_class.json", result["per_class"])
    if "confusion" in result:
        run.image("confusion.png", figures.confusion(result["confusion"]))
    if "about" in result:
        run.json(f"{name}.json", result)
    for title, picture in result.get("pictures", {}).items():
        run.image(f"{name}/{title}.png", figures.decoded(picture))
    for title, curve in result.get("curves", {}).items():
        run.text(f"{name}/{title}.svg", figures.plot(curve))


def gallery_of(finished: Finished) -> tuple[np.ndarray, int] | None:
    """Real images with what was made of them, and the strength in hundredths, if it has one."""
    generated, method = finished.line.generated, finished.experiment.method
    lines = [] if generated is None else finished.store.load(generated).gallery(finished.experiment.k)
    # nothing to show where a mask has kept no image
    return (figures.gallery(lines), round(100 * getattr(method, "strength", 0))) if lines else None


@cache
def origin() -> dict[str, str]:
    """The commit that the experiments are of, and the hash of the lock file there, where there are such."""
    told: dict[str, str] = {}
    for name, command in (("mlflow.source.git.commit", "HEAD"), ("synthaug.lock", "HEAD:requirements.lock")):
        asked = subprocess.run(["git", "rev-parse", "--verify", "--quiet", command], capture_output=True, text=True)
        told |= {name: asked.stdout.strip()} if asked.returncode == 0 else {}
    return told


def run_key(results: Iterable[Stage[Any]]) -> str:
    """A run belongs to everything that its experiment makes."""
    return hash_of([stage.key for stage in results])


def params_of(experiment: Experiment) -> dict[str, Any]:
    """Flat parameters: `method.strength`, `utilize.p`, `k`; where things lie is left out."""
    data = to_json(experiment)
    del data["kind"], data["resources"]
    if experiment.method is None:
        # without images they decide nothing, and each would be an axis of one value in parallel coordinates
        for name in ("utilize", "k", "backbone"):
            data.pop(name)
        data["method"] = "none"
    else:
        data["backbone"] = to_json(experiment.generator) if experiment.generator else "none"  # the one that is used
    return flat(data)


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names; a class stands under the name of its field."""
    out: dict[str, Any] = {}
    for name, value in data.items():
        path = f"{prefix}.{name}" if prefix else name
        if name == "kind":
            out[prefix or "kind"] = str(value).rpartition(":")[2]
        elif isinstance(value, dict):
            out |= flat(value, path)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            # one value, such as Accuracy+Fidelity: places in a list are no names that runs could be compared by
            out[path] = "+".join(str(item.get("kind", item)).rpartition(":")[2] for item in value) or "none"
        else:
            out[path] = value
    return out
