"""Fine-tuning: what moves and what must not, resuming, sharing, and LoRA fused against LoRA beside the weights."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.codec import load_pipe
from synthaug.diffusion.finetune import TEMPLATES, Finetune, LoRA, TextualInversion
from synthaug.diffusion.tuning import Example, Latents, tune, views
from synthaug.settings import UserError
from synthaug.training import World

WORDS = ("cat", "black dog", "cow")


def examples(finetune: Finetune, count: int = 6) -> list[Example]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    names = finetune.words(WORDS)
    return [Example(image, names[i % 3], finetune.tokens(i % 3)) for i, image in enumerate(pixels)]


def run(folder: Path, finetune: Finetune, **more: Any) -> dict[str, torch.Tensor]:
    more = {"seed": 0, "report": lambda entry: None} | more
    given = more.pop("examples", examples(finetune))
    return tune(finetune, Backbone(str(folder)), more.pop("adapters", ()), given, WORDS, **more)[0]


def kept(
    tmp_path: Path, finetune: Finetune, learned: dict[str, torch.Tensor], name: str = "a"
) -> tuple[Finetune, Path]:
    save_file(learned, tmp_path / f"{name}.safetensors")
    return finetune, tmp_path / f"{name}.safetensors"


WORDS_STEP = TextualInversion(steps=4, batch_size=4, lr=1e-2)
LORA_STEP = LoRA(steps=4, batch_size=4, lr=1e-2, rank=4)


def test_words_leave_every_other_row_of_the_embedding_alone(tiny_sd: Path, tmp_path: Path) -> None:
    learned = run(tiny_sd, TextualInversion(steps=4, batch_size=4, lr=1e-2, vectors=2))
    assert list(learned) == [
        "<class-0>", "<class-0-1>", "<class-1>", "<class-1-1>", "<class-2>", "<class-2-1>",
    ]  # fmt: skip
    before = load_pipe(tiny_sd, torch.float32)
    old = before.text_encoder.get_input_embeddings().weight.detach().clone()
    finetune = TextualInversion(steps=4, batch_size=4, lr=1e-2, vectors=2)
    pipe = Backbone(str(tiny_sd)).load("cpu", adapters=[kept(tmp_path, finetune, learned)]).pipe
    new = pipe.text_encoder.get_input_embeddings().weight.detach()
    assert torch.equal(new[: len(old)], old), "bit-identical"
    ids = pipe.tokenizer("a photo of a <class-1> <class-1-1>").input_ids
    assert torch.equal(new[ids[-3:-1]], torch.cat([learned["<class-1>"], learned["<class-1-1>"]]))
    for part in ("unet", "vae"):
        states = (getattr(pipe, part).state_dict(), getattr(before, part).state_dict())
        assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


def test_words_begin_as_the_word_that_is_named(tiny_sd: Path) -> None:
    pipe = load_pipe(tiny_sd, torch.float32)
    table = pipe.text_encoder.get_input_embeddings().weight.detach()

    def mean(word: str) -> torch.Tensor:
        return table[pipe.tokenizer(word, add_special_tokens=False).input_ids].mean(0)

    still = {"steps": 1, "batch_size": 2, "lr": 1e-12}
    assert torch.allclose(run(tiny_sd, TextualInversion(init="the", **still))["<class-2>"][0], mean("the"), atol=1e-6)
    named = run(tiny_sd, TextualInversion(init="name", **still))
    assert all(torch.allclose(named[f"<class-{i}>"][0], mean(word), atol=1e-6) for i, word in enumerate(WORDS))


def test_every_class_that_has_images_learns(tiny_sd: Path) -> None:
    learned = run(tiny_sd, TextualInversion(steps=8, batch_size=8, lr=1e-2))
    still = run(tiny_sd, TextualInversion(steps=1, batch_size=8, lr=1e-12))
    assert all((learned[token] - still[token]).abs().max() > 1e-3 for token in learned)


def test_a_token_that_does_not_occur_is_refused(tiny_sd: Path) -> None:
    """The defect that made textual inversion do nothing on five of the benchmark's data sets."""
    wrong = [Example(e.image, WORDS[0], e.tokens) for e in examples(WORDS_STEP)]
    with pytest.raises(
        UserError, match="the prompt 'a photo of a cat' holds no '<class-.>': what was learned would not"
    ):
        run(tiny_sd, WORDS_STEP, examples=wrong)
    backbone = Backbone(str(tiny_sd))
    backbone.check_prompts({"a photo of a <class-1>": ("<class-1>",), "": ()})
    with pytest.raises(UserError, match="holds no '<class-1>'"):
        backbone.check_prompts({"a photo of a <class-2>": ("<class-1>",), "x <class-2>": ("<class-2>",)})


def test_a_suffix_takes_the_place_of_the_templates() -> None:
    assert Example(np.zeros(0), "cat").captions() == tuple(t.format("cat") for t in TEMPLATES) and len(TEMPLATES) == 27
    assert Example(np.zeros(0), "cat", (), "on a sofa").captions() == ("a photo of a cat, on a sofa",)


