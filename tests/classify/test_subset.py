"""Which images are learned slowly, against exhaustive search, by hand, and where there is nothing to tell apart."""

import copy
import io
import itertools

import numpy as np
import pytest
import torch

from synthaug.classify import early as learning
from synthaug.classify import loop
from synthaug.classify.augment import RandomCrop
from synthaug.classify.mixing import Concat, LocalRandomReplace
from synthaug.classify.models import build
from synthaug.classify.optim import SGD, AdamW, SharpnessAware, Steps
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import (
    AtRandom,
    Early,
    Forgotten,
    HighLoss,
    LowMargin,
    Misclassified,
    Signals,
    Slow,
    slow_learnable,
)
from synthaug.settings import UserError, seed_of

torch.set_num_threads(1)


def groups(counts, classes=3, seed=0):
    """Outputs in two clouds a class, the second with the higher losses; counts are of (fast, slow) images."""
    rng = np.random.default_rng(seed)
    outputs, losses, labels, slow = [], [], [], []
    for label in range(classes):
        for kind, count in enumerate(counts):
            outputs.append(rng.normal(0, 0.3, (count, 4)) + np.eye(4)[label] * (3 - 5 * kind))
            losses.append(rng.uniform(0.1, 0.9, count) + kind)
            labels += [label] * count
            slow += [bool(kind)] * count
    order = rng.permutation(len(labels))
    arrays = np.concatenate(outputs), np.concatenate(losses), np.array(labels), np.array(slow)
    return [array[order] for array in arrays]


def signals(outputs, losses, labels, history=None):
    """What an early net would have said, with losses and margins that tell the same."""
    losses = np.stack([losses]) if history is None else np.stack([losses] * len(history))
    margins = -losses + 1 if history is None else np.where(np.array(history), 0.5, -0.5)
    return Signals(labels, losses, margins, lambda layer: outputs if layer == "logits" else outputs[:, :2])


def test_planted_groups_are_found():
    outputs, losses, labels, slow = groups((20, 8))
    assert np.array_equal(slow_learnable(outputs, losses, labels, seed=0), slow)


def test_the_clusters_are_those_of_the_least_spread_of_all_divisions():
    """Exhaustively: of all 2^8 divisions of a class the one with the least sum of squares."""
    rng = np.random.default_rng(4)
    outputs, losses, labels = rng.normal(size=(9, 3)), rng.random(9), np.zeros(9, int)

    def spread(side):
        parts = [outputs[side], outputs[~side]]
        return sum(((part - part.mean(0)) ** 2).sum() for part in parts)

    divisions = [np.array([True, *bits]) for bits in itertools.product([True, False], repeat=8)]
    best = min((side for side in divisions if not side.all()), key=spread)
    wanted = best if losses[best].mean() > losses[~best].mean() else ~best
    assert np.array_equal(slow_learnable(outputs, losses, labels, seed=0), wanted)


def test_each_class_is_told_by_its_own_outputs_and_losses():
    outputs, losses, labels, slow = groups((6, 4))
    losses = np.where(labels == 1, 5 - losses, losses)  # in one class the other cloud is the slow one
    found = slow_learnable(outputs, losses, labels, seed=0)
    assert np.array_equal(found, slow ^ (labels == 1))
    for label in range(3):
        mine = labels == label
        assert losses[mine & found].mean() >= losses[mine & ~found].mean()


def test_the_same_for_a_seed_and_torch_for_torch():
    outputs, losses, labels, _ = groups((30, 30), seed=2)
    rng = np.random.default_rng(0)
    outputs += rng.normal(0, 3, outputs.shape)  # clouds that overlap, so that starts matter
    found = slow_learnable(outputs, losses, labels, seed=5)
    assert np.array_equal(found, slow_learnable(outputs, losses, labels, seed=5)) and found.dtype == bool
    tensors = slow_learnable(*map(torch.from_numpy, (outputs, losses, labels)), seed=5)
    assert isinstance(tensors, torch.Tensor) and tensors.dtype == torch.bool
    assert np.array_equal(tensors.numpy(), found)


