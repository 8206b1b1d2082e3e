"""Images made of images, shard by shard: what a method generates, what it must have first, and the copies that views
and evaluations look at."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from synthaug.data.decoded import decode_all
from synthaug.data.listing import Entry
from synthaug.data.sample import Label, Sample, decode_image, from_parquet, resize_image, to_parquet
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.finetune import Adapter, Finetune, tokens_of, words_after
from synthaug.methods.base import Context, Maker, Method, Models, Row, check_encoded, check_made, check_row
from synthaug.settings import hash_of, seed_of
from synthaug.stages.base import Cost, Folder, Given, Mapped, Outcome, Part, Receipt, Stage
from synthaug.stages.data import SUBSET, Pictures, check_noise
from synthaug.stages.shards import read_part, receipt_of

SHARD = 256  # sources: a shard is one variant of this many, some seconds of work and little to lose


class Made(Mapped["Images"]):
    """Variants 1..k of what a maker makes of each source. A shard is one variant of at most SHARD sources (or as many
    variants as the maker makes together), so that asking for more variants only adds shards."""

    split: str = SUBSET

    def __init__(
        self, seed: int, maker: Maker, k: int, settings: Mapping[str, Any], inputs: Mapping[str, Stage[Any] | None],
        backbone: Backbone | None = None, backbone_key: Mapping[str, Any] = MappingProxyType({}),
        tuning: Sequence[Finetune] = (), first: int = 1,
    ) -> None:  # fmt: skip
        assert (first - 1) % maker.together == 0, "variants that are made together begin with the first of them"
        self.seed, self.maker, self.k, self.first = seed, maker, k, first
        # the text-to-image model that it works with, if it does, how that one enters keys, and how it was fitted
        self.backbone, self.backbone_key, self.tuning = backbone, dict(backbone_key), tuple(tuning)
        self._context: tuple[Pictures, Context] | None = None  # with the pictures that it was made of
        begins = {"first": first} if first > 1 else {}
        super().__init__({**backbone_key, **settings, **begins}, inputs)

    @property
    def wanted(self) -> range:
        """The numbers of its variants."""
        return range(self.first, self.first + self.k)

    # --- the plan

    def sources(self, given: Given) -> tuple[Entry, ...]:
        pictures: Pictures = given["data"]
        return self.maker.sources(pictures.entries(self.split, self.seed))

    def units(self, given: Given) -> Sequence[int]:
        return self.shards(self.wanted, len(self.sources(given)))

    def shards(self, variants: Iterable[int], sources: int) -> list[int]:
        """Numbers of the shards that hold some variants, block by block and within a block variant by variant, so that
        a source is encoded once."""
        blocks = blocks_of(sources)
        # variants that are made together lie in one shard
        groups = list(dict.fromkeys((variant - 1) // self.maker.together for variant in variants))
        # a shard's number does not hang on k, so that more variants are only more numbers
        return [group * blocks + block for block in range(blocks) for group in groups]

    def variants(self, unit: int, sources: int) -> range:
        """The variants that a shard holds."""
        first = unit // blocks_of(sources) * self.maker.together + 1
        return range(first, first + self.maker.together)

    def entries(self, unit: int, sources: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Those of the sources that a shard is made of."""
        first = unit % blocks_of(len(sources)) * SHARD
        return sources[first : first + SHARD]

    def plan(self, entries: Iterable[Entry], variants: Iterable[int], context: Context) -> Iterator[Row]:
        # without their bytes: a plan is made without reading images
        samples = [Sample(entry.id, b"", ((entry.label, 1.0),), entry.id, entry.label) for entry in entries]
        for variant in variants:
            for sample in samples:
                yield check_row(self.maker, sample, variant, self.maker.plan(sample, variant, context))

    def context(self, given: Given) -> Context:
        """What a plan may know of the data set."""
        pictures: Pictures = given["data"]
        if self._context is not None and self._context[0] is pictures:
            return self._context[1]  # of millions of sources it takes a while
        peers = defaultdict[int, list[str]](list)
        for entry in self.sources(given):
            peers[entry.label].append(entry.id)
        context = Context(
            seed=self.seed, words=words_after(self.tuning, pictures.listing.words), prompts=pictures.dataset.templates,
            super_class=pictures.dataset.kind_word, names=pictures.listing.words,
            can_mirror=pictures.dataset.can_mirror,
            peers={label: tuple(ids) for label, ids in sorted(peers.items())},
        )  # fmt: skip
        self._context = pictures, context
        return context

    def squash(self, given: Given) -> int | None:
        """The size that sources are brought to first."""
        return None

    def measure(self, unit: int, given: Given) -> Cost:
        """Where all rows cost the same one is planned: there may be millions."""
        sources = self.sources(given)
        entries, variants = self.entries(unit, sources), self.variants(unit, len(sources))
        planned = entries if self.maker.costs_differ else entries[:1]
        rows = self.plan(planned, variants, self.context(given))
        calls = sum(self.maker.calls(row, self.backbone) for row in rows)
        count = len(entries) * len(variants)
        return Cost(count, count, calls * len(entries) // max(1, len(planned)))

    def check(self, given: Given) -> None:
        """A prompt that would be cut, or in which nothing that was learned occurs, ends the run before it begins."""
        if "denoiser" in self.inputs:
            check_noise(self.inputs["denoiser"], self.maker.latest)
            self.maker.check_denoiser(self.inputs["denoiser"].model)  # type: ignore[attr-defined]
        entries, context = self.sources(given), self.context(given)
        pictures: Pictures = given["data"]
        self.maker.check(pictures.listing, context.names, self.k)
        if self.backbone is None:
            return
        # of all variants: a method may draw words for each row, and the longest prompt could come last
        rows = self.plan(entries, self.wanted, context)
        tokens = [tokens_of(self.tuning, label) for label in range(len(context.names))]
        self.backbone.check_prompts(
            {text: tokens[row.target] for row in rows for text in (row.prompt, row.later) if text}
        )

    # --- making

    def open(self, given: Given) -> tuple[Given, Models]:
        models = self.models(given)
        if models.backbone is not None:
            models.load()  # here and not while a unit is made, which would cost its images what it takes
        return given, models

    def models(self, given: Given) -> Models:
        """Those of this process, which whoever has the same inputs shares: it keeps one set."""
        # What is loaded and nothing else, so that stages of other data or methods find the same models; with what the
        # method's own files hold, because a scorer is kept among them by where it lies.
        roles = ["adapter", "guide", *(["denoiser"] if self.maker.needs_denoiser else [])]
        made_of = [self.inputs[role].key for role in roles if role in self.inputs]
        key = hash_of([self.backbone_key, self.settings.get("contents"), made_of])
        if key not in _models:
            # one set: a pipeline may fill the device
            _models.clear()
            placed = {role: given.get(role) for role in roles}
            adapters: tuple[Adapter, ...] = placed["adapter"] or ()
            _models[key] = Models(self.backbone, adapters, placed.get("denoiser"), placed["guide"])
        return _models[key]

    def generate(
        self, rows: Sequence[Row], arrays: Sequence[np.ndarray], models: Models, classes: int
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        """Images and labels; what comes before a method need be no image."""
        found = self.maker.generate(rows, arrays, models)
        return check_made(self.maker, rows, found, classes) if isinstance(self.maker, Method) else found

    def make(self, unit: int, opened: tuple[Given, Models]) -> Part:
        given, models = opened
        before, context, sources = models.counters, self.context(given), self.sources(given)
        pictures: Pictures = given["data"]
        prepared: Images | None = given.get("prepared")
        models.context, models.earlier = context, None if prepared is None else prepared.array_of
        entries, size = self.entries(unit, sources), self.squash(given)
        rows = list(self.plan(entries, self.variants(unit, len(sources)), context))
        # to read and to encode is for threads; models are asked from this one
        with ThreadPoolExecutor() as threads:
            samples = pictures.listing.samples(entries)
            # rows go variant by variant, so of several made together the sources come that often, in their order
            arrays = (
                list(threads.map(lambda s: resize_image(decode_image(s.image), size), samples)) * self.maker.together
            )
            images, labels = self.generate(rows, arrays, models, len(pictures.listing.classes))
            encoded = list(threads.map(self.maker.encode, images))
        if isinstance(self.maker, Method):
            check_encoded(self.maker, rows, encoded)
        made = [
            Sample(f"{row.source}#{row.variant}", image, label, row.source, row.target, row.variant, row.prompt,
                   row.seed, row.strength, self.key)
            for row, image, label in zip(rows, encoded, labels, strict=True)
        ]  # fmt: skip
        after = models.counters
        # models outlive a shard, so what one has cost is a difference; the micro-batch is a state
        counts = {name: value - before.get(name, 0) for name, value in after.items() if name != "micro_batch"}
        starts = {row.strength: self.maker.begins(row, self.backbone) for row in rows}  # of each strength one
        levels = sorted({level for level in starts.values() if level is not None})
        return Part(to_parquet(made), len(made), None, counts, after.get("micro_batch"), levels)

    # --- what it left

    def close(self, at: Folder, given: Given, receipts: Sequence[Receipt]) -> Outcome:
        """Which variants are complete, and what they cost, whoever made them: another run may have asked for more."""
        sources, variants, found = len(self.sources(given)), list[int](), list[Receipt]()
        # from the first on without a gap, because whoever comes asks for variants 1..k
        while more := self._of_variant(at, self.first + len(variants), sources):
            at_hand = self.first + len(variants)
            variants += range(at_hand, at_hand + self.maker.together)
            found += more
        names = sorted({name for receipt in found for name in receipt.counters})
        counters = {name: sum(receipt.counters.get(name, 0) for receipt in found) for name in names}
        counts: dict[str, Any] = {
            "sources": sources,
            "rows": sum(r.rows for r in found),
            "bytes": sum(r.bytes for r in found),
        }
        counts |= {"variants": variants, "counters": counters}
        return Outcome(seconds=sum(receipt.seconds for receipt in found), counts=counts)

    def _of_variant(self, at: Folder, variant: int, sources: int) -> list[Receipt]:
        """The receipts of a variant, if it is complete."""
        units = self.shards([variant], sources)
        found = [receipt for unit in units if (receipt := receipt_of(at, unit, self.suffix)) is not None]
        return found if len(found) == len(units) else []

    def load(self, at: Folder, given: Given) -> Images:
        pictures: Pictures = given["data"]
        return Images(self, at, self.sources(given), pictures.listing.read)


def blocks_of(sources: int) -> int:
    """How many shards a variant of so many sources takes."""
    return -(-sources // SHARD)


_models: dict[str, Models] = {}  # by what decides them


# --- what a method generates ----------------------------------------------------------------------------------------


class Prepared(Made):
    """What a method must have of each source first."""

    kind, cost = "prepare", "generate"


class Generated(Made):
    """The images of a method."""

    kind, cost, counted = "generate", "generate", True


class Copies(Made):
    """Copies of training images that a view draws from, or of a split's images that an evaluation looks at."""

    # what they were first made for; keys and folders are called so
    kind, cost = "views", "views"

    def __init__(
        self, seed: int, maker: Maker, k: int, split: str, size: int | None, settings: Mapping[str, Any],
        inputs: Mapping[str, Stage[Any] | None],
    ) -> None:  # fmt: skip
        self.split, self.size = split, size
        super().__init__(seed, maker, k, settings, inputs)

    def squash(self, given: Given) -> int | None:
        pictures: Pictures = given["data"]
        return pictures.size(self.size)


# --- as others read it ----------------------------------------------------------------------------------------------


class Images:
    """What a stage made of its sources, read shard by shard; a part whose bytes changed is refused."""

    def __init__(
        self, stage: Made, at: Folder, sources: tuple[Entry, ...], read: Callable[[str], bytes]
    ) -> None:  # fmt: skip
        self.stage, self.at, self.sources, self.read = stage, at, sources, read
        self._place = {entry.id: number // SHARD for number, entry in enumerate(sources)}  # the shard of variant 1
        self._arrays = lru_cache(maxsize=16)(self._read_arrays)  # some shards, for those who ask for partners

    def shard(self, number: int) -> list[Sample]:
        return from_parquet(read_part(self.at, number, self.stage.suffix))

    def samples(self, k: int, sources: Collection[str] | None = None) -> list[Sample]:
        """The first k of the variants (of some sources)."""
        found: list[Sample] = []
        first = self.stage.first
        for number in self.stage.shards(range(first, first + k), len(self.sources)):
            if sources is None or any(entry.id in sources for entry in self.stage.entries(number, self.sources)):
                found += self.shard(number)
        # where several are made together, a shard may hold more than k
        return [s for s in found if s.variant < first + k and (sources is None or s.source in sources)]

    def gallery(self, k: int, classes: int = 12) -> list[list[bytes]]:
        """For each class a source and its variants; sources are chosen by hash, not as the first ones."""
        chosen = {}
        # the last of a class stays, which in this order has the smallest hash: any, but always the same
        for entry in sorted(self.sources, key=lambda e: seed_of("gallery", e.id), reverse=True):
            chosen[entry.label] = entry
        shown = [chosen[label] for label in sorted(chosen)][:classes]
        made = {(s.source, s.variant): s.image for s in self.samples(k, {entry.id for entry in shown})}
        numbers = self.stage.wanted[: min(k, 10)]
        return [[self.read(e.id), *(made[e.id, number] for number in numbers)] for e in shown]

    def array_of(self, source: str) -> np.ndarray:
        """The array that was made of a source, where arrays are what is made."""
        return self._arrays(self._place[source])[source]

    def _read_arrays(self, number: int) -> dict[str, np.ndarray]:
        return {sample.source: np.load(io.BytesIO(sample.image)) for sample in self.shard(number)}

    def stacked(
        self, size: int, numbers: Sequence[int] | None = None, variants: Sequence[int] | None = None
    ) -> np.ndarray:
        """Variants of the sources, all or some of each, source by source: N x K x C x H x W."""
        # `place` runs along N, `wanted` along K
        chosen = self.sources if numbers is None else [self.sources[number] for number in numbers]
        wanted = {variant: number for number, variant in enumerate(variants or range(1, self.stage.k + 1))}
        place = {entry.id: number for number, entry in enumerate(chosen)}
        made_NKCHW = np.empty((len(chosen), len(wanted), 3, size, size), np.uint8)
        for number in self.stage.shards(wanted, len(self.sources)):
            if not any(entry.id in place for entry in self.stage.entries(number, self.sources)):
                continue
            found = [s for s in self.shard(number) if s.source in place and s.variant in wanted]
            for sample, pixels in zip(found, decode_all([s.image for s in found], size), strict=True):
                made_NKCHW[place[sample.source], wanted[sample.variant]] = pixels
        return made_NKCHW
