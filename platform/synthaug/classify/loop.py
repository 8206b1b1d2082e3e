"""The training loop: a pure function of settings, data, a report and a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from synthaug.classify.mixing import Utilize
from synthaug.classify.models import build, check_size, prepared, resized
from synthaug.classify.recipe import Recipe
from synthaug.settings import UserError, seed_of
from synthaug.training import ALONE, Checkpoint, Entry, Report, World

Images = torch.Tensor | np.ndarray


@dataclass(frozen=True)
class Data:
    """Real ++ synthetic training images (uint8 NCHW, in memory or mapped) with soft labels, and a validation set.

    `source_of_synthetic[j]` is the index of the real image that image n_real + j was made from.
    """

    images: Images
    labels: torch.Tensor
    n_real: int
    source_of_synthetic: torch.Tensor
    val_images: Images
    val_labels: torch.Tensor

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.labels) == self.n_real + len(self.source_of_synthetic)
        assert len(self.val_images) == len(self.val_labels)


@dataclass(frozen=True)
class Trained:
    """The best weights by validation top-1 (ties: by loss; without validation the last ones), and how it went."""

    model: dict[str, torch.Tensor]
    history: list[Entry]
    steps: int
    images_seen: int
    seconds: float


@dataclass
class _Progress:
    """What a checkpoint holds beside model and optimiser."""

    step: int = 0
    score: tuple[float, float] | None = None
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[Entry] = field(default_factory=list)
    seconds: float = 0.0


def train(
    recipe: Recipe,
    utilize: Utilize,
    data: Data,
    *,
    seed: int,
    report: Report,
    checkpoint: Checkpoint | None = None,
    world: World = ALONE,
    device: torch.device | None = None,
) -> Trained:
    """Train `recipe` on `data`; the same result whether or not it was interrupted between two evaluations.

    `report` is called after each evaluation, in every process.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _contained(recipe.threads, device):
        run = _Run(recipe, utilize, data, seed, world, device)
        done = run.restore(checkpoint.load() if checkpoint else None)
        while done.step < run.total:
            entry = run.interval(done)
            report(entry)
            if checkpoint and done.step < run.total and checkpoint.due():
                checkpoint.save(run.state(done))
    return Trained(done.best, done.history, done.step, done.step * recipe.batch_size, done.seconds)


