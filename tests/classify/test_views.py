"""Views: what they add to a batch and to the loss, and that the batch itself is the same with and without them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from synthaug.classify import loop
from synthaug.classify.augment import HorizontalFlip, Mixup, RandomCrop
from synthaug.classify.augmix import augmix, jensen_shannon
from synthaug.classify.mixing import Concat
from synthaug.classify.recipe import Recipe
from synthaug.classify.views import AugMixView, DiffAugView, FolderView, PlainView, SecondView, View
from synthaug.diffusion.one_step import Diffusion
from synthaug.diffusion.oracle import GaussianDenoiser
from synthaug.diffusion.pixel_models import PretrainedUNet
from synthaug.settings import UserError, seed_of
from synthaug.training import ALONE, World

CPU = torch.device("cpu")
N, MADE = 6, 4  # real images, generated ones


class Counted:
    """A denoiser that knows how many rows it saw."""

    def __init__(self) -> None:
        self.oracle, self.rows = GaussianDenoiser(np.zeros(192), np.eye(192) * 0.3), 0

    def __call__(self, x: Tensor, sigma: Any, cond: Any = None) -> Tensor:
        self.rows += len(x)
        return self.oracle(x, sigma)


def data(**more: Any) -> loop.Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (N + MADE, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.eye(3)[torch.arange(N + MADE) % 3].double()
    held = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return loop.Data(images, labels, N, torch.tensor([0, 0, 3, 5]), held, torch.arange(3), **more)


def running(*views: View, world: World = ALONE, on: loop.Data | None = None, **fields: Any) -> Any:
    recipe = Recipe(**{"steps": 4, "batch_size": 8, "views": views, "transforms": (RandomCrop(1),)} | fields)
    denoiser = Counted()
    run = loop.Run(recipe, Concat(), on or data(), 0, ALONE, CPU, denoiser)
    run.world = world  # now, because the others of a real one would have to be there
    torch.manual_seed(1)
    return run


INDICES = torch.tensor([0, 7, 3, 9, 5, 1, 2, 8])


def test_the_batch_is_the_same_with_and_without_views() -> None:
    fields: dict[str, Any] = {"transforms": (RandomCrop(1), HorizontalFlip(), Mixup(p=1.0))}
    alone = [running(**fields).parts(0, INDICES)[0] for _ in range(2)]
    assert torch.equal(alone[0][0], alone[1][0])
    run = running(DiffAugView(), SecondView(), PlainView(), **fields)
    images, labels = run.parts(0, INDICES)[0]
    assert torch.equal(images, alone[0][0]) and torch.equal(labels, alone[0][1])
    following = run.parts(1, INDICES)[0][0]
    other = running(**fields)
    other.parts(0, INDICES)
    assert torch.equal(following, other.parts(1, INDICES)[0][0]), "nor does the next batch miss a random number"


def test_a_view_that_counts_nothing_trains_the_same_net() -> None:
    on = data()
    free, paid = (
        loop.train(
            Recipe(steps=6, batch_size=8, views=views, evaluations=2), Concat(), on, seed=0, report=lambda _: None,
            device=CPU, denoiser=Counted(),
        )
        for views in ((), (DiffAugView(weight=0.0), SecondView(weight=0.0)))
    )  # fmt: skip
    assert all(torch.allclose(free.model[name], paid.model[name], atol=1e-5) for name in free.model)


def test_the_diffaug_twin_is_of_the_plain_image() -> None:
    run = running(DiffAugView(how=Diffusion(low=0.1, high=0.4)))
    (_, _), (images, labels) = run.parts(2, INDICES)
    generator = torch.Generator().manual_seed(seed_of(0, "view", 2, 0))
    torch.rand(8, generator=generator)  # who has a twin
    times = 0.1 + 0.3 * torch.rand(8, generator=generator)
    noise = torch.randn(8, 3, 8, 8, generator=generator)
    plain = run.data.images[INDICES].float() / 255
    assert torch.equal(images, Diffusion()(plain, times, run.denoiser.oracle, noise))
    assert torch.equal(labels, run.data.labels[INDICES].float())
    assert run.denoiser.rows == 8 and not images.requires_grad


def test_it_may_start_from_the_transformed_image_with_its_label() -> None:
    fields: dict[str, Any] = {"transforms": (Mixup(p=1.0),)}
    (images, labels), (twins, wanted) = running(
        DiffAugView(how=Diffusion(low=0.0, high=0.0), transformed=True), **fields
    ).parts(0, INDICES)  # fmt: skip
    assert torch.equal(labels, wanted) and (images - twins).abs().max() < 0.1
    (_, _), (_, plain) = running(DiffAugView(), **fields).parts(0, INDICES)
    assert set(plain.flatten().tolist()) == {0.0, 1.0}, "else Mixup does not touch the twin"


def test_a_plain_image_keeps_its_own_label() -> None:
    run = running(PlainView(), transforms=(Mixup(p=1.0),))
    (_, mixed), (images, labels) = run.parts(0, INDICES)
    assert torch.equal(labels, run.data.labels[INDICES].float()) and not torch.equal(labels, mixed)
    assert torch.equal(images, run.data.images[INDICES].float() / 255)


def test_a_denoiser_that_learns_elsewhere_is_not_trained_here() -> None:
    run = running(DiffAugView())
    weight = torch.ones((), requires_grad=True)
    run.denoiser = lambda x, sigma, cond=None: x * weight
    (_, _), (images, _) = run.parts(0, INDICES)
    assert not images.requires_grad
    run.step(0, INDICES)
    assert weight.grad is None


def test_augmix_is_two_mixtures_of_the_transformed_image_and_their_divergence() -> None:
    run = running(AugMixView(severity=5), transforms=(RandomCrop(2),))
    (images, labels), (mixed, theirs) = run.parts(3, INDICES)
    generator = torch.Generator().manual_seed(seed_of(0, "view", 3, 0))
    first, second = (augmix((images * 255).round().byte(), generator, severity=5) / 255 for _ in range(2))
    assert not torch.equal(first, second) and torch.equal(theirs, labels.repeat(2, 1))
    torch.testing.assert_close(mixed, torch.cat([first, second]), atol=1e-6, rtol=0)
    clean, logits = torch.randn(3, 8, 3, generator=generator).split([1, 2])
    for weight in (12.0, 1.5):
        wanted = weight * jensen_shannon([clean[0], logits[0], logits[1]])
        torch.testing.assert_close(AugMixView(weight=weight).loss(clean[0], logits.flatten(0, 1), theirs, 0.1), wanted)


def test_only_those_that_are_drawn_are_computed() -> None:
    run = running(DiffAugView(p=0.3))
    counts = [len(run.parts(number, INDICES)[1][0]) for number in range(200)]
    assert run.denoiser.rows == sum(counts)
    assert 0.26 < sum(counts) / (200 * 8) < 0.34 and len(set(counts)) > 4
    none = running(DiffAugView(p=0.0))
    assert [len(images) for images, _ in none.parts(0, INDICES)] == [8, 0]
    assert none.step(0, INDICES).isfinite() and none.denoiser.rows == 0


def test_a_batch_of_which_no_image_was_drawn_asks_no_net() -> None:
    """A UNet's attention cannot take no rows, as a closed form can."""
    denoiser = PretrainedUNet("nano:ddpm").load(None, "cpu")
    run = running(DiffAugView(p=0.02))
    run.denoiser = denoiser
    counts = [len(run.parts(number, INDICES)[1][0]) for number in range(20)]
    assert 0 in counts and sum(counts) == denoiser.rows > 0
    assert run.step(counts.index(0), INDICES).isfinite()


