"""The embedded instruct-pix2pix model: loads like the real one, takes on the asked style and keeps the character."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file
from torch import Tensor

from synthaug import nano
from synthaug.data import glyphs
from synthaug.nano import measure
from synthaug.nano.styles import PROMPT, STYLES
from synthaug.nano.train_pix2pix import Budget, Pairs, load_pairs, train_pix2pix, widened

COUNT = 36


@pytest.fixture(scope="module")
def pipeline() -> Iterator[StableDiffusionInstructPix2PixPipeline]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield DiffusionPipeline.from_pretrained(nano.path("nano:pix2pix"), dtype=torch.float32, local_files_only=True)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def held_out() -> Pairs:
    return load_pairs(range(1_000_000, 1_000_000 + 12 * COUNT))


@pytest.fixture(scope="module")
def made(pipeline: StableDiffusionInstructPix2PixPipeline, held_out: Pairs) -> Tensor:
    """The first sources in the nine styles in turn."""
    asked = [STYLES[i % 9] for i in range(COUNT)]
    return measure.restyle(pipeline, held_out.sources[:COUNT], asked, steps=10)


def facts(images: Tensor) -> Tensor:
    """Colours, their spread and how much changes from pixel to pixel."""
    rough = images.diff(dim=2).abs().mean((2, 3))
    return torch.cat([images.mean((2, 3)), images.std((2, 3)), rough], dim=1)


def test_it_is_an_instruct_pix2pix(pipeline: StableDiffusionInstructPix2PixPipeline) -> None:
    assert type(pipeline) is StableDiffusionInstructPix2PixPipeline
    assert isinstance(pipeline.scheduler, EulerAncestralDiscreteScheduler)
    assert (pipeline.unet.config.in_channels, pipeline.unet.config.out_channels) == (8, 4)
    assert pipeline.safety_checker is None and pipeline.feature_extractor is None
    assert pipeline.vae_scale_factor * pipeline.unet.config.sample_size == glyphs.SIZE


def test_it_is_small_and_half_precision() -> None:
    files = [file for file in nano.path("nano:pix2pix").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 8 * 2**20
    weights = [load_file(file) for file in files if file.suffix == ".safetensors"]
    assert {tensor.dtype for tensors in weights for tensor in tensors.values()} == {torch.float16}


def test_the_prompts_are_read_whole(pipeline: StableDiffusionInstructPix2PixPipeline) -> None:
    for style in STYLES:
        ids = pipeline.tokenizer(PROMPT.format(style)).input_ids
        assert len(ids) <= 77 and len(set(ids)) > 5


def test_the_vae_keeps_colours(pipeline: StableDiffusionInstructPix2PixPipeline, held_out: Pairs) -> None:
    assert measure.reconstruction(pipeline.vae, held_out.styled[:180]) < 0.08
    assert measure.reconstruction(pipeline.vae, held_out.sources[:180]) < 0.08


def test_it_takes_on_the_style(made: Tensor, held_out: Pairs) -> None:
    """Read by the nearest style in colour and roughness; chance is 0.11."""
    real = facts(held_out.styled)
    scale = real.std(0)
    means = torch.stack([real[held_out.styles == i].mean(0) for i in range(len(STYLES))])
    asked = torch.arange(COUNT) % 9

    def read(images: Tensor) -> Tensor:
        return torch.cdist(facts(images) / scale, means / scale).argmin(1)

    assert (read(held_out.styled) == held_out.styles).float().mean() > 0.75  # the yardstick works
    assert (read(made) == asked).float().mean() > 0.6


def test_it_keeps_the_character(made: Tensor, held_out: Pairs) -> None:
    """Of nine sources, a picture's edges are most like those of its own."""

    def edges(images: Tensor) -> Tensor:
        flat = torch.cat([images.diff(dim=d).abs().mean(1).flatten(1) for d in (2, 3)], dim=1)
        return torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)

    likeness = edges(made) @ edges(held_out.sources[:COUNT]).T
    groups = torch.stack([likeness[i : i + 9, i : i + 9] for i in range(0, COUNT, 9)])
    assert (groups.argmax(2) == torch.arange(9)).float().mean() > 0.6


def test_the_widened_net_starts_as_the_narrow_one() -> None:
    sd = StableDiffusionPipeline.from_pretrained(nano.path("nano:sd"), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    x, source = torch.randn(2, 2, 4, 8, 8, generator=generator).unbind()
    text, t = torch.randn(2, 77, 64, generator=generator), torch.tensor([10, 900])
    with torch.no_grad():
        narrow = sd.unet(x, t, text).sample
        wide = widened(sd.unet)(torch.cat([x, source], dim=1), t, text).sample
    assert torch.allclose(narrow, wide, atol=1e-5)


@pytest.mark.nightly
def test_its_training_gives_the_same_kind_of_folder(tmp_path: Path) -> None:
    train_pix2pix(tmp_path, Budget(glyphs=72, vae_steps=1, steps=2, batch=8))
    files, shipped = (
        {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
        for root in (tmp_path, nano.path("nano:pix2pix"))
    )
    assert files == shipped - {"README.md"}
    told = "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    assert str(nano.path("nano:sd")) not in told, "where things lie on this machine is nobody's business"


def test_no_shipped_file_says_where_it_was_made() -> None:
    for name in nano.known():
        for file in nano.path(name).rglob("*.json"):
            found = json.loads(file.read_text())
            assert not str(found.get("_name_or_path", "")).startswith("/"), file
