"""CLIP models of any source against transformers' own model and preprocessor, and what users get wrong about them."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from synthaug.clip import Clip, Scorer
from synthaug.nano import captions
from synthaug.settings import UserError, keyed

TEXTS = ["a photo of a 3", "A photo with no 3", "an oil painting of  3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP as the hub has them: its images are of another size than ours, its end of text has the old wrong id."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = captions.tokenizer()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 48, "patch_size": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": 48, "width": 48}
    CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=side).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["hub", "nano:clip"])
def clip(request: pytest.FixtureRequest, folder: Path) -> Clip:
    return Clip(str(folder) if request.param == "hub" else request.param)


@pytest.fixture(scope="module")
def scorer(clip: Clip) -> Scorer:
    return clip.load("cpu")


def pictures(height: int, width: int, count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


@torch.no_grad()
def reference(folder: Path, images: np.ndarray) -> Any:
    """What transformers makes of the same images and texts, as its documentation does it."""
    model = CLIPModel.from_pretrained(folder)
    processor = CLIPImageProcessor.from_pretrained(folder)
    tokens = captions.tokenizer()(TEXTS, padding=True, return_tensors="pt")
    pixels = processor([Image.fromarray(image.transpose(1, 2, 0)) for image in images], return_tensors="pt")
    return model.float()(**tokens, **pixels), pixels["pixel_values"]


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (100, 64), (20, 31)])
def test_equals_transformers(clip: Clip, scorer: Scorer, size: tuple[int, int]) -> None:
    images = pictures(*size)
    theirs, pixels = reference(clip.folder(), images)
    # Antialiased uint8 resizing rounds a few pixels the other way.
    assert (scorer.pixels(torch.from_numpy(images)) - pixels).abs().max() < 2.1 / 255 / scorer.std.min()
    features = scorer.embed(images, batch=2)
    assert features.shape == theirs.image_embeds.shape and not features.requires_grad
    assert torch.allclose(features, theirs.image_embeds, atol=2e-3)
    assert torch.allclose(scorer.texts(TEXTS), theirs.text_embeds, atol=1e-5)
    cosines = theirs.image_embeds @ theirs.text_embeds.T
    assert torch.allclose(scorer.probabilities(features, TEXTS), (100 * cosines).softmax(1), atol=0.05)


def test_the_softmax_takes_the_scale_of_the_settings(folder: Path) -> None:
    features = torch.eye(24)[:3]
    flat, sharp = (Clip(str(folder), logit_scale=scale).load("cpu") for scale in (1.0, 20.0))
    cosines = flat.texts(TEXTS)[:, :3].T
    for scorer, scale in ((flat, 1), (sharp, 20)):
        powers = torch.exp(scale * cosines)
        assert torch.allclose(scorer.probabilities(features, TEXTS), powers / powers.sum(1, keepdim=True), atol=1e-6)


def test_bytes_and_floats_are_the_same_images(scorer: Scorer) -> None:
    images = torch.from_numpy(pictures(scorer.side, scorer.side))
    assert torch.allclose(scorer.images(images), scorer.images(images / 255), atol=1e-5)


def test_the_gradient_is_the_slope(scorer: Scorer) -> None:
    """Of a probability, along a random direction in pixels of another size, against a difference quotient."""
    scorer.model.double()
    x = torch.from_numpy(pictures(40, 40, 2)).double() / 255
    x.requires_grad_()
    texts, step = scorer.texts(TEXTS).double(), 1e-5
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def score(x: torch.Tensor) -> torch.Tensor:
        return (scorer.images(x, normalise=False) @ texts.T).softmax(1)[:, 0].sum()

    (slope,) = torch.autograd.grad(score(x), x)
    with torch.no_grad():
        quotient = (score(x + step * direction) - score(x - step * direction)) / (2 * step)
    scorer.model.float()
    assert quotient.abs() > 1e-6
    assert torch.isclose((slope * direction).sum(), quotient, rtol=1e-4)
    assert not any(p.requires_grad for p in scorer.model.parameters())


def test_without_normalisation_the_model_sees_the_pixels(scorer: Scorer) -> None:
    x = torch.rand(2, 3, scorer.side, scorer.side, generator=torch.Generator().manual_seed(0))
    assert torch.equal(scorer.pixels(x, normalise=False), x)
    assert torch.allclose(scorer.pixels(x) * scorer.std + scorer.mean, x, atol=1e-6)


def test_a_text_is_read_once_and_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Clip(str(folder)).load("cpu")
    read, plain = [], scorer.model.get_text_features
    monkeypatch.setattr(scorer.model, "get_text_features", lambda ids: read.append(ids.shape) or plain(ids))
    with torch.inference_mode():
        first = scorer.texts(TEXTS)
    assert torch.equal(scorer.texts(TEXTS[::-1]), first.flip(0))
    assert len(read) == 3 and all(shape[0] == 1 for shape in read)
    (torch.ones(1, 24, requires_grad=True) @ scorer.texts(TEXTS).T).sum().backward()  # they may meet a gradient


def test_a_text_that_would_be_cut_is_a_users_mistake(scorer: Scorer) -> None:
    scorer.texts(["7 " * 75])
    with pytest.raises(UserError, match="78 tokens, the CLIP model reads 77"):
        scorer.texts(["7 " * 76])


def test_what_is_no_clip_is_a_users_mistake(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="holds no CLIP model.*nano:clip"):
        Clip("nano:sd").load("cpu")
    with pytest.raises(
        UserError, match="not on this machine; `hf download openai/no-such-clip --revision v2` brings it"
    ):
        Clip("openai/no-such-clip", revision="v2").folder()
    with pytest.raises(UserError, match="/no/such/folder' is not on this machine; name the folder"):
        Clip("/no/such/folder").folder()
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="not complete"):
        Clip(str(tmp_path)).load("cpu")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="bert"):
        Clip(str(tmp_path)).load("cpu")
    with pytest.raises(UserError, match="logit_scale"):
        Clip("nano:clip", logit_scale=0)


def digests(clip: Clip) -> dict[str, str]:
    return {name: sha256(path.read_bytes()).hexdigest() for name, path in clip.identity_files().items()}


def test_identity_is_content_and_not_place(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    here, there = Clip(str(folder)), Clip(str(moved))
    names = {"model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(here.identity_files()) == names
    assert keyed(here) == keyed(there) and digests(here) == digests(there)
    assert keyed(here) != keyed(Clip(str(folder), logit_scale=50.0))
    weights = load_file(moved / "model.safetensors")
    save_file({**weights, "logit_scale": weights["logit_scale"] + 1}, moved / "model.safetensors", {"format": "pt"})
    changed = {name for name in names if digests(here)[name] != digests(there)[name]}
    assert changed == {"model.safetensors"}
