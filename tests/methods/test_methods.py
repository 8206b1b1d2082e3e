"""What the seven methods plan and compute, exactly; no model is loaded here."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from synthaug.data.sample import Sample
from synthaug.diffusion.steps import part_of
from synthaug.methods import fractals
from synthaug.methods.base import Context, Method, Row
from synthaug.methods.da_fusion import DAFusion
from synthaug.methods.diff_aug import DiffAug
from synthaug.methods.diff_ii import DiffII, Inversion, around, turn
from synthaug.methods.diff_mix import DiffMix
from synthaug.methods.diffuse_mix import DiffuseMix, seam
from synthaug.methods.gif import GIF
from synthaug.methods.prompts import SuffixDream, SuffixExchange
from synthaug.methods.real_guidance import RealGuidance
from synthaug.settings import UserError

NAMES = tuple(str(i) for i in range(10))
PEERS = {label: tuple(f"digits/{10 * label + i}" for i in range(3)) for label in range(10)}
CONTEXT = Context(0, tuple(f"<class-{i}>" for i in range(10)), ("a photo of a {}",), "digit", PEERS, NAMES)
SOURCES = [(id, label) for label, ids in PEERS.items() for id in ids]


def sample(id: str = "digits/30", label: int = 3) -> Sample:
    return Sample(id, b"", ((label, 1.0),), id, label)


def rows(method: Method, variants: int = 5, context: Context = CONTEXT) -> list[Row]:
    return [method.plan(sample(*source), v, context) for v in range(1, variants + 1) for source in SOURCES]


@pytest.mark.parametrize(
    ("method", "prompt"),
    [
        (RealGuidance(), "a photo of a <class-3>"),
        (DAFusion(), "a photo of a <class-3> digit"),  # that is what its word is learned under
        (DiffAug(), "a photo of a <class-3> digit"),
        (Inversion(), "a photo of a <class-3> digit"),
    ],
)
def test_prompts_as_published(method: Method, prompt: str) -> None:
    assert method.plan(sample(), 1, CONTEXT).prompt == prompt


def test_neighbours_share_their_noise() -> None:
    """A seed depends on the experiment's seed, the image and the variant only."""
    methods = (
        RealGuidance(),
        RealGuidance(strength=0.3, steps=5),
        DiffMix(),
        DAFusion(),
        GIF(),
        DiffuseMix(),
        DiffII(),
    )
    assert len({method.plan(sample(), 2, CONTEXT).seed for method in methods}) == 1
    assert len({row.seed for row in rows(RealGuidance())}) == 150


# --- Diff-Mix -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.7, 0.9, 1.0])
def test_mixed_labels_sum_to_one_also_when_source_is_target(strength: float) -> None:
    method = DiffMix(strength=strength)
    found = rows(method, 40)
    assert any(row.target == row.source_class for row in found)
    share = math.sqrt(strength)
    for row in found:
        label = dict(method.label(row))
        assert sum(label.values()) == pytest.approx(1, abs=1e-12)
        if row.target == row.source_class:
            assert label == {row.target: pytest.approx(1)}
        else:
            assert label[row.target] == pytest.approx(share) and label.get(row.source_class, 0) == pytest.approx(
                1 - share
            )
        assert row.prompt == f"a photo of a <class-{row.target}> digit"


def test_the_share_of_the_target_is_strength_to_the_gamma() -> None:
    row = Row("a", 0, 1, 1, "", 0.7, 0)
    assert dict(DiffMix(gamma=0.5).label(row))[1] == pytest.approx(0.8367, abs=1e-4)
    assert dict(DiffMix(gamma=0.8).label(row))[1] == pytest.approx(0.7518, abs=1e-4)


def test_targets_are_uniform_over_all_classes() -> None:
    counts = Counter(row.target for row in rows(DiffMix(), 100))
    assert chisquare([counts[i] for i in range(10)]).pvalue > 0.01
    own = sum(row.target == row.source_class for row in rows(DiffMix(), 100))
    assert 230 < own < 370, "the own class among them: a tenth of 3000"


# --- Diff-II --------------------------------------------------------------------------------------------------------


