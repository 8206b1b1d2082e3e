"""What the other methods ask of a pipeline: few steps, guidance for a part of the way, instructions, inversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.pipeline import Pipeline
from synthaug.diffusion.steps import Loop, part_of
from synthaug.methods.base import Row
from synthaug.methods.real_guidance import RealGuidance
from synthaug.settings import UserError


@pytest.fixture(scope="module")
def pipeline(tiny_sd: Path) -> Pipeline:
    return Backbone(str(tiny_sd)).load("cpu")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pix2pix(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a network that sees the source: its first convolution is twice as deep."""
    torch.manual_seed(1)
    pipe: Any = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        tiny_sd, unet=UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(tiny_sd / "unet"), in_channels=8),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny-pix2pix"
    pipe.save_pretrained(folder)
    return folder


def test_instructions_equal_diffusers(pix2pix: Path, images: list[np.ndarray]) -> None:
    pipe: Any = StableDiffusionInstructPix2PixPipeline.from_pretrained(pix2pix, safety_checker=None)
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    prompts, seeds = ["snowy", "a mosaic", "aurora"], [5, 6, 7]
    theirs = [
        pipe(prompt, image=Image.fromarray(image), num_inference_steps=6, guidance_scale=4.0, image_guidance_scale=1.5,
             generator=torch.Generator().manual_seed(seed), output_type="np").images[0]
        for prompt, image, seed in zip(prompts, images, seeds, strict=True)
    ]  # fmt: skip
    ours = Backbone(str(pix2pix), micro_batch=2).load("cpu")
    made = ours.instruct(images, prompts, seeds, steps=6, guidance=4.0, image_guidance=1.5)
    assert np.abs(np.stack(made) - np.stack(theirs) * 255).max() < 0.6
    assert ours.counters["unet_calls"] == 3 * 3 * 6 and ours.counters["vae_encodes"] == 3


def test_a_model_that_sees_no_source_takes_no_instructions(pipeline: Pipeline, images: list[np.ndarray]) -> None:
    with pytest.raises(UserError, match="follows no instructions about images; take timbrooks/instruct-pix2pix"):
        pipeline.instruct(images, ["a", "b", "c"], [1, 2, 3], steps=2, guidance=4.0, image_guidance=1.5)


def test_a_model_that_sees_the_source_is_of_no_other_use(pix2pix: Path, images: list[np.ndarray]) -> None:
    pipeline, call = Backbone(str(pix2pix)).load("cpu"), {"steps": 2, "guidance": 2.0}
    with pytest.raises(UserError, match="only follows instructions about images; take stable-diffusion"):
        pipeline.img2img(images, ["a", "b", "c"], [1, 2, 3], strength=0.5, **call)
    with pytest.raises(UserError, match="only follows instructions"):
        pipeline.invert(images, ["a", "b", "c"], steps=2)


@pytest.mark.parametrize(
    ("strength", "steps", "levels"),
    [
        (0.9, 5, [899, 679, 459, 239]),
        (0.9, 3, [899, 459]),
        (0.1, 5, [99]),
        (1.0, 4, [999, 759, 499, 259]),
        (0.01, 3, [19]),
    ],
)
def test_few_steps_start_at_the_level_that_strength_asks(
    tiny_sd: Path, strength: float, steps: int, levels: list[int]
) -> None:
    """diffusers cuts the list of steps instead: at strength 0.9 and five steps it would start at 799."""
    pipeline = Backbone(str(tiny_sd), scheduler="LCMScheduler").load("cpu")
    part = part_of("LCMScheduler", steps, strength)
    assert pipeline._timesteps(pipeline.scheduler("DDIMScheduler"), part).tolist() == levels


def test_steps_may_be_cut_as_diffusers_does(tiny_sd: Path) -> None:
    from diffusers import LCMScheduler

    backbone = Backbone(str(tiny_sd), scheduler="LCMScheduler", sliced=True)
    pipeline = backbone.load("cpu")
    theirs = LCMScheduler.from_config(pipeline.pipe.scheduler.config)
    for steps, strength in ((5, 0.9), (4, 0.5), (3, 0.9)):
        theirs.set_timesteps(steps, original_inference_steps=50)
        expected = theirs.timesteps[steps - int(steps * strength) :].tolist()  # as StableDiffusionImg2ImgPipeline cuts
        part = part_of("LCMScheduler", steps, strength, sliced=True)
        assert pipeline._timesteps(pipeline.scheduler("DDIMScheduler"), part).tolist() == expected
        assert backbone.start(Loop(steps, 1.0), strength) == expected[0] / 1000
        assert backbone.calls(Loop(steps, 1.0), strength) == len(expected)


