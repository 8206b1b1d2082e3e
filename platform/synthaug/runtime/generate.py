"""Making images: an experiment's plan cut into shards, each shard one function call, here or in Ray Data's actors."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from synthaug.dataset import subset
from synthaug.experiment import Experiment, Node, load
from synthaug.listing import Entry, Listing
from synthaug.methods.base import Context, Models, Row
from synthaug.runtime.progress import Progress
from synthaug.runtime.store import Artefact, Say, Store
from synthaug.sample import Sample, decode_image, encode_image, from_parquet, to_parquet
from synthaug.settings import UserError, to_json

if TYPE_CHECKING:
    from synthaug.diffusion.backbone import Backbone

SHARD = 256  # sources: a shard is one variant of this many, some seconds of work and little to lose


@dataclass(frozen=True)
class Job:
    """All that making the images of one experiment needs, apart from the model."""

    experiment: Experiment
    node: Node
    listing: Listing
    sources: tuple[Entry, ...]

    @property
    def blocks(self) -> int:
        return -(-len(self.sources) // SHARD)

    def shards(self, variants: Sequence[int]) -> list[int]:
        """Shard numbers, block by block and within a block variant by variant, so that a source is encoded once."""
        return [(variant - 1) * self.blocks + block for block in range(self.blocks) for variant in variants]

    def variant(self, number: int) -> int:
        return number // self.blocks + 1

    def entries(self, number: int) -> tuple[Entry, ...]:
        first = number % self.blocks * SHARD
        return self.sources[first : first + SHARD]

    def plan(self, entries: Iterable[Entry], variants: Iterable[int]) -> Iterator[Row]:
        """What will be made of some sources, variant by variant."""
        dataset, method = self.experiment.dataset, self.experiment.method
        assert method is not None
        context = Context(self.experiment.seed, self.listing.words, dataset.prompt, dataset.super_class)
        chosen = list(entries)
        for variant in variants:
            for entry in chosen:
                yield method.plan(Sample(entry.id, b"", ((entry.label, 1.0),), entry.id, entry.label), variant, context)

    def missing(self, store: Store, *, read: bool = False) -> list[int]:
        """Shards of variants 1..k that are not there in full; with `read`, byte for byte."""
        folder = store.folder(self.node)
        return [n for n in self.shards(range(1, self.experiment.k + 1)) if store.receipt(folder, n, read=read) is None]

    def cost(self, store: Store) -> dict[str, float]:
        """What making variants 1..k took, by the receipts: images, seconds on a device, rows through the denoiser."""
        folder = store.folder(self.node)
        found = [store.receipt(folder, n) or {} for n in self.shards(range(1, self.experiment.k + 1))]
        total = {"images": sum(r.get("rows", 0) for r in found), "seconds": sum(r.get("seconds", 0.0) for r in found)}
        return total | {"unet_calls": sum(r.get("counters", {}).get("unet_calls", 0) for r in found)}


def open_job(store: Store, experiment: Experiment) -> Job:
    listing = store.open(experiment.dataset)
    node = experiment.nodes(store.identify)["generate"]
    return Job(experiment, node, listing, subset(listing, experiment.dataset, experiment.seed))


def generate_shard(store: Store, job: Job, models: Models, number: int) -> dict[str, Any]:
    """Make one shard and return its receipt; the same bytes wherever and whenever it is called."""
    started, before = time.monotonic(), models.counters
    samples, method = job.listing.samples(job.entries(number)), job.experiment.method
    assert method is not None
    rows = list(job.plan(job.entries(number), [job.variant(number)]))
    with ThreadPoolExecutor() as threads:
        images, labels = method.generate(rows, list(threads.map(lambda s: decode_image(s.image), samples)), models)
        encoded = list(threads.map(encode_image, images))
    made = [
        Sample(f"{row.source}#{row.variant}", image, label, row.source, row.target, row.variant, row.prompt, row.seed,
               row.strength, job.node.key)
        for row, image, label in zip(rows, encoded, labels, strict=True)
    ]  # fmt: skip
    after = models.counters
    counts = {name: value - before.get(name, 0) for name, value in after.items() if name != "micro_batch"}
    receipt = {"rows": len(made), "variant": job.variant(number), "counters": counts}
    receipt |= {"micro_batch": after.get("micro_batch"), "seconds": time.monotonic() - started}
    return store.write_part(store.folder(job.node), number, to_parquet(made), receipt)


@lru_cache(maxsize=1)
def models_of(backbone: Backbone | None) -> Models:
    """The models of this process; it keeps one set."""
    return Models(backbone)


def make_images(
    store: Store, experiments: Sequence[Experiment], workers: int, say: Say, *, read: bool = True
) -> dict[str, Artefact]:
    """The generated images of experiments by key, what is missing made once each, with `workers` actors or here.
    `read` hashes what is there already, which is worth it when it will be used."""
    jobs: dict[str, Job] = {}
    for experiment in sorted(experiments, key=lambda e: e.k):  # the largest k of a key stays
        job = open_job(store, experiment)
        jobs[job.node.key] = job
    wanted = {key: (job.node, _is_ready(store, job, read)) for key, job in jobs.items()}

    def make(missing: list[Node]) -> dict[str, dict[str, Any]]:
        _fill(store, [jobs[node.key] for node in missing], workers, say)
        return {node.key: _notes(store, jobs[node.key]) for node in missing}

    return store.stages(wanted, make, say)


def _is_ready(store: Store, job: Job, read: bool) -> Callable[[dict[str, Any]], bool]:
    """Whether a manifest holds variants 1..k and their parts are as their receipts say."""
    variants = set(range(1, job.experiment.k + 1))
    return lambda manifest: variants <= set(manifest["variants"]) and not job.missing(store, read=read)


def _fill(store: Store, jobs: Sequence[Job], workers: int, say: Say) -> None:
    """Make every shard without a valid receipt; one batch of work for all jobs."""
    pending = [(job, number) for job in jobs for number in job.missing(store, read=True)]
    images = sum(len(job.entries(number)) for job, number in pending)
    for job in jobs:
        _check_prompts(job)
    with Progress("generate", "images", images) as progress:
        for receipt in _by_ray(store, pending, workers) if workers and pending else _here(store, pending):
            halved = receipt["counters"].get("halvings", 0)
            progress.add(receipt["rows"], f"micro-batch halved to {receipt['micro_batch']}" if halved else "")


def _check_prompts(job: Job) -> None:
    """A prompt that would be cut ends the run before the first image."""
    backbone = job.experiment.generator
    if backbone is not None:
        rows = job.plan(job.sources, range(1, job.experiment.k + 1))
        backbone.check_prompts({row.prompt for row in rows})


def _here(store: Store, pending: Sequence[tuple[Job, int]]) -> Iterator[dict[str, Any]]:
    for job, number in pending:
        yield generate_shard(store, job, models_of(job.experiment.generator), number)


def _notes(store: Store, job: Job) -> dict[str, Any]:
    """What the manifest says of finished images: their variants and what they cost, whoever made them."""
    folder = store.folder(job.node)
    variants: list[int] = []
    receipts: list[dict[str, Any]] = []
    while found := [r for n in job.shards([len(variants) + 1]) if (r := store.receipt(folder, n)) is not None]:
        if len(found) < job.blocks:
            break
        variants.append(len(variants) + 1)
        receipts += found
    counters = {name: sum(r["counters"].get(name, 0) for r in receipts) for name in receipts[0]["counters"]}
    totals = {"rows": sum(r["rows"] for r in receipts), "bytes": sum(r["bytes"] for r in receipts)}
    seconds = sum(r["seconds"] for r in receipts)
    return {"variants": variants, "sources": len(job.sources), "counters": counters, "seconds": seconds} | totals


def read_images(store: Store, job: Job, k: int, sources: Collection[str] | None = None) -> list[Sample]:
    """Samples of variants 1..k (of some sources), by receipts only; a part whose bytes changed is refused."""
    samples: list[Sample] = []
    folder = store.folder(job.node)
    for number in job.shards(range(1, k + 1)):
        if sources is not None and not any(entry.id in sources for entry in job.entries(number)):
            continue
        receipt = store.receipt(folder, number, read=True)
        if receipt is None:
            raise UserError(f"shard {number} in {folder} is damaged or missing; run the same command again")
        samples += from_parquet(store.read_part(folder, receipt))
    return [s for s in samples if s.source in sources] if sources is not None else samples


# --- Ray Data -------------------------------------------------------------------------------------------------------


class GenerateActor:
    """A process that holds the model and makes one shard a call. It returns an error instead of raising it, because
    Ray Data keeps a failed pool and its devices."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[Store, Job]] = {}

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        (order,), (number,) = batch["order"], batch["shard"]
        try:
            if order not in self.jobs:
                self.jobs[order] = self.open(**json.loads(order))
            store, job = self.jobs[order]
            receipt = generate_shard(store, job, models_of(job.experiment.generator), int(number))
            return {"receipt": [json.dumps(receipt)], "error": [""]}
        except (UserError, RuntimeError, OSError) as error:
            return {"receipt": [""], "error": [f"{type(error).__name__}: {error}"]}

    def open(self, home: str, paths: Sequence[str], experiment: str) -> tuple[Store, Job]:
        sys.path += [path for path in paths if path not in sys.path]
        store, subject = Store(home), load(experiment)
        assert isinstance(subject, Experiment)
        return store, open_job(store, subject)


def _by_ray(store: Store, pending: Sequence[tuple[Job, int]], workers: int) -> Iterator[dict[str, Any]]:
    """Receipts as they come from a pool of actors; images never enter the object store."""
    import ray

    from synthaug.runtime.cluster import actor_resources, quiet_data_context, start, worker_paths

    start(actors=workers)
    quiet_data_context()
    place = {"home": str(store.home), "paths": worker_paths()}
    orders = {id(job): json.dumps(place | {"experiment": json.dumps(to_json(job.experiment))}) for job, _ in pending}
    rows = [{"order": orders[id(job)], "shard": number} for job, number in pending]
    pool = ray.data.ActorPoolStrategy(size=min(workers, len(rows)), max_tasks_in_flight_per_actor=2)
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        GenerateActor,
        batch_size=1,
        compute=pool,
        **actor_resources(),
    )
    for row in made.iter_rows():
        if row["error"]:
            kind, _, text = row["error"].partition(": ")
            raise UserError(text) if kind == UserError.__name__ else RuntimeError(row["error"])
        yield json.loads(row["receipt"])