@pytest.mark.parametrize("finetune", [WORDS_STEP, LORA_STEP], ids=["words", "lora"])
def test_resumed_is_as_if_undisturbed(finetune: Finetune, tiny_sd: Path) -> None:
    finetune = dataclasses.replace(finetune, steps=10)

    class Memory:
        state: dict[str, Any] | None = None

        def load(self) -> dict[str, Any] | None:
            return copy.deepcopy(self.state)

        def due(self) -> bool:
            return True

        def save(self, state: dict[str, Any]) -> None:
            self.state = copy.deepcopy(state)
            if state["done"]["step"] == 4:
                raise KeyboardInterrupt

    memory = Memory()
    with pytest.raises(KeyboardInterrupt):
        run(tiny_sd, finetune, checkpoint=memory)
    memory.__class__.save = lambda self, state: None  # type: ignore[method-assign]
    again, whole = run(tiny_sd, finetune, checkpoint=memory), run(tiny_sd, finetune)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize("finetune", [WORDS_STEP, LORA_STEP], ids=["words", "lora"])
def test_parts_of_several_processes_add_up_to_the_step_of_one(finetune: Finetune, tiny_sd: Path) -> None:
    """Each process's loss is its part of the batch's mean, so that gradients are added, not averaged."""
    from synthaug.diffusion import tuning

    found: dict[World, list[float]] = {}
    fit = tuning.fit
    for world in (World(), World(0, 2), World(1, 2)):

        def watched(parameters: Any, loss: Any, *, world: World = world, **more: Any) -> Any:
            found[world] = [float(sum(loss(step))) for step in range(3)]
            return fit(parameters, loss, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuning, "fit", watched)
            run(tiny_sd, dataclasses.replace(finetune, steps=1), world=world)
    assert found[World()] == pytest.approx(np.add(found[World(0, 2)], found[World(1, 2)]), rel=1e-5)


@pytest.mark.parametrize("finetune", [WORDS_STEP, LORA_STEP], ids=["words", "lora"])
@pytest.mark.parametrize("fields", [{"micro_batch": 1}, {"micro_batch": 3}, {"checkpointing": True}])
def test_smaller_parts_change_nothing_but_rounding(finetune: Finetune, fields: dict[str, Any], tiny_sd: Path) -> None:
    whole, parts = run(tiny_sd, finetune), run(tiny_sd, dataclasses.replace(finetune, **fields))
    # Adam's first steps are the gradient's sign, so that rounding can turn an entry that is nearly 0
    for name in whole:
        away = (whole[name] - parts[name]).abs()
        assert float((away > 1e-4).float().mean()) < 0.02, name


