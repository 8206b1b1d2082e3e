"""The pipeline against diffusers' own, row by row, and what users get wrong about it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image

from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.pipeline import Pipeline
from synthaug.diffusion.steps import Loop
from synthaug.settings import UserError, keyed, settings

STEPS = 10


@pytest.fixture(scope="module")
def pipeline(tiny_sd: Path) -> Pipeline:
    return Backbone(str(tiny_sd)).load("cpu")


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    """Three sources, two variants each."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    images = [pixels[i] for i in (0, 1, 2, 0, 1, 2)]
    prompts = ["a seven", "a two", "a seven", "a two", "a seven", "a nine"]
    return {"images": images, "prompts": prompts, "seeds": [11, 12, 13, 14, 15, 2**62 + 16]}


def floats(
    pipeline: Pipeline, rows: dict[str, Any], *, strength: Any, guidance: float = 1.0, steps: int = STEPS
) -> Any:
    """Images before they are rounded to 8 bits."""
    edits = pipeline._edits(rows["images"], rows["prompts"], rows["seeds"], strength, steps, None)
    loop = Loop(steps, guidance, "")
    return torch.stack(
        pipeline._batched(edits, lambda rows: list(pipeline.codec.decode(pipeline._denoise(rows, loop))))
    )


def reference(folder: Path, rows: dict[str, Any], *, strength: float, guidance: float, steps: int = STEPS) -> Any:
    """What diffusers makes of the same rows, one generator each."""
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in rows["seeds"]]
    images = [Image.fromarray(image) for image in rows["images"]]
    return pipe(
        prompt=rows["prompts"], image=images, strength=strength, num_inference_steps=steps,
        guidance_scale=guidance, generator=generators, output_type="pt",
    ).images  # fmt: skip


@pytest.mark.parametrize("model", ["tiny", "nano:sd"])
@pytest.mark.parametrize(("strength", "guidance"), [(0.3, 7.5), (0.9, 1.0), (1.0, 7.5)])
def test_equals_diffusers(model: str, strength: float, guidance: float, tiny_sd: Path, rows: dict[str, Any]) -> None:
    backbone = Backbone(str(tiny_sd) if model == "tiny" else model, micro_batch=4)
    ours = floats(backbone.load("cpu"), rows, strength=strength, guidance=guidance)
    theirs = reference(backbone.folder(), rows, strength=strength, guidance=guidance)
    assert ours.std() > 0.02
    assert (ours - theirs).abs().max() < 1e-4


def test_text_to_image_equals_diffusers(tiny_sd: Path, pipeline: Pipeline, rows: dict[str, Any]) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, dtype=torch.float32, safety_checker=None)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    generators = [torch.Generator().manual_seed(seed) for seed in rows["seeds"]]
    call = {"num_inference_steps": 5, "guidance_scale": 3.0, "height": 32, "width": 32, "output_type": "np"}
    theirs = pipe(prompt=rows["prompts"], generator=generators, **call).images
    ours = pipeline.txt2img(rows["prompts"], rows["seeds"], steps=5, guidance=3.0)
    assert np.abs(np.stack(ours) - theirs * 255).max() < 0.51


def test_a_row_depends_on_nothing_beside_it(tiny_sd: Path, pipeline: Pipeline, rows: dict[str, Any]) -> None:
    strength = [0.3, 0.9, 0.5, 0.9, 0.3, 0.9]
    together = floats(pipeline, rows, strength=strength)
    order = [4, 2, 0, 5, 3, 1]
    shuffled = {name: [values[i] for i in order] for name, values in rows.items()}
    pairs = Backbone(str(tiny_sd), micro_batch=2).load("cpu")
    apart = floats(pairs, shuffled, strength=[strength[i] for i in order])
    assert (together[order] - apart).abs().max() < 1e-4
    assert (together[0] - together[3]).abs().max() > 0.01  # same source, another seed


def test_pixels_are_the_rounded_floats(pipeline: Pipeline, rows: dict[str, Any]) -> None:
    pixels = pipeline.img2img(**rows, strength=0.5, steps=STEPS, guidance=1.0)
    exact = floats(pipeline, rows, strength=0.5).permute(0, 2, 3, 1) * 255
    assert all(image.dtype == np.uint8 and image.shape == (32, 32, 3) for image in pixels)
    assert np.abs(np.stack(pixels) - exact.numpy()).max() <= 0.5