def latents(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((4, 8, 8)).astype(np.float32)


def test_the_circle_goes_through_both_and_keeps_its_radius() -> None:
    z1 = latents(0)
    z2 = latents(1) * np.linalg.norm(z1) / np.linalg.norm(latents(1))
    theta = math.acos(float((z1 * z2).sum() / np.linalg.norm(z1) ** 2))
    assert np.allclose(around(z1, z2, 0.0), z1, atol=1e-6)
    assert np.allclose(around(z1, z2, 1 - theta / (2 * math.pi)), z2, atol=1e-5), "the long way round from z1"
    for part in np.linspace(0, 1, 17):
        z = around(z1, z2, float(part))
        assert np.linalg.norm(z) == pytest.approx(np.linalg.norm(z1), rel=1e-5), "a great circle of one radius"
        a = 2 * math.pi * part / theta  # the equation as printed
        printed = math.sin((1 + a) * theta) / math.sin(theta) * z1 - math.sin(a * theta) / math.sin(theta) * z2
        assert np.allclose(z, printed, atol=1e-5)
    assert np.allclose(around(z1, z2, 0.5), -z1, atol=1e-5), "half way round"


def test_without_another_image_latents_stay_as_they_are() -> None:
    assert np.array_equal(around(latents(0), latents(0), 0.3), latents(0))
    lonely = Context(0, NAMES, ("a photo of a {}",), "", {3: ("digits/30",)}, NAMES)
    assert DiffII().plan(sample(), 1, lonely).partner == "digits/30"


def test_partners_are_others_of_the_class_and_suffixes_differ() -> None:
    for id, label in SOURCES:
        found = [DiffII().plan(sample(id, label), v, CONTEXT) for v in range(1, 11)]
        assert all(row.partner in PEERS[label] and row.partner != id for row in found)
        assert len({row.prompt for row in found}) == 10, "ten suffixes, none twice"
        assert all(row.prompt.startswith(f"{row.later}, ") for row in found)
        assert {row.later for row in found} == {f"a photo of a <class-{label}> digit"}
    alone = [row.partner == row.source for row in rows(DiffII.as_released(), 60)]
    assert 0.28 < np.mean(alone) < 0.39, "as released, the image itself a third of the time here"


def test_turns_are_uniform() -> None:
    assert kstest([turn(seed) for seed in range(2000)], "uniform").pvalue > 0.01


# --- DiffuseMix -----------------------------------------------------------------------------------------------------


def test_the_seam_is_a_ramp_in_the_middle() -> None:
    mask = seam(256, 20)[:, 0]
    assert (mask[:118] == 1).all() and (mask[138:] == 0).all()
    assert mask[118:138] == pytest.approx((19.5 - np.arange(20)) / 20)
    assert mask + mask[::-1] == pytest.approx(1), "as much of one as of the other"
    assert seam(4, 0)[:, 0].tolist() == [1, 1, 0, 0]


def test_halves_seam_and_fractal_to_the_pixel() -> None:
    method = DiffuseMix()
    real, new = np.full((256, 256, 3), 200, np.uint8), np.full((256, 256, 3), 100, np.uint8)
    ways = set()
    for variant in range(1, 9):
        row = method.plan(sample(), variant, CONTEXT)
        made = method.blend(row, real, new).astype(float)
        plain = DiffuseMix(fractal=0.0).blend(row, real, new)
        turned = plain if (plain == plain[:, :1]).all() else plain.transpose(1, 0, 2)
        ways.add(bool((plain == plain[:, :1]).all()))
        assert (turned[:118] == 200).all() and (turned[138:] == 100).all(), "the source above or on the left"
        assert np.array_equal(turned[118:138, 0, 0], np.rint(100 + 100 * seam(256, 20)[118:138, 0]))
        fractal = (made - 0.8 * np.asarray(100 + 100 * seam(256, 20))[:, None] if (plain == plain[:, :1]).all()
                   else made - 0.8 * np.asarray(100 + 100 * seam(256, 20)).transpose(1, 0)[..., None])  # fmt: skip
        assert fractal.min() >= -0.51 and fractal.max() <= 51.51, "a fifth of a fractal"
        assert fractal.std() > 3
    assert ways == {True, False}, "both directions"


def test_styles_are_drawn_and_worded() -> None:
    prompts = Counter(row.prompt for row in rows(DiffuseMix(), 30))
    assert len(prompts) == 9 and "A transformed version of image into snowy" in prompts
    assert chisquare(list(prompts.values())).pvalue > 0.01
    assert "snowy" in {row.prompt for row in rows(DiffuseMix.as_published(), 30)}


def test_fractals_are_reproducible_different_and_rich() -> None:
    drawn = [fractals.render(number, 64) for number in range(24)]
    assert np.array_equal(drawn[3], fractals.render(3, 64)) and drawn[0].shape == (64, 64, 3)
    assert all(image.std() > 20 for image in drawn)
    assert min(np.abs(a.astype(int) - b).mean() for i, a in enumerate(drawn) for b in drawn[:i]) > 10


# --- prompts, strengths, steps --------------------------------------------------------------------------------------


def test_suffixes_are_dreamt_or_exchanged(tmp_path: Path) -> None:
    dreamt = [RealGuidance(prompts=SuffixDream()).plan(sample(), v, CONTEXT) for v in range(1, 40)]
    assert (
        all(row.prompt.startswith("a photo of a <class-3>, ") for row in dreamt) and len({r.prompt for r in dreamt}) > 5
    )
    table = tmp_path / "table.json"
    seen = {id: f"seen on {id}" for id, _ in SOURCES}
    table.write_text(json.dumps({"images": seen}))
    for among, ids in (("set", [id for id, _ in SOURCES]), ("class", PEERS[3])):
        method = DiffAug(prompts=SuffixExchange(table=str(table), among=among))
        drawn = {method.plan(sample(), v, CONTEXT).prompt.partition("seen on ")[2] for v in range(1, 300)}
        assert drawn == set(ids) - {"digits/30"}, "of another training image"
    mixed = DiffMix(prompts=SuffixExchange(table=str(table), among="class"))
    for row in rows(mixed, 3):
        assert row.prompt.partition("seen on ")[2] in PEERS[row.target], "of the class that is asked for"


def test_a_table_that_changes_is_read_again_in_the_next_stage(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    method = RealGuidance(prompts=SuffixDream(table=str(table)))

    def prompts(context: Context) -> set[str]:
        return {row.prompt.partition(", ")[2] for row in rows(method, 2, context)}

    for phrase in ("red", "blue"):
        table.write_text(json.dumps({"classes": {"*": [phrase]}}))
        context = dataclasses.replace(CONTEXT)
        assert prompts(context) == {phrase} and context == CONTEXT
    table.unlink()
    assert prompts(context) == {"blue"}, "read once for a stage, however many rows are planned"
    with pytest.raises(UserError, match="table.json is no table of suffixes"):
        prompts(dataclasses.replace(CONTEXT))


def test_a_table_without_the_class_or_the_image_is_named(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text('{"classes": {"4": []}}')
    with pytest.raises(UserError, match="table.json has no suffixes for the class .3.; add them under"):
        RealGuidance(prompts=SuffixDream(table=str(table))).plan(sample(), 1, CONTEXT)
    with pytest.raises(UserError, match="table.json has no suffix for the image"):
        RealGuidance(prompts=SuffixExchange(table=str(table))).plan(sample(), 1, CONTEXT)
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(UserError, match="bad.json is no table of suffixes"):
        RealGuidance(prompts=SuffixDream(table=str(tmp_path / "bad.json"))).plan(sample(), 1, CONTEXT)


def test_one_step_is_run_and_said() -> None:
    assert RealGuidance(strength=0.1, steps=5).notes() == [
        "strength 0.1 of 5 steps is less than one step: one is run"
    ]  # fmt: skip
    assert RealGuidance(strength=0.1, steps=10).notes() == []
    steps = [part_of(None, t, s).run for t in (25, 10, 5, 3) for s in (0.1, 0.5, 0.9)]
    assert steps == [2, 12, 22, 1, 5, 9, 1, 2, 4, 1, 1, 2]


def test_guidance_needs_an_interval() -> None:
    with pytest.raises(UserError, match="is no interval"):
        RealGuidance(guided=(0.6, 0.2))


def test_a_stack_of_strengths() -> None:
    strengths = Counter(row.strength for row in rows(DAFusion.as_published(), 20))
    assert set(strengths) == {0.25, 0.5, 0.75, 1.0} and chisquare(list(strengths.values())).pvalue > 0.01
    assert {row.strength for row in rows(DAFusion(strength=0.5))} == {0.5}