def test_where_an_edit_begins_is_told(tiny_sd: Path) -> None:
    """With few steps no edit begins where its strength asks."""
    backbone = Backbone(str(tiny_sd), scheduler="DDIMScheduler")
    pipeline = backbone.load("cpu")
    for steps in (25, 10, 3):
        part = part_of("DDIMScheduler", steps, 0.9)
        first = float(pipeline._timesteps(pipeline.scheduler("DDIMScheduler"), part)[0])
        assert backbone.start(Loop(steps, 7.5), 0.9) == first / 1000
    row = Row("a", 0, 0, 1, "x", 0.9, 0)
    assert RealGuidance(steps=3).begins(row, backbone) == first / 1000 < 0.7


def test_few_steps_of_mixed_strengths_do_not_depend_on_their_neighbours(
    tiny_sd: Path, images: list[np.ndarray]
) -> None:
    pipeline = Backbone(str(tiny_sd), scheduler="LCMScheduler").load("cpu")
    call: dict[str, Any] = {"steps": 5, "guidance": 1.0}
    together = pipeline.img2img(images, ["a"] * 3, [1, 2, 3], strength=[0.9, 0.5, 0.85], **call)
    alone = [
        pipeline.img2img([image], ["a"], [seed], strength=strength, **call)[0]
        for image, seed, strength in zip(images, [1, 2, 3], [0.9, 0.5, 0.85], strict=True)
    ]
    assert np.abs(np.stack(together).astype(int) - np.stack(alone)).max() <= 1
    assert pipeline.counters["unet_calls"] == 2 * (4 + 2 + 4)


