"""The training loop: resume, pairing, lengths, choice of the model, several processes."""

import copy
import io
import multiprocessing as mp
import os
from datetime import timedelta
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from synthaug.classify import loop
from synthaug.classify.augment import CutMix, HorizontalFlip, RandomCrop, TrivialAugment
from synthaug.classify.early import train_early
from synthaug.classify.mixing import Concat, LocalRandomReplace
from synthaug.classify.models import build
from synthaug.classify.optim import SGD, AdamW, SharpnessAware
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import Early
from synthaug.settings import UserError, seed_of

torch.set_num_threads(1)
AUGMENTED = (RandomCrop(padding=1), HorizontalFlip(), TrivialAugment(), CutMix())


def made(n, seed):
    """8 x 8 images of three classes: a bright column on noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(100, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n) % 3
    for column in range(3):
        images[labels == column, :, :, 2 * column + 1] = 220
    return images, labels


def data(n=30, synthetic=20, val=30):
    images, labels = made(n + synthetic, 0)
    held, held_labels = made(val, 1)
    sources = torch.arange(synthetic) % n
    return loop.Data(images, torch.eye(3)[labels].double(), n, sources, held, held_labels)


def train(recipe, *, seed=0, on=None, report=lambda entry: None, checkpoint=None, use=None, world=None):
    return loop.train(
        recipe,
        use or LocalRandomReplace(),
        on or data(),
        seed=seed,
        report=report,
        checkpoint=checkpoint,
        world=world or loop.World(),
        device=torch.device("cpu"),
    )


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Kept:
    """A checkpoint in memory, written when `wanted`."""

    def __init__(self, wanted=lambda: True):
        self.bytes, self.wanted, self.saves = None, wanted, 0

    def load(self):
        return None if self.bytes is None else torch.load(io.BytesIO(self.bytes), weights_only=True)

    def due(self):
        return self.wanted()

    def save(self, state):
        out = io.BytesIO()
        torch.save(state, out)
        self.bytes, self.saves = out.getvalue(), self.saves + 1


def untimed(history):
    return [dict(entry) for entry in history]


@pytest.mark.parametrize("optimizer", [AdamW(), SGD(lr=0.05), SharpnessAware(SGD(lr=0.05))])
def test_resumed_equals_undisturbed_to_the_bit(optimizer):
    recipe = Recipe(steps=25, batch_size=16, evaluations=6, transforms=AUGMENTED, optimizer=optimizer, warmup=0.2)
    whole = train(recipe)
    seen, kept = [], Kept()

    def killed(entry):
        seen.append(entry)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, report=killed, checkpoint=kept)
    assert kept.saves == 2
    torch.rand(5)  # whatever the process did meanwhile
    resumed = train(recipe, report=seen.append, checkpoint=kept)
    assert same(whole.model, resumed.model) and untimed(whole.history) == untimed(resumed.history)
    assert [entry["step"] for entry in seen] == [4, 8, 12, 12, 17, 21, 25]
    assert resumed.seconds > 0


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumed_between_two_evaluations_equals_undisturbed_too(stop, monkeypatch):
    recipe = Recipe(steps=14, batch_size=16, evaluations=1, transforms=AUGMENTED)
    whole = train(recipe)
    monkeypatch.setattr(loop, "STRETCH", 3)
    kept = Kept()

    def due():
        if kept.saves == stop:
            raise KeyboardInterrupt
        return True

    kept.wanted = due
    with pytest.raises(KeyboardInterrupt):
        train(recipe, checkpoint=kept)
    assert kept.load()["progress"]["step"] == 3 * stop and len(kept.load()["progress"]["losses"]) == 3 * stop
    kept.wanted = lambda: False
    resumed = train(recipe, checkpoint=kept)
    assert same(whole.model, resumed.model) and untimed(whole.history) == untimed(resumed.history)


def test_checkpoints_are_written_when_due_and_not_at_the_end():
    kept = Kept(iter([False, True, False, True]).__next__)
    train(Recipe(steps=10, batch_size=4, evaluations=5), checkpoint=kept)
    assert kept.saves == 2 and kept.load()["progress"]["step"] == 8


def test_seeds_pair_the_arms():
    recipe = Recipe(steps=4, batch_size=8, evaluations=1, transforms=AUGMENTED)
    first, again, other = (train(recipe, seed=seed).model for seed in (1, 1, 2))
    assert same(first, again) and not same(first, other)


def test_arms_begin_with_the_same_weights():
    still = Recipe(steps=1, batch_size=8, evaluations=1, optimizer=SGD(lr=1e-60, weight_decay=0))
    begun = [train(still, seed=5, use=use).model for use in (Concat(), LocalRandomReplace(p=1))]
    initial = build("small", 3, seed=seed_of(5, "init")).state_dict()
    assert same(begun[0], begun[1]) and same(begun[0], initial)


@pytest.mark.parametrize(
    ("given", "use", "steps"),
    [
        ({"steps": 13}, Concat(), 13),
        ({"epochs": 3}, Concat(), round(3 * 50 / 16)),
        ({"epochs": 3}, LocalRandomReplace(), round(3 * 30 / 16)),
    ],
)
def test_exact_number_of_steps_and_reports(given, use, steps, monkeypatch):
    taken = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure: taken.append(1) or step(self, closure))
    entries = []
    trained = train(Recipe(batch_size=16, evaluations=4, **given), use=use, report=entries.append)
    assert len(taken) == trained.steps == steps and trained.images_seen == 16 * steps
    assert len(entries) == 4 and entries[-1]["step"] == steps and trained.history == entries
    assert set(entries[0]) == {"step", "epoch", "train/loss", "val/top1", "val/loss", "lr"}


def test_evaluations_are_spread_and_at_most_one_a_step():
    assert loop.evaluation_steps(100, 4) == [25, 50, 75, 100]
    assert loop.evaluation_steps(3, 10) == [1, 2, 3]
    assert len(loop.evaluation_steps(999, 20)) == 20


@pytest.mark.parametrize("length", [3, 7, 40])
def test_stream_shows_each_image_once_an_epoch_from_any_step(length):
    def order(epoch):
        return torch.randperm(length, generator=torch.Generator().manual_seed(epoch)) + 1000 * epoch

    whole = loop.stream(order, 8, 0)
    batches = [next(whole) for _ in range(30)]
    assert all(len(batch) == 8 for batch in batches)
    shown = torch.cat(batches)[: 240 // length * length].view(-1, length)
    for epoch, row in enumerate(shown):
        assert sorted(row.tolist()) == [1000 * epoch + i for i in range(length)]
    for first in (1, 5, 17):
        later = loop.stream(order, 8, first)
        assert all(torch.equal(next(later), batch) for batch in batches[first:])


def test_the_model_is_chosen_by_validation_and_ties_by_loss(monkeypatch):
    scores = iter([(0.5, 1.0), (0.9, 3.0), (0.9, 2.0), (0.9, 2.0), (0.7, 0.1)])
    monkeypatch.setattr(
        loop.Run, "validate", lambda self: dict(zip(("val/top1", "val/loss"), next(scores), strict=True))
    )
    states = []
    choose = loop.Run.choose

    def watched(self, done, entry):
        choose(self, done, entry)
        states.append(copy.deepcopy(self.model.state_dict()))

    monkeypatch.setattr(loop.Run, "choose", watched)
    trained = train(Recipe(steps=10, batch_size=8, evaluations=5))
    assert [same(trained.model, state) for state in states] == [False, False, True, False, False]


def test_without_validation_the_last_model_is_kept():
    entries = []
    recipe = Recipe(steps=6, batch_size=8, evaluations=3)
    trained = train(recipe, on=data(val=0), report=entries.append)
    assert "val/top1" not in entries[0]
    assert same(trained.model, train(Recipe(steps=6, batch_size=8, evaluations=3), on=data(val=0)).model)
    assert not same(trained.model, build("small", 3, seed=seed_of(0, "init")).state_dict())


def test_it_learns_and_predicts():
    trained = train(Recipe(steps=60, batch_size=16), use=Concat())
    model = build("small", 3)
    model.load_state_dict(trained.model)
    images, labels = made(60, 9)
    logits = loop.predict(model, images, batch=7)
    assert logits.dtype == torch.float32 and not logits.requires_grad and not model.training
    assert (logits.argmax(1) == labels).float().mean() > 0.95
    assert torch.equal(loop.predict(model, images.numpy(), batch=7), logits)
    assert trained.history[-1]["val/top1"] == max(entry["val/top1"] for entry in trained.history)


def test_validation_numbers():
    small = data()
    trained = train(Recipe(steps=3, batch_size=8, evaluations=1), on=small)
    model = build("small", 3).eval()
    model.load_state_dict(trained.model)
    with torch.no_grad():
        logits = model(small.val_images)
    assert trained.history[0]["val/top1"] == pytest.approx(
        float((logits.argmax(1) == small.val_labels).double().mean())
    )
    assert trained.history[0]["val/loss"] == pytest.approx(float(cross_entropy(logits, small.val_labels)), rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_cross_entropy_of_smoothed_soft_labels(smoothing):
    small = data()
    small.labels[:] = torch.softmax(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), 1)
    recipe = Recipe(steps=1, batch_size=16, evaluations=1, label_smoothing=smoothing)
    entry = train(recipe, on=small, use=Concat()).history[0]
    order = Concat().epoch(30, range(20), generator=torch.Generator().manual_seed(seed_of(0, "order", 0)))[:16]
    target = (1 - smoothing) * small.labels[order] + smoothing / 3
    with torch.no_grad():
        log_p = build("small", 3, seed=seed_of(0, "init"))(small.images[order]).double().log_softmax(1)
    assert entry["train/loss"] == pytest.approx(float(-(target * log_p).sum(1).mean()), rel=1e-5)


def test_a_loss_that_is_not_finite_names_its_step():
    with pytest.raises(RuntimeError, match=r"at step [2-4]; lower the lr"):
        train(Recipe(steps=8, batch_size=8, evaluations=2, optimizer=SGD(lr=1e30)))


class Noted(Concat):
    """Concat that notes the seeds of its epochs."""

    seeds: ClassVar[list[int]] = []

    def epoch(self, n_real, source_of_synthetic, *, generator):
        self.seeds.append(generator.initial_seed())
        return super().epoch(n_real, source_of_synthetic, generator=generator)


def test_every_epoch_has_an_order_of_its_own_from_the_seed():
    train(Recipe(epochs=3, batch_size=25, evaluations=1), use=Noted(), seed=8)
    assert set(Noted.seeds) == {seed_of(8, "order", epoch) for epoch in range(3)}


def test_bf16_and_plain_memory_layout_run():
    for recipe in (
        Recipe(steps=30, batch_size=16, evaluations=2, precision="bf16"),
        Recipe(steps=30, batch_size=16, evaluations=2, channels_last=False),
    ):
        trained = train(recipe, use=Concat())
        assert trained.history[-1]["val/top1"] > 0.8
        assert all(value.dtype == torch.float32 for value in trained.model.values())
        if recipe.precision == "bf16":
            assert not same(trained.model, train(Recipe(steps=30, batch_size=16, evaluations=2), use=Concat()).model)


def test_mapped_images_give_the_same(tmp_path):
    plain = data()
    np.save(tmp_path / "images.npy", plain.images.numpy())
    mapped = loop.Data(
        np.load(tmp_path / "images.npy", mmap_mode="r"),
        plain.labels,
        30,
        plain.source_of_synthetic,
        plain.val_images.numpy(),
        plain.val_labels,
    )
    recipe = Recipe(steps=4, batch_size=8, evaluations=2, transforms=AUGMENTED)
    assert same(train(recipe, on=plain).model, train(recipe, on=mapped).model)


def test_the_process_is_left_as_it_was():
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    seen = []
    train(
        Recipe(steps=2, batch_size=8, evaluations=1, threads=2),
        report=lambda entry: seen.append(torch.get_num_threads()),
    )
    assert seen == [2] and torch.get_num_threads() == threads and torch.equal(before, torch.get_rng_state())


def test_images_are_squashed_and_cropped():
    recipe = Recipe(steps=2, batch_size=8, evaluations=1, image_size=16, transforms=(RandomCrop(padding=1, size=12),))
    assert 0 <= train(recipe).history[0]["val/top1"] <= 1


def test_mistakes_of_the_user():
    with pytest.raises(UserError, match="no images"):
        train(Recipe(steps=1), on=data(n=0, synthetic=0))
    with pytest.raises(UserError, match="batch_size 2"):
        train(Recipe(steps=1, batch_size=2), world=loop.World(0, 3))


TOGETHER = Recipe(
    steps=9, batch_size=15, evaluations=3, transforms=AUGMENTED[:2], optimizer=SharpnessAware(SGD(lr=0.1))
)


def together(rank, folder):
    meet, wait = f"file://{folder}/meet", timedelta(seconds=180)
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=wait)
    trained = train(TOGETHER, world=loop.World(rank, 2))
    learned = early(loop.World(rank, 2))
    kept = {"model": trained.model, "history": trained.history, "early": learned.model}
    torch.save(kept | {"losses": torch.from_numpy(learned.losses)}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def early(world):
    """The net that tells slow images from fast ones; processes share what they ask of it."""
    images, labels = made(31, 0)
    return train_early(
        TOGETHER, Early(epochs=2), images, torch.eye(3)[labels].double(), seed=0, report=lambda entry: None,
        world=world, device=torch.device("cpu"),
    )  # fmt: skip


def apart(rank, folder):
    """As another process, which ends at once: gloo's threads now and then abort the interpreter's own way out."""
    together(rank, folder)
    os._exit(0)


def test_two_processes_equal_one(tmp_path):
    """15 images over two processes: the slices are uneven; SAM's worst point is that of the whole batch."""
    other = mp.get_context("spawn").Process(target=apart, args=(1, str(tmp_path)))
    other.start()
    together(0, str(tmp_path))
    other.join(60)
    assert other.exitcode == 0
    alone, learned = train(TOGETHER), early(loop.World())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, value in alone.model.items():
            assert torch.allclose(found["model"][name], value, atol=1e-5), name
        for name, value in learned.model.items():
            assert torch.allclose(found["early"][name], value, atol=1e-5), name
        assert torch.allclose(found["losses"], torch.from_numpy(learned.losses), atol=1e-4)
        for ours, theirs in zip(alone.history, found["history"], strict=True):
            assert theirs == pytest.approx(ours, abs=1e-4)


def test_no_steps_at_all_leave_the_weights_as_they_are():
    model = build("small", 3, seed=seed_of(0, "init")).state_dict()
    told = []
    found = train(Recipe(steps=0), report=told.append)
    assert same(found.model, model) and found.steps == found.images_seen == 0
    assert found.history == told and told[0]["step"] == 0 and 0 <= told[0]["val/top1"] <= 1
