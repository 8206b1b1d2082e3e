"""The few-step LoRA: loads as diffusers loads one, and with it nano:sd draws in three steps without guidance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

from synthaug import nano
from synthaug.clip import Clip
from synthaug.data import glyphs
from synthaug.nano import captions, measure, measure_clip
from synthaug.nano.train import load_glyphs, new_scheduler
from synthaug.nano.train_lcm import Budget, Consistency, LoRA, train_lcm

FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def plain() -> Iterator[StableDiffusionPipeline]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield StableDiffusionPipeline.from_pretrained(nano.path("nano:sd"), dtype=torch.float32, local_files_only=True)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def quick(plain: StableDiffusionPipeline) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(nano.path("nano:sd"), dtype=torch.float32)
    pipeline.load_lora_weights(nano.path("nano:lcm"))
    pipeline.fuse_lora()
    return pipeline


@pytest.fixture(scope="module")
def path() -> Consistency:
    return Consistency(LCMScheduler.from_config(new_scheduler().config))


def test_it_is_small_and_half_precision() -> None:
    weights = load_file(nano.path("nano:lcm") / FILE)
    assert (nano.path("nano:lcm") / FILE).stat().st_size <= 3 * 2**20
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert all(name.startswith("unet.") for name in weights)
    assert {name.rpartition(".lora_")[2] for name in weights} == {"A.weight", "B.weight"}


def test_what_is_saved_is_what_was_trained(plain: StableDiffusionPipeline, tmp_path: Path) -> None:
    """Every changed weight of the UNet, after diffusers and peft have loaded and fused the file."""
    torch.manual_seed(0)
    lora = LoRA(plain.unet, rank=3).half().float()
    for up in lora.up.values():
        torch.nn.init.normal_(up, std=0.1)
    lora = lora.half().float()
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=lora.layers())
    fused = StableDiffusionPipeline.from_pretrained(nano.path("nano:sd"), dtype=torch.float32)
    fused.load_lora_weights(tmp_path)
    fused.fuse_lora()
    fused.unload_lora_weights()
    expected, before, after = lora.weights(), plain.unet.state_dict(), fused.unet.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(expected)
    assert any(weight.ndim == 4 for weight in expected.values())
    for name, weight in expected.items():
        assert torch.allclose(after[name], weight, atol=1e-5)


def test_a_step_back_is_one_of_ddim(path: Consistency) -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 3, 4, 8, 8, generator=generator).unbind()
    ddim = DDIMScheduler.from_config(new_scheduler().config, timestep_spacing="trailing")
    ddim.set_timesteps(50)
    t = torch.tensor([19, 499, 999])
    assert set(path.start(500, generator).tolist()) == set(ddim.timesteps.tolist())
    s = path.back(t)
    made = path.noised(path.clean(x, t, noise), s, noise)
    for i in range(3):
        out = ddim.step(noise[i], int(t[i]), x[i])
        assert torch.allclose(made[i], out.prev_sample, atol=1e-4 if i else 0.05)  # the last goes to 0, not below
        assert torch.allclose(path.clean(x, t, noise)[i], out.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_the_path_ends_where_lcm_says(path: Consistency) -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 1, 4, 8, 8, generator=generator).unbind()
    assert torch.allclose(path.f(x, torch.tensor([0]), noise), x)
    scheduler = LCMScheduler.from_config(new_scheduler().config)
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[:1]
    expected = scheduler.step(noise, int(t), x).denoised
    assert torch.allclose(path.f(x, t, noise), expected, rtol=1e-4, atol=1e-4)


def test_it_draws_in_three_steps(plain: StableDiffusionPipeline, quick: StableDiffusionPipeline) -> None:
    """nano:clip reads its samples, and they have the contrast of glyphs; without it they are a blur."""
    call = {"guidance": 1.0, "steps": 3, "seed": 0, "solver": LCMScheduler}
    drawn, blur = (measure.draw(pipeline, glyphs.CLASSES, **call) for pipeline in (quick, plain))
    texts = [captions.PHOTO.format(word) for word in glyphs.CLASSES]
    read = measure_clip.zero_shot(Clip("nano:clip").load("cpu"), drawn, texts)
    assert (read == torch.arange(36)).float().mean() > 0.85
    real = load_glyphs(range(360))[0].std()
    assert abs(drawn.std() / real - 1) < 0.2
    assert blur.std() < 0.85 * drawn.std()


def test_seeds_differ(quick: StableDiffusionPipeline) -> None:
    drawn = measure.draw(quick, glyphs.CLASSES[:4] * 8, guidance=1.0, steps=4, seed=0, solver=LCMScheduler)
    assert drawn.reshape(8, 4, -1).std(0).mean() > 0.1


@pytest.mark.nightly  # as are the other trainings but that of nano:clip
def test_its_training_gives_the_same_layers(tmp_path: Path) -> None:
    train_lcm(tmp_path, Budget(glyphs=36, steps=2, batch=4))
    made, shipped = load_file(tmp_path / FILE), load_file(nano.path("nano:lcm") / FILE)
    assert {name: tensor.shape for name, tensor in made.items()} == {n: t.shape for n, t in shipped.items()}
    assert any(tensor.any() for name, tensor in made.items() if "lora_B" in name)
