"""Nets that are trained as EDM trains them: what they are told, their loss and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler, UNet2DModel
from torch import Tensor

from synthaug.diffusion.denoiser import UNetDenoiser, sigmas_of
from synthaug.diffusion.pixel_models import PretrainedUNet
from synthaug.diffusion.score_models import OnClean, ScoreAug, TrainedEDM
from synthaug.diffusion.score_net import Informed, Told, denoiser_of, files_of, join, read, read_informed, split
from synthaug.diffusion.score_training import Lesson, new_net
from synthaug.diffusion.scoreaug import WIDTH, Omega, encode
from synthaug.diffusion.targets import coefficients, draw_levels
from synthaug.diffusion.transforms import EDMPipe, OneOrNone, Rotation
from synthaug.settings import seed_of
from synthaug.training import ALONE

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
PICTURES = IMAGES, LABELS
SMALL: dict[str, Any] = {"channels": (8, 16), "steps": 6, "batch_size": 6}
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clean, untold": {"clean": OnClean(told=False)},
    "clean": {"clean": OnClean()},
    "scoreaug": {"scoreaug": ScoreAug()},
    "scoreaug, untold": {"scoreaug": ScoreAug(told="nothing")},
    "channels": {"scoreaug": ScoreAug(by="channels")},
    "scale and shift, classes": {"scoreaug": ScoreAug(by="scale and shift"), "labels": True},
    "both, classes": {"clean": OnClean(), "scoreaug": ScoreAug(), "labels": True},
    "grey": {"scoreaug": ScoreAug(), "grey": True},
}


def model(**fields: Any) -> TrainedEDM:
    return TrainedEDM(**SMALL | fields)


def loud(net: Informed) -> Informed:
    """With weights in its silent layers, so that a part that is lost would show."""
    dice = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=dice))
    return net.eval()


def written(net: Informed, folder: Path, target: Any = "edm") -> Path:
    for name, data in files_of(net, target).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def noisy(channels: int = 3) -> Tensor:
    return torch.randn(4, channels, 8, 8, generator=torch.Generator().manual_seed(5))


# --- what they are told ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_all_arms_begin_as_one_net(arm: str) -> None:
    """With equal seeds a net that will be told more gives the same answers before it has learned anything of it."""
    net, plain = new_net(model(**ARMS[arm]), 8, 3), new_net(model(grey="grey" in arm), 8, 3)
    with torch.no_grad():
        for each in (net, plain):
            torch.nn.init.eye_(each.net.conv_out.weight[:, :, 1, 1])
    x, told = (
        noisy(1 if arm == "grey" else 3),
        Told(torch.tensor([0, 1, 2, 3]), torch.ones(4, WIDTH), torch.ones(4, WIDTH)),
    )
    with torch.no_grad():
        first, second = (each(x, torch.full((4,), 0.3), told) for each in (net, plain))
    assert torch.equal(first, second) and first.abs().max() > 0.01


@pytest.mark.parametrize("arm", ARMS)
def test_files_hold_all_of_it(arm: str, tmp_path: Path) -> None:
    """diffusers' own loader gives the net of images that nothing was done to; the rest is found beside it."""
    net = loud(new_net(model(**ARMS[arm]), 8, 3))
    folder = written(net, tmp_path)
    grey = arm == "grey"
    x, c_noise = noisy(1 if grey else 3), torch.full((4,), 0.3)
    theirs: Any = UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert EDMEulerScheduler.from_pretrained(folder, subfolder="scheduler").config.sigma_data == 0.5
    labels = torch.tensor([0, 1, 2, 3]) if net.classes else None  # 3: none
    omega = encode(OneOrNone().draw(4, 8, torch.Generator().manual_seed(2)))
    with torch.no_grad():
        # a file's weights lie elsewhere in memory, and some CPUs round otherwise there
        expected = net(x, c_noise, Told(labels))
        torch.testing.assert_close(theirs(x, c_noise, labels).sample, expected, atol=1e-6, rtol=0)
        told = Told(labels, omega.flip(0), omega)
        again = join(*split(net), classes=net.classes, clean=net.clean, omega=net.omega).eval()
        torch.testing.assert_close(again(x, c_noise, told), net(x, c_noise, told), atol=1e-6, rtol=0)
        hears = net.clean or net.omega is not None
        assert torch.allclose(net(x, c_noise, told), net(x, c_noise, Told(labels)), atol=1e-4) != hears
        plain, informed = read(folder, "cpu"), read_informed(folder, "cpu")
        y = noisy()
        torch.testing.assert_close(plain(y, 0.7, labels), informed(y, 0.7, Told(labels)), atol=1e-6, rtol=0)
        assert plain.rows == informed.rows == 4 and plain.net.config.sample_size == 8


