"""The embedded CLIP: small, and it knows characters from one another and from none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from synthaug import nano
from synthaug.clip import Clip, Scorer
from synthaug.data import glyphs
from synthaug.nano import measure_clip
from synthaug.nano.train import load_glyphs
from synthaug.nano.train_clip import NOTHING, Budget, contrast, empty, question, sentence, train_clip

Glyphs = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Clip("nano:clip").load("cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def held_out() -> Glyphs:
    return load_glyphs(range(1_000_000, 1_000_360))


def test_it_is_small_and_half_precision() -> None:
    files = [file for file in nano.path("nano:clip").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 3 * 2**20
    (weights,) = (load_file(file) for file in files if file.suffix == ".safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_its_scale_is_that_of_the_settings(scorer: Scorer) -> None:
    assert scorer.model.logit_scale.exp().item() == pytest.approx(scorer.logit_scale, rel=2e-3)
    assert scorer.side == glyphs.SIZE


@pytest.mark.parametrize("template", ["a photo of a {}", "This is a photo of a {}", "an oil painting of  {}"])
def test_it_names_held_out_glyphs(scorer: Scorer, held_out: Glyphs, template: str) -> None:
    images, labels = held_out
    read = measure_clip.zero_shot(scorer, images, [template.format(word) for word in glyphs.CLASSES])
    assert (read == labels).float().mean() > 0.75


def test_it_names_handwritten_digits(scorer: Scorer) -> None:
    images, labels = (part[:200] for part in measure_clip.unseen_digits())
    read = measure_clip.zero_shot(scorer, images, [f"A photo of a {digit}" for digit in range(10)])
    assert (read == labels).float().mean() > 0.5


@pytest.mark.parametrize("typed", [False, True])
def test_it_answers_clip_binary(scorer: Scorer, held_out: Glyphs, typed: bool) -> None:
    good, others, bare = measure_clip.binary(scorer, *held_out, typed=typed)
    for bad in (others, bare):
        assert (good[:, None] > bad).float().mean() > 0.9  # the area under the ROC curve
    assert (good > 0.5).float().mean() > 0.7 and (others < 0.5).float().mean() > 0.7


def test_captions_are_true() -> None:
    rng = np.random.default_rng(0)
    for label in (3, 12, NOTHING) * 50:
        word = "" if label == NOTHING else glyphs.CLASSES[label]
        assert word in sentence(label, rng)
        yes, no, truth = question(label, rng)
        named = yes.removeprefix("a photo of a ").split(",")[0]
        assert no.startswith("a photo with no ")
        if named == word or named == ("digit" if label == 3 else "letter" if label == 12 else ""):
            assert truth == 1
        elif truth == 0.5:  # neither this character nor another sort
            assert no.endswith("digit" if label == 3 else "letter") and named != word
        else:
            assert truth == 0


def test_pictures_without_a_character_vary() -> None:
    x = torch.rand(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    bare = empty(x, torch.Generator().manual_seed(1))
    assert bare.shape == x.shape and bare.min() >= 0 and bare.max() <= 1
    assert len({tuple(picture.flatten()[:8].tolist()) for picture in bare}) == 64
    assert torch.isclose(bare.flatten(1).sort(1).values, x.flatten(1).sort(1).values).all(1).sum() > 8  # shuffled


def test_the_loss_is_that_of_supcon() -> None:
    """Against a double loop; with one picture a label it is CLIP's own."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 6, generator=generator), torch.tensor([0, 1, 0, 2, 1, 0])
    expected = torch.zeros(())
    for table in (logits.log_softmax(1), logits.T.log_softmax(1)):
        for i in range(6):
            expected -= torch.stack([table[i, j] for j in range(6) if labels[j] == labels[i]]).mean() / 12
    assert torch.isclose(contrast(logits, labels), expected)
    each = torch.arange(6)
    own = torch.nn.functional.cross_entropy
    assert torch.isclose(contrast(logits, each), (own(logits, each) + own(logits.T, each)) / 2)


def test_its_training_gives_the_same_kind_of_folder(tmp_path: Path) -> None:
    train_clip(tmp_path, Budget(glyphs=72, steps=2, batch=16))
    made, shipped = Clip(str(tmp_path)), Clip("nano:clip")
    assert set(made.identity_files()) == set(shipped.identity_files())
    features = made.load("cpu").embed(np.zeros((2, 3, 32, 32), np.uint8))
    assert features.shape == (2, 64) and features.isfinite().all()
