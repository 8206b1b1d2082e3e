"""What is made of guided-diffusion's checkpoints is its network (original_adm.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import Attention, AttnProcessor
from original_adm import Original, drawn, noise

from synthaug.diffusion.adm import alphas_cumprod, convert, load
from synthaug.diffusion.denoiser import sigmas_of
from synthaug.diffusion.pixel_models import GuidedDiffusion


@pytest.mark.parametrize("dtype, exact", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"resamples": False},
        {"classes": 3, "layers": 2},
        {"resamples": False, "scale_shift": False, "out": 3},
        {"new_order": True, "attention": (4,)},
        {"mult": (1, 1, 3), "attention": (2,), "layers": 3, "head": 32},
        {"resamples": False, "attention": (1,), "classes": 2},
        {"mult": (1,), "attention": (), "layers": 2},
        {"heads": 4},
        {"heads": 4, "new_order": True, "mult": (1, 2, 3), "attention": (1, 4)},
        {"heads": 1, "resamples": False, "scale_shift": False},
        {"mult": (0.5, 1, 2), "width": 64, "classes": 2},
        {"mult": (0.5, 0.5, 1), "width": 64, "attention": (1, 2, 4), "heads": 2},
    ],
    ids=lambda more: "-".join(more) or "adm",
)
@torch.no_grad()
def test_converted_equals_the_original(more: dict[str, Any], dtype: torch.dtype, exact: float) -> None:
    original = Original(dtype=dtype, **more)
    size, head = (32, 16) if dtype == torch.float64 else (16, 24), original.head
    x, t = noise(2, 3, *size, dtype=dtype), torch.tensor([3.0, 871.0])
    y = None if original.classes is None else torch.tensor([1, 0])
    expected = original(x, t, y)
    before = torch.random.get_rng_state()
    net: Any = convert(original.state, head, original.new_order, original.heads)
    assert torch.equal(torch.random.get_rng_state(), before), "no number was drawn"
    found = net(x, t, class_labels=y).sample
    assert found.dtype == dtype and found.std() > 0.1
    torch.testing.assert_close(found, expected, atol=exact * expected.abs().max().item(), rtol=0)
    assert sum(value.numel() for value in net.state_dict().values()) == sum(v.numel() for v in original.state.values())


@torch.no_grad()
def test_the_order_of_heads_matters() -> None:
    original, x = Original(), noise(1, 3, 8, 8)
    expected = original(x, torch.tensor([9.0]))
    for head, new_order in ((32, False), (16, True)):
        net: Any = convert(original.state, head, new_order)
        assert not torch.allclose(net(x, torch.tensor([9.0])).sample, expected, atol=1e-3)


@torch.no_grad()
def test_the_number_of_heads_matters() -> None:
    """Four heads at each of two widths are no network of one width of heads."""
    original, x, t = Original((1, 2), (1, 2), heads=4), noise(1, 3, 8, 8), torch.tensor([9.0])
    expected = original(x, t)
    given: list[dict[str, Any]] = [{"head_channels": 8}, {"head_channels": 16}, {"heads": 2}]
    for other in given:
        net: Any = convert(original.state, **other)
        assert not torch.allclose(net(x, t).sample, expected, atol=1e-3)
    net = convert(original.state, heads=4)
    assert torch.allclose(net(x, t).sample, expected)
    for module in net.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())  # which takes its scale from the module
    assert torch.allclose(net(x, t).sample, expected)


def test_the_published_network_for_512_pixels() -> None:
    """Its first level has 128 channels, its time embedding 256 (channel_mult 0.5, 1, 1, 2, 2, 4, 4)."""
    mult = (0.5, 1, 1, 2, 2, 4, 4)
    original = Original(mult, (16, 32, 64), 2, width=256, head=64, classes=1000, device="meta")
    labels = torch.zeros(1, dtype=torch.long, device="meta")
    original(torch.empty(1, 3, 64, 64, device="meta"), torch.zeros(1, device="meta"), labels)
    net: Any = convert(original.state)
    assert net.config.block_out_channels == (128, 256, 256, 512, 512, 1024, 1024)
    assert net.time_proj.num_channels == 256 and net.conv_in.out_channels == 128
    assert sum(v.numel() for v in net.parameters()) == sum(v.numel() for v in original.state.values())


def test_the_published_network_for_256_pixels() -> None:
    """Its paper counts 554 million weights with labels of 1,000 classes."""
    original = Original((1, 1, 2, 2, 4, 4), (8, 16, 32), 2, width=256, head=64, classes=1000, device="meta")
    labels = torch.zeros(1, dtype=torch.long, device="meta")
    original(torch.empty(1, 3, 64, 64, device="meta"), torch.zeros(1, device="meta"), labels)
    net: Any = convert(original.state)
    assert net.config.block_out_channels == (256, 256, 512, 512, 1024, 1024)
    assert net.config.down_block_types == ("ResnetDownsampleBlock2D",) * 3 + ("AttnDownBlock2D",) * 3
    assert net.config.up_block_types == ("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",) * 3
    assert (net.config.layers_per_block, net.config.out_channels, net.config.num_class_embeds) == (2, 6, 1000)
    assert round(sum(value.numel() for value in net.parameters()) / 1e6) == 554
    assert net.down_blocks[3].attentions[0].heads == 8 and net.mid_block.attentions[0].heads == 16


@pytest.mark.parametrize("schedule, timesteps", [("linear", 1000), ("cosine", 1000), ("cosine", 4000)])
@torch.no_grad()
def test_a_file_becomes_a_denoiser(schedule: Any, timesteps: int, tmp_path: Path) -> None:
    original = Original((1, 2), (2,), dtype=torch.float32)
    torch.save(drawn(original), tmp_path / "model.pt")
    denoiser = load(tmp_path / "model.pt", head_channels=16, schedule=schedule, timesteps=timesteps)
    t = torch.tensor([1, timesteps // 3])
    abar = alphas_cumprod(schedule, timesteps)[t].float()[:, None, None, None]
    x0, eps = noise(2, 2, 3, 8, 8, dtype=torch.float32)
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * eps
    guess = original(x_t, t * 1000 / timesteps)[:, :3]
    expected = (x_t - (1 - abar).sqrt() * guess) / abar.sqrt()
    found = denoiser(x_t / abar.sqrt(), ((1 - abar) / abar).sqrt().flatten())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert denoiser.timestep(sigmas_of(abar)).tolist() == [[[[i]]] for i in t.tolist()]


@torch.no_grad()
def test_half_precision_stays_near(tmp_path: Path) -> None:
    torch.save(drawn(Original(dtype=torch.float32)), tmp_path / "model.pt")
    x = noise(2, 3, 8, 8, dtype=torch.float32)
    exact = load(tmp_path / "model.pt", head_channels=16)(x, 0.5)
    for dtype in (torch.bfloat16, torch.float16):
        denoiser = load(tmp_path / "model.pt", head_channels=16, dtype=dtype)
        assert denoiser.net.dtype == dtype
        found = denoiser(x, 0.5)
        assert found.dtype == torch.float32 and (found - exact).abs().max() < 0.05


def test_schedules_are_those_of_the_papers() -> None:
    """The noise levels of denoised smoothing, whose timesteps are known."""
    assert torch.allclose(alphas_cumprod("linear", 1000), DDPMScheduler().alphas_cumprod.double(), rtol=1e-4)
    cosine = DDPMScheduler(4000, beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()
    assert torch.allclose(alphas_cumprod("cosine", 4000), cosine, rtol=1e-2, atol=1e-7)
    known = {("linear", 1000): (145, 259, 396), ("cosine", 4000): (1158, 1984, 2809), ("cosine", 1000): (289, 496, 702)}
    for (schedule, timesteps), expected in known.items():
        grid = sigmas_of(alphas_cumprod(schedule, timesteps))
        assert tuple(int((grid < 2 * sigma).sum()) for sigma in (0.25, 0.5, 1.0)) == expected


def test_settings_reach_the_network(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(drawn(Original((1, 2), (1, 2), heads=4, new_order=True, dtype=torch.float32)), path)
    given: dict[str, Any] = {"heads": 4, "new_attention_order": True, "schedule": "cosine", "timesteps": 400}
    model, x = GuidedDiffusion(str(path), **given), noise(1, 3, 8, 8, dtype=torch.float32)
    assert torch.equal(model.load(None, "cpu")(x, 0.5), load(path, **given)(x, 0.5))
    assert torch.equal(model.alphas_cumprod(), alphas_cumprod("cosine", 400))
