"""AugMix: operations against Pillow, mixtures against a slow reading with the same draws, the divergence in closed form."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.spatial.distance import jensenshannon
from scipy.stats import beta, kstest
from torch.nn.functional import kl_div

from synthaug.classify import augmix as module
from synthaug.classify import policy
from synthaug.classify.augmix import augmix, draw, jensen_shannon, limits, shares


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=12, high=32, wide=24, seed=0):
    """Smooth images: where a step is steep, a shift of 1e-6 pixels is seen."""
    coarse = torch.rand(n, 3, 6, 5, generator=seeded(seed))
    return (torch.nn.functional.interpolate(coarse, size=(high, wide), mode="bilinear") * 255).round().to(torch.uint8)


# --- operations ---------------------------------------------------------------------------------------------------


def affine(image, *numbers):
    return image.transform(image.size, Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR)


# number of the operation -> what it does to an image at a level of 10, the sign drawn
PUBLISHED = {
    1: lambda image, level: affine(image, 1, level * 0.3 / 10, 0, 0, 1, 0),
    2: lambda image, level: affine(image, 1, 0, 0, level * 0.3 / 10, 1, 0),
    3: lambda image, level: affine(image, 1, 0, -int(level * image.width / 3 / 10), 0, 1, 0),
    4: lambda image, level: affine(image, 1, 0, 0, 0, 1, -int(level * image.height / 3 / 10)),
    5: lambda image, level: image.rotate(int(level * 30 / 10), Image.Resampling.BILINEAR),
    6: lambda image, level: ImageOps.posterize(image, 4 - int(abs(level) * 4 / 10)),
    7: lambda image, level: ImageOps.solarize(image, 256 - int(abs(level) * 256 / 10)),
    8: lambda image, level: ImageOps.autocontrast(image),
    9: lambda image, level: ImageOps.equalize(image),
}


def test_nothing_that_imagenet_c_tests_is_among_the_operations():
    assert len(module.OPERATIONS) == len(PUBLISHED) + 1
    assert not set(module.OPERATIONS) & set(policy.OPERATIONS[6:10])


@pytest.mark.parametrize("number", PUBLISHED)
def test_operations_are_those_of_pillow(number):
    images = batch(16)
    level = torch.tensor([0.1, 0.37, 0.9, 1.3, 2.2, 4.1, 6.3, 9.7])
    level = torch.cat([level, -level])
    got = policy.apply(images, torch.full((16,), number), level / 10, limits(images), module.OPERATIONS)
    for image, made, strength in zip(images, got, level.tolist(), strict=True):
        want = np.asarray(PUBLISHED[number](Image.fromarray(image.permute(1, 2, 0).numpy()), strength)).astype(int)
        # a coordinate right on the border may fall on either side
        assert (np.abs(made.permute(1, 2, 0).numpy() - want) > 1).mean() < 0.004, strength


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_moved_images_change(number):
    images = batch(2)
    level = torch.tensor([0.2, -0.2])
    got = policy.apply(images, torch.full((2,), number), level, limits(images), module.OPERATIONS)
    assert not torch.equal(got[0], images[0]) and not torch.equal(got[1], images[1])


# --- draws --------------------------------------------------------------------------------------------------------


def test_weights_are_dirichlet_and_shares_are_beta():
    for alpha in (0.3, 1.0, 4.0):
        rows = shares(20000, 3, alpha, seeded())
        assert torch.allclose(rows.sum(1), torch.ones(20000)) and bool((rows >= 0).all())
        for column in rows.T:  # each part of a Dirichlet is a Beta
            assert kstest(column.numpy(), beta(alpha, 2 * alpha).cdf).pvalue > 1e-3
        assert kstest(shares(20000, 2, alpha, seeded(1))[:, 0].numpy(), beta(alpha, alpha).cdf).pvalue > 1e-3


def test_chains_have_one_to_three_operations_each_their_own():
    ops, level = draw(4000, 3, -1, 3, seeded())
    assert ops.shape == level.shape == (3, 3, 4000)
    length = (ops > 0).sum(0)
    assert torch.equal(ops > 0, torch.arange(3)[:, None, None] < length)  # none after the end
    for count in torch.bincount(length.flatten(), minlength=4)[1:]:
        assert abs(int(count) - 4000) < 250
    used = torch.bincount(ops[ops > 0], minlength=10)[1:]
    assert len(used) == 9 and float((used / used.float().mean() - 1).abs().max()) < 0.08
    assert abs(float((level > 0).float().mean()) - 0.5) < 0.02
    size = level.abs() * 10
    assert 0.1 <= float(size.min()) < 0.12 and 2.98 < float(size.max()) <= 3
    assert kstest(size.flatten().numpy(), "uniform", (0.1, 2.9)).pvalue > 1e-3


def test_depth_is_the_length_of_every_chain():
    ops, _ = draw(50, 2, 4, 1, seeded())
    assert ops.shape == (4, 2, 50) and int(ops.min()) >= 1


# --- mixtures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [{}, {"width": 1, "depth": 1}, {"width": 5, "depth": 2, "severity": 10}, {"alpha": 0.2, "severity": 4}],
    ids=str,
)
def test_a_mixture_is_what_a_slow_reading_says(how):
    images, before = batch(), batch()
    width, alpha = how.get("width", 3), how.get("alpha", 1.0)
    generator = seeded(5)
    weights = shares(12, width, alpha, generator)
    blend = shares(12, 2, alpha, generator)[:, 0]
    ops, level = draw(12, width, how.get("depth", -1), how.get("severity", 1), generator)
    got = augmix(images, seeded(5), **how)
    assert got.dtype == torch.float32 and got.shape == images.shape and torch.equal(images, before)
    for row, image in enumerate(images):
        mixture = torch.zeros(image.shape, dtype=torch.double)
        for chain in range(width):
            variant = image[None]
            for number, strength in zip(ops[:, chain, row], level[:, chain, row], strict=True):
                variant = module.OPERATIONS[number](variant, strength[None], limits(images))
            mixture += weights[row, chain].double() * variant[0]
        want = (1 - blend[row]) * image + blend[row] * mixture
        assert float((got[row] - want).abs().max()) < 1e-3


def test_the_generator_decides_and_the_global_one_stays():
    images, state = batch(), torch.random.get_rng_state()
    generator = seeded(3)
    one, two = augmix(images, generator), augmix(images, generator)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(augmix(images, seeded(3)), one) and not torch.equal(one, two)
    assert float(one.min()) >= 0 and float(one.max()) <= 255


def test_every_image_draws_its_own():
    same = batch(1).expand(40, -1, -1, -1)
    assert len({image.numpy().tobytes() for image in augmix(same, seeded())}) > 35


def test_severity_moves_images_further():
    images = batch(64)
    near, far = (float((augmix(images, seeded(1), severity=s) - images).abs().mean()) for s in (1, 10))
    assert far > 1.5 * near > 0


# --- divergence ---------------------------------------------------------------------------------------------------


def logits(count=3, rows=7, classes=5, dtype=torch.double):
    return list(torch.randn(count, rows, classes, generator=seeded(2), dtype=dtype) * 3)


def test_divergence_is_that_of_torch_and_of_the_definition():
    given = logits()
    probs = [each.softmax(1) for each in given]
    mean = torch.stack(probs).mean(0).clamp(1e-7, 1)
    by_torch = sum(kl_div(mean.log(), p, reduction="sum") for p in probs) / 3
    entropy = lambda p: -(p * p.log()).sum()  # noqa: E731
    by_entropies = entropy(torch.stack(probs).mean(0)) - sum(map(entropy, probs)) / 3
    got = jensen_shannon(given)
    assert float(got) == pytest.approx(float(by_torch), rel=1e-9) == pytest.approx(float(by_entropies), rel=1e-6)


def test_divergence_of_two_is_that_of_scipy():
    first, second = logits(2)
    want = sum(
        jensenshannon(p.numpy(), q.numpy()) ** 2 for p, q in zip(first.softmax(1), second.softmax(1), strict=True)
    )
    assert float(jensen_shannon([first, second])) == pytest.approx(want, rel=1e-9)


def test_divergence_has_its_limits():
    same = logits(1, dtype=torch.float32)[0]
    assert abs(float(jensen_shannon([same, same + 4, same - 1]))) < 1e-5  # logits count up to a constant
    sure = torch.eye(3) * 1000
    assert float(jensen_shannon([sure, sure.roll(1, 1), sure.roll(2, 1)])) == pytest.approx(3 * math.log(3), rel=1e-6)
    assert float(jensen_shannon([sure, sure, sure])) == 0  # classes that no one believes in count nothing
    one, other = logits(2)
    assert float(jensen_shannon([one, other, one])) == pytest.approx(float(jensen_shannon([one, one, other])))


def test_divergence_can_be_learnt_from():
    given = [each.requires_grad_() for each in logits()]
    assert torch.autograd.gradcheck(lambda *each: jensen_shannon(each), given)
    sure = [(torch.eye(3) * 1000).roll(shift, 1).requires_grad_() for shift in range(3)]
    (jensen_shannon(sure) + jensen_shannon(sure[:1])).backward()
    assert all(bool(each.grad.isfinite().all()) for each in sure)