def test_what_is_made_beforehand_is_not_of_transformed_images() -> None:
    with pytest.raises(UserError, match=r"^transformed: what is made beforehand is made of the plain images"):
        DiffAugView(cached=4, transformed=True)


@pytest.mark.parametrize("view", [DiffAugView(), DiffAugView(p=0.5), SecondView(), PlainView()])
def test_workers_share_the_rows_of_one_process(view: View) -> None:
    whole, labels = running(view).parts(0, INDICES)[1]
    shares = [running(view, world=World(rank, 3)).parts(0, INDICES)[1] for rank in range(3)]
    assert sum(len(images) for images, _ in shares) == len(whole)
    for rank, (images, theirs) in enumerate(shares):
        assert torch.equal(images, whole[rank::3]) and torch.equal(theirs, labels[rank::3])


@pytest.mark.parametrize("view, k", [(DiffAugView(cached=5), 5), (FolderView(path="x"), 1)])
def test_variants_are_the_sources_own(view: View, k: int) -> None:
    """Variant v of real image i is filled with 10 i + v; a generated image takes those of its source."""
    filled = (10 * torch.arange(N)[:, None] + torch.arange(k))[..., None, None, None].expand(N, k, 3, 8, 8)
    run = running(view, on=data(variants={0: filled.to(torch.uint8).clone()}))
    sources = torch.tensor([0, 0, 3, 5, 5, 1, 2, 3])  # 7, 9 and 8 were made of 0, 5 and 3
    drawn = []
    for number in range(60):
        (_, _), (images, labels) = run.parts(number, INDICES)
        values = (images[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(values // 10, sources) and torch.equal(labels, run.data.labels[sources].float())
        drawn += (values % 10).tolist()
    counts = np.bincount(drawn, minlength=k)
    assert len(counts) == k and counts.min() > 0.7 * len(drawn) / k, "each variant as often"
    assert run.denoiser.rows == 0


def test_of_variants_too_only_some_may_be_drawn() -> None:
    made = torch.randint(256, (N, 3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    whole, some = (running(DiffAugView(cached=3, p=p), on=data(variants={0: made})) for p in (1.0, 0.4))
    counts = 0
    for number in range(50):
        everyone, labels = whole.parts(number, INDICES)[1]
        images, theirs = some.parts(number, INDICES)[1]
        drawn = torch.rand(8, generator=torch.Generator().manual_seed(seed_of(0, "view", number, 0))) < 0.4
        assert torch.equal(images, everyone[drawn]) and torch.equal(theirs, labels[drawn])
        counts += len(images)
    assert 0.3 < counts / 400 < 0.5


def test_variants_are_read_from_a_mapped_array(tmp_path: Any) -> None:
    made = np.random.default_rng(0).integers(0, 256, (N, 2, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "made.npy", made)
    mapped = np.load(tmp_path / "made.npy", mmap_mode="r")
    (_, (images, _)) = running(DiffAugView(cached=2), on=data(variants={0: mapped})).parts(0, INDICES)
    (_, (again, _)) = running(DiffAugView(cached=2), on=data(variants={0: torch.from_numpy(made)})).parts(0, INDICES)
    assert torch.equal(images, again)


def test_the_second_view_is_transformed_anew() -> None:
    run = running(SecondView(), PlainView(), transforms=(RandomCrop(2, size=6),))
    (first, _), (second, _), (plain, _) = run.parts(0, INDICES)
    assert first.shape == second.shape == plain.shape == (8, 3, 6, 6)
    assert not torch.equal(first, second)
    assert torch.equal(plain, run.data.images[INDICES][..., 1:7, 1:7].float() / 255), "the middle, as in evaluation"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_weighted_sum_of_its_terms(smoothing: float) -> None:
    views = (DiffAugView(weight=0.7), PlainView(weight=2.0))
    run = running(*views, clean_weight=0.5, label_smoothing=smoothing)
    parts = run.parts(0, INDICES)
    torch.manual_seed(1)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    found = run.step(0, INDICES)
    run.model.load_state_dict(before)
    slow = 0.0
    for weight, (images, labels) in zip((0.5, 0.7, 2.0), parts, strict=True):
        for image, label in zip(images, labels, strict=True):
            wanted = label * (1 - smoothing) + smoothing / 3
            slow -= weight * float((run.model(image[None]).log_softmax(1)[0] * wanted).sum().detach()) / len(INDICES)
    assert float(found) == pytest.approx(slow, rel=1e-5)
    again = cross_entropy(run.model(parts[0][0]), parts[0][1])
    assert float(found) != pytest.approx(float(again), rel=1e-3)


def test_views_resume_as_if_undisturbed() -> None:
    recipe = Recipe(steps=9, batch_size=8, views=(DiffAugView(p=0.5), SecondView()), evaluations=3)
    states: list[Any] = []

    @dataclasses.dataclass
    class Kept:
        state: Any = None

        def load(self) -> Any:
            return self.state

        def due(self) -> bool:
            return not states

        def save(self, state: Any) -> None:
            import copy

            states.append(copy.deepcopy(state))

    def train(checkpoint: Any) -> Any:
        return loop.train(
            recipe, Concat(), data(), seed=0, report=lambda _: None, checkpoint=checkpoint, device=CPU,
            denoiser=Counted(),
        )  # fmt: skip

    whole = train(Kept())
    resumed = train(Kept(states[0]))
    assert all(torch.equal(whole.model[name], resumed.model[name]) for name in whole.model)