def test_only_one_part_is_in_memory(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import UNet2DConditionModel

    seen: list[int] = []
    forward = UNet2DConditionModel.forward

    def watched(self: Any, sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        seen.append(len(sample))
        return forward(self, sample, *args, **more)

    monkeypatch.setattr(UNet2DConditionModel, "forward", watched)
    run(tiny_sd, TextualInversion(steps=2, batch_size=5, micro_batch=2))
    assert seen == [2, 2, 1, 2, 2, 1]


def test_memory_that_runs_out_halves_the_parts(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is made again in smaller parts: what is learned is what they teach, and the outcome says how small."""
    from diffusers import UNet2DConditionModel

    from synthaug.diffusion import tuning

    forward, seen = UNet2DConditionModel.forward, list[int]()

    def small(self: Any, sample: torch.Tensor, *args: Any, **more: Any) -> Any:
        seen.append(len(sample))
        if len(sample) > room:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes")
        return forward(self, sample, *args, **more)

    monkeypatch.setattr(UNet2DConditionModel, "forward", small)
    finetune, room = TextualInversion(steps=2, batch_size=5, lr=1e-2), 2
    given = (finetune, Backbone(str(tiny_sd)), (), examples(finetune), WORDS)
    learned, done = tuning.tune(*given, seed=0, report=lambda entry: None)
    assert seen == [5, 3, 2, 2, 1, 2, 2, 1] and done.micro_batch == 2
    room = 5
    expected = run(tiny_sd, dataclasses.replace(finetune, micro_batch=2))
    assert all(torch.equal(learned[name], expected[name]) for name in learned)
    room = 0
    with pytest.raises(UserError, match="finetune: there is not enough memory to learn from one image; set check"):
        tuning.tune(*given, seed=0, report=lambda entry: None)


def test_a_latent_consistency_model_is_not_fine_tuned(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthaug.diffusion import tuning

    pipe = load_pipe(tiny_sd, torch.float32)
    pipe.unet.register_to_config(time_cond_proj_dim=8)
    monkeypatch.setattr(tuning, "load_pipe", lambda *given: pipe)
    with pytest.raises(UserError, match="finetune: .* is a latent consistency model: fine-tune the model that it was"):
        run(tiny_sd, WORDS_STEP)


def test_more_processes_than_images_in_a_batch_are_refused(tiny_sd: Path) -> None:
    with pytest.raises(UserError, match="batch_size 4 is smaller than the number of workers, 5"):
        run(tiny_sd, WORDS_STEP, world=World(0, 5))


def test_lora_fused_equals_lora_beside_the_weights(tiny_sd: Path, tmp_path: Path) -> None:
    finetune = LoRA(steps=6, batch_size=4, lr=3e-2, rank=4, alpha=8)
    learned = run(tiny_sd, finetune)
    assert all(name.startswith("unet.") for name in learned)
    fused = Backbone(str(tiny_sd)).load("cpu", adapters=[kept(tmp_path, finetune, learned)]).pipe.unet
    beside = load_pipe(tiny_sd, torch.float32)
    beside.load_lora_weights(dict(learned))
    plain = load_pipe(tiny_sd, torch.float32).unet
    z, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 900])
    text = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b, c = (net(z, t, encoder_hidden_states=text).sample for net in (fused, beside.unet, plain))
    assert (a - b).abs().max() < 1e-5
    assert (a - c).abs().max() > 1e-3, "it does something"
    assert not any("lora" in name for name, _ in fused.named_parameters()), "nothing is left to compute at run time"


def test_alpha_scales_what_was_learned(tiny_sd: Path) -> None:
    """At the first step the second factor is 0, so that its gradient, and AdamW's step, has the same sign."""
    one, four = (run(tiny_sd, LoRA(steps=1, batch_size=4, rank=2, alpha=alpha, weight_decay=0)) for alpha in (2, 8))
    up = next(name for name in one if "lora_B" in name or ".up." in name)
    assert torch.allclose(four[up], 4 * one[up], rtol=0.05)


def test_an_adapter_after_another_sees_it(tiny_sd: Path, tmp_path: Path) -> None:
    words = run(tiny_sd, WORDS_STEP)
    names = WORDS_STEP.words(WORDS)
    given = [Example(e.image, names[i % 3], WORDS_STEP.tokens(i % 3)) for i, e in enumerate(examples(LORA_STEP))]
    learned = run(tiny_sd, LORA_STEP, adapters=[kept(tmp_path, WORDS_STEP, words)], examples=given)
    other = {token: row + 5 for token, row in words.items()}
    changed = run(tiny_sd, LORA_STEP, adapters=[kept(tmp_path, WORDS_STEP, other, "b")], examples=given)
    assert any((learned[name] - changed[name]).abs().max() > 1e-6 for name in learned)


def test_what_is_encoded_of_an_image() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    squashed, mirrored = views(TextualInversion(), wide, 32, 0, 0)
    assert squashed.shape == (32, 32, 3) and np.array_equal(mirrored, squashed[:, ::-1])
    crops = views(LoRA(crops=4), wide, 32, 0, 0)
    assert 1 < len(crops) <= 4 and all(crop.shape == (32, 32, 3) for crop in crops)
    assert len(views(LoRA(crops=4), wide[:, :40], 32, 0, 0)) == 1, "a square has one crop"
    # a mirrored 3 is no 3
    kept = [TextualInversion().of(Dataset(name)).mirror for name in ("digits", "glyphs", "cub")]
    assert kept == [False, False, True] and not TextualInversion(mirror=False).of(Dataset("cub")).mirror
    assert len(views(TextualInversion(mirror=False), wide, 32, 0, 0)) == 1
    again = views(LoRA(crops=4), wide, 32, 0, 0)
    assert all(np.array_equal(a, b) for a, b in zip(crops, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(crops, views(LoRA(), wide, 32, 0, 1), strict=False))


def test_latents_are_drawn_from_the_posterior_of_a_view_of_the_image(tiny_sd: Path) -> None:
    pipe = load_pipe(tiny_sd, torch.float32)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = Latents.of(pipe, [[pixels[0]], [pixels[1], pixels[2]]])
    x = torch.from_numpy(pixels[1:2]).permute(0, 3, 1, 2).float() / 127.5 - 1
    posterior = pipe.vae.encode(x).latent_dist
    scale = pipe.vae.config.scaling_factor
    assert torch.allclose(found.mean[1], scale * posterior.mean[0], atol=1e-6)
    assert torch.allclose(found.std[1], scale * posterior.std[0], atol=1e-6)
    mean = torch.tensor([0.0, 10.0, 20.0])[:, None, None, None].expand(3, 4, 8, 8)
    latents = Latents(mean, torch.full_like(mean, 0.5), found.first, found.count)
    z = latents.draw(torch.tensor([1] * 400 + [0] * 100), torch.Generator().manual_seed(0))
    view = (z.mean((1, 2, 3)) / 10).round()
    assert (view[400:] == 0).all() and (view[:400] > 0).all()
    assert 150 < int((view[:400] == 1).sum()) < 250, "both views as often"
    assert (z - 10 * view[:, None, None, None]).std() == pytest.approx(0.5, rel=0.02)