def test_classes_and_no_class(tmp_path: Path) -> None:
    denoiser = read(written(loud(new_net(model(labels=True), 8, 3)), tmp_path), "cpu")
    x = noisy()
    with torch.no_grad():
        each = [denoiser(x, 0.7, torch.full((4,), label)) for label in range(4)]
        assert torch.equal(denoiser(x, 0.7), each[3])
    assert all(not torch.allclose(a, b, atol=1e-4) for a, b in zip(each, each[1:], strict=False))


def test_grey_nets_see_the_mean_of_the_colours(tmp_path: Path) -> None:
    """Of an image without colours the mean of three noisy channels tells all, at a noise smaller by the root of 3."""
    net = loud(new_net(model(grey=True), 8, 3))
    denoiser = read(written(net, tmp_path), "cpu")
    x = noisy()
    with torch.no_grad():
        found = denoiser(x, 0.7)
        alone = denoiser_of(net, "edm")(x.mean(1, keepdim=True), 0.7 / 3**0.5, Told())
    torch.testing.assert_close(found, alone.expand(-1, 3, -1, -1), atol=1e-6, rtol=0)
    assert torch.equal(denoiser(x, torch.tensor([0.0, 1.0, 1.0, 1.0]))[0], x[0])


def test_a_folder_is_a_pretrained_model(tmp_path: Path) -> None:
    """What was trained in one experiment is named in another by its folder."""
    folder = written(loud(new_net(model(labels=True), 8, 3)), tmp_path)
    named = PretrainedUNet(str(folder))
    assert named.labels and float(sigmas_of(named.alphas_cumprod()).max()) == pytest.approx(80)
    with torch.no_grad():
        x = noisy()
        torch.testing.assert_close(named.load(None, "cpu")(x, 0.7), read(folder, "cpu")(x, 0.7), atol=1e-6, rtol=0)
    assert {"unet/config.json", "denoiser.json"} <= set(named.identity_files())
    assert not PretrainedUNet("nano:ddpm").labels


# --- what they are asked ---------------------------------------------------------------------------------------------


def test_the_loss_is_edms(tmp_path: Path) -> None:
    """By hand, from the images, levels and noise that the step draws."""
    settings = model()
    net = loud(new_net(settings, 8, 3))
    found = Lesson(settings, net, PICTURES, ALONE, torch.device("cpu")).loss(3)[0]
    dice = torch.Generator().manual_seed(seed_of(0, "denoiser", 3))
    rows = torch.randint(6, (6,), generator=dice)
    sigma = (1.2 * torch.randn(6, generator=dice) - 1.2).exp().view(-1, 1, 1, 1)
    x0 = torch.from_numpy(IMAGES)[rows] / 127.5 - 1
    x = x0 + sigma * torch.randn(x0.shape, generator=dice)
    total = sigma**2 + 0.25
    out = net(x / total.sqrt(), sigma.flatten().log() / 4, None)
    guess = 0.25 / total * x + 0.5 * sigma / total.sqrt() * out
    expected = (total / (0.5 * sigma) ** 2 * (guess - x0) ** 2).mean()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("target", ["velocity", "epsilon", "x0"])
def test_other_targets_are_plain_errors_of_what_is_predicted(target: Any) -> None:
    settings = model(target=target)
    net = loud(new_net(settings, 8, 3))
    found = Lesson(settings, net, PICTURES, ALONE, torch.device("cpu")).loss(3)[0]
    dice = torch.Generator().manual_seed(seed_of(0, "denoiser", 3))
    rows = torch.randint(6, (6,), generator=dice)
    x0 = torch.from_numpy(IMAGES)[rows] / 127.5 - 1
    if target == "velocity":
        t = torch.rand(6, generator=dice)
        s = t.view(-1, 1, 1, 1)
        noise = torch.randn(x0.shape, generator=dice)
        x_t, wanted, time = (1 - s) * x0 + s * noise, noise - x0, 1000 * t
    else:
        time = torch.randint(1000, (6,), generator=dice)
        noise = torch.randn(x0.shape, generator=dice)
        abar = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)[time].view(-1, 1, 1, 1)
        x_t, wanted = abar.sqrt() * x0 + (1 - abar).sqrt() * noise, noise if target == "epsilon" else x0
    expected = (net(x_t, time, None) - wanted).square().mean()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=2e-4)