def test_the_order_of_images_and_the_numbers_of_classes_are_no_matter():
    outputs, losses, labels, _ = groups((30, 30), seed=2)
    rng = np.random.default_rng(0)
    outputs += rng.normal(0, 3, outputs.shape)
    found = slow_learnable(outputs, losses, labels, seed=5)
    for _ in range(5):
        order = rng.permutation(len(labels))
        assert np.array_equal(slow_learnable(outputs[order], losses[order], labels[order], seed=5), found[order])
    assert np.array_equal(slow_learnable(outputs, losses, 10 - 3 * labels, seed=5), found)


def test_numbers_of_any_kind_are_taken_and_what_is_none_is_refused():
    outputs, losses, labels, slow = groups((20, 8))
    half = torch.from_numpy(outputs).bfloat16().requires_grad_()
    assert np.array_equal(slow_learnable(half, losses, labels, seed=0), slow)
    assert np.array_equal(slow_learnable(outputs.tolist(), losses.tolist(), labels.tolist(), seed=0), slow)
    with pytest.raises(UserError, match="diverged"):
        slow_learnable(outputs, np.where(np.arange(len(losses)) == 3, np.nan, losses), labels, seed=0)
    with pytest.raises(UserError, match="not of one set"):
        slow_learnable(outputs, losses[1:], labels, seed=0)


@pytest.mark.parametrize("clusters", [2, 3])
def test_a_class_of_one_image_of_equal_images_and_of_two(clusters):
    labels = np.array([0, 1, 1, 1, 2, 2])
    outputs = np.array([[1.0, 0], [2, 3], [2, 3], [2, 3], [0, 0], [1, 1]])
    outputs[2] += 1e-7  # equal images, at other places in a batch
    losses = np.array([0.1, 0.5, 0.7, 0.5, 0.2, 0.9])
    found = slow_learnable(outputs, losses, labels, seed=0, clusters=clusters)
    assert found.tolist() == [True, False, True, False, False, True]
    same = np.zeros(3, int)
    assert slow_learnable(np.ones((3, 2)), np.ones(3), same, seed=0).sum() == 1, "of equal ones in all things one"


def test_the_hardest_of_three_clusters():
    outputs = np.repeat([[0.0], [10], [20]], 4, 0) + np.linspace(0, 1, 12)[:, None]
    losses = np.repeat([1.0, 3.0, 2.0], 4)
    found = Slow(clusters=3)(signals(outputs, losses, np.zeros(12, int)), 0)
    assert found.tolist() == [False] * 4 + [True] * 4 + [False] * 4


def test_the_layer_that_is_asked_for():
    outputs, losses, labels, slow = groups((10, 5), classes=2)
    outputs[:, 3] = 0
    narrow = signals(outputs, losses, labels)
    assert np.array_equal(Slow(layer="features")(narrow, 0), slow_learnable(outputs[:, :2], losses, labels, seed=0))
    assert np.array_equal(Slow()(narrow, 0), slow)


def test_the_others_take_as_many_of_each_class():
    outputs, losses, labels, slow = groups((20, 8))
    outputs[labels == 0] = np.random.default_rng(1).normal(size=(28, 4))  # a class that falls apart otherwise
    right = [np.random.default_rng(n).random(len(labels)) < 0.7 for n in range(6)]
    seen = signals(outputs, losses, labels, right)
    wanted = [int(Slow()(seen, 0)[labels == label].sum()) for label in range(3)]
    masks = {}
    for subset in (HighLoss(), LowMargin(), Forgotten(), AtRandom()):
        masks[type(subset)] = mask = subset(seen, 0)
        assert [int(mask[labels == label].sum()) for label in range(3)] == wanted, subset
    for label, count in enumerate(wanted):
        mine = np.flatnonzero(labels == label)
        assert set(np.flatnonzero(masks[HighLoss] & (labels == label))) == set(mine[np.argsort(losses[mine])[-count:]])
    assert not np.array_equal(masks[AtRandom], AtRandom()(seen, 1))
    # the number of all images of a class, over many seeds: every image has its turn
    often = sum(AtRandom()(seen, seed).astype(int) for seed in range(30))
    assert often.min() > 0