class _Run:
    """Everything of a training run but its progress."""

    def __init__(
        self, recipe: Recipe, utilize: Utilize, data: Data, seed: int, world: World, device: torch.device
    ) -> None:
        if recipe.batch_size < world.size:
            raise UserError(f"batch_size {recipe.batch_size} is smaller than the number of workers, {world.size}")
        self.recipe, self.utilize, self.data, self.seed, self.world = recipe, utilize, data, seed, world
        self.device = device
        self.epoch_length = len(self.order(0))
        self.total = recipe.total_steps(self.epoch_length)
        self.ends = evaluation_steps(self.total, recipe.evaluations)
        model = build(recipe.model, data.labels.shape[1], weights=recipe.weights, seed=seed_of(seed, "init"))
        check_size(model.net, recipe, data.images.shape[2])
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model: nn.Module = model.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.parallel = nn.parallel.DistributedDataParallel(self.model) if world.size > 1 else self.model
        self.optimizer = recipe.optimizer.build(self.model.parameters())
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    def order(self, epoch: int) -> torch.Tensor:
        """The images of an epoch in the order of their turn; a function of the seed alone."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
        indices = self.utilize.epoch(self.data.n_real, self.data.source_of_synthetic, generator=generator)
        if len(indices) == 0:
            raise UserError("there are no images to train on")
        return indices

    def restore(self, state: dict[str, Any] | None) -> _Progress:
        if state is None:
            return _Progress()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return _Progress(**state["progress"])

    def state(self, done: _Progress) -> dict[str, Any]:
        progress = {name: getattr(done, name) for name in _Progress.__dataclass_fields__}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "progress": progress}

    def interval(self, done: _Progress) -> Entry:
        """Train up to the next evaluation, evaluate, and note the result in `done`."""
        began = time.monotonic()
        last = next(end for end in self.ends if end > done.step)
        torch.manual_seed(seed_of(self.seed, "train", done.step))
        self.model.train()
        batches = stream(self.order, self.recipe.batch_size, done.step)
        losses = [self.step(number, next(batches)) for number in range(done.step, last)]
        entry = {"step": last, "epoch": last * self.recipe.batch_size / self.epoch_length}
        entry |= {"train/loss": self.mean_loss(losses, done.step), "lr": self.optimizer.param_groups[0]["lr"]}
        entry |= self.validate()
        self.choose(done, entry)
        done.step, done.seconds = last, done.seconds + time.monotonic() - began
        done.history.append(entry)
        return entry

    def step(self, number: int, indices: torch.Tensor) -> torch.Tensor:
        """One optimiser step; the loss stays on the device, so that a GPU need not wait."""
        images, labels = self.batch(indices)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * schedule(number, self.total, self.recipe.warmup)

        def closure() -> Any:  # torch says float, and means this tensor
            self.optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
                logits = self.parallel(images)
            smooth = self.recipe.label_smoothing
            loss = cross_entropy(logits.float(), labels, label_smoothing=smooth, reduction="sum")
            # DDP averages over processes, so each one's share counts size-fold: the mean over the whole batch
            loss = loss * (self.world.size / len(indices))
            loss.backward()
            return loss

        return cast(torch.Tensor, self.optimizer.step(closure)).detach()

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented images in [0, 1] and soft labels: every process makes the whole batch and keeps its slice."""
        images = resized(gather(self.data.images, indices).to(self.device), self.recipe.image_size)
        labels = self.data.labels[indices].to(self.device, torch.float32)
        for transform in self.recipe.transforms:
            images, labels = transform(images, labels)
        mine = self.world.mine
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return images[mine].to(torch.float32, memory_format=layout) / 255, labels[mine]

    def mean_loss(self, losses: list[torch.Tensor], first: int) -> float:
        """The mean loss of the interval that began at step `first`, over all processes."""
        values = torch.stack(losses)
        if self.world.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.world.size
        if not bool(values.isfinite().all()):
            step = first + int(values.isfinite().logical_not().nonzero()[0]) + 1
            raise RuntimeError(f"the training loss is {values[step - first - 1].item()} at step {step}; lower the lr")
        return float(values.double().mean())

    def validate(self) -> Entry:
        if len(self.data.val_labels) == 0:
            return {}
        logits = predict(prepared(self.recipe, self.model), self.data.val_images)
        labels = torch.as_tensor(self.data.val_labels)
        top1 = (logits.argmax(1) == labels).double().mean()
        return {"val/top1": float(top1), "val/loss": float(cross_entropy(logits, labels))}

    def choose(self, done: _Progress, entry: Entry) -> None:
        """Keep these weights if validation likes them better than any before."""
        score = (entry["val/top1"], -entry["val/loss"]) if "val/top1" in entry else None
        if score is None or done.score is None or score > done.score:
            done.score = score
            done.best = {name: value.detach().to("cpu", copy=True) for name, value in self.model.state_dict().items()}


def evaluation_steps(total: int, evaluations: int) -> list[int]:
    """The steps after which the model is evaluated: evenly spread, the last one among them."""
    return sorted({max(1, round(total * part / evaluations)) for part in range(1, evaluations + 1)})


def schedule(step: int, total: int, warmup: float) -> float:
    """The share of the peak learning rate at `step` (0 .. total - 1): linear over `warmup`, then a cosine to 0."""
    rise = round(total * warmup)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))


def stream(order: Callable[[int], torch.Tensor], size: int, first: int) -> Iterator[torch.Tensor]:
    """Batch `first` and all that follow of the endless sequence of epochs; every batch is full."""
    length = len(order(0))
    epoch, start = divmod(first * size, length)
    rest = order(epoch)[start:]
    while True:
        while len(rest) < size:
            epoch += 1
            rest = torch.cat([rest, order(epoch)])
        yield rest[:size]
        rest = rest[size:]


def gather(images: Images, indices: torch.Tensor) -> torch.Tensor:
    """The images at `indices`; only these are read of a mapped array."""
    if isinstance(images, torch.Tensor):
        return images[indices.to(images.device)]
    return torch.from_numpy(images[indices.numpy()])


def predict(model: nn.Module, images: Images, batch: int = 256) -> torch.Tensor:
    """Logits (float32, on the CPU) of images, with the model in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        parts = [model(gather(images, rows).to(device)) for rows in torch.split(torch.arange(len(images)), batch)]
    return torch.cat(parts).float().cpu()


@contextmanager
def _contained(threads: int, device: torch.device) -> Iterator[None]:
    """Leave the process's random state, thread count and cuDNN choices as they were."""
    before = torch.get_num_threads()
    on_gpu = device.type == "cuda"
    torch.set_num_threads(before if on_gpu else threads)
    deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    try:
        with torch.random.fork_rng(devices=[device] if on_gpu else []), deterministic:
            yield
    finally:
        torch.set_num_threads(before)