def test_large_sources_are_squashed(pipeline: Pipeline, rows: dict[str, Any]) -> None:
    big = np.random.default_rng(1).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    small = np.array(Image.fromarray(big).resize((32, 32), Image.Resampling.BICUBIC))
    a, b = pipeline.img2img([big, small], ["a", "a"], [1, 1], strength=0.5, steps=4, guidance=1.0)
    assert np.abs(a.astype(int) - b).max() <= 1


def test_nothing_is_encoded_twice(tiny_sd: Path, rows: dict[str, Any]) -> None:
    pipeline = Backbone(str(tiny_sd), micro_batch=4).load("cpu")
    for _ in range(2):
        pipeline.img2img(**rows, strength=0.5, steps=STEPS, guidance=2.0, keys=list("abcabc"))
    counted = {"unet_calls": 2 * 6 * 2 * 5, "unet_batches": 2 * 2 * 5, "vae_encodes": 3, "vae_decodes": 12}
    assert pipeline.counters == counted | {"text_encodes": 4, "halvings": 0, "micro_batch": 4}
    pipeline.img2img(**rows, strength=0.5, steps=STEPS, guidance=1.0, keys=list("abcabd"))
    assert pipeline.counters["vae_encodes"] == 4
    assert pipeline.counters["unet_calls"] == 120 + 30


def test_the_key_names_the_source(pipeline: Pipeline, rows: dict[str, Any]) -> None:
    """An image under a known key is not looked at."""
    call: dict[str, Any] = {"strength": 0.5, "steps": 4, "guidance": 1.0, "keys": ["the same"]}
    a = pipeline.img2img(rows["images"][:1], ["x"], [1], **call)
    b = pipeline.img2img(rows["images"][1:2], ["x"], [1], **call)
    assert np.array_equal(a, b)


@pytest.mark.parametrize(("strength", "steps", "batches"), [(0.1, 5, 1), (0.9, 25, 22), (1.0, 3, 3), (0.7, 10, 7)])
def test_steps_that_are_run(
    pipeline: Pipeline, rows: dict[str, Any], strength: float, steps: int, batches: int
) -> None:
    before = pipeline.counters["unet_batches"]
    pipeline.img2img(**rows, strength=strength, steps=steps, guidance=1.0)
    assert pipeline.counters["unet_batches"] - before == batches


class _Full:
    """A network for which there is not enough memory while a batch is larger than `rows`."""

    def __init__(self, net: Any, rows: int, error: Exception) -> None:
        self.net, self.rows, self.error, self.config = net, rows, error, net.config

    def __call__(self, x: torch.Tensor, *args: Any, **named: Any) -> Any:
        if len(x) > self.rows:
            raise self.error
        return self.net(x, *args, **named)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_halves_when_memory_is_full(tiny_sd: Path, rows: dict[str, Any], error: Exception) -> None:
    pipeline = Backbone(str(tiny_sd), micro_batch=6).load("cpu")
    expected = floats(pipeline, rows, strength=0.5)
    pipeline.pipe.unet = _Full(pipeline.pipe.unet, 2, error)
    assert (floats(pipeline, rows, strength=0.5) - expected).abs().max() < 1e-4
    assert (pipeline.counters["halvings"], pipeline.counters["micro_batch"]) == (2, 2)