@pytest.mark.parametrize("target", ["epsilon", "x0"])
def test_on_ddpms_schedule_they_are_diffusers_nets(target: Any, tmp_path: Path) -> None:
    """Read as any pixel model with a schedule they give the same guess."""
    folder = written(loud(new_net(model(target=target), 8, 3)), tmp_path, target)
    x = noisy()
    with torch.no_grad():
        for sigma in (0.1, 1.0, 30.0):
            theirs = UNetDenoiser.from_folder(folder)(x, sigma)
            torch.testing.assert_close(read(folder, "cpu")(x, sigma), theirs, atol=2e-3 * max(1, sigma), rtol=1e-3)


def test_levels_are_those_of_the_papers() -> None:
    dice = torch.Generator().manual_seed(0)
    log_sigma = draw_levels("edm", 100_000, dice).log()
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=0.02) and float(log_sigma.std()) == pytest.approx(
        1.2, abs=0.02
    )
    sigma = draw_levels("velocity", 100_000, dice)
    assert float((sigma / (1 + sigma)).mean()) == pytest.approx(0.5, abs=0.01) and sigma.isfinite().all()
    assert set(draw_levels("x0", 5000, dice).tolist()) <= set(sigmas_of(UNET_SCHEDULE).float().tolist())


UNET_SCHEDULE = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)


@pytest.mark.parametrize("target", ["edm", "velocity", "epsilon", "x0"])
def test_weights_undo_what_stands_before_the_net(target: Any) -> None:
    """weight c_out^2 = 1: every level weighs the same in what the net itself predicts."""
    c = coefficients(target, torch.logspace(-2, 2, 9, dtype=torch.float64))
    torch.testing.assert_close(c.weight * c.c_out.square(), torch.ones(9, dtype=torch.float64), atol=1e-12, rtol=0)


def test_arms_have_the_same_images_and_noise() -> None:
    """Drawn before what is done to them, so that arms are pairs."""
    seen: dict[str, list[Tensor]] = {}
    for arm in ("plain", "scoreaug", "clean", "both, classes"):
        settings = model(**ARMS[arm] | {"clean": None} if arm == "scoreaug" else ARMS[arm])
        lesson = Lesson(settings, new_net(settings, 8, 3), PICTURES, ALONE, torch.device("cpu"))
        asked = lesson.denoiser

        def listen(x: Tensor, sigma: Tensor, told: Told, arm: str = arm, asked: Any = asked) -> Tensor:
            seen[arm] = [x, sigma, *(part for part in told if part is not None)]
            found: Tensor = asked(x, sigma, told)
            return found

        lesson.denoiser = listen  # type: ignore[assignment]
        lesson.loss(1)
    plain = seen["plain"]
    for arm, (x, sigma, *told) in seen.items():
        assert torch.equal(sigma, plain[1])
        untouched = (torch.cat(told[-2:], 1) == 0).all(1)
        assert torch.equal(x[untouched], plain[0][untouched]), arm
    assert not torch.equal(seen["scoreaug"][0], plain[0]) and not torch.equal(seen["clean"][0], plain[0])


def drawn(how: ScoreAug, count: int = 400, **fields: Any) -> tuple[Omega, Omega, Omega]:
    settings = model(scoreaug=how, **fields)
    lesson = Lesson(settings, new_net(settings, 8, 3), PICTURES, ALONE, torch.device("cpu"))
    return lesson._drawn(count, 8, torch.Generator().manual_seed(0))


def test_controls_are_told_what_was_not_done() -> None:
    truth = drawn(ScoreAug())
    assert torch.equal(encode(truth[1]), encode(truth[2]))
    _, done, told = drawn(ScoreAug(told="another's"))
    assert torch.equal(encode(done), encode(truth[1])), "what is done is the same"
    assert not torch.equal(encode(told), encode(done))
    assert sorted(map(tuple, encode(told).tolist())) == sorted(map(tuple, encode(done).tolist()))
    _, done, told = drawn(ScoreAug(how=OneOrNone(transforms=(Rotation(),)), told="the next one"))
    # of two, turned and not: the one is told as the other
    assert torch.equal((encode(done) == 0).all(1), (encode(told) != 0).any(1))


def test_a_mixture_does_one_or_the_other() -> None:
    clean, noise, told = drawn(ScoreAug(), clean=OnClean(how=EDMPipe(p=1.0)), mixture=True)
    first, second = ((encode(part) != 0).any(1) for part in (clean, noise))
    assert not (first & second).any() and 0.4 < float(first.float().mean()) < 0.6 and second.any()
    assert torch.equal(encode(told), encode(noise))
    clean, noise, _ = drawn(ScoreAug(), clean=OnClean(how=EDMPipe(p=1.0)))
    assert ((encode(clean) != 0).any(1) & (encode(noise) != 0).any(1)).any(), "in sequence both"
