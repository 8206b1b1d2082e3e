"""GIF's score against a slow reading of its equations, its box, and that a step raises the score."""

from __future__ import annotations

import copy
import dataclasses
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
from synthaug.methods.gif import GIF, Judge, draws, slopes_of, turn

NAMES = tuple(str(i) for i in range(10))
CONTEXT = Context(0, NAMES, ("a photo of a {}",), "", {}, NAMES, can_mirror=False)


@pytest.fixture(scope="module")
def models() -> Models:
    torch.set_num_threads(1)
    found = Models(Backbone("nano:sd"))
    found.context = CONTEXT
    return found


def gif(**fields: Any) -> GIF:
    return GIF(**{"steps": 5, "variants": 3, "clip": "nano:clip"} | fields)


def planned(method: GIF, sources: int = 2, seed: int = 0) -> tuple[list[Row], list[np.ndarray]]:
    listing = Dataset("digits").open()
    chosen = listing.splits["train"][:sources]
    context = dataclasses.replace(CONTEXT, seed=seed)
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
    for source, kept in enumerate([None, 3, 1, None]):
        scorer: Any = SimpleNamespace(logit_scale=7.0, embed=lambda _, f=real[source]: torch.from_numpy(f[None]))
        judge = Judge.of(scorer, torch.from_numpy(guide), np.zeros((2, 2, 3), np.uint8), kept)
        own = int(np.argmax(guide @ real[source])) if kept is None else kept
        found = judge.score(torch.from_numpy(features[source]))
        assert float(found) == pytest.approx(slow_score(features[source], guide, real[source], own, 7.0))


def judged(models: Models, method: GIF) -> tuple[Judge, np.ndarray, list[int]]:
    """A source's judge, and its variants' latents and seeds."""
    rows, images = planned(method, 1)
    scorer = models.scorer(method.clip)
    guide = scorer.texts([method.template.format(name) for name in NAMES])
    latents = np.stack(method.edit(rows, images, models, latents=True))
    return Judge.of(scorer, guide, images[0], None), latents, [row.seed for row in rows]


def test_a_step_raises_the_score_and_stays_in_the_box(models: Models) -> None:
    method = gif(constraint=0.3)
    pipeline = models.pipeline
    judge, z, seeds = judged(models, method)
    moved = method.shift(pipeline, judge, z, seeds).numpy()
    assert np.abs(moved - z).max() <= 0.3 + 1e-6
    assert 0.05 < (np.abs(moved - z) < 0.3 - 1e-6).mean() < 0.95, "some are cut, some are not"

    def score(step: float, sign: float = 1.0) -> float:
        up = gif(constraint=100.0, step=step).shift(pipeline, judge, z, seeds)
        start = gif(constraint=100.0, step=0.0).shift(pipeline, judge, z, seeds)
        features = judge.scorer.images(pipeline.codec.decode(start + sign * (up - start)), normalise=False)
        return float(judge.score(features).detach())

    assert score(0.02) > score(0.0) > score(0.02, sign=-1.0), "up the slope, not down"


def test_the_slope_is_that_of_one_graph_over_all_variants(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty latents in one graph of the decoder take 180 GiB at 512 px: only one is ever there, and nothing changes."""
    judge, latents, seeds = judged(models, gif())
    codec, z = models.pipeline.codec, torch.from_numpy(latents)
    a, b = (part.requires_grad_() for part in draws(seeds, 4))
    score = judge.score(judge.scorer.images(codec.decode(z * (1 + a) + b), normalise=False))
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(score, (a, b))])
    graphs: list[int] = []
    decode = codec.decode

    def watched(z: torch.Tensor) -> torch.Tensor:
        graphs.append(len(z) if torch.is_grad_enabled() else 0)
        return decode(z)

    monkeypatch.setattr(codec, "decode", watched)
    found = torch.cat([part.flatten() for part in slopes_of(codec, judge, z, a.detach(), b.detach())])
    assert max(graphs) == 1
    factor = found.norm() / expected.norm()
    assert torch.allclose(found, factor * expected, atol=1e-3 * float(found.abs().max()))


def test_half_precision_does_not_lose_the_slope() -> None:
    """A pixel's share of the score is some 1e-8 at 512 px; float16 ends at 6e-8."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3, padding=1))

    class Half:
        """A decoder in float16, or in float32 with the same weights."""

        def __init__(self, dtype: torch.dtype) -> None:
            self.dtype = dtype
            self.net = copy.deepcopy(net).to(dtype)

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return self.net(z).float()

    judge: Any = SimpleNamespace(
        scorer=SimpleNamespace(images=lambda x, normalise: x),
        score=lambda x: 1e-9 * (x * torch.linspace(0, 1, 16)).sum(),
    )
    z, a, b = torch.randn(3, 4, 16, 16), torch.rand(3, 4, 1, 1), torch.randn(3, 4, 1, 1)
    half, full = (slopes_of(Half(dtype), judge, z, a.clone(), b.clone()) for dtype in (torch.float16, torch.float32))
    for ours, exact in zip(half, full, strict=True):
        clear = exact.abs() > 0.02 * exact.abs().max()
        assert (ours.sign() == exact.sign())[clear].all() and (ours != 0).all()


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
    assert len({turn(image, i, 15, True).tobytes() for i in range(10)}) == 10
    flat = [turn(image, i, 0.0, True) for i in range(40)]
    mirrored = sum(np.array_equal(f, image[:, ::-1]) for f in flat)
    assert 8 < mirrored < 32 and all(np.array_equal(f, image) or np.array_equal(f, image[:, ::-1]) for f in flat)


def test_nothing_is_mirrored_where_that_changes_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Dataset("digits").can_mirror and not Dataset("glyphs").can_mirror and Dataset("cub").can_mirror
    assert Dataset("digits", mirrors=True).can_mirror and not Dataset("folder", mirrors=False).can_mirror
    seen: list[bool] = []

    def turned(image: np.ndarray, seed: int, degrees: float, mirror: bool) -> np.ndarray:
        seen.append(mirror)
        raise InterruptedError

    monkeypatch.setattr("synthaug.methods.gif.turn", turned)
    for can, mirror in ((False, True), (True, True), (False, False), (True, False)):
        models = Models(None)
        models.context = dataclasses.replace(CONTEXT, can_mirror=can)
        with pytest.raises(InterruptedError):
            gif(mirror=mirror).generate(*planned(gif(), 1), models)
    assert seen == [False, True, False, False]


def test_prompts_are_of_the_pool() -> None:
    prompts = {row.prompt for row in planned(GIF(variants=60), 2)[0]}
    assert len(prompts) > 30 and any("an oil painting of posterized" in p or "a sketch of" in p for p in prompts)
    fixed = GIF(domains=("a dermatoscopic image of",), adjectives=("",))
    assert {row.prompt.rpartition(" ")[0] for row in planned(fixed, 2)[0]} == {"a dermatoscopic image of"}
    # where the data set says what its images are, that is said
    told = dataclasses.replace(CONTEXT, prompts=("a dermatoscopic image of {}",))
    sample = Sample("a", b"", ((3, 1.0),), "a", 3)
    assert GIF().plan(sample, 1, told).prompt == "a dermatoscopic image of 3"
    domains = ("a real image of a {}", "a sketch image of a {}")
    several = dataclasses.replace(CONTEXT, prompts=domains)
    drawn = [GIF().plan(sample, variant, several).prompt for variant in range(1, 41)]
    assert (
        set(drawn) == {"a real image of a 3", "a sketch image of a 3"} and 8 < drawn.count("a real image of a 3") < 32
    )