def test_not_enough_memory_for_one_image(tiny_sd: Path, rows: dict[str, Any]) -> None:
    pipeline = Backbone(str(tiny_sd), micro_batch=6).load("cpu")
    pipeline.pipe.unet = _Full(pipeline.pipe.unet, 0, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(UserError, match=r"one image of 32 px.*resolution"):
        pipeline.img2img(**rows, strength=0.5, steps=STEPS, guidance=1.0)


def test_other_errors_are_not_swallowed(tiny_sd: Path, rows: dict[str, Any]) -> None:
    pipeline = Backbone(str(tiny_sd)).load("cpu")
    pipeline.pipe.unet = _Full(pipeline.pipe.unet, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        pipeline.img2img(**rows, strength=0.5, steps=STEPS, guidance=1.0)


def test_prompt_that_would_be_cut(pipeline: Pipeline) -> None:
    pipeline.check_prompts(["x" * 75])
    with pytest.raises(UserError, match=r"'x{76}' has 78 tokens, the text encoder reads 77"):
        pipeline.check_prompts(["short", "x" * 76])
    with pytest.raises(UserError, match="78 tokens"):
        pipeline.txt2img(["x" * 76], [0], steps=1, guidance=1.0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near(tiny_sd: Path, rows: dict[str, Any], precision: Any) -> None:
    full, half = (Backbone(str(tiny_sd), precision=p).load("cpu") for p in ("fp32", precision))
    difference = floats(full, rows, strength=0.5) - floats(half, rows, strength=0.5)
    assert 0 < difference.abs().mean() < 0.02


def test_channels_last_is_rounding(tiny_sd: Path, pipeline: Pipeline, rows: dict[str, Any]) -> None:
    other = Backbone(str(tiny_sd), channels_last=True).load("cpu")
    assert (floats(other, rows, strength=0.5) - floats(pipeline, rows, strength=0.5)).abs().max() < 1e-4


def test_threads(tiny_sd: Path) -> None:
    Backbone(str(tiny_sd), threads=2).load("cpu")
    assert torch.get_num_threads() == 2


def test_compiling_needs_a_compiler(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="C compiler.*compile=false"):
        Backbone(str(tiny_sd), compile=True).load("cpu")


@pytest.mark.parametrize("model", ["somebody/never-downloaded", "no/such/folder", "nano:none"])
def test_missing_model_names_the_ways_out(model: str) -> None:
    with pytest.raises(UserError) as caught:
        Backbone(model).folder()
    assert model in str(caught.value)
    if not model.startswith("nano"):
        assert "/path/to/model" in str(caught.value) and "nano:sd" in str(caught.value)


def test_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no diffusers pipeline"):
        Backbone(str(tmp_path)).folder()


def test_incomplete_model(tiny_sd: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_sd, tmp_path / "copy")
    (tmp_path / "copy" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="not complete"):
        Backbone(str(tmp_path / "copy")).load("cpu")


@pytest.mark.parametrize("name", ["Nonsense", "UNet2DModel"])
def test_unknown_scheduler(tiny_sd: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name}.*DDIMScheduler"):
        Backbone(str(tiny_sd), scheduler=name).load("cpu")


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LCMScheduler"])
def test_other_schedulers(tiny_sd: Path, rows: dict[str, Any], name: str) -> None:
    """Second-order, noisy and rescaling ones agree with diffusers as well."""
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(tiny_sd, dtype=torch.float32, safety_checker=None)
    ours = Backbone(str(tiny_sd), scheduler=name).load("cpu")
    pipe.scheduler = type(ours.scheduler("DDIMScheduler")).from_config(pipe.scheduler.config)
    generators = [torch.Generator().manual_seed(seed) for seed in rows["seeds"]]
    images = [Image.fromarray(image) for image in rows["images"]]
    call = {"strength": 0.5, "num_inference_steps": 8, "guidance_scale": 2.0, "output_type": "pt"}
    theirs = pipe(prompt=rows["prompts"], image=images, generator=generators, **call).images
    assert (floats(ours, rows, strength=0.5, guidance=2.0, steps=8) - theirs).abs().max() < 1e-4


def test_files_that_decide_the_output(tiny_sd: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_sd, tmp_path / "copy")
    backbone = Backbone(str(folder))
    expected = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for unread in (
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/README.md",
    ):
        (folder / unread).write_bytes(b"")
    assert {str(path.relative_to(folder)) for path in backbone.weight_files()} == expected
    assert backbone.commit() is None


def test_commit_of_a_snapshot(tiny_sd: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_sd, tmp_path / "snapshots" / "0a1b2c")
    assert Backbone(str(folder)).commit() == "0a1b2c"


@settings
class _Holder:
    backbone: Backbone


def test_a_name_stands_for_a_backbone() -> None:
    assert _Holder(backbone="nano:sd").backbone == Backbone("nano:sd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="micro_batch"):
        Backbone("nano:sd", micro_batch=0)


def test_where_it_lies_is_not_in_the_key() -> None:
    assert keyed(Backbone("a", revision="b")) == keyed(Backbone("c"))
    for field in dataclasses.fields(Backbone):
        assert field.name in ("model", "revision") or field.name in json.dumps(
            keyed(Backbone("a", **_OTHER[field.name]))
        )


_OTHER: dict[str, dict[str, Any]] = {
    "precision": {"precision": "bf16"},
    "micro_batch": {"micro_batch": 2},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
    "scheduler": {"scheduler": "DDIMScheduler"},
    "sliced": {"sliced": True},
    "resolution": {"resolution": 64},
    "threads": {"threads": 2},
    "lora": {"lora": "somewhere"},
}