@pytest.fixture(scope="module")
def lcm(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a full LCM checkpoint: its network reads the guidance beside the timestep."""
    torch.manual_seed(2)
    pipe: Any = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None, feature_extractor=None)
    config = UNet2DConditionModel.load_config(tiny_sd / "unet")
    unet: Any = UNet2DConditionModel.from_config(config, time_cond_proj_dim=24)
    scheduler: Any = LCMScheduler.from_config(pipe.scheduler.config)
    full: Any = LatentConsistencyModelPipeline(
        pipe.vae, pipe.text_encoder, pipe.tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-lcm"
    full.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("scheduler", [None, "LCMScheduler"])
def test_a_full_lcm_is_told_its_guidance(lcm: Path, scheduler: str | None) -> None:
    """As diffusers' own pipelines tell it: one row a step, and no row without the prompt."""
    pipe: Any = LatentConsistencyModelPipeline.from_pretrained(lcm, safety_checker=None, feature_extractor=None)
    backbone = Backbone(str(lcm), scheduler=scheduler, micro_batch=2)
    ours, prompts, seeds = backbone.load("cpu"), ["a", "b", "c"], [5, 6, 7]
    if scheduler is None:  # the scheduler that methods were published with, and a pipeline that takes it
        pipe = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
        pipe.scheduler = ours.scheduler("DPMSolverMultistepScheduler")
    made = {}
    for guidance in (1.0, 4.0, 8.5):
        theirs = [
            pipe(prompt, num_inference_steps=4, guidance_scale=guidance, output_type="np",
                 generator=torch.Generator().manual_seed(seed)).images[0]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]  # fmt: skip
        before = ours.counters["unet_calls"]
        made[guidance] = np.stack(ours.txt2img(prompts, seeds, steps=4, guidance=guidance)).astype(int)
        assert np.abs(made[guidance] - np.stack(theirs) * 255).max() < 0.6
        assert ours.counters["unet_calls"] - before == 3 * 4 == 3 * backbone.calls(Loop(4, guidance))
    assert np.abs(made[8.5] - made[4.0]).max() > 1


def test_a_full_lcm_guides_itself_for_a_part_of_the_way(lcm: Path, images: list[np.ndarray]) -> None:
    backbone = Backbone(str(lcm))
    pipeline = backbone.load("cpu")

    def made(**more: Any) -> np.ndarray:
        call: dict[str, Any] = {"strength": 0.5, "steps": 6} | more
        return np.stack(pipeline.img2img(images, ["a", "b", "c"], [1, 2, 3], **call)).astype(int)

    never, whole = made(guidance=1.0), made(guidance=7.5)
    assert np.array_equal(never, made(guidance=7.5, guided=(0.9995, 1.0)))
    part = made(guidance=7.5, guided=(0.25, 0.4))
    assert np.abs(part - never).max() > 0 and np.abs(part - whole).max() > 0
    assert pipeline.counters["unet_calls"] == 4 * 3 * 3
    assert backbone.calls(Loop(6, 7.5, guided=(0.25, 0.4)), 0.5) == 3


def test_guidance_for_a_part_of_the_way(pipeline: Pipeline, images: list[np.ndarray]) -> None:
    def made(**more: Any) -> tuple[np.ndarray, int]:
        before = pipeline.counters["unet_calls"]
        call: dict[str, Any] = {"strength": 1.0, "steps": 10} | more
        found = pipeline.img2img(images, ["a", "b", "c"], [1, 2, 3], **call)
        return np.stack(found).astype(int), pipeline.counters["unet_calls"] - before

    whole, calls = made(guidance=7.5)
    assert calls == 3 * 20
    same, calls = made(guidance=7.5, guided=(0.0, 1.0))
    assert np.array_equal(whole, same) and calls == 3 * 20
    never, calls = made(guidance=7.5, guided=(0.9995, 1.0))
    assert calls == 3 * 10 and np.array_equal(never, made(guidance=1.0)[0])
    middle, calls = made(guidance=7.5, guided=(0.25, 0.75))
    assert 3 * 10 < calls < 3 * 20
    assert np.abs(middle - whole).max() > 1 and np.abs(middle - never).max() > 1


def test_latents_decode_to_the_images(pipeline: Pipeline, images: list[np.ndarray]) -> None:
    call: dict[str, Any] = {"strength": 0.5, "steps": 4, "guidance": 1.0}
    made = pipeline.img2img(images, ["a"] * 3, [1, 2, 3], **call)
    z = np.stack(pipeline.img2img(images, ["a"] * 3, [1, 2, 3], **call, latents=True))
    assert z.shape == (3, 4, 8, 8) and z.dtype == np.float32
    assert np.array_equal(pipeline.pixels(torch.from_numpy(z)), made)
    leaf = torch.from_numpy(z).requires_grad_()
    pipeline.codec.decode(leaf).sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().sum() > 0


def test_inverted_and_resumed_comes_back(images: list[np.ndarray]) -> None:
    """Without guidance DDIM undoes its inversion, the better the more steps there are (nano:sd, a real image)."""
    from synthaug.data.dataset import Dataset
    from synthaug.data.sample import decode_image

    listing = Dataset("digits").open()
    entries = listing.splits["train"][:2]
    digits = [decode_image(listing.read(entry.id)) for entry in entries]
    prompts = [f"a photo of a {entry.label}" for entry in entries]
    pipeline = Backbone("nano:sd").load("cpu")
    means = torch.cat([pipeline.codec.posterior(digit, i)[0] for i, digit in enumerate(digits)])
    target = np.stack(pipeline.pixels(pipeline.codec.scale * means)).astype(float)

    def error(steps: int) -> float:
        z = pipeline.invert(digits, prompts, steps=steps)
        back = pipeline.resume(z, prompts, prompts, split=0.0, steps=steps, guidance=1.0)
        return float(np.abs(np.stack(back) - target).mean())

    assert error(100) < 1.2 < 3 < error(10)  # of 255; 0.4 with 200 steps


def test_two_stages_switch_the_prompt_once(pipeline: Pipeline) -> None:
    z = list(np.random.default_rng(3).standard_normal((2, 4, 8, 8)).astype(np.float32))

    def made(split: float, first: str, later: str) -> np.ndarray:
        return np.stack(pipeline.resume(z, [first] * 2, [later] * 2, split=split, steps=10, guidance=2.0)).astype(int)

    assert np.array_equal(made(0.0, "a cat", "dog"), made(0.3, "dog", "dog"))
    assert np.array_equal(made(1.0, "a cat", "dog"), made(0.3, "a cat", "a cat"))
    mixed = made(0.3, "a cat", "dog")
    assert not np.array_equal(mixed, made(0.0, "a cat", "dog")) and not np.array_equal(mixed, made(1.0, "a cat", "dog"))
    assert np.array_equal(made(0.25, "a cat", "dog"), made(0.2, "a cat", "dog")), "steps at 901, 801, 701, ..."
    assert not np.array_equal(mixed, made(0.25, "a cat", "dog"))
