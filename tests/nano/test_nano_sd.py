"""The embedded text-to-image model: loads like a real one, is small, and draws what it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from synthaug import nano
from synthaug.data import glyphs
from synthaug.nano import captions, measure
from synthaug.settings import UserError


@pytest.fixture(scope="module")
def pipeline() -> Iterator[StableDiffusionPipeline]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield StableDiffusionPipeline.from_pretrained(nano.path("nano:sd"), dtype=torch.float32, local_files_only=True)
    torch.set_num_threads(threads)


def test_an_unknown_name_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match="nano:sd"):
        nano.path("nano:gpt")
    with pytest.raises(UserError):
        nano.path("sd")


def test_it_is_small_and_half_precision() -> None:
    files = [file for file in nano.path("nano:sd").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 8 * 2**20
    weights = [load_file(file) for file in files if file.suffix == ".safetensors"]
    assert len(weights) == 3
    assert {tensor.dtype for tensors in weights for tensor in tensors.values()} == {torch.float16}


def test_it_has_the_parts_of_a_stable_diffusion(pipeline: StableDiffusionPipeline) -> None:
    assert pipeline.safety_checker is None and pipeline.feature_extractor is None
    assert pipeline.unet.dtype == pipeline.text_encoder.dtype == torch.float32
    assert pipeline.text_encoder.config.max_position_embeddings == pipeline.tokenizer.model_max_length == 77
    assert pipeline.vae_scale_factor * pipeline.unet.config.sample_size == glyphs.SIZE
    config = pipeline.text_encoder.config
    assert (config.bos_token_id, config.eos_token_id) == (
        pipeline.tokenizer.bos_token_id, pipeline.tokenizer.eos_token_id
    )  # fmt: skip


def test_the_tokenizer_takes_any_text(pipeline: StableDiffusionPipeline) -> None:
    tokenizer = pipeline.tokenizer
    prompts = [captions.PHOTO.format(word) for word in glyphs.CLASSES]
    assert len({tuple(tokenizer(prompt).input_ids) for prompt in prompts}) == 36
    assert len(tokenizer("a photo of a 7").input_ids) == 7  # each word one token, begin and end
    assert tokenizer("a photo of a X").input_ids == tokenizer("A Photo of a x").input_ids
    odd = "".join(chr(code) for code in range(32, 127)) + " Black_footed_Albatross <class>\t\n"
    assert tokenizer.eos_token_id not in tokenizer(odd).input_ids[1:-1]
    assert len(tokenizer("pumpkin " * 20).input_ids) > 77


def test_the_tokenizer_is_the_trained_one(pipeline: StableDiffusionPipeline) -> None:
    assert captions.tokenizer().get_vocab() == pipeline.tokenizer.get_vocab()
    text = "a cartoon image of stylized 3, pumpkin"
    assert captions.tokenizer()(text).input_ids == pipeline.tokenizer(text).input_ids


def test_the_pooled_text_is_that_of_the_end_token(pipeline: StableDiffusionPipeline) -> None:
    """With a wrong id transformers pools another position, silently."""
    ids = pipeline.tokenizer(["a photo of a 3"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        out = pipeline.text_encoder(ids)
    assert torch.equal(out.pooler_output[0], out.last_hidden_state[0, 6])


def test_the_vae_keeps_images(pipeline: StableDiffusionPipeline) -> None:
    images, _ = measure.load_digits()
    with torch.no_grad():
        z = pipeline.vae.encode(images[:32]).latent_dist.mean
        error = (pipeline.vae.decode(z).sample - images[:32]).square().mean()
    assert error / images[:32].var() < 0.05
    assert abs(z.std() * pipeline.vae.config.scaling_factor - 1) < 0.3


def test_it_draws_what_it_is_asked_for(pipeline: StableDiffusionPipeline) -> None:
    """Read by the nearest class mean of real glyphs; chance is 0.03."""
    images = np.stack([glyphs.render(index)[0] for index in range(36 * 20)]).astype(np.float32) / 127.5 - 1
    means = torch.from_numpy(images.reshape(20, 36, -1).mean(0))
    drawn = measure.draw(pipeline, glyphs.CLASSES * 2, guidance=5.0, steps=10, seed=3)
    assert drawn.shape == (72, 3, 32, 32) and drawn.min() >= -1 and drawn.max() <= 1
    read = torch.cdist(drawn.permute(0, 2, 3, 1).flatten(1), means).argmin(1)
    assert (read == torch.arange(36).repeat(2)).float().mean() > 0.35
    assert drawn.reshape(2, 36, -1).std(0).mean() > 0.1  # seeds differ


def test_edits_stay_near_their_source(pipeline: StableDiffusionPipeline) -> None:
    images, labels = measure.load_digits()
    words = [str(label) for label in labels[:20].tolist()]
    near = measure.real_guidance(pipeline, images[:20], words, strength=0.3, seed=0)
    far = measure.real_guidance(pipeline, images[:20], words, strength=0.9, seed=0)
    assert (near - images[:20]).square().mean() < 0.5 * (far - images[:20]).square().mean()
