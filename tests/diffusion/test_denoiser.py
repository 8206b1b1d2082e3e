"""Networks in the coordinates of the protocol."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from synthaug.diffusion.denoiser import Denoiser, Preconditioned, UNetDenoiser, precondition, sigmas_of

SCHEDULE: Any = DDPMScheduler()


def tiny_unet(**more: Any) -> Any:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks, **more
    ).eval()  # fmt: skip


class Echo:
    """A network that knows x0 and the noise, and answers as its kind of training would have it."""

    dtype = torch.float64

    def __init__(self, x0: Tensor, noise: Tensor, abar: float, prediction: str) -> None:
        self.x0, self.noise, self.abar, self.prediction = x0, noise, abar, prediction

    def __call__(self, x_t: Tensor, t: Tensor, return_dict: bool) -> tuple[Tensor]:
        a, b = math.sqrt(self.abar), math.sqrt(1 - self.abar)
        torch.testing.assert_close(x_t, a * self.x0 + b * self.noise, atol=1e-10, rtol=0)
        v = a * self.noise - b * self.x0
        return ({"epsilon": self.noise, "v_prediction": v, "sample": self.x0}[self.prediction],)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_predictions_give_the_clean_image(prediction: Any) -> None:
    x0, noise = torch.randn((2, 2, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    abar = SCHEDULE.alphas_cumprod[400].double().item()
    sigma = math.sqrt((1 - abar) / abar)
    denoiser = UNetDenoiser(Echo(x0, noise, abar, prediction), SCHEDULE.alphas_cumprod, prediction)
    torch.testing.assert_close(denoiser(x0 + sigma * noise, sigma), x0, atol=1e-10, rtol=0)


def test_timesteps_between_the_grid() -> None:
    denoiser = UNetDenoiser(tiny_unet(), SCHEDULE.alphas_cumprod)
    sigmas = sigmas_of(SCHEDULE.alphas_cumprod)
    assert torch.equal(denoiser.timestep(sigmas), torch.arange(1000.0))
    assert torch.equal(denoiser.timestep(sigmas.float()), torch.arange(1000.0))
    middle = denoiser.timestep((sigmas[10] * sigmas[11]).sqrt())
    assert middle.item() == pytest.approx(10.5, abs=1e-4)
    assert denoiser.timestep(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]


def test_unet_equals_diffusers_own_step() -> None:
    """The x0 that DDPMScheduler computes, with one timestep a row and class labels."""
    net = tiny_unet(num_class_embeds=3)
    denoiser = UNetDenoiser(net, SCHEDULE.alphas_cumprod)
    t, labels = torch.tensor([5, 300, 900]), torch.tensor([0, 1, 2])
    x_t = torch.randn((3, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    schedule: Any = DDPMScheduler(clip_sample=False)
    with torch.no_grad():
        noise = net(x_t, t, class_labels=labels).sample
        expected = [schedule.step(noise[i : i + 1], t[i], x_t[i : i + 1]).pred_original_sample for i in range(3)]
        sigma = sigmas_of(SCHEDULE.alphas_cumprod)[t].float()
        x = x_t * (1 + sigma.square()).sqrt()[:, None, None, None]
        torch.testing.assert_close(denoiser(x, sigma, labels), torch.cat(expected), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(denoiser(x, sigma, labels.flip(0))[0], expected[0][0], atol=1e-4)


@pytest.mark.parametrize("denoiser", [
    UNetDenoiser(tiny_unet(), SCHEDULE.alphas_cumprod), Preconditioned(lambda x, t, cond: x * t[:, None, None, None]),
])  # fmt: skip
def test_protocol(denoiser: Any) -> None:
    x = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    assert isinstance(denoiser, Denoiser)
    with torch.no_grad():
        both = denoiser(x, torch.tensor([0.0, 0.7]))
        assert torch.equal(both[0], x[0])
        torch.testing.assert_close(both[1:], denoiser(x[1:], 0.7), atol=1e-5, rtol=0)
        assert denoiser(x.double(), 0.7).dtype == torch.float64


def test_loads_a_ddpm_folder(tmp_path: Path) -> None:
    net, schedule = tiny_unet(), DDPMScheduler(prediction_type="v_prediction", num_train_timesteps=100)
    pipeline: Any = DDPMPipeline(unet=net, scheduler=schedule)
    pipeline.save_pretrained(tmp_path)
    loaded = UNetDenoiser.from_folder(tmp_path)
    assert loaded.prediction == "v_prediction" and len(loaded.log_sigmas) == 100
    x = torch.ones(1, 3, 8, 8)
    assert all(map(torch.equal, loaded.net.state_dict().values(), net.state_dict().values()))
    with torch.no_grad():
        expected = UNetDenoiser(net, schedule.alphas_cumprod, "v_prediction")(x, 0.4)
        # weights read from a file lie where they lie in it, and some CPUs round otherwise there
        torch.testing.assert_close(loaded(x, 0.4), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_identities(sigma_data: float) -> None:
    """S11 and E5: unit input, unit effective weight, and the net has nothing to do on N(0, sigma_data^2)."""
    sigma = torch.logspace(-3, 2, 20, dtype=torch.float64)
    c = precondition(sigma, sigma_data)
    one = torch.ones_like(sigma)
    torch.testing.assert_close(c.c_in**2 * (sigma_data**2 + sigma**2), one, atol=1e-12, rtol=0)
    torch.testing.assert_close(c.weight * c.c_out**2, one, atol=1e-12, rtol=0)
    # The target F* = (x0 - c_skip x) / c_out has variance ((1 - c_skip)^2 sd^2 + c_skip^2 sigma^2) / c_out^2 = 1 ...
    variance = ((1 - c.c_skip) ** 2 * sigma_data**2 + c.c_skip**2 * sigma**2) / c.c_out**2
    torch.testing.assert_close(variance, one, atol=1e-12, rtol=0)
    # ... and its mean given x is 0, because the exact denoiser sd^2 / (sd^2 + sigma^2) x is c_skip x.
    zero = Preconditioned(lambda x, t, cond: torch.zeros_like(x), partial(precondition, sigma_data=sigma_data))
    x = torch.ones(20, 1, 1, 1, dtype=torch.float64)
    expected = sigma_data**2 / (sigma_data**2 + sigma**2)
    torch.testing.assert_close(zero(x, sigma).flatten(), expected, atol=1e-12, rtol=0)


def test_edm_network_sees_scaled_input_and_log_sigma() -> None:
    seen: dict[str, Any] = {}

    def net(x: Tensor, c_noise: Tensor, cond: Any) -> Tensor:
        seen.update(x=x, c_noise=c_noise, cond=cond)
        return x

    Preconditioned(net)(torch.ones(2, 1, 1, 1), torch.tensor([1.0, 2.0]), "label")
    np.testing.assert_allclose(seen["c_noise"], np.log([1.0, 2.0]) / 4, rtol=1e-6)
    np.testing.assert_allclose(seen["x"].flatten(), 1 / np.sqrt([1.25, 4.25]), rtol=1e-6)
    assert seen["cond"] == "label"
