"""The small pixel UNet that is trained here, and its training."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from synthaug.diffusion.fit import Average, Fitted, contained, fit
from synthaug.settings import UserError, seed_of
from synthaug.training import ALONE, Checkpoint, Report, World

if TYPE_CHECKING:
    from synthaug.diffusion.pixel_models import TrainedUNet


def new_unet(model: TrainedUNet, size: int) -> UNet2DModel:
    """Residual blocks all the way, attention at the lowest resolution."""
    plain = len(model.channels) - 1  # attention costs the square of the pixels, so the lowest level alone has it
    return UNet2DModel(
        sample_size=size, in_channels=3, out_channels=3, block_out_channels=model.channels,
        layers_per_block=model.layers, norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
    )  # fmt: skip


def new_scheduler() -> DDPMScheduler:
    """The linear schedule of DDPM; the net predicts v, which stays accurate at the highest noise levels."""
    # A guess from predicted noise is off by sigma times the noise's error, and sigma ends at 157.
    return DDPMScheduler(prediction_type="v_prediction", clip_sample=True)


def train_unet(
    model: TrainedUNet, images: np.ndarray, *, report: Report, checkpoint: Checkpoint | None = None,
    world: World = ALONE, device: torch.device | None = None,
) -> tuple[UNet2DModel, Fitted]:  # fmt: skip
    """A denoiser of `images` (uint8 NCHW) and of nothing else: the average over the last tenth of its training."""
    if model.batch_size < world.size:
        raise UserError(f"batch_size {model.batch_size} is smaller than the number of workers, {world.size}")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with contained(model.threads, device):
        torch.manual_seed(seed_of(model.seed, "denoiser", "initialisation"))
        net: Any = new_unet(model, images.shape[2]).to(device, memory_format=torch.channels_last)
        averaged = copy.deepcopy(net).requires_grad_(False)
        lesson = Lesson(model, net, images, world)
        done = fit(
            dict(net.named_parameters()), lesson.loss, steps=model.steps, lr=model.lr, weight_decay=1e-2, clip=1.0,
            report=report, checkpoint=checkpoint, world=world, average=Average(dict(averaged.named_parameters())),
        )  # fmt: skip
        return averaged.to("cpu", memory_format=torch.contiguous_format), done  # safetensors takes no other layout


class Lesson:
    """What a UNet is asked in each step: the velocity of some noised images."""

    def __init__(self, model: TrainedUNet, net: Any, images: np.ndarray, world: World) -> None:
        self.model, self.net, self.images, self.world = model, net, torch.from_numpy(images), world
        self.scheduler: Any = new_scheduler()

    def loss(self, step: int) -> tuple[Tensor]:
        """This process's part of the mean over the batch; every process draws the whole of it."""
        # On the CPU, from the step's number: the same on every device, with any number of processes, after any restart.
        generator = torch.Generator().manual_seed(seed_of(self.model.seed, "denoiser", step))
        rows = torch.randint(len(self.images), (self.model.batch_size,), generator=generator)
        t = torch.randint(len(self.scheduler), (self.model.batch_size,), generator=generator)
        x0 = self.images[rows].float() / 127.5 - 1  # B x 3 x H x W in [-1, 1]
        noise = torch.randn(x0.shape, generator=generator)
        noisy = self.scheduler.add_noise(x0, noise, t)
        target = self.scheduler.get_velocity(x0, noise, t)  # v = sqrt(abar) eps - sqrt(1 - abar) x0
        mine, device = self.world.mine, self.net.device
        x_t = noisy[mine].to(device, memory_format=torch.channels_last)
        error = self.net(x_t, t[mine].to(device)).sample - target[mine].to(device)
        total: Tensor = error.square().mean((1, 2, 3)).sum()
        # of the whole batch, not of this share: the shares' gradients are summed
        return (total / self.model.batch_size,)


def unet_files(net: UNet2DModel) -> dict[str, bytes]:
    """A DDPMPipeline by file name, which `UNetDenoiser.from_folder` reads; the weights in float16."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        # a copy, because half() changes the net itself
        DDPMPipeline(copy.deepcopy(net).half(), new_scheduler()).save_pretrained(place, safe_serialization=True)
        files = [file for file in sorted(place.rglob("*")) if file.is_file()]
        return {file.relative_to(place).as_posix(): file.read_bytes() for file in files}
