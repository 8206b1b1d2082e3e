"""Making images: an experiment's plan cut into shards, each shard one function call, here or in Ray Data's actors."""

from __future__ import annotations

import io
import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthaug.data.dataset import subset
from synthaug.data.listing import Entry, Listing
from synthaug.data.sample import Sample, decode_image, from_parquet, resize_image, to_parquet
from synthaug.diffusion.finetune import Adapter, tokens_of, words_after
from synthaug.diffusion.guide import PlacedGuide
from synthaug.diffusion.pixel_models import PlacedDenoiser
from synthaug.experiment import SUBSET, Experiment, Node
from synthaug.methods.base import Context, Maker, Models, Row
from synthaug.progress import Progress
from synthaug.runtime.adapters import adapters_of, denoiser_of, guide_of
from synthaug.runtime.images import image_size
from synthaug.runtime.place import arrived, sent
from synthaug.runtime.pool import Actor, mapped
from synthaug.runtime.store import Artefact, Say, Store
from synthaug.settings import UserError

if TYPE_CHECKING:
    from synthaug.diffusion.backbone import Backbone

SHARD = 256  # sources: a shard is one variant of this many, some seconds of work and little to lose


@dataclass(frozen=True)
class Job:
    """All that making one thing of every source of an experiment needs, apart from the model: its images, or what
    its method must have first."""

    experiment: Experiment
    stage: str
    node: Node
    maker: Maker
    k: int
    listing: Listing
    sources: tuple[Entry, ...]
    adapters: tuple[Adapter, ...]
    denoiser: PlacedDenoiser | None
    guide: PlacedGuide | None = None
    size: int | None = None  # what the sources are squashed to first

    @property
    def models(self) -> Models:
        """The models of this process for this job; it keeps one set."""
        pictures = self.experiment.generator if self.node.stage != "views" else None
        return models_of(pictures, self.adapters, self.denoiser if self.maker.needs_denoiser else None, self.guide)

    @property
    def blocks(self) -> int:
        return -(-len(self.sources) // SHARD)

    def shards(self, variants: Sequence[int]) -> list[int]:
        """Numbers of the shards that hold some variants, block by block and within a block variant by variant, so
        that a source is encoded once. A shard holds as many variants as are made together."""
        groups = list(dict.fromkeys((variant - 1) // self.maker.together for variant in variants))
        return [group * self.blocks + block for block in range(self.blocks) for group in groups]

    def variants(self, number: int) -> range:
        first = number // self.blocks * self.maker.together + 1
        return range(first, first + self.maker.together)

    def entries(self, number: int) -> tuple[Entry, ...]:
        first = number % self.blocks * SHARD
        return self.sources[first : first + SHARD]

    def rows_of(self, number: int) -> int:
        return len(self.entries(number)) * self.maker.together

    @cached_property
    def context(self) -> Context:
        dataset, peers = self.experiment.dataset, defaultdict[int, list[str]](list)
        for entry in self.sources:
            peers[entry.label].append(entry.id)
        return Context(
            seed=self.experiment.seed, words=words_after(self.experiment.tuning, self.listing.words),
            prompt=dataset.template, super_class=dataset.kind_word,
            peers={label: tuple(ids) for label, ids in sorted(peers.items())}, names=self.listing.words,
        )  # fmt: skip

    def plan(self, entries: Iterable[Entry], variants: Iterable[int]) -> Iterator[Row]:
        """What will be made of some sources, variant by variant."""
        chosen = [Sample(entry.id, b"", ((entry.label, 1.0),), entry.id, entry.label) for entry in entries]
        for variant in variants:
            for sample in chosen:
                yield self.maker.plan(sample, variant, self.context)

    def missing(self, store: Store, *, read: bool = False) -> list[int]:
        """Shards of variants 1..k that are not there in full; with `read`, byte for byte."""
        folder = store.folder(self.node)
        return [n for n in self.shards(range(1, self.k + 1)) if store.receipt(folder, n, read=read) is None]

    def cost(self, store: Store) -> dict[str, float]:
        """What making variants 1..k took, by the receipts: images, seconds on a device, rows through the denoiser."""
        folder = store.folder(self.node)
        found = [store.receipt(folder, n) or {} for n in self.shards(range(1, self.k + 1))]
        total = {"images": sum(r.get("rows", 0) for r in found), "seconds": sum(r.get("seconds", 0.0) for r in found)}
        return total | {"unet_calls": sum(r.get("counters", {}).get("unet_calls", 0) for r in found)}


def open_job(store: Store, experiment: Experiment, stage: str = "generate") -> Job:
    """What an experiment makes image by image: its images, what its method must have made of each source first
    (`prepare`), and what its training and its evaluations look at (`views`)."""
    making = experiment.makings[stage]
    listing = store.open(making.dataset or experiment.dataset)
    node, looks = store.nodes(experiment)[stage], stage.startswith("views")
    chosen = subset(listing, experiment.dataset, experiment.seed) if making.split == SUBSET else None
    return Job(
        experiment, stage, node, making.maker, making.k, listing, chosen or listing.splits[making.split],
        () if looks else adapters_of(store, experiment), denoiser_of(store, experiment),
        guide_of(store, experiment) if stage == "generate" else None,
        image_size(store, experiment) if looks else None,
    )  # fmt: skip


def generate_shard(store: Store, job: Job, models: Models, number: int) -> dict[str, Any]:
    """Make one shard and return its receipt; the same bytes wherever and whenever it is called."""
    started, before = time.monotonic(), models.counters
    models.names, models.earlier = job.context.names, _earlier(store.home, job.experiment, job.stage)
    rows = list(job.plan(job.entries(number), job.variants(number)))
    with ThreadPoolExecutor() as threads:
        samples = job.listing.samples(job.entries(number))
        sources = list(threads.map(lambda s: _source(s, job.size), samples)) * job.maker.together
        images, labels = job.maker.generate(rows, sources, models)
        encoded = list(threads.map(job.maker.encode, images))
    made = [
        Sample(f"{row.source}#{row.variant}", image, label, row.source, row.target, row.variant, row.prompt, row.seed,
               row.strength, job.node.key)
        for row, image, label in zip(rows, encoded, labels, strict=True)
    ]  # fmt: skip
    after = models.counters
    counts = {name: value - before.get(name, 0) for name, value in after.items() if name != "micro_batch"}
    receipt = {"rows": len(made), "variant": job.variants(number).start, "counters": counts}
    receipt |= {"micro_batch": after.get("micro_batch"), "seconds": time.monotonic() - started}
    return store.write_part(store.folder(job.node), number, to_parquet(made), receipt)


def _source(sample: Sample, size: int | None) -> np.ndarray:
    image = decode_image(sample.image)
    return image if size is None else resize_image(image, size)


@lru_cache(maxsize=2)
def _earlier(home: Path, experiment: Experiment, stage: str) -> Callable[[str], np.ndarray] | None:
    """How to get what the stage before made of a source; a few shards of it are kept."""
    if stage != "generate" or experiment.method is None or experiment.method.before is None:
        return None
    store = Store(home)
    job = open_job(store, experiment, "prepare")
    place = {entry.id: number // SHARD for number, entry in enumerate(job.sources)}

    @lru_cache(maxsize=16)
    def shard(number: int) -> dict[str, np.ndarray]:
        return {s.source: np.load(io.BytesIO(s.image)) for s in samples_of(store, job, number)}

    return lambda id: shard(place[id])[id]


@lru_cache(maxsize=1)
def models_of(
    backbone: Backbone | None, adapters: tuple[Adapter, ...] = (), denoiser: PlacedDenoiser | None = None,
    guide: PlacedGuide | None = None,
) -> Models:  # fmt: skip
    """The models of this process; it keeps one set."""
    return Models(backbone, adapters, denoiser, guide)


def make_images(
    store: Store, experiments: Sequence[Experiment], workers: int, say: Say, *, read: bool = True
) -> dict[str, Artefact]:
    """All that experiments make image by image, by key, what is missing made once each, with `workers` actors or here.
    `read` hashes what is there already, which is worth it when it will be used."""
    found: dict[str, Artefact] = {}
    for kind in ("prepare", "generate", "views"):  # each may need the ones before
        wanted = [(e.makings[stage].k, e, stage) for e in experiments for stage in e.makings if stage.startswith(kind)]
        wanted.sort(key=lambda job: job[0])
        found |= _make(store, [open_job(store, e, stage) for _, e, stage in wanted], workers, say, read)
    return found


def _make(store: Store, wanted: Sequence[Job], workers: int, say: Say, read: bool) -> dict[str, Artefact]:
    jobs = {job.node.key: job for job in wanted}  # the largest k of a key stays
    ready = {key: (job.node, _is_ready(store, job, read)) for key, job in jobs.items()}

    def make(missing: list[Node]) -> dict[str, dict[str, Any]]:
        _fill(store, [jobs[node.key] for node in missing], workers)
        return {node.key: _notes(store, jobs[node.key]) for node in missing}

    return store.stages(ready, make, say)


def _is_ready(store: Store, job: Job, read: bool) -> Callable[[dict[str, Any]], bool]:
    """Whether a manifest holds variants 1..k and their parts are as their receipts say."""
    variants = set(range(1, job.k + 1))
    return lambda manifest: variants <= set(manifest["variants"]) and not job.missing(store, read=read)


def _fill(store: Store, jobs: Sequence[Job], workers: int) -> None:
    """Make every shard without a valid receipt; one batch of work for all jobs."""
    pending = [(job, number) for job in jobs for number in job.missing(store, read=True)]
    if not pending:
        return
    (stage,) = {job.node.stage for job in jobs}
    rows = [(job.rows_of(number), job.maker.calls()) for job, number in pending]
    effort = sum(count * (1 + calls) for count, calls in rows)
    with Progress(stage, "images", sum(count for count, _ in rows), effort) as progress:
        for receipt in _by_ray(store, pending, workers) if workers else _here(store, pending):
            count, counters = receipt["rows"], receipt["counters"]
            note = f"micro-batch halved to {receipt['micro_batch']}" if counters.get("halvings", 0) else ""
            progress.add(count, note, count + counters.get("unet_calls", 0))


def check_prompts(store: Store, experiment: Experiment) -> None:
    """A prompt that would be cut, or in which nothing that was learned occurs, ends the run before it begins."""
    backbone = experiment.generator
    job = open_job(store, experiment)
    if backbone is not None:
        tokens = [tokens_of(experiment.tuning, label) for label in range(len(job.listing.classes))]
        rows = job.plan(job.sources, range(1, job.k + 1))
        backbone.check_prompts({text: tokens[row.target] for row in rows for text in (row.prompt, row.later) if text})


def _here(store: Store, pending: Sequence[tuple[Job, int]]) -> Iterator[dict[str, Any]]:
    for job, number in pending:
        yield generate_shard(store, job, job.models, number)


def _notes(store: Store, job: Job) -> dict[str, Any]:
    """What the manifest says of finished images: their variants and what they cost, whoever made them."""
    folder, each = store.folder(job.node), job.maker.together
    variants: list[int] = []
    receipts: list[dict[str, Any]] = []
    while found := [r for n in job.shards([len(variants) + 1]) if (r := store.receipt(folder, n)) is not None]:
        if len(found) < job.blocks:
            break
        variants += range(len(variants) + 1, len(variants) + each + 1)
        receipts += found
    counters = {name: sum(r["counters"].get(name, 0) for r in receipts) for name in receipts[0]["counters"]}
    totals = {"rows": sum(r["rows"] for r in receipts), "bytes": sum(r["bytes"] for r in receipts)}
    seconds = sum(r["seconds"] for r in receipts)
    return {"variants": variants, "sources": len(job.sources), "counters": counters, "seconds": seconds} | totals


def read_images(store: Store, job: Job, k: int, sources: Collection[str] | None = None) -> list[Sample]:
    """Samples of variants 1..k (of some sources), by receipts only; a part whose bytes changed is refused."""
    samples: list[Sample] = []
    for number in job.shards(range(1, k + 1)):
        if sources is None or any(entry.id in sources for entry in job.entries(number)):
            samples += samples_of(store, job, number)
    return [s for s in samples if s.variant <= k and (sources is None or s.source in sources)]


def samples_of(store: Store, job: Job, number: int) -> list[Sample]:
    """What a shard holds."""
    folder = store.folder(job.node)
    receipt = store.receipt(folder, number, read=True)
    if receipt is None:
        raise UserError(f"shard {number} in {folder} is damaged or missing; run the same command again")
    return from_parquet(store.read_part(folder, receipt))


# --- Ray Data -------------------------------------------------------------------------------------------------------


class GenerateActor(Actor):
    """Holds the models and makes one shard a call."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[Store, Job]] = {}

    def work(self, row: dict[str, Any]) -> dict[str, Any]:
        order = row["order"]
        if order not in self.jobs:
            self.jobs[order] = self.open(**json.loads(order))
        store, job = self.jobs[order]
        return generate_shard(store, job, job.models, int(row["shard"]))

    def open(self, place: dict[str, Any], stage: str) -> tuple[Store, Job]:
        store, experiment = arrived(place)
        return store, open_job(store, experiment, stage)


def _by_ray(store: Store, pending: Sequence[tuple[Job, int]], workers: int) -> Iterator[dict[str, Any]]:
    """Receipts as they come from a pool of actors; images never enter the object store."""
    jobs = {id(job): job for job, _ in pending}
    orders = {key: json.dumps({"place": sent(store, job.experiment), "stage": job.stage}) for key, job in jobs.items()}
    return mapped(GenerateActor, [{"order": orders[id(job)], "shard": number} for job, number in pending], workers)
