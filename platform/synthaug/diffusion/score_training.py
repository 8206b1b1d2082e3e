"""Training a diffusion net as EDM does (Karras et al. 2022), on images that something may be done to."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from torch import Tensor, nn

from synthaug.diffusion.fit import Average, Fitted, contained, falling, fit, newest_share
from synthaug.diffusion.score_net import Informed, Told, denoiser_of
from synthaug.diffusion.scoreaug import Omega, apply, encode, loss
from synthaug.diffusion.targets import coefficients, draw_levels
from synthaug.diffusion.transforms import OneOrNone
from synthaug.settings import UserError, seed_of
from synthaug.training import ALONE, Checkpoint, Report, World

if TYPE_CHECKING:
    from synthaug.diffusion.score_models import ScoreAug, TrainedDiT, TrainedEDM, TrainedScore

Pictures = tuple[np.ndarray, np.ndarray]  # uint8 NCHW and class indices


def new_unet(model: TrainedEDM, size: int) -> UNet2DModel:
    """Residual blocks at every level, attention where the settings have it; at first it answers 0."""
    sizes = [size // 2**level for level in range(len(model.channels))]
    looks = [side in (sizes[-1:] if model.attention is None else model.attention) for side in sizes]
    channels = 1 if model.grey else 3
    net = UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=model.channels,
        layers_per_block=model.layers, norm_num_groups=8, attention_head_dim=8, dropout=model.dropout,
        down_block_types=tuple("AttnDownBlock2D" if look else "DownBlock2D" for look in looks),
        up_block_types=tuple("AttnUpBlock2D" if look else "UpBlock2D" for look in reversed(looks)),
    )  # fmt: skip
    for parameter in net.conv_out.parameters():
        nn.init.zeros_(parameter)
    return net


def new_dit(model: TrainedDiT, size: int, classes: int) -> DiTTransformer2DModel:
    """diffusers' transformer for latents of `size`; at first its blocks do nothing and it answers 0, as in DiT."""
    if size % model.patch:
        raise UserError(f"patches of {model.patch} do not fit latents of {size} x {size}", ("denoiser", "patch"))
    net = DiTTransformer2DModel(
        num_attention_heads=model.heads, attention_head_dim=model.head_size, num_layers=model.layers, in_channels=4,
        sample_size=size, patch_size=model.patch, num_embeds_ada_norm=max(1, classes), dropout=model.dropout,
    )  # fmt: skip
    # all scales and shifts of the norms, and the last layer
    silent = [block.norm1.linear for block in net.transformer_blocks] + [net.proj_out_1, net.proj_out_2]
    for parameter in (p for layer in silent for p in layer.parameters()):
        nn.init.zeros_(parameter)
    return net


def new_net(model: TrainedScore, size: int, classes: int) -> Informed:
    """The net as it is before training, from the model's seed: the same whatever it will be told."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(model.seed, "denoiser", "initialisation"))
        net = model.new(size, classes)
    told = model.scoreaug is not None and model.scoreaug.told != "nothing"
    # a transformer always looks up a class; without labels it is always told that there is none
    known = classes if model.labels else int(isinstance(net, DiTTransformer2DModel))
    return Informed(
        net, classes=known, clean=model.clean is not None and model.clean.told,
        omega=model.scoreaug.by if told and model.scoreaug else None,
    )  # fmt: skip


def train(
    model: TrainedScore, pictures: Pictures, classes: int, *, report: Report, checkpoint: Checkpoint | None = None,
    world: World = ALONE, device: torch.device | None = None,
) -> tuple[Informed, Fitted]:  # fmt: skip
    """A denoiser of some images and of nothing else; what is kept is an average of its weights."""
    if model.batch_size < world.size:
        raise UserError(f"batch_size {model.batch_size} is smaller than the number of workers, {world.size}")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with contained(model.threads, device):
        net: Any = new_net(model, pictures[0].shape[-1], classes)
        net = net.to(device, memory_format=torch.channels_last)
        averaged = copy.deepcopy(net).eval().requires_grad_(False)
        lesson = Lesson(model, net, pictures, world, device)
        done = fit(
            dict(net.named_parameters()), lesson.loss, steps=model.steps, lr=model.lr, weight_decay=0.0,
            clip=model.clip, report=report, checkpoint=checkpoint, world=world,
            average=Average(
                dict(averaged.named_parameters()), rate=partial(_rising, model) if model.warmup else falling,
                newest=partial(_half_life, model) if model.ema else newest_share,
            ),
        )  # fmt: skip
        done.flops = flops_of(averaged)
        return averaged.to("cpu", memory_format=torch.contiguous_format), done  # safetensors takes no other layout


def flops_of(net: Informed) -> int:
    """The floating-point operations of one image in one call, multiplications and additions counted apart."""
    from torch.utils.flop_counter import FlopCounterMode

    size, device = net.config.sample_size, net.device
    x = torch.zeros(1, net.config.in_channels, size, size, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x, torch.zeros(1, device=device), None)
    return int(counter.get_total_flops())


def _rising(model: TrainedScore, step: int) -> float:
    """EDM's factor of the learning rate: up over some images, then 1."""
    return min(step * model.batch_size / model.warmup, 1.0)


