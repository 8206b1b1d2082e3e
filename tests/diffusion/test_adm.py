"""guided-diffusion's network, written here once more from its description, and what is made of its checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor

from synthaug.diffusion.adm import alphas_cumprod, classes_of, convert, load
from synthaug.diffusion.denoiser import UNetDenoiser, sigmas_of
from synthaug.diffusion.pixel_models import GuidedDiffusion, PretrainedUNet
from synthaug.settings import UserError, keyed


class Original:
    """The UNet under the names of its state dict; a weight that is asked for the first time is drawn."""

    def __init__(
        self, mult: tuple[float, ...] = (1, 2, 2), attention: tuple[int, ...] = (2, 4), layers: int = 1, *,
        width: int = 32, head: int = 16, heads: int | None = None, resamples: bool = True, scale_shift: bool = True,
        classes: int | None = None, out: int = 6, new_order: bool = False, dtype: torch.dtype = torch.float64,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.channels = [int(factor * width) for factor in mult]
        self.attention, self.layers, self.width, self.head, self.heads = attention, layers, width, head, heads
        self.resamples, self.scale_shift, self.classes, self.out = resamples, scale_shift, classes, out
        self.new_order, self.dtype, self.device = new_order, dtype, device
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def weight(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            if self.device == "meta":
                self.state[name] = torch.empty(shape, device="meta")
            else:
                drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64)
                self.state[name] = (drawn / max(1, math.prod(shape[1:])) ** 0.5).to(self.dtype)
        return self.state[name]

    def layer(self, name: str, x: Tensor, out: int, kernel: tuple[int, ...] = (), stride: int = 1) -> Tensor:
        """A linear layer, or a convolution of so many dimensions."""
        weight, bias = self.weight(f"{name}.weight", out, x.shape[1], *kernel), self.weight(f"{name}.bias", out)
        if len(kernel) == 2:
            return F.conv2d(x, weight, bias, stride, padding=kernel[0] // 2)
        return F.conv1d(x, weight, bias) if kernel else x @ weight.T + bias

    def norm(self, name: str, x: Tensor) -> Tensor:
        """32 groups, each with mean 0 and variance 1 over its channels and places."""
        grouped = x.reshape(len(x), 32, -1)
        variance, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
        x = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
        shape = (1, -1, *[1] * (x.ndim - 2))
        gain, shift = (self.weight(f"{name}.{part}", x.shape[1]).reshape(shape) for part in ("weight", "bias"))
        return x * gain + shift

    def block(self, name: str, x: Tensor, emb: Tensor, out: int, resample: str = "") -> Tensor:
        h = F.silu(self.norm(f"{name}.in_layers.0", x))
        if resample == "up":
            h, x = (v.repeat_interleave(2, 2).repeat_interleave(2, 3) for v in (h, x))
        elif resample == "down":
            h, x = ((v[..., ::2, :] + v[..., 1::2, :]) / 2 for v in (h, x))
            h, x = ((v[..., ::2] + v[..., 1::2]) / 2 for v in (h, x))
        h = self.layer(f"{name}.in_layers.2", h, out, (3, 3))
        told = self.layer(f"{name}.emb_layers.1", F.silu(emb), (1 + self.scale_shift) * out)[..., None, None]
        if self.scale_shift:
            h = self.norm(f"{name}.out_layers.0", h) * (1 + told[:, :out]) + told[:, out:]
        else:
            h = self.norm(f"{name}.out_layers.0", h + told)
        h = self.layer(f"{name}.out_layers.3", F.silu(h), out, (3, 3))
        return h + (x if x.shape[1] == out else self.layer(f"{name}.skip_connection", x, out, (1, 1)))

    def attend(self, name: str, x: Tensor) -> Tensor:
        flat, out, c = x.flatten(2), [], self.head if self.heads is None else x.shape[1] // self.heads
        qkv = self.layer(f"{name}.qkv", self.norm(f"{name}.norm", flat), 3 * x.shape[1], (1,))
        for head in range(x.shape[1] // c):
            starts = [i * x.shape[1] + head * c if self.new_order else (3 * head + i) * c for i in range(3)]
            q, k, v = (qkv[:, start : start + c] for start in starts)
            share = (q.transpose(1, 2) @ k / math.sqrt(c)).softmax(-1)  # row: who looks
            out.append(v @ share.transpose(1, 2))
        return x + self.layer(f"{name}.proj_out", torch.cat(out, 1), x.shape[1], (1,)).reshape(x.shape)

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=x.device) / half)
        angles = t[:, None].float() * frequencies
        emb = self.layer("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype), 4 * self.width)
        emb = self.layer("time_embed.2", F.silu(emb), 4 * self.width)
        if self.classes is not None:
            emb = emb + self.weight("label_emb.weight", self.classes, 4 * self.width)[y]
        kept, number, scale = [self.layer("input_blocks.0.0", x, self.channels[0], (3, 3))], 1, 1
        for level, channels in enumerate(self.channels):
            for _ in range(self.layers):
                h = self.block(f"input_blocks.{number}.0", kept[-1], emb, channels)
                kept.append(self.attend(f"input_blocks.{number}.1", h) if scale in self.attention else h)
                number += 1
            if level + 1 < len(self.channels):
                name = f"input_blocks.{number}.0"
                if self.resamples:
                    kept.append(self.block(name, kept[-1], emb, channels, "down"))
                else:
                    kept.append(self.layer(f"{name}.op", kept[-1], channels, (3, 3), stride=2))
                number, scale = number + 1, 2 * scale
        h = self.block("middle_block.0", kept[-1], emb, kept[-1].shape[1])
        h = self.block("middle_block.2", self.attend("middle_block.1", h), emb, h.shape[1])
        number = 0
        for level, channels in reversed(list(enumerate(self.channels))):
            for i in range(self.layers + 1):
                h = self.block(f"output_blocks.{number}.0", torch.cat([h, kept.pop()], 1), emb, channels)
                parts = 1
                if scale in self.attention:
                    h, parts = self.attend(f"output_blocks.{number}.1", h), 2
                if level and i == self.layers:
                    name, scale = f"output_blocks.{number}.{parts}", scale // 2
                    if self.resamples:
                        h = self.block(name, h, emb, channels, "up")
                    else:
                        h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                        h = self.layer(f"{name}.conv", h, channels, (3, 3))
                number += 1
        return self.layer("out.2", F.silu(self.norm("out.0", h)), self.out, (3, 3))


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def drawn(original: Original, size: int = 8) -> dict[str, Tensor]:
    """The weights of a network, drawn by asking it once."""
    y = None if original.classes is None else torch.tensor([0])
    original(noise(1, 3, size, size, dtype=original.dtype), torch.tensor([1]), y)
    return original.state


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


def without(state: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda s: {}, "'input_blocks.0.0.weight' is missing"),
        (lambda s: without(s, "output_blocks"), "'output_blocks' is missing"),
        (lambda s: without(s, "out.2"), "'out.2.weight' is missing"),
        (lambda s: without(s, "input_blocks.1.0.emb"), "'input_blocks.1.0.emb_layers.1.weight' is missing"),
        (lambda s: without(s, "middle_block.1.norm.bias"), "'mid_block.attentions.0.group_norm.bias' .* is missing"),
        (lambda s: s | {"pool.0.weight": s["out.0.weight"]}, "'pool.0.weight' is one too many"),
        (lambda s: s | {"out.2.gain": s["out.0.weight"]}, "'conv_out.gain' .* is one too many"),
        (lambda s: s | {"out.2.bias": torch.zeros(7)}, r"'conv_out.bias' .* is \(7,\), not \(6,\)"),
        (lambda s: s | {"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}, "6 channels go in and 6 come out"),
        (lambda s: s | {"time_embed.0.weight": torch.zeros(128, 64)}, "makes 128 channels of 64, not 256"),
        (lambda s: s | {"time_embed.0.weight": torch.zeros(256, 64)}, r"'time_embedding.linear_1.bias' .* is \(128,\)"),
        (lambda s: s | {"input_blocks.0.0.weight": torch.zeros(64, 3, 3, 3)}, "64 channels go into its first level, wh"),
    ],
)  # fmt: skip
def test_other_weights_are_refused(change: Any, said: str, tmp_path: Path) -> None:
    torch.save(change(drawn(Original(dtype=torch.float32))), tmp_path / "model.pt")
    with pytest.raises(UserError, match=f"model.pt: these are not the weights of .*: .*{said}") as refused:
        load(tmp_path / "model.pt", head_channels=16)
    assert "\n" not in str(refused.value)


def test_head_channels_must_divide_the_channels(tmp_path: Path) -> None:
    torch.save(drawn(Original(dtype=torch.float32)), tmp_path / "model.pt")
    with pytest.raises(UserError, match="head_channels=48 does not divide the 64 channels that"):
        load(tmp_path / "model.pt", head_channels=48)


def test_heads_must_divide_the_channels(tmp_path: Path) -> None:
    torch.save(drawn(Original(dtype=torch.float32)), tmp_path / "model.pt")
    with pytest.raises(UserError, match="heads=3 does not divide the 64 channels that"):
        load(tmp_path / "model.pt", heads=3)


def classifier(state: dict[str, Tensor], pool: str) -> dict[str, Tensor]:
    """The first half of a network with a classifier's end in the place of the second."""
    ends = {
        "attention": ("2.positional_embedding", "2.qkv_proj.weight", "2.c_proj.weight"),
        "adaptive": ("3.weight", "3.bias"),
        "spatial": ("0.weight", "2.weight"),
    }
    half = without(without(state, "output_blocks"), "out.")
    return half | {f"out.{name}": torch.zeros(4, 4) for name in ends[pool]}


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial"])
def test_noisy_classifiers_are_refused(pool: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(classifier(drawn(Original(dtype=torch.float32)), pool), path)
    for ask in (load, classes_of, lambda path: GuidedDiffusion(str(path)).alphas_cumprod()):
        with pytest.raises(UserError, match="model.pt: this is a classifier of noisy images and no denoiser"):
            ask(path)


@pytest.mark.parametrize("archive", [True, False])
def test_what_asks_for_labels_is_refused(archive: bool, tmp_path: Path) -> None:
    """Before its weights are read; without labels diffusers would raise an error in the midst of the work."""
    path = tmp_path / "model.pt"
    original = Original((1, 2), (2,), classes=3, dtype=torch.float32)
    torch.save(drawn(original), path, _use_new_zipfile_serialization=archive)
    assert classes_of(path) == 3 and load(path, head_channels=16).net.config.num_class_embeds == 3
    model = GuidedDiffusion(str(path), head_channels=16)
    for ask in (model.alphas_cumprod, lambda: model.load(None, "cpu")):
        with pytest.raises(UserError, match="model.pt is class-conditional, and .*256x256_diffusion_uncond.pt"):
            ask()


@torch.no_grad()
def test_settings_reach_the_network(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(drawn(Original((1, 2), (1, 2), heads=4, new_order=True, dtype=torch.float32)), path)
    given: dict[str, Any] = {"heads": 4, "new_attention_order": True, "schedule": "cosine", "timesteps": 400}
    model, x = GuidedDiffusion(str(path), **given), noise(1, 3, 8, 8, dtype=torch.float32)
    assert torch.equal(model.load(None, "cpu")(x, 0.5), load(path, **given)(x, 0.5))
    assert torch.equal(model.alphas_cumprod(), alphas_cumprod("cosine", 400))


def test_keys_of_before_stay() -> None:
    assert keyed(GuidedDiffusion("any.pt", timesteps=4000)) == {
        "kind": "synthaug.diffusion.denoisers:GuidedDiffusion", "timesteps": 4000,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, more, said",
    [
        ("cifar10_uncond_50M_500K.pt", {}, "schedule=cosine --set denoiser.timesteps=4000 --set denoiser.heads=4$"),
        ("imagenet64_uncond_vlb_100M_1500K.pt", {"heads": 4, "schedule": "cosine"}, "other settings: --set .*steps=4000$"),
        ("lsun_uncond_100M_1200K_bs128.pt", {}, "was trained with other settings: --set denoiser.heads=1$"),
        ("lsun_cat.pt", {"heads": 4}, "--set denoiser.heads=null$"),
        ("256x256_diffusion_uncond.pt", {"new_attention_order": True}, "--set denoiser.new_attention_order=false$"),
        ("256x256_diffusion_uncond.pt", {"head_channels": 32}, "--set denoiser.head_channels=64$"),
        ("128x128_diffusion.pt", {"heads": 4}, "is class-conditional, and .* take 256x256_diffusion_uncond.pt"),
        ("64x64_classifier.pt", {}, "is a classifier of noisy images and no denoiser"),
        ("64_256_upsampler.pt", {}, "enlarges small images and is no denoiser"),
        ("any.pt", {"heads": 4, "head_channels": 32}, "heads: heads and head_channels exclude each other"),
    ],
)  # fmt: skip
def test_published_files_are_known_by_their_names(name: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        GuidedDiffusion(f"nowhere/{name}", **more)
    assert name in str(refused.value) or name == "any.pt"
    assert "\n" not in str(refused.value)


def test_published_files_with_their_own_settings_are_taken() -> None:
    GuidedDiffusion("256x256_diffusion_uncond.pt")
    GuidedDiffusion("lsun_horse_nodropout.pt", precision="fp16")
    GuidedDiffusion("lsun_uncond_100M_2400K_bs64.pt", heads=1)
    GuidedDiffusion("cifar10_uncond_vlb_50M_500K.pt", heads=4, schedule="cosine", timesteps=4000)


class Code:
    """What a pickle may run."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("ran",)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is no file of weights"),
        (b"<html>moved</html>", "is no file of weights"),
        (b"PK\x03\x04" + bytes(100), "is no file of weights"),
        (Code(), "is no file of weights"),
        ([torch.zeros(3)], "holds more than weights"),
        ({"state_dict": {"x": torch.zeros(3)}, "epoch": 3}, "holds more than weights"),
        (None, "cannot read the checkpoint .*: Is a directory"),
    ],
)  # fmt: skip
def test_other_files_are_refused(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=said) as refused:
        load(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="cannot read the checkpoint .*: No such file"):
        load(tmp_path / "nowhere.pt")


@torch.no_grad()
def test_folders_of_diffusers(tmp_path: Path, tiny_sd: Path) -> None:
    """Both ways in which pixel models are laid out; learned variances are not taken for noise."""
    net: Any = convert(drawn(Original((1, 2), (2,), dtype=torch.float32)), 16)
    schedule: Any = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    for unet, scheduler in (("whole/unet", "whole/scheduler"), ("bare", "bare")):
        net.save_pretrained(tmp_path / unet)
        schedule.save_pretrained(tmp_path / scheduler)
    x = noise(2, 3, 8, 8, dtype=torch.float32)
    expected = UNetDenoiser(net, schedule.alphas_cumprod)(x, 0.7)
    assert expected.shape == x.shape
    for folder in ("whole", "bare"):
        assert torch.equal(UNetDenoiser.from_folder(tmp_path / folder)(x, 0.7), expected)
    (tmp_path / "bare" / "scheduler_config.json").unlink()
    for folder in (tmp_path / "bare", tmp_path, tiny_sd, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"'{folder}' holds no pixel model of diffusers; it needs"):
            UNetDenoiser.from_folder(folder)


@pytest.mark.parametrize("more", [{"num_class_embeds": 3}, {"class_embed_type": "timestep"}])
def test_folders_of_diffusers_that_ask_for_labels_are_refused(more: dict[str, Any], tmp_path: Path) -> None:
    types: dict[str, Any] = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    net: Any = UNet2DModel(block_out_channels=(32,), layers_per_block=1, **types, **more)
    net.save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path)
    model = PretrainedUNet(str(tmp_path))
    for ask in (model.alphas_cumprod, lambda: model.load(None, "cpu")):
        with pytest.raises(UserError, match="is class-conditional, and .*TrainedUNet"):
            ask()
