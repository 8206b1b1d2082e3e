"""The parts of gpu.py that train classifiers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import diffaug_training
import torch
from generation import DEVICE
from gpu_job import GPU, Job, encoded, now, photos, said, versus

from synthaug.classify.augment import HorizontalFlip, RandomCrop
from synthaug.classify.loop import Data, train
from synthaug.classify.mixing import Concat
from synthaug.classify.models import build
from synthaug.classify.recipe import Recipe
from synthaug.data.decoded import decode_all
from synthaug.training import STRETCH


def classifier(job: Job) -> None:
    """Training on images in memory, against a folder of JPEGs, and against one batch over and over: the limit."""
    scale, size = job.scale, job.scale.net_batch
    files = [encoded(image, "JPEG", quality=95) for image in photos(scale.files, scale.net_pixels)]
    began = now()
    pixels = torch.from_numpy(decode_all(files, scale.net_pixels))
    job.say(f"decoding {len(files)} JPEGs once", f"{1000 * (now() - began) / len(files):.2f} ms each", "CPU")
    labels = torch.arange(len(files)) % 10
    recipe = Recipe(
        model=scale.net, steps=STRETCH * (scale.turns + 1) + 1, batch_size=size, evaluations=1, precision="bf16",
        transforms=(RandomCrop(padding=scale.net_pixels // 8), HorizontalFlip()),
    )  # fmt: skip
    net = build(scale.net, 10, seed=0).to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = recipe.optimizer.build(net.parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    rate = partial(usual, net, optimizer)
    batches = loader(job, files)
    one = (pixels[:size].to(DEVICE) / 255, labels[:size].to(DEVICE))
    others = {"ImageFolder": lambda: rate(steady(batches)), "one batch": lambda: rate([one] * STRETCH)}
    turns = Turns(STRETCH * size, others)
    none = torch.empty(0, dtype=torch.long)
    data = Data(pixels, torch.nn.functional.one_hot(labels, 10).float(), len(pixels), none, pixels[:0].numpy(), none)
    train(recipe, Concat(), data, seed=0, report=lambda entry: None, checkpoint=turns)
    rates = {name: values[1:] for name, values in turns.rates.items()}
    job.say(f"{scale.net}, {scale.net_pixels} px, batch {size}, bf16, {scale.workers} workers", versus(rates))


def usual(net: Any, optimizer: torch.optim.Optimizer, batches: Iterable[Any]) -> float:
    """Images a second of a training loop as torchvision's users write it."""
    images, began = 0, now()
    # our loop, in the midst of which this runs, has asked for kernels that give the same bits
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False):
        for x, y in batches:
            with torch.autocast(DEVICE, torch.bfloat16):
                logits = net(x.to(DEVICE, memory_format=torch.channels_last, non_blocking=True))
            loss = torch.nn.functional.cross_entropy(logits.float(), y.to(DEVICE, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(x)
    return images / float(now() - began)


class Turns:
    """A checkpoint that is never due: asked after each stretch of our loop, it gives the others their turn."""

    def __init__(self, images: int, others: dict[str, Callable[[], float]]) -> None:
        self.images, self.others, self.began = images, others, now()
        self.rates: dict[str, list[float]] = {name: [] for name in [*others, "ours"]}

    def due(self) -> bool:
        self.rates["ours"].append(self.images / (now() - self.began))
        for name, rate in self.others.items():
            self.rates[name].append(rate())
        self.began = now()
        return False

    def load(self) -> None: ...

    def save(self, state: dict[str, Any]) -> None: ...


def loader(job: Job, files: list[bytes]) -> Any:
    """torchvision's way to read these files; four batches for each worker."""
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision import datasets, transforms

    scale, folder = job.scale, job.keep / f"jpeg-{job.scale.net_pixels}"
    for i, data in enumerate(files):
        (folder / str(i % 10)).mkdir(parents=True, exist_ok=True)
        (folder / str(i % 10) / f"{i}.jpg").write_bytes(data)
    cut = transforms.RandomCrop(scale.net_pixels, padding=scale.net_pixels // 8)
    seen = transforms.Compose([cut, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    dataset = datasets.ImageFolder(str(folder), seen)
    drawn = RandomSampler(dataset, replacement=True, num_samples=4 * scale.workers * scale.net_batch)
    how = {"num_workers": scale.workers, "pin_memory": GPU, "persistent_workers": True}
    return DataLoader(dataset, scale.net_batch, sampler=drawn, **how)


def steady(batches: Any) -> Any:
    """What workers deliver after the first batch of each: while these are waited for, the queue fills unseen."""
    found = iter(batches)
    for _ in range(batches.num_workers):
        next(found)
    return found


def diffaug(job: Job) -> None:
    """A training step with DiffAug, against one with a second crop."""
    for net, pixels, batch in job.scale.nets:
        given = {"denoiser": None, "model": net, "size": pixels, "images": 4 * batch, "batch": batch, "run": 600}
        steps = {"steps": job.scale.net_steps, "pairs": job.scale.turns, "threads": 1}
        found = diffaug_training.measure(argparse.Namespace(**given, **steps))
        ratios = found["wall_ratio"]
        for name, ms in found["wall_ms_a_step"].items():
            times = f"**{said(ratios[name].values())}** times a second crop"
            job.say(f"{net}, {pixels} px, batch {batch}, {name}", f"{said(ms.values())} ms a step, {times}")