def _half_life(model: TrainedScore, step: int) -> float:
    """EDM's share of the newest weights: a half-life of some images, or of a twentieth of those so far."""
    return float(1 - 0.5 ** (model.batch_size / min(model.ema, 0.05 * step * model.batch_size)))


class Lesson:
    """What a net is asked in each step: what some images were, before noise came and something was done to them."""

    def __init__(
        self, model: TrainedScore, net: Informed, pictures: Pictures, world: World, device: torch.device
    ) -> None:
        self.model, self.net, self.world, self.device = model, net, world, device
        # uint8 N C H W, or of latents N 2 C h w: mean and standard deviation
        self.images, self.labels = torch.from_numpy(pictures[0]), torch.from_numpy(pictures[1]).long()
        self.grey = net.net.config.in_channels == 1
        self.forward: Any = torch.compile(net) if model.compile else net
        self.denoiser = denoiser_of(self._asked, model.target)

    def _asked(self, x: Tensor, c_noise: Tensor, told: Told) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.model.precision == "bf16"):
            # transforms look pixels up, which is faster in the usual layout; convolutions are not
            out: Tensor = self.forward(x.contiguous(memory_format=torch.channels_last), c_noise, told)
        return out.float()

    def loss(self, step: int) -> tuple[Tensor]:
        """This process's part of the mean over the batch; every process draws the whole of it."""
        model, mine, size = self.model, self.world.mine, self.images.shape[-1]
        # On the CPU, from the step's number: the same on every device, with any number of processes, after any restart.
        generator = torch.Generator().manual_seed(seed_of(model.seed, "denoiser", step))
        count = model.batch_size
        rows = torch.randint(len(self.images), (count,), generator=generator)
        sigma = draw_levels(model.target, count, generator)
        x0 = self._clean(rows, generator)
        noise = torch.randn(x0.shape, generator=generator)
        labels = self._labels(rows, generator)
        # last, so that arms which do other things to images have the same images and noise
        clean, noisy, told = self._drawn(count, size, generator)
        if model.dropout:  # masks are each process's own: with another number of them a net is another, as good
            torch.manual_seed(seed_of(model.seed, "dropout", step, self.world.rank))
        x0, sigma, noise, labels = (
            part[mine].to(self.device, non_blocking=True) for part in (x0, sigma, noise, labels)
        )
        clean, noisy, told = (part.rows(mine).to(self.device) for part in (clean, noisy, told))
        x0 = apply(x0, clean)
        said = Told(
            labels if model.labels else None, encode(clean).expand(len(x0), -1), encode(told).expand(len(x0), -1)
        )
        how = model.scoreaug
        found = loss(
            lambda x, sigma, cond=None: self.denoiser(x, sigma, said), x0, sigma, noisy, noise,
            reading="I" if how is None else how.reading, weight=coefficients(model.target, sigma).weight,
            renorm=how is not None and how.renorm,
        )  # fmt: skip
        # of the whole batch, not of this share: the shares' gradients are summed
        return (found.sum() / count,)

    def _clean(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        if self.images.ndim == 5:
            mean, std = self.images[rows].unbind(1)
            return mean + std * torch.randn(mean.shape, generator=generator)
        x0 = self.images[rows].float() / 127.5 - 1
        return x0.mean(1, keepdim=True) if self.grey else x0

    def _labels(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The classes that the net is told, some of them kept from it."""
        labels = self.labels[rows]
        unlabelled = torch.rand(len(rows), generator=generator) < self.model.unlabelled
        return torch.where(unlabelled, self.net.classes, labels)

    def _drawn(self, count: int, size: int, generator: torch.Generator) -> tuple[Omega, Omega, Omega]:
        """What is done before noise, what after, and what the net is told of the latter."""
        model = self.model
        clean = Omega() if model.clean is None else model.clean.how.draw(count, size, generator)
        noisy, told = (Omega(), Omega()) if model.scoreaug is None else _omegas(model.scoreaug, count, size, generator)
        if model.mixture:
            first = torch.rand(count, generator=generator) < 0.5
            clean, noisy, told = clean.only(first), noisy.only(~first), told.only(~first)
        return clean, noisy, told


def _omegas(how: ScoreAug, count: int, size: int, generator: torch.Generator) -> tuple[Omega, Omega]:
    """What is done to noisy images, and what is said of it."""
    if how.told == "the next one":
        assert isinstance(how.how, OneOrNone)
        kinds = len(how.how.transforms) + 1
        which = torch.randint(kinds, (count,), generator=generator)
        done = how.how.chosen(which, size, generator)
        return done, how.how.chosen((which + 1) % kinds, size, generator)
    done = how.how.draw(count, size, generator)
    return done, done.rows(torch.randperm(count, generator=generator)) if how.told == "another's" else done
