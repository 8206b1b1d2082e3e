"""GIF's score against a slow reading of its equations, its box, and that a step raises the score."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from synthaug.data.dataset import Dataset
from synthaug.data.sample import Sample, decode_image
from synthaug.diffusion.backbone import Backbone
from synthaug.methods.base import Context, Models, Row
from synthaug.methods.gif import GIF, Judge, draws, turn

NAMES = tuple(str(i) for i in range(10))


@pytest.fixture(scope="module")
def models() -> Models:
    torch.set_num_threads(1)
    found = Models(Backbone("nano:sd"))
    found.names = NAMES
    return found


def gif(**fields: Any) -> GIF:
    return GIF(**{"steps": 5, "variants": 3, "clip": "nano:clip"} | fields)


def planned(method: GIF, sources: int = 2, seed: int = 0) -> tuple[list[Row], list[np.ndarray]]:
    listing = Dataset("digits").open()
    chosen = listing.splits["train"][:sources]
    context = Context(seed, NAMES, "a photo of a {}", "", {}, NAMES)
    samples = [Sample(e.id, listing.read(e.id), ((e.label, 1.0),), e.id, e.label) for e in chosen]
    rows = [method.plan(s, v, context) for v in range(1, method.variants + 1) for s in samples]
    return rows, [decode_image(s.image) for s in samples] * method.variants


def slow_score(features: np.ndarray, guide: np.ndarray, real: np.ndarray, label: int, scale: float) -> float:
    """The three terms of one source, image by image, as the paper has them."""

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x - x.max()) / np.exp(x - x.max()).sum()

    def entropy(p: np.ndarray) -> float:
        return -sum(float(q) * math.log(q) for q in p if q > 0)

    informative = kept = diverse = 0.0
    mean = softmax(features.mean(0))
    for f in features:
        p = softmax(scale * guide @ f)
        informative += entropy(p) - entropy(softmax(scale * guide @ real))
        kept += float(p[label])
        diverse += float(sum(m * (math.log(m) - math.log(q)) for m, q in zip(mean, softmax(f), strict=True)))
    return (informative + kept + diverse) / len(features)


def test_the_score_is_that_of_its_equations() -> None:
    rng = np.random.default_rng(0)

    def unit(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    features, guide, real = unit(4, 3, 16), unit(10, 16), unit(4, 16)
    scorer: Any = SimpleNamespace(
        logit_scale=7.0, embed=lambda image: torch.from_numpy(real[int(image[0, 0, 0, 0])][None])
    )
    images = [np.full((2, 2, 3), i, np.uint8) for i in range(4)]
    text = torch.from_numpy(guide)
    for labels in (None, [3, 1, 4, 1]):
        judge = Judge.of(scorer, text, images, labels)
        own = [int(np.argmax(guide @ r)) for r in real] if labels is None else labels
        found = judge.score(torch.from_numpy(features).view(12, 16))
        assert found.tolist() == pytest.approx(
            [slow_score(f, guide, r, label, 7.0) for f, r, label in zip(features, real, own, strict=True)]
        )


def test_a_step_raises_the_score_and_stays_in_the_box(models: Models) -> None:
    method = gif(constraint=0.3)
    scorer, pipeline = models.scorer(method.clip), models.pipeline
    rows, images = planned(method, 2)
    order = [v * 2 + s for s in range(2) for v in range(3)]  # source by source
    z = np.stack(method.edit(rows, images, models, latents=True))[order]
    seeds = [rows[i].seed for i in order]
    guide = scorer.texts([method.template.format(name) for name in NAMES])
    judge = Judge.of(scorer, guide, images[:2], None)
    moved = method.shift(pipeline, judge, z, seeds).numpy()
    assert np.abs(moved - z).max() <= 0.3 + 1e-6
    assert 0.05 < (np.abs(moved - z) < 0.3 - 1e-6).mean() < 0.95, "some are cut, some are not"

    def score(step: float, sign: float = 1.0) -> float:
        wide = gif(constraint=100.0, step=step)
        if sign < 0:
            latents, (a, b) = torch.from_numpy(z), draws(seeds, 4)
            up = torch.from_numpy(gif(constraint=100.0, step=0.02).shift(pipeline, judge, z, seeds).numpy())
            down = 2 * (latents * (1 + a) + b) - up
            features = scorer.images(pipeline.codec.decode(down), normalise=False)
        else:
            features = scorer.images(pipeline.codec.decode(wide.shift(pipeline, judge, z, seeds)), normalise=False)
        return float(judge.score(features).detach().mean())

    assert score(0.02) > score(0.0) > score(0.02, sign=-1.0), "up the slope, not down"


def test_variants_come_out_source_by_source_and_do_not_depend_on_other_sources(models: Models) -> None:
    method = gif()
    rows, images = planned(method, 3)
    made, labels = method.generate(rows, images, models)
    assert len(made) == 9 and all(label == ((row.target, 1.0),) for row, label in zip(rows, labels, strict=True))
    alone = [i for i, row in enumerate(rows) if row.source == rows[1].source]
    again, _ = method.generate([rows[i] for i in alone], [images[i] for i in alone], models)
    assert np.abs(np.stack(made)[alone].astype(int) - np.stack(again)).max() <= 1
    assert min(np.abs(made[i].astype(int) - made[j]).mean() for i, j in ((0, 3), (3, 6), (0, 6))) > 1


def test_a_source_is_turned_once_for_the_variants_made_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def edit(self: GIF, rows: list[Row], images: list[np.ndarray], *_: Any, **__: Any) -> None:
        seen.extend(images)
        raise InterruptedError

    monkeypatch.setattr(GIF, "edit", edit)
    for seed in (0, 1):
        rows, images = planned(gif(), 2, seed)
        with pytest.raises(InterruptedError):
            gif().generate(rows, images, Models(None))
    first, second = np.stack(seen).reshape(2, 3, 2, *seen[0].shape)
    for turned in (first, second):
        assert (turned[0] == turned[1]).all() and (turned[0] == turned[2]).all(), "one turn a source"
    assert not np.array_equal(first[0], second[0]), "another seed, another turn"


def test_turns_are_small_and_half_of_them_mirrored() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert len({turn(image, i, 15).tobytes() for i in range(10)}) == 10
    flat = [turn(image, i, 0.0) for i in range(40)]
    mirrored = sum(np.array_equal(f, image[:, ::-1]) for f in flat)
    assert 8 < mirrored < 32 and all(np.array_equal(f, image) or np.array_equal(f, image[:, ::-1]) for f in flat)


def test_prompts_are_of_the_pool() -> None:
    prompts = {row.prompt for row in planned(GIF(variants=60), 2)[0]}
    assert len(prompts) > 30 and any("an oil painting of posterized" in p or "a sketch of" in p for p in prompts)
    medical = GIF(domains=("a dermatoscopic image of",), adjectives=("",))
    assert {row.prompt.rpartition(" ")[0] for row in planned(medical, 2)[0]} == {"a dermatoscopic image of"}
