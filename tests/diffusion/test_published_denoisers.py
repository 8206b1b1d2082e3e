"""Files that are no denoiser, or another one than their settings say, are refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from original_adm import Original, drawn, noise
from torch import Tensor

from synthaug.diffusion.adm import classes_of, convert, load
from synthaug.diffusion.denoiser import UNetDenoiser
from synthaug.diffusion.pixel_models import GuidedDiffusion, PretrainedUNet
from synthaug.settings import UserError, keyed


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
