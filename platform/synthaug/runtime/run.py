"""Running an experiment: what is missing is made in order, and everything is tracked."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthaug.classify.views import View
from synthaug.data.dataset import subset
from synthaug.diffusion.one_step import check_time
from synthaug.evaluate.base import Evaluation
from synthaug.experiment import Experiment, Node, Sweep
from synthaug.methods.base import Method
from synthaug.progress import Progress, say
from synthaug.runtime import cluster
from synthaug.runtime.adapters import diffusion_stages, reports_of, stages_of
from synthaug.runtime.evaluate import check_splits, evaluate_stages, filter_stage
from synthaug.runtime.generate import check_prompts, make_images, open_job
from synthaug.runtime.store import Artefact, Store
from synthaug.runtime.tracking import Run, Tracker, flat
from synthaug.runtime.train import check_recipe, train_stage
from synthaug.settings import UserError, hash_of, to_json

NANO_NOTE = "nano models know only letters and digits: good for trying things out, not for other images"


def run(
    subject: Experiment | Sweep,
    *,
    home: str | Path = "runs",
    workers: int = 0,
    address: str | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Make what is missing of an experiment or a sweep, and return what `--json` prints."""
    store = Store(home).prepare()
    name = name or "synthaug"
    if isinstance(subject, Sweep):
        from synthaug.runtime.search import run_sweep

        if workers:
            raise UserError("the trials of a sweep train in one process each: leave --workers out, Ray uses every core")
        return run_sweep(store, subject, name, address)
    return run_experiment(store, subject, name, workers, address)


def run_experiment(
    store: Store, experiment: Experiment, name: str, workers: int, address: str | None
) -> dict[str, Any]:
    """One experiment with its run."""
    started = time.monotonic()
    cached = is_ready(store, experiment)
    nodes, subject = store.nodes(experiment), to_json(experiment)
    known = store.recorded(subject, list(nodes.values()))
    if cached and known and is_tracked(store):
        found = found_artefacts(store, experiment)
        return answer(known["run_id"], experiment, found, metrics_of(store, experiment, found))
    if workers and not cached:
        cluster.start(actors=workers, address=address, dashboard=True)
    tell(store, [experiment])
    tracker = Tracker(store.home, name)
    store.begin(subject, list(nodes.values()))
    run = tracker.open(run_key(nodes), label(experiment), {"synthaug.kind": "experiment"})
    with run.told_of_its_end():
        found = make_all(store, experiment, run, workers)
        metrics = metrics_of(store, experiment, found)
        log_finished(run, store, experiment, found, metrics | {"time/call_s": time.monotonic() - started})
    store.record(subject, list(nodes.values()), {"run_id": run.id, "name": name})
    return answer(run.id, experiment, found, metrics)


def is_tracked(store: Store) -> bool:
    """Whether the runs that were recorded can still be there; MLflow itself takes seconds to ask."""
    return "MLFLOW_TRACKING_URI" in os.environ or (store.home / "mlflow.db").exists()


def answer(
    run_id: str, experiment: Experiment, found: dict[str, Artefact], metrics: dict[str, float]
) -> dict[str, Any]:
    stages = {name: artefact.summary() for name, artefact in found.items()}
    return {"run_id": run_id, "experiment": to_json(experiment), "stages": stages, "metrics": metrics}


def is_ready(store: Store, experiment: Experiment) -> bool:
    """Whether all of it is cached; if not, all that can be known to be wrong is said before anything expensive."""
    listing = store.open(experiment.dataset)
    subset(listing, experiment.dataset, experiment.seed)
    if is_cached(store, experiment):
        return True
    check_recipe(store, experiment)
    check_splits(store, experiment)
    check_noise(experiment)
    if experiment.method is not None:
        check_prompts(store, experiment)
    return False


def check_noise(experiment: Experiment) -> None:
    """Refuse noise that the denoiser does not know."""
    parts = (experiment.method, *experiment.recipe.views, *experiment.measured().values())
    for part in parts:
        if not isinstance(part, Method | View | Evaluation) or not part.needs_denoiser:
            continue
        assert experiment.denoiser is not None
        schedule = experiment.denoiser.alphas_cumprod()
        if isinstance(part, Evaluation):
            part.check(schedule)
        else:
            check_time(part.latest, schedule)