def test_as_many_as_another_choice():
    outputs, losses, labels, _ = groups((20, 8))
    seen = signals(outputs + np.random.default_rng(1).normal(0, 2, outputs.shape), losses, labels)
    ours, theirs = AtRandom(clusters=4)(seen, 0), Slow(clusters=4)(seen, 0)
    assert [ours[labels == c].sum() for c in range(3)] == [theirs[labels == c].sum() for c in range(3)]
    assert ours.sum() < AtRandom()(seen, 0).sum()


def test_a_share_of_the_highest_losses():
    outputs, losses, labels, _ = groups((20, 10))
    mask = HighLoss(share=0.4)(signals(outputs, losses, labels), 0)
    assert [int(mask[labels == label].sum()) for label in range(3)] == [12, 12, 12]
    for share, count in ((0.0, 1), (1.0, 29)):
        mask = HighLoss(share=share)(signals(outputs, losses, labels), 0)
        assert [int(mask[labels == label].sum()) for label in range(3)] == [count] * 3, "some and never all"


def test_forgetting_by_hand():
    """Events are right, then wrong; what was never right comes first of all, then ties by loss."""
    history = [[1, 0, 1, 0, 1, 1], [0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 0, 1]]
    losses = np.array([1.0, 2, 3, 4, 5, 6])
    seen = signals(np.zeros((6, 1)), losses, np.zeros(6, int), [np.array(row, bool) for row in history])
    ranks = Forgotten().scores(seen, 0)
    # never right: 1; twice: 0; once: 4; never forgotten, the harder first: 5, 3, 2
    assert np.argsort(-ranks).tolist() == [1, 0, 4, 5, 3, 2]


def test_the_misclassified_are_as_many_as_they_are():
    outputs, losses, labels, slow = groups((20, 8))
    mask = Misclassified()(signals(outputs, losses, labels), 0)
    assert np.array_equal(mask, losses >= 1)


@pytest.mark.parametrize(("slow", "k", "size"), [(0.3, 2, 1300), (0.3, 5, 2200), (0.4, 5, 2600)])
def test_sizes_of_the_set(slow, k, size):
    """N (alpha + k (1 - alpha)), where the paper's k counts the original."""
    sources = torch.arange(round(1000 * slow)).repeat(k - 1)
    generator = torch.Generator().manual_seed(0)
    assert len(Concat().epoch(1000, sources, generator=generator)) == size
    assert len(LocalRandomReplace().epoch(1000, sources, generator=generator)) == 1000
    assert len(Concat().epoch(1000, sources[:0], generator=generator)) == 1000, "without variants it is plain"


# --- the net that tells ---------------------------------------------------------------------------------------------


