"""Optimisers: SAM against its formulas, and schedules of the rate."""

import copy
import math

import pytest
import torch
from torch import nn

from synthaug.classify import loop
from synthaug.classify.mixing import Concat
from synthaug.classify.optim import SAM, SGD, AdamW, Cosine, SharpnessAware, Steps
from synthaug.classify.recipe import Recipe
from synthaug.settings import UserError, keyed

H = torch.tensor([1.0, 10.0], dtype=torch.float64)


def at_ones():
    return nn.Parameter(torch.ones(2, dtype=torch.float64))


def half_square(w, seen=None):
    """The closure of w H w / 2; `seen` collects where it was asked."""

    def closure():
        w.grad = None
        loss = (H * w * w).sum() / 2
        loss.backward()
        if seen is not None:
            seen.append(w.detach().clone())
        return loss

    return closure


def test_the_step_on_a_quadratic():
    w, seen = at_ones(), []
    sam = SAM([w], torch.optim.SGD([w], lr=1.0), 0.1)
    loss = sam.step(half_square(w, seen))
    # the gradient at w + rho g / |g|, by hand
    moved = 1 - w.detach()
    assert moved.tolist() == pytest.approx([1.00995037, 10.99503719], abs=1e-8)
    assert float(loss.detach()) == 5.5, "of the weights themselves"
    assert torch.linalg.vector_norm(seen[1] - seen[0]).item() == pytest.approx(0.1, abs=1e-15)


def test_the_weights_come_back_to_the_bit_before_the_step():
    w = nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    before = w.detach().clone()
    SAM([w], torch.optim.SGD([w], lr=0.0), 0.05).step(lambda: ((w**2).sum(), (w**2).sum().backward())[0])
    assert torch.equal(w, before)


@pytest.mark.parametrize("rho", [1e-3, 1e-6, 1e-9])
def test_towards_no_distance_it_is_plain(rho):
    w, plain = at_ones(), at_ones()
    SAM([w], torch.optim.SGD([w], lr=0.1), rho).step(half_square(w))
    torch.optim.SGD([plain], lr=0.1).step(half_square(plain))
    assert torch.linalg.vector_norm(w - plain).item() <= 0.1 * 10 * rho * 1.001  # lr, the largest curvature, |e|


def test_no_gradient_is_no_step_and_no_nan():
    w = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    SAM([w], torch.optim.SGD([w], lr=1.0), 0.1).step(half_square(w))
    assert w.tolist() == [0, 0]


def test_a_weight_without_a_gradient_stays():
    w, idle = at_ones(), nn.Parameter(torch.ones(3))
    SAM([w, idle], torch.optim.SGD([w, idle], lr=1.0), 0.1).step(half_square(w))
    assert idle.tolist() == [1, 1, 1] and w.tolist() != [1, 1]


def test_adaptive_measures_in_units_of_each_weight():
    """Kwon et al. 2021, equation 9, by numpy-like steps; a weight ten times as large moves a hundred times as far."""
    w, seen = nn.Parameter(torch.tensor([0.1, 1.0], dtype=torch.float64)), []
    g, t = H * w.detach(), w.detach().abs() + 0.01
    SAM([w], torch.optim.SGD([w], lr=1.0), 0.5, adaptive=True).step(half_square(w, seen))
    wanted = 0.5 * t**2 * g / (t * g).pow(2).sum().sqrt()
    assert torch.allclose(seen[1] - seen[0], wanted, atol=1e-15)
    assert torch.linalg.vector_norm((seen[1] - seen[0]) / t).item() == pytest.approx(0.5)


def test_a_batch_in_parts_is_the_batch():
    """Gradients that a closure adds up over parts of a batch: one ascent of the whole, not one for each part."""
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def trained(parts):
        torch.manual_seed(0)
        net = nn.Linear(5, 1).double()
        sam = SharpnessAware(SGD(lr=0.1), rho=0.3).build(net.parameters())

        def closure():
            sam.zero_grad()
            for part in x.chunk(parts):
                (net(part).exp().sum() / len(x)).backward()

        for _ in range(3):
            sam.step(closure)
        return torch.cat([p.flatten() for p in net.parameters()])

    assert torch.allclose(trained(1), trained(4), atol=1e-12)
    assert not torch.allclose(trained(1), torch.zeros(6).double())


