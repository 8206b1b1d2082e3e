"""Augmentation of batches, against torchvision image by image and against shares of pixels."""

import pytest
import torch
from torchvision.transforms import v2

from synthaug.classify import policy
from synthaug.classify.augment import CutMix, HorizontalFlip, Mixup, RandAugment, RandomCrop, TrivialAugment
from synthaug.settings import UserError


def batch(n=64, high=32, wide=32, seed=0):
    images = torch.randint(256, (n, 3, high, wide), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return images, torch.eye(10)[torch.arange(n) % 10]


EACH = [RandomCrop(), HorizontalFlip(), TrivialAugment(), RandAugment()]
ALL = [*EACH, Mixup(p=1), CutMix(p=1)]


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_uint8_in_and_out_and_the_arguments_stay(transform):
    images, labels = batch()
    before = images.clone(), labels.clone()
    torch.manual_seed(1)
    out, soft = transform(images, labels)
    assert out.shape == images.shape and out.dtype == torch.uint8 and not torch.equal(out, images)
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])
    assert torch.allclose(soft.sum(1), torch.ones(64))
    torch.manual_seed(1)
    assert torch.equal(transform(images, labels)[0], out)


@pytest.mark.parametrize("transform", EACH, ids=lambda t: type(t).__name__)
def test_every_image_draws_its_own(transform):
    images, labels = batch(1)
    torch.manual_seed(0)
    out, same = transform(images.expand(64, -1, -1, -1), labels.expand(64, -1))
    different = len({image.numpy().tobytes() for image in out})
    assert different == 2 if isinstance(transform, HorizontalFlip) else different > 25
    assert torch.equal(same, labels.expand(64, -1))


def test_crop_shows_every_window_of_the_padded_image():
    images, labels = batch(1, 5, 6)
    padded = torch.nn.functional.pad(images[0], [2] * 4)
    windows = {padded[:, i : i + 4, j : j + 4].numpy().tobytes() for i in range(6) for j in range(7)}
    out, _ = RandomCrop(padding=2, size=4)(images.expand(2000, -1, -1, -1), labels)
    assert {image.numpy().tobytes() for image in out} == windows
    with pytest.raises(UserError, match="size 20"):
        RandomCrop(padding=2, size=20)(images, labels)


def test_flip_turns_a_share_of_p():
    images, labels = batch(1000, 4, 4)
    out, _ = HorizontalFlip(p=0.3)(images, labels)
    kept, turned = ((out == like).all((1, 2, 3)) for like in (images, images.flip(3)))
    assert (kept | turned).all() and 240 < int(turned.sum()) < 360


LIKE = [(v2.TrivialAugmentWide(), lambda w, h: policy.WIDE), (v2.RandAugment(), policy.moderate)]


@pytest.mark.parametrize(("theirs", "reach"), LIKE, ids=["trivial", "rand"])
@pytest.mark.parametrize("number", range(14))
def test_operations_equal_those_of_torchvision(theirs, reach, number):
    """Blends may differ by one grey level; one shift of 31 and single pixels by the rounding of a product."""
    name, (strengths, signed) = list(theirs._AUGMENTATION_SPACE.items())[number]
    images, _ = batch(31, 32, 24)
    strengths = strengths(31, 32, 24)
    for sign in (1, -1) if signed else (1,):
        level = sign * torch.arange(31) / 30
        got = policy.apply(images, torch.full((31,), number), level, reach(24, 32))
        for row, image in enumerate(images):
            strength = 0.0 if strengths is None else sign * float(strengths[row])
            want = theirs._apply_image_or_video_transform(image, name, strength, "nearest", {torch.Tensor: None})
            off = (got[row].int() - want.int()).abs() > 1
            assert off.float().mean() < 0.02 or (name.startswith("Translate") and row == 15), (name, strength)


def test_operations_go_to_their_own_images():
    images, _ = batch(14)
    ops = torch.randperm(14)
    level = torch.linspace(-1, 1, 14)
    together = policy.apply(images, ops, level, policy.WIDE)
    for i in range(14):
        alone = policy.apply(images[i : i + 1], ops[i : i + 1], level[i : i + 1], policy.WIDE)
        assert torch.equal(together[i], alone[0])


def test_draws_reach_every_operation_and_both_signs():
    ops, level = policy.draw(torch.ones(5000))
    assert torch.bincount(ops).min() > 250 and len(torch.bincount(ops)) == 14
    assert 2300 < int((level > 0).sum()) < 2700 and (level.abs() == 1).all()


def test_cutmix_labels_are_shares_of_pixels():
    for seed in range(20):
        images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 16, 24).contiguous()
        torch.manual_seed(seed)
        out, soft = CutMix(p=1)(images, torch.eye(4))
        for row in range(4):
            shares = torch.bincount(out[row, 0].flatten().long(), minlength=4) / (16 * 24)
            assert torch.allclose(soft[row], shares, atol=1e-6)


def test_mixup_labels_are_the_weights_of_the_pixels():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[1] = 255
    lambdas = []
    for seed in range(200):
        torch.manual_seed(seed)
        out, soft = Mixup(p=1, alpha=1)(images, torch.eye(2, dtype=torch.float64))
        assert torch.allclose(soft.sum(1), torch.ones(2, dtype=torch.float64))
        assert torch.allclose(out[:, 0, 0, 0] / 255, soft[:, 1].float(), atol=0.5 / 255 + 1e-6)
        lambdas.append(float(soft[0, 0]))
    assert 0.42 < sum(lambdas) / 200 < 0.58 and min(lambdas) < 0.05 and max(lambdas) > 0.95  # Beta(1, 1) is uniform


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_mixing_happens_with_probability_p(kind):
    images, labels = batch(4, 4, 4)
    torch.manual_seed(0)
    mixed = sum(kind(p=0.3)(images, labels)[0] is not images for _ in range(500))
    assert 110 < mixed < 190
