"""Classifier guidance against closed forms, the derivative of denoisers, and the training of a noisy classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.distributions import MultivariateNormal

from synthaug.diffusion.fit import fit
from synthaug.diffusion.guide import Guide
from synthaug.diffusion.guide_net import Lesson, new_net, noised, read, recognised, train_guide
from synthaug.diffusion.jacobian import asymmetry, class_gradient, curvature, jvp, vjp
from synthaug.diffusion.oracle import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from synthaug.diffusion.sampling import euler, karras_sigmas, steered
from synthaug.settings import UserError, seed_of
from synthaug.training import ALONE, World

ROOT = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.3, 0.2, 0.5]])
COV = ROOT @ ROOT.T
WEIGHTS = np.array([0.2, 0.4, 0.1, 0.3])
MEANS = np.array([[2.0, 0.0, 1.0], [-1.0, 1.0, 0.0], [0.0, -2.0, 0.5], [1.0, 1.0, -1.0]])
COVS = np.stack([COV, 0.3 * np.eye(3), np.diag([1.0, 0.1, 0.4]), 0.1 * np.eye(3)])
OWNERS = np.array([0, 1, 1, 0])  # the class of each component
SIGMA = 0.7
MIXTURE = MixtureDenoiser(WEIGHTS, MEANS, COVS)
CLASSES = [MixtureDenoiser(WEIGHTS[own], MEANS[own], COVS[own]) for own in (OWNERS == 0, OWNERS == 1)]


def draw(rows: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, 3)) * 1.5)


def bayes(x: Tensor, sigma: Any, x0: Tensor, labels: Tensor) -> Tensor:
    """M4: log p(class | noisy x) from plain densities."""
    s = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1).expand(len(x))
    totals = torch.from_numpy(COVS) + s[:, None, None, None].square() * torch.eye(3, dtype=torch.float64)
    log_p = MultivariateNormal(torch.from_numpy(MEANS), totals).log_prob(x[:, None]) + torch.from_numpy(WEIGHTS).log()
    others = torch.from_numpy(OWNERS) != labels[:, None]
    return log_p.masked_fill(others, -torch.inf).logsumexp(1) - log_p.logsumexp(1)


# --- guidance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [True, False])
def test_the_exact_classifier_turns_the_mixture_into_its_class(total: bool) -> None:
    """D1: score + d log p(c | x) / dx is the score of class c; here of both classes in one batch, at several levels."""
    x, labels = draw(6), torch.tensor([0, 1, 0, 1, 1, 0])
    guided = steered(MIXTURE, bayes, 1.0, total=total)
    for sigma in (0.1, SIGMA, 5.0, torch.tensor([0.2, 0.2, 1.0, 2.0, 4.0, 8.0])):
        own = torch.stack([CLASSES[c](x, sigma)[i] for i, c in enumerate(labels)])
        torch.testing.assert_close(guided(x, sigma, labels), own, atol=1e-9, rtol=0)
    assert (guided(x, SIGMA, labels) - guided(x, SIGMA, 1 - labels)).abs().max() > 0.1


def test_the_total_derivative_goes_through_the_denoiser() -> None:
    """D2: with log p = u x + v x0 the gradient is u + J^T v; u alone, if the guess counts as given."""
    mu, u, v = torch.tensor([0.3, -1.0, 0.5]).double(), *draw(2, seed=5)
    oracle, x = GaussianDenoiser(mu, COV), draw(4)
    slope = torch.from_numpy(COV @ np.linalg.inv(COV + SIGMA**2 * np.eye(3)))

    def linear(x: Tensor, sigma: Any, x0: Tensor, cond: Any) -> Tensor:
        return x @ u + x0 @ v

    for total, expected in ((True, u + slope.T @ v), (False, u)):
        moved = steered(oracle, linear, 2.5, total=total)(x, SIGMA) - oracle(x, SIGMA)
        torch.testing.assert_close(moved, (2.5 * SIGMA**2 * expected).expand(4, 3), atol=1e-12, rtol=0)


def test_rows_are_independent_and_without_noise_nothing_moves() -> None:
    x, labels, sigmas = draw(4), torch.tensor([0, 1, 1, 0]), torch.tensor([0.0, 0.5, 2.0, 0.0]).double()
    guided = steered(MIXTURE, bayes, 3.0)
    together = guided(x, sigmas, labels)
    alone = [guided(x[i : i + 1], float(sigmas[i]), labels[i : i + 1])[0] for i in range(4)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-13, rtol=0)
    assert torch.equal(together[[0, 3]], x[[0, 3]]) and not together.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(guided(x, sigmas, labels), together, atol=0, rtol=0)
    torch.testing.assert_close(steered(MIXTURE, bayes, 0.0)(x, 1.0, labels), MIXTURE(x, 1.0), atol=0, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_guided_sampling_lands_in_the_class_that_was_asked(scale: float) -> None:
    narrow = np.stack([1e-4 * np.eye(3)] * 4)
    mixture = MixtureDenoiser(WEIGHTS, MEANS, narrow)
    noise, labels = draw(60, seed=2) * 80 / 1.5, torch.arange(60) % 2

    def log_p(x: Tensor, sigma: Any, x0: Tensor, labels: Tensor) -> Tensor:
        away = (x[:, None] - torch.from_numpy(MEANS)).square().sum(2) / (2 * (float(sigma) ** 2 + 1e-4))
        each = torch.from_numpy(WEIGHTS).log() - away
        others = torch.from_numpy(OWNERS) != labels[:, None]
        return each.masked_fill(others, -torch.inf).logsumexp(1) - each.logsumexp(1)

    def landed(found: Tensor) -> Tensor:
        away = torch.cdist(found, torch.from_numpy(MEANS))
        assert away.min(1).values.max() < 0.1, "on a component"
        return torch.from_numpy(OWNERS)[away.argmin(1)]

    sigmas = karras_sigmas(60)
    assert torch.equal(landed(euler(steered(mixture, log_p, scale), noise, sigmas, labels)), labels)
    assert 0.3 < (landed(euler(mixture, noise, sigmas)) == labels).double().mean() < 0.7, "chance, unguided"


# --- the derivative of a denoiser -------------------------------------------------------------------------------------


@pytest.mark.parametrize("oracle", [GaussianDenoiser(MEANS[0], COV), MIXTURE, EmpiricalDenoiser(MEANS)])
def test_the_derivative_is_symmetric_and_the_posterior_covariance(oracle: Any) -> None:
    """P1, and J = Cov[x0 | x] / sigma^2."""
    x, v = draw(5), draw(5, seed=2)
    backward = vjp(oracle, x, SIGMA, v)
    if not isinstance(oracle, EmpiricalDenoiser):  # distances know no forward derivative
        torch.testing.assert_close(jvp(oracle, x, SIGMA, v), backward, atol=1e-12, rtol=0)
        cov = oracle.posterior_cov(x, SIGMA)
        torch.testing.assert_close(backward, torch.einsum("bij,bj->bi", cov, v) / SIGMA**2, atol=1e-11, rtol=0)
        along = torch.einsum("bi,bij,bj->b", v, cov, v) / v.square().sum(1) / SIGMA**2
        torch.testing.assert_close(curvature(oracle, x, SIGMA, v), along, atol=1e-11, rtol=0)
        assert asymmetry(oracle, x, SIGMA, v).max() < 1e-11
    assert curvature(oracle, x, SIGMA, v).min() > 0


def test_what_is_no_posterior_mean_shows() -> None:
    turn = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]).double()

    def twisted(x: Tensor, sigma: Any, cond: Any = None) -> Tensor:
        return x @ turn.T

    e = torch.eye(3).double()
    assert asymmetry(twisted, draw(1), 1.0, e[2:]).item() == 0
    third = e[:1] + e[2:]  # turned it is (0, -1, -1) one way and (0, 1, -1) the other
    assert asymmetry(twisted, draw(1), 1.0, third).item() == pytest.approx(1)
    assert curvature(twisted, draw(1), 1.0, e[2:]).item() == pytest.approx(-1)
    v = draw(1, seed=4)
    torch.testing.assert_close(jvp(twisted, draw(1), 1.0, v), v @ turn.T)
    torch.testing.assert_close(vjp(twisted, draw(1), 1.0, v), v @ turn)


def test_what_is_clamped_has_no_derivative() -> None:
    """P3."""
    oracle, x, v = GaussianDenoiser(np.zeros(3), np.eye(3)), torch.tensor([[4.0, 0.2, -4.0]]).double(), draw(1)

    def clamped(x: Tensor, sigma: Any, cond: Any = None) -> Tensor:
        return oracle(x, sigma).clamp(-1, 1)

    forward, backward = jvp(clamped, x, SIGMA, v), vjp(clamped, x, SIGMA, v)
    assert torch.equal(forward != 0, torch.tensor([[False, True, False]])) and torch.equal(forward, backward)
    assert forward[0, 1].item() == pytest.approx(v[0, 1].item() / (1 + SIGMA**2))


@pytest.mark.parametrize("total", [True, False])
def test_the_gradient_of_a_classifier_behind_the_denoiser(total: bool) -> None:
    x, v = draw(4), draw(1, seed=3)[0]
    slope, x0 = class_gradient(lambda y: y @ v, MIXTURE, x, SIGMA, total=total)
    expected = torch.einsum("bij,j->bi", MIXTURE.posterior_cov(x, SIGMA), v) / SIGMA**2 if total else v.expand(4, 3)
    torch.testing.assert_close(slope, expected, atol=1e-11, rtol=0)
    torch.testing.assert_close(x0, MIXTURE(x, SIGMA), atol=0, rtol=0)


# --- the net and its training -----------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (10, 3, 8, 8), dtype=np.uint8), np.arange(10) % 3
VAL = RNG.integers(0, 256, (7, 3, 8, 8), dtype=np.uint8), np.arange(7) % 3
SIZES: dict[str, Any] = {"channels": (8, 16), "steps": 6, "batch_size": 6}
KINDS = ("none", "denoised", "noisy")


def guide(second: str = "none", **fields: Any) -> Guide:
    return Guide(second=second, **SIZES | fields)


def smoothing(x: Tensor, sigma: float | Tensor, cond: Any = None) -> Tensor:
    """A denoiser to train with."""
    return GaussianDenoiser(np.zeros(192), np.diag(np.linspace(0.1, 1, 192)))(x, sigma)


def silent(_: dict[str, float]) -> None:
    pass


def trained(kind: Guide, **more: Any) -> Any:
    return train_guide(kind, TRAIN, VAL, 3, smoothing, report=silent, device=torch.device("cpu"), **more)


class Memory:
    """A checkpoint that ends the run after `due` reports."""

    def __init__(self, state: dict[str, Any] | None = None, after: int = 0) -> None:
        self.state, self.after = state, after

    def load(self) -> dict[str, Any] | None:
        return self.state

    def due(self) -> bool:
        self.after -= 1
        return self.after == 0

    def save(self, state: dict[str, Any]) -> None:
        self.state = {
            part: {n: v.clone() if isinstance(v, Tensor) else v for n, v in held.items()}
            for part, held in state.items()
        }
        raise InterruptedError


def test_a_second_stem_begins_silent() -> None:
    """D3: the denoise-augmented classifier is the noisy one at first, to the bit; and so is the control."""
    x, sigma = noised(torch.from_numpy(TRAIN[0]), torch.Generator().manual_seed(1))
    nets = {kind: new_net(guide(kind), 3, 8) for kind in KINDS}
    with torch.no_grad():
        plain, *others = (net(x, sigma, smoothing(x, sigma)) for net in nets.values())
    assert all(torch.equal(plain, other) for other in others) and plain.std() > 0
    sizes = [sum(p.numel() for p in net.parameters()) for net in nets.values()]
    assert sizes[0] < sizes[1] == sizes[2], "the control has as many weights"
    for kind, reacts in (("denoised", True), ("noisy", False)):
        net = trained(guide(kind))[0]
        with torch.no_grad():
            found = [net(x, sigma, guess) for guess in (smoothing(x, sigma), x)]
        assert torch.equal(*found) is not reacts
        assert any(p.abs().max() > 0 for p in net.second[-1].parameters()), "it has learned to speak"


def test_rows_of_the_net_are_independent() -> None:
    x, sigma = noised(torch.from_numpy(TRAIN[0]), torch.Generator().manual_seed(1))
    net = trained(guide("denoised"))[0]
    with torch.no_grad():
        together, alone = net(x, sigma, x), [net(x[i : i + 1], float(sigma[i]), x[i : i + 1])[0] for i in range(10)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=0)
    later = ((1 + 9 * sigma.square()) / (1 + sigma.square())).sqrt()[:, None, None, None]
    assert (net(x * later, sigma * 3, x) - together).abs().max() > 1e-4, "it knows the time, not only the scale"


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_cross_entropy_at_random_times(kind: str) -> None:
    kind_ = guide(kind)
    net = new_net(kind_, 3, 8)
    if net.second is not None:
        torch.nn.init.ones_(net.second[-1].weight)
    with torch.no_grad():
        whole = float(Lesson(net, TRAIN, smoothing, ALONE, torch.device("cpu")).loss(3)[0])
        generator = torch.Generator().manual_seed(seed_of(0, "guide", 3))
        rows = torch.randint(10, (6,), generator=generator)
        t = (torch.rand(6, generator=generator) * 1000).long()
        x0 = torch.from_numpy(TRAIN[0])[rows] / 127.5 - 1
        schedule: Any = DDPMScheduler()  # linear, 1,000 steps
        x_t = schedule.add_noise(x0, torch.randn(x0.shape, generator=generator), t)
        abar = schedule.alphas_cumprod[t].double()
        x, sigma = x_t / abar.sqrt().float()[:, None, None, None], ((1 - abar) / abar).sqrt()
        chosen = net(x, sigma, smoothing(x, sigma)).log_softmax(1)[torch.arange(6), torch.from_numpy(TRAIN[1])[rows]]
        assert whole == pytest.approx(-float(chosen.mean()), rel=1e-4)
        parts = [float(Lesson(net, TRAIN, smoothing, World(r, 4), torch.device("cpu")).loss(3)[0]) for r in range(4)]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_an_interruption_changes_nothing() -> None:
    whole, done = trained(guide("denoised"))
    broken = Memory(after=3)
    with pytest.raises(InterruptedError):
        trained(guide("denoised"), checkpoint=broken)
    assert broken.state is not None and broken.state["done"]["step"] == 3
    again, rest = trained(guide("denoised"), checkpoint=Memory(broken.state))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert rest.history == done.history and len(done.history) == 6
    assert all(
        0 <= entry["val/top1"] <= 1 and set(entry) == {"step", "train/loss", "val/top1"} for entry in rest.history
    )


def test_it_learns_and_is_read_again() -> None:
    """Dark and bright images, at times of which a part hides which is which."""
    from safetensors.torch import save

    images = np.repeat(np.uint8([40, 215]), 8)[:, None, None, None] + RNG.integers(0, 30, (16, 3, 8, 8), dtype=np.uint8)
    pictures = images, np.repeat([0, 1], 8)
    kind = Guide(channels=(8,), steps=60, batch_size=16, lr=1e-2)
    net, done = train_guide(kind, pictures, pictures, 2, None, report=silent, device=torch.device("cpu"))
    assert done.history[-1]["val/top1"] > 0.8 and done.history[-1]["train/loss"] < done.history[0]["train/loss"] - 0.2
    again = read(kind, save(net.state_dict()), "cpu")
    assert recognised(again, pictures, None, torch.device("cpu")) == done.history[-1]["val/top1"]
    assert int(again.size) == 8 and not any(p.requires_grad for p in again.parameters())
    x = torch.zeros(2, 3, 8, 8).requires_grad_()
    (slope,) = torch.autograd.grad(again.log_p(x, 1.0, x, torch.tensor([0, 1])).sum(), x)
    assert slope[0].sum() < 0 < slope[1].sum(), "darker for the dark class, brighter for the bright one"


def test_a_guide_needs_validation_images() -> None:
    pictures = (np.zeros((4, 3, 8, 8), np.uint8), np.zeros(4, int))
    none = tuple(part[:0] for part in pictures)
    with pytest.raises(UserError, match="no validation images to judge the guide by; set dataset.val_share above 0"):
        train_guide(guide(), pictures, none, 2, None, report=lambda _: None)


def test_validation_is_alike_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every classifier at every report is shown the same images under the same noise."""
    from synthaug.diffusion import guide_net as module

    seen: list[Tensor] = []
    real: Callable[..., Any] = module.noised

    def spied(images: Tensor, generator: torch.Generator) -> Any:
        found = real(images, generator)
        if len(images) == 7:
            seen.append(found[0])
        return found

    monkeypatch.setattr(module, "noised", spied)
    trained(guide())
    trained(guide("denoised", seed=3, channels=(8,)))
    assert len(seen) == 12 and all(torch.equal(x, seen[0]) for x in seen)


def test_what_else_is_reported_is_the_callers() -> None:
    weight, told = torch.ones(1, requires_grad=True), []
    fit(
        {"w": weight}, lambda step: [weight.square().sum()], steps=4, lr=0.1, weight_decay=0.0, clip=None,
        report=told.append, reports=2, also=lambda: {"w": float(weight.detach())},
    )  # fmt: skip
    assert [sorted(entry) for entry in told] == [["step", "train/loss", "w"]] * 2
    assert told[1]["w"] == float(weight.detach()) < told[0]["w"] < 1


def test_nonsense_is_refused() -> None:
    with pytest.raises(UserError, match="number of workers, 7"):
        trained(guide(), world=World(0, 7))
    for fields, said in (
        ({"channels": (12,)}, "channels.0"),
        ({"second": "x"}, "second"),
        ({"channels": ()}, "channels"),
    ):
        with pytest.raises(UserError, match=said):
            Guide(**fields)