def tell(store: Store, experiments: Sequence[Experiment]) -> None:
    """What people should know before it starts: files left out, models that know little."""
    for listing in {e.dataset: store.open(e.dataset) for e in experiments}.values():
        for number, (path, reason) in enumerate(listing.quarantined[:3]):
            say(f"left out: {path} ({reason})" + (" ..." if number == 2 and len(listing.quarantined) > 3 else ""))
    for note in dict.fromkeys(note for e in experiments for note in e.notes()):
        say(f"note: {note}")
    if any(map(is_nano, experiments)):
        say(f"note: {NANO_NOTE}")


def is_nano(experiment: Experiment) -> bool:
    """Whether an embedded model makes the images."""
    backbone = experiment.generator
    return backbone is not None and backbone.model.startswith("nano:")


def make_all(store: Store, experiment: Experiment, run: Run, workers: int) -> dict[str, Artefact]:
    """Every stage of one experiment."""
    found = images_stages(store, experiment, run, workers)
    found["train"] = _train(store, experiment, "train", run, workers)
    return found | evaluate_stages(store, experiment, say, workers)


def images_stages(store: Store, experiment: Experiment, run: Run | None, workers: int) -> dict[str, Artefact]:
    """The stages before training: what makes images, and the images to train and to evaluate on."""
    nodes = store.nodes(experiment)
    found = {stage: _train(store, experiment, stage, run, workers) for stage in diffusion_stages(experiment)}
    made = make_images(store, [experiment], workers, say, read=store.manifest(nodes["train"]) is None)
    found |= {stage: made[nodes[stage].key] for stage in experiment.makings}
    if experiment.asks_judge:
        judge = experiment.real_only()
        images_stages(store, judge, None, workers)
        _train(store, judge, "train", None, workers)
    if experiment.filter is not None:
        found["filter"] = filter_stage(store, experiment, say)
    return found


def _train(store: Store, experiment: Experiment, stage: str, run: Run | None, workers: int) -> Artefact:
    """One stage that trains, with its progress; what a run is about is logged to it as it comes."""
    unit = "evaluations" if stage == "train" else "reports"
    with Progress(stage, unit, reports_of(experiment, stage)) as progress:

        def report(entry: dict[str, float]) -> None:
            if run is not None:
                run.metrics([(int(entry["step"]), under(stage, entry))])
            val = f", val {entry['val/top1']:.1%}" if "val/top1" in entry else ""
            loss = f", loss {entry['train/loss']:.3g}" if "train/loss" in entry else ""
            progress.add(1, f"step {entry['step']:.0f}{loss}{val}")

        return train_stage(store, experiment, report, say, workers, stage=stage)


def under(stage: str, entry: dict[str, float]) -> dict[str, float]:
    """What a stage reported, under its own name: `finetune.2/loss`, `guide/val/top1`."""
    if stage == "train":
        return entry
    return {n if n == "step" else f"{stage}/{n.removeprefix('train/')}": value for n, value in entry.items()}


def is_cached(store: Store, experiment: Experiment) -> bool:
    """Whether nothing would have to be made."""
    nodes = store.nodes(experiment)
    if any(store.manifest(node) is None for node in nodes.values()):
        return False
    return not any(open_job(store, experiment, stage).missing(store) for stage in experiment.makings)


def found_artefacts(store: Store, experiment: Experiment) -> dict[str, Artefact]:
    """The artefacts of an experiment that is cached whole."""
    nodes = store.nodes(experiment)
    return {n: Artefact(node, store.folder(node), store.manifest(node) or {}, True, 0.0) for n, node in nodes.items()}


def run_key(nodes: dict[str, Node]) -> str:
    """A run belongs to everything that its experiment makes."""
    return hash_of([node.key for node in nodes.values()])


def label(experiment: Experiment) -> str:
    """A short name for people."""
    method = type(experiment.method).__name__ if experiment.method else "no synthetic images"
    shots = f" {experiment.dataset.shots}-shot" if experiment.dataset.shots else ""
    return f"{experiment.dataset.name}{shots} {method} seed {experiment.seed}"