def columns(n, seed):
    """8 x 8 images of three classes: a bright column on noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(100, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n) % 3
    for column in range(3):
        images[labels == column, :, :, 2 * column + 1] = 220
    return images, torch.eye(3)[labels].double()


RECIPE = Recipe(steps=77, batch_size=16, transforms=(RandomCrop(padding=1),), optimizer=AdamW(lr=2e-3))


def learn(early=None, recipe=RECIPE, seed=0, **fields):
    images, labels = columns(40, 0)
    given = {"report": lambda entry: None, "device": torch.device("cpu")} | fields
    return learning.train_early(recipe, early or Early(epochs=4), images, labels, seed=seed, **given)


def test_its_recipe():
    recipe = Early(epochs=4).of(
        Recipe(steps=9, optimizer=SharpnessAware(SGD(lr=0.3)), evaluations=7, keeps_last=True, clean_weight=2.0)
    )
    assert recipe == Recipe(epochs=4, optimizer=SGD(lr=0.3), schedule=Steps(at=()), evaluations=1)
    assert Early(recipe=RECIPE).of(Recipe(steps=1)).optimizer == RECIPE.optimizer


def test_it_is_plain_training_at_the_peak_rate_and_what_it_saw_of_each_image():
    found = learn()
    images, labels = columns(40, 0)
    none = torch.empty(0, dtype=torch.long)
    recipe = Recipe(
        epochs=4, batch_size=16, transforms=RECIPE.transforms, optimizer=RECIPE.optimizer, schedule=Steps(at=()),
        evaluations=1,
    )  # fmt: skip
    plain = loop.train(
        recipe, Concat(), loop.Data(images, labels, 40, none, images[:0], none), seed=0, report=lambda entry: None,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert all(torch.equal(plain.model[name], value) for name, value in found.model.items())
    assert found.steps == plain.steps == 10 and found.losses.shape == found.margins.shape == (4, 40)
    model = build("small", 3)
    model.load_state_dict(found.model)
    with torch.inference_mode():
        p = model.eval()(images).double().softmax(1)
    for n, c in enumerate(labels.argmax(1).tolist()):
        others = max(float(p[n, other]) for other in range(3) if other != c)
        assert found.losses[-1, n] == pytest.approx(-float(p[n, c].log()), rel=1e-4)
        assert found.margins[-1, n] == pytest.approx(float(p[n, c]) - others, abs=1e-5)
    tops = [entry["train/top1"] for entry in found.history]
    assert tops == [float((row > 0).mean()) for row in found.margins.astype(float)]


def test_what_a_layer_puts_out():
    model = build("small", 3, seed=seed_of(1)).eval()
    images, _ = columns(5, 1)
    logits, features = (learning.outputs(model, images, layer) for layer in ("logits", "features"))
    last = model.net[-1]
    assert features.shape == (5, last.in_features)
    again = features @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    assert np.allclose(again, logits, atol=1e-5)


class Kept:
    """A checkpoint in memory."""

    def __init__(self):
        self.bytes, self.saves, self.stop = None, 0, None

    def load(self):
        return None if self.bytes is None else torch.load(io.BytesIO(self.bytes), weights_only=True)

    def due(self):
        if self.saves == self.stop:
            raise KeyboardInterrupt
        return True

    def save(self, state):
        out = io.BytesIO()
        torch.save(state, out)
        self.bytes, self.saves = out.getvalue(), self.saves + 1


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_stopped_and_resumed_it_is_the_same_to_the_bit(stop, monkeypatch):
    whole = learn()
    monkeypatch.setattr(loop, "STRETCH", 2)
    kept = Kept()
    kept.stop = stop
    with pytest.raises(KeyboardInterrupt):
        learn(checkpoint=kept)
    kept.stop = None
    seen = []
    resumed = learn(checkpoint=kept, report=seen.append)
    assert all(torch.equal(whole.model[name], value) for name, value in resumed.model.items())
    assert np.array_equal(whole.losses, resumed.losses) and np.array_equal(whole.margins, resumed.margins)
    assert whole.history == resumed.history and 0 < len(seen) <= 4


def test_it_stops_where_the_error_falls_more_slowly():
    early = Early(epochs=9, slows=0.5)
    assert not early.is_over([0.9]) and not early.is_over([0.9, 0.5]) and not early.is_over([0.9, 0.5, 0.3])
    assert early.is_over([0.9, 0.5, 0.31]) and early.is_over([0.9, 0.5, 0.6])
    assert not Early(epochs=9).is_over([0.9, 0.5, 0.6])
    found = learn(Early(epochs=30, slows=0.5))
    errors = [1 - entry["train/top1"] for entry in found.history]
    assert 1 < len(errors) < 30 and len(found.losses) == len(errors)
    again = learn(Early(epochs=len(errors)))
    assert all(torch.equal(again.model[name], value) for name, value in found.model.items())


def test_fewer_images_than_a_batch_holds():
    found = learn(Early(epochs=5), Recipe(steps=1, batch_size=100))
    assert found.steps == 2 and len(found.losses) == 5, "five epochs of 40 are two batches of 100"


def test_going_on_from_its_weights():
    images, labels = columns(12, 3)
    none = torch.empty(0, dtype=torch.long)
    start = build("small", 3, seed=9).state_dict()
    data = loop.Data(images, labels, 12, none, images[:0], none, start=copy.deepcopy(start))
    found = loop.train(Recipe(steps=0), Concat(), data, seed=0, report=lambda entry: None, device=torch.device("cpu"))
    assert all(torch.equal(start[name], value) for name, value in found.model.items())
