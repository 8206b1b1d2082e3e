"""What a row costs is what its method then asks of the denoiser: every method is run for real on the embedded models.
The places of the steps are those of diffusers' own schedulers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from inspect import signature
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from synthaug.clip import Clip
from synthaug.data.sample import Sample
from synthaug.diffusion.backbone import AddedLoRA, Backbone
from synthaug.diffusion.denoiser import Preconditioned
from synthaug.diffusion.guide import Guide
from synthaug.diffusion.one_step import Diffusion
from synthaug.diffusion.pixel_models import PretrainedUNet
from synthaug.diffusion.steps import _BETWEEN, _CONSISTENCY, _FIRST_LEFT_OUT, _SECOND_ORDER, levels, part_of
from synthaug.evaluate.adapt import AtTimes, DDAImages
from synthaug.methods.base import Context, Maker, Method, Models, Row
from synthaug.methods.da_fusion import DAFusion
from synthaug.methods.diff_aug import DiffAug
from synthaug.methods.diff_ii import DiffII, Inversion
from synthaug.methods.diff_mix import DiffMix
from synthaug.methods.diffuse_denoise import DiffuseDenoise
from synthaug.methods.diffuse_mix import DiffuseMix
from synthaug.methods.from_noise import Boomerang, FromNoise, Resample
from synthaug.methods.gif import GIF
from synthaug.methods.guided import ClassifierGuided
from synthaug.methods.real_guidance import RealGuidance
from synthaug.methods.retrieval import Retrieval
from synthaug.methods.sdedit import FromPrompt, SeveralStrengths
from synthaug.methods.upsample import Upsample
from synthaug.settings import subclasses

SD, PIX2PIX = Backbone("nano:sd"), Backbone("nano:pix2pix")
LCM = Backbone("nano:sd", scheduler="LCMScheduler", lora=AddedLoRA("nano:lcm"))
NAMES = tuple(str(i) for i in range(10))
PEERS = {0: ("digits/0", "digits/1", "digits/2", "digits/3")}
CONTEXT = Context(0, NAMES, ("a {}",), "digit", PEERS, NAMES)
SOURCES = [Sample(id, b"", ((0, 1.0),), id, 0) for id in PEERS[0]]


@pytest.fixture(scope="module")
def loaded() -> dict[Backbone, Any]:
    return {}


def pipeline_of(backbone: Backbone, loaded: dict[Backbone, Any]) -> Any:
    if backbone not in loaded:
        loaded[backbone] = backbone.load("cpu")
    return loaded[backbone]


def planned(maker: Maker, variants: int = 1) -> list[Row]:
    return [maker.plan(source, v, CONTEXT) for v in range(1, variants + 1) for source in SOURCES]


def pixels(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))


def counted(maker: Maker, rows: Sequence[Row], models: Models) -> int:
    before = models.counters.get("unet_calls", 0)
    maker.generate(rows, pixels(len(rows)), models)
    return models.counters.get("unet_calls", 0) - before


FIVE: dict[str, Any] = {"steps": 5}
CASES = [
    (RealGuidance(strength=0.9, **FIVE), SD),
    (RealGuidance(strength=0.1, **FIVE), SD),  # less than a step: one is run
    (RealGuidance(strength=1.0, steps=1), SD),
    (RealGuidance(strength=0.9, guidance=1.0, **FIVE), SD),
    (RealGuidance(strength=0.9, guidance=0.0, **FIVE), SD),
    (SeveralStrengths(strengths=(0.2, 0.9), **FIVE), SD),
    (FromPrompt(**FIVE), SD),
    (FromPrompt(guidance=1.0, **FIVE), SD),
    (FromPrompt(guidance=1.0, **FIVE), LCM),
    (DiffAug(strength=0.5, **FIVE), SD),
    (DiffMix(strength=0.7, steps=10), SD),
    (GIF(strength=0.7, variants=2, clip=Clip("nano:clip"), **FIVE), SD),
    (DAFusion(stack=(0.25,)), SD),
    (DAFusion(steps=8, stack=(0.25, 0.5, 0.75, 1.0)), SD),
    (DiffII(steps=4, inversion_steps=3), SD),
    (DiffII(steps=4, split=0.0, guidance=1.0, inversion_steps=3), SD),
    (DiffII(steps=4, split=1.0, inversion_steps=3), SD),
    (DiffII(steps=4, inversion_steps=3), LCM),
    (Inversion(7), SD),
    (Inversion(7), LCM),  # goes upwards by DDIM, whatever the backbone asks for
    (DiffuseMix(steps=4), PIX2PIX),
    (DiffuseMix(steps=4, guidance=1.0), PIX2PIX),  # sees the image still: three rows
    (DiffuseMix(steps=4), Backbone("nano:pix2pix", scheduler="HeunDiscreteScheduler")),
    (RealGuidance(strength=0.05, **FIVE), LCM),
    (RealGuidance(strength=0.01, guidance=2.0, steps=3), LCM),  # below its grid
    (RealGuidance(strength=0.9, guidance=1.0, steps=60), LCM),  # no more steps than the grid has levels
    (DAFusion(steps=4, guidance=2.0, stack=(0.3, 0.5, 0.85, 1.0)), LCM),
    (DAFusion(steps=4, guidance=2.0, guided=(0.25, 0.5), stack=(0.3, 0.5, 0.85, 1.0)), LCM),
    (RealGuidance(strength=0.9, **FIVE), Backbone("nano:sd", scheduler="TCDScheduler")),
    *((DAFusion(steps=6, stack=(0.2, 0.6, 1.0)), Backbone("nano:sd", scheduler=name)) for name in _SECOND_ORDER),
    *((RealGuidance(strength=0.9, steps=10, guided=(0.3, 0.7)), Backbone("nano:sd", scheduler=f"{name}Scheduler"))
      for name in ("DDIM", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "UniPCMultistep")),
]  # fmt: skip
TENTH = RealGuidance(strength=1.0, steps=10).plan(SOURCES[0], 1, CONTEXT)
AT = [90 * i + 1 for i in range(1, 11)]  # where DPMSolver's ten steps lie in nano:sd's schedule (leading, offset 1)
EDGES = [(0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.25, 0.75), (0.9995, 1.0), (0.0, 0.05), (0.0, AT[0] / 1000),
         (AT[-1] / 1000, 1.0), (AT[3] / 1000, AT[6] / 1000), (AT[3] / 1000 + 1e-9, AT[6] / 1000 - 1e-9),
         ((AT[3] - 1) / 1000, (AT[6] + 1) / 1000), (0.44, 0.46), (0.46, 0.54)]  # fmt: skip


@pytest.mark.parametrize(("maker", "backbone"), CASES, ids=str)
def test_rows_cost_what_was_said(maker: Maker, backbone: Backbone, loaded: dict[Backbone, Any]) -> None:
    models = Models(backbone)
    vars(models)["pipeline"] = pipeline_of(backbone, loaded)
    models.context = CONTEXT
    if isinstance(maker, DiffII):
        latents = np.random.default_rng(0).standard_normal((len(SOURCES), 4, 8, 8)).astype(np.float32)
        models.earlier = dict(zip(PEERS[0], latents, strict=True)).__getitem__
    rows = planned(maker, maker.together)
    assert counted(maker, rows, models) == sum(maker.calls(row, backbone) for row in rows) > 0


@pytest.mark.parametrize("guided", EDGES)
def test_guidance_costs_twice_between_its_edges(guided: tuple[float, float], loaded: dict[Backbone, Any]) -> None:
    pipeline, low, high = pipeline_of(SD, loaded), *guided
    for strength in (1.0, 0.55, 0.1):
        method = RealGuidance(strength=strength, steps=10, guided=guided)
        models = Models(SD)
        vars(models)["pipeline"] = pipeline
        (row, *_) = planned(method)
        run = int(10 * strength)
        assert counted(method, [row], models) == method.calls(row, SD)
        assert method.calls(row, SD) == run + sum(low <= t / 1000 <= high for t in AT[:run])


def test_the_known_costs() -> None:
    def of(maker: Maker, backbone: Backbone | None = SD) -> set[int]:
        return {maker.calls(row, backbone) for row in planned(maker, 4)}

    assert of(RealGuidance()) == {44} and of(RealGuidance(guidance=1)) == {22}
    assert of(DAFusion(stack=(0.25,))) == {12} and of(DAFusion(stack=(0.25, 1.0))) == {12, 50}
    assert of(Inversion(200)) == {200} and of(DiffII(steps=10)) == {20} and of(DiffuseMix(steps=10)) == {30}
    assert of(RealGuidance(guidance=1, steps=4), LCM) == {3} and of(RealGuidance(guidance=1, steps=60), LCM) == {45}
    assert of(ClassifierGuided(steps=7), None) == {7}


@pytest.mark.parametrize(
    "maker",
    [
        DiffuseDenoise(),
        DiffuseDenoise(how=Diffusion(denoise=False)),
        AtTimes(times=(0.0, 0.3)),
        AtTimes(times=(0.3,), how=Diffusion(denoise=False)),
        DDAImages(steps=12, start=5),
        ClassifierGuided(steps=3),
        ClassifierGuided(steps=3, guide=Guide(second="denoised")),
    ],
    ids=str,
)
def test_what_is_asked_of_a_pixel_model(maker: Maker) -> None:
    models = Models(None, (), (PretrainedUNet("nano:ddpm"), None))
    if isinstance(maker, ClassifierGuided):
        vars(models)["guide"] = ANY_GUIDE
    rows = planned(maker)
    asked = sum(maker.calls(row, None) for row in rows)
    assert counted(maker, rows, models) == asked and (asked > 0) == maker.needs_denoiser


class _Guide:
    """Sees nothing in any image."""

    size = 32

    def log_p(self, x: Any, sigma: Any, x0: Any, labels: Any) -> Any:
        return 0 * (x.sum((1, 2, 3)) + x0.sum((1, 2, 3)))


ANY_GUIDE = _Guide()


@pytest.mark.parametrize(
    "method",
    [
        *(FromNoise(steps=3), FromNoise(steps=1), FromNoise(steps=3, guidance=2.0), Resample(steps=2)),
        *(Resample(steps=5, kept=2, guidance=3.0), Boomerang(steps=3)),
    ],
    ids=str,
)
def test_samples_of_the_denoiser_cost_what_is_said(method: FromNoise) -> None:
    class Net:
        config, device = SimpleNamespace(sample_size=4), torch.device("cpu")

        def __call__(self, x: Any, c_noise: Any, cond: Any) -> Any:
            return 0 * x

    models = Models(None, denoiser=(SimpleNamespace(labels=True, space=None), None))  # type: ignore[arg-type]
    vars(models)["denoiser"] = Preconditioned(Net())
    rows = [row for row in planned(method, method.together) if row.source in [s.id for s in SOURCES[:2]]]
    images, labels = method.generate(rows, [np.zeros((8, 8, 3), np.uint8)] * len(rows), models)
    assert models.denoiser.rows == sum(method.calls(row, None) for row in rows) == models.counters["unet_calls"]
    assert [image.shape for image in images] == [(4, 4, 3)] * len(rows) and list(labels) == [
        ((r.target, 1.0),) for r in rows
    ]


def test_no_method_is_left_out() -> None:
    known = {type(maker) for maker, _ in CASES} | {
        DiffuseDenoise,
        ClassifierGuided,
        FromNoise,
        Resample,
        Boomerang,
        Upsample,
    }
    ours = {kind for kind in subclasses(Method) if kind.__module__.startswith("synthaug.")}
    for method in (Retrieval(), Upsample()):
        assert method.calls(planned(method)[0], None) == 0, "nothing is generated"
    assert {kind.__name__ for kind in ours - known} <= {"SDEdit", "Retrieval"}, "RealGuidance by another name"


SPACINGS: list[dict[str, Any]] = [
    {}, {"timestep_spacing": "leading", "steps_offset": 1}, {"timestep_spacing": "linspace", "steps_offset": 1},
    {"timestep_spacing": "trailing"}, {"num_train_timesteps": 500},
]  # fmt: skip


@pytest.mark.parametrize("config", SPACINGS, ids=str)
@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DDPMScheduler", "PNDMScheduler", *_FIRST_LEFT_OUT, *_BETWEEN, *_CONSISTENCY]
)
def test_steps_lie_where_diffusers_puts_them(name: str, config: dict[str, Any]) -> None:
    cosine: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = getattr(diffusers, name).from_config(cosine | {"skip_prk_steps": True} | config)
    total = scheduler.config.num_train_timesteps
    for steps in (1, 2, 3, 7, 10, 25, 50):
        for strength in (0.05, 0.3, 1.0):
            part = part_of(name, steps, strength)
            if part.level is None:
                scheduler.set_timesteps(steps)
            else:
                scheduler.set_timesteps(part.run, original_inference_steps=50, strength=part.level)
            theirs = [float(t) / total for t in scheduler.timesteps[part.skipped * scheduler.order :]]
            ours = levels(name, part, config)
            assert len(ours) == len(theirs)
            if not name.startswith("KDPM2"):  # they ask between their steps
                assert ours == theirs, (steps, strength)


def test_the_tables_of_schedulers_are_those_of_diffusers() -> None:
    """Which can be told a level, and which ask twice a step, is read off the classes."""
    named = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")}
    found = {name: kind for name, kind in named.items() if issubclass(kind, diffusers.SchedulerMixin)}
    steps = {name: kind.set_timesteps for name, kind in found.items() if hasattr(kind, "set_timesteps")}
    assert len(steps) > 30
    assert {name for name, make in steps.items() if "strength" in signature(make).parameters} == {*_CONSISTENCY}
    for name in (*_SECOND_ORDER, *_FIRST_LEFT_OUT, *_BETWEEN, *_CONSISTENCY):
        assert found[name].order == 1 + (name in _SECOND_ORDER)


def test_counting_loads_no_library() -> None:
    code = (
        "import sys\n"
        "from synthaug.diffusion.backbone import Backbone\n"
        "from synthaug.methods.base import Row\n"
        "from synthaug.methods.real_guidance import RealGuidance\n"
        "row = Row('a', 0, 0, 1, '', 0.5, 0)\n"
        "assert RealGuidance(guided=(0.2, 0.6)).calls(row, Backbone('nano:sd')) > 12\n"
        "sys.exit(bool({'torch', 'diffusers', 'ray', 'mlflow'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