def metrics_of(store: Store, experiment: Experiment, found: dict[str, Artefact]) -> dict[str, float]:
    """The numbers of a finished experiment under their fixed names; costs are those of making, whoever made it."""
    best = max(found["train"].manifest["history"], key=lambda e: (e.get("val/top1", 0.0), -e.get("val/loss", 0.0)))
    metrics = {name: best[name] for name in ("val/top1", "val/loss") if name in best}
    evaluated = [artefact for name, artefact in found.items() if name.startswith("evaluate")]
    for artefact in evaluated:
        metrics |= artefact.manifest["result"]["metrics"]
    tuning = sum(found[stage].manifest["seconds"] for stage in stages_of(experiment))
    cost = {"cost/train_s": found["train"].manifest["seconds"]}
    cost |= {"cost/finetune_s": tuning} if experiment.tuning else {}
    cost |= {"cost/denoiser_s": found["denoiser"].manifest["seconds"]} if "denoiser" in found else {}
    if "guide" in found:
        cost["cost/guide_s"] = found["guide"].manifest["seconds"]
        metrics["guide/val/top1"] = found["guide"].manifest["history"][-1]["val/top1"]
    cost["cost/evaluate_s"] = sum(artefact.manifest["seconds"] for artefact in evaluated)
    costs = {stage: open_job(store, experiment, stage).cost(store) for stage in experiment.makings}
    looks = [costs.pop(stage) for stage in list(costs) if stage.startswith("views")]
    cost |= {"cost/views_s": sum(c["seconds"] for c in looks)} if looks else {}
    cost["cost/generate_s"] = sum(c["seconds"] for c in costs.values())
    calls = sum(c["unet_calls"] for c in (*costs.values(), *looks))
    trained = [found[stage].manifest for stage in ("guide", "train") if stage in found]
    cost["cost/denoiser_calls"] = calls + sum(manifest.get("denoiser_calls", 0) for manifest in trained)
    if experiment.filter is not None:
        cost["cost/filter_s"] = found["filter"].manifest["seconds"]
    cost["cost/device_s"] = sum(value for name, value in cost.items() if name.endswith("_s"))
    cached = float("generate" in found and found["generate"].cached)
    images = costs["generate"]["images"] if "generate" in costs else 0.0
    return metrics | cost | {"gen/images": images, "gen/cached": cached}


def params_of(experiment: Experiment) -> dict[str, Any]:
    """Flat parameters: `method.strength`, `utilize.p`, `k`; where things lie is left out."""
    data = to_json(experiment)
    del data["kind"], data["resources"]
    if experiment.method is None:
        for name in ("utilize", "k", "backbone"):
            data.pop(name)
        data["method"] = "none"
    else:
        data["backbone"] = to_json(experiment.generator) if experiment.generator else "none"
    return flat(data)


def log_finished(
    run: Run, store: Store, experiment: Experiment, found: dict[str, Artefact], metrics: dict[str, float]
) -> None:
    """Everything about a finished experiment that people compare in the UI."""
    from synthaug.evaluate import figures

    listing = store.open(experiment.dataset)
    run.params(params_of(experiment))
    run.metrics([(0, metrics)])
    run.data(experiment.dataset.name, listing.digest, "training")
    run.json("experiment.json", to_json(experiment))
    for stage in experiment.measured():
        result = found[stage].manifest["result"]
        if "per_class" in result:
            run.json("per_class.json", result["per_class"])
        if "confusion" in result:
            run.image("confusion.png", figures.confusion(result["confusion"]))
        if "about" in result:
            run.json(f"{stage}.json", result)
        for name, picture in result.get("pictures", {}).items():
            run.image(f"{stage}/{name}.png", figures.decoded(picture))
        for name, curve in result.get("curves", {}).items():
            run.text(f"{stage}/{name}.svg", figures.plot(curve))
    if experiment.method is not None:
        run.image("gallery.png", figures.gallery(store, open_job(store, experiment), experiment.k))
    run.end()