def with_norm():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_statistics_of_batch_norm_move_once(monkeypatch):
    """One step of the loop with SAM moves them as one forward of the same batch does, exactly."""
    seen = {}

    def build(name, classes, **_):
        net = seen["net"] = nn.Module()
        net.net, net.forward = with_norm(), lambda images: net.net(images.float())
        return net

    monkeypatch.setattr(loop, "build", build)
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    none = torch.empty(0, dtype=torch.long)
    data = loop.Data(images, torch.eye(3).repeat(2, 1).double(), 6, none, images[:0], none)
    found = {}
    for name, optimizer in {"plain": SGD(lr=0.1), "sam": SharpnessAware(SGD(lr=0.1), rho=0.5)}.items():
        recipe = Recipe(steps=1, batch_size=6, evaluations=1, optimizer=optimizer)
        loop.train(recipe, Concat(), data, seed=0, report=lambda entry: None, device=torch.device("cpu"))
        found[name] = copy.deepcopy(seen["net"].net)
    norms = {name: net[1] for name, net in found.items()}
    assert torch.equal(norms["plain"].running_mean, norms["sam"].running_mean)
    assert torch.equal(norms["plain"].running_var, norms["sam"].running_var)
    assert int(norms["sam"].num_batches_tracked) == 1 and norms["sam"].track_running_stats
    assert not torch.equal(found["plain"][0].weight, found["sam"][0].weight), "it did take another step"


def test_its_state_is_that_of_its_base():
    w, other = at_ones(), at_ones()
    sam = SharpnessAware(AdamW(lr=0.1)).build([w])
    for _ in range(2):
        sam.step(half_square(w))
    again = SharpnessAware(AdamW(lr=0.1)).build([other])
    with torch.no_grad():
        other.copy_(w)
    again.load_state_dict(copy.deepcopy(sam.state_dict()))
    sam.step(half_square(w)), again.step(half_square(other))
    assert torch.equal(w, other)


def test_both_passes_of_a_step_ask_about_one_loss(monkeypatch):
    """Under the same masks of dropout, and the next step under others."""
    masks = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))

        def forward(self, images):
            mask = torch.rand(len(images), 3 * 64) < 0.5
            masks.append(mask)
            return self.net(images.float().flatten(1) * mask)

    monkeypatch.setattr(loop, "build", lambda name, classes, **_: Net())
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    none = torch.empty(0, dtype=torch.long)
    data = loop.Data(images, torch.eye(3).repeat(2, 1).double(), 6, none, images[:0], none)
    recipe = Recipe(steps=2, batch_size=6, evaluations=1, optimizer=SharpnessAware(SGD(lr=0.1)))
    loop.train(recipe, Concat(), data, seed=0, report=lambda entry: None, device=torch.device("cpu"))
    assert len(masks) == 4 and torch.equal(masks[0], masks[1]) and torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])


def test_a_pass_that_fails_leaves_the_weights_as_they_were():
    w = at_ones()

    def fails():
        if not torch.equal(w.detach(), torch.ones(2).double()):
            raise RuntimeError("out of memory")
        return half_square(w)()

    with pytest.raises(RuntimeError):
        SAM([w], torch.optim.SGD([w], lr=1.0), 0.1).step(fails)
    assert w.tolist() == [1, 1]


def test_half_precision_and_groups_of_weights():
    """Squares of small half-precision numbers are 0: the norm is taken of wider ones."""
    w = nn.Parameter(torch.full((4,), 1e-4, dtype=torch.float16))
    sam, seen = SAM([{"params": [w]}], torch.optim.SGD([w], lr=1.0), 0.5), []

    def closure():
        sam.zero_grad()
        seen.append(w.detach().float().clone())
        loss = (w * 1e-4).sum()
        loss.backward()
        return loss

    sam.step(closure)
    assert torch.linalg.vector_norm(seen[1] - seen[0]).item() == pytest.approx(0.5, rel=1e-3)


def test_sam_of_sam_is_refused():
    with pytest.raises(UserError, match="SAM of SAM"):
        SharpnessAware(SharpnessAware())


def test_warm_up_and_cosine():
    def rate(step, total, warmup):
        return loop.rate(Recipe(steps=1, warmup=warmup), step, total)

    assert [rate(step, 10, 0.4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(0, 10, 0) == rate(4, 10, 0.4) == 1
    for step in range(10):
        assert rate(step, 10, 0) == pytest.approx(math.cos(math.pi * step / 20) ** 2)
    assert [rate(step, 2, 1.0) for step in range(2)] == [0.5, 1]


def test_divided_by_ten_after_100_and_150_of_200_epochs():
    recipe = Recipe(epochs=200, schedule=Steps())
    epochs = [loop.rate(recipe, 7 * epoch, 7 * 200) for epoch in range(200)]
    assert epochs[:100] == [1] * 100 and epochs[100:150] == [0.1] * 50
    assert epochs[150:] == pytest.approx([0.01] * 50)
    assert {loop.rate(Recipe(epochs=2, schedule=Steps(at=())), step, 9) for step in range(9)} == {1}


def test_a_schedule_of_the_default_is_in_no_key():
    assert "schedule" not in keyed(Recipe(steps=3)) and "schedule" in keyed(Recipe(steps=3, schedule=Steps()))
    assert Recipe(steps=3).schedule == Cosine()
