"""The training loop: a pure function of settings, data, a report and a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from synthaug.classify.mixing import Utilize
from synthaug.classify.models import build, centre, check_size, crop_of, head, prepared, resized
from synthaug.classify.recipe import Recipe
from synthaug.classify.views import Batch
from synthaug.diffusion.fit import contained
from synthaug.settings import UserError, seed_of
from synthaug.training import ALONE, STRETCH, Checkpoint, Entry, Report, World, all_losses, device_clock

if TYPE_CHECKING:
    from synthaug.diffusion.denoiser import Denoiser

Images = torch.Tensor | np.ndarray


@dataclass(frozen=True)
class Data:
    """Real ++ synthetic training images (uint8 NCHW, in memory or mapped) with soft labels, and a validation set.

    `source_of_synthetic[j]` is the index of the real image that image n_real + j was made from. `variants[v]` holds
    what view v of the recipe wants made beforehand: K images (uint8) of each real image, N x K x C x H x W.
    """

    images: Images
    labels: torch.Tensor
    n_real: int
    source_of_synthetic: torch.Tensor
    val_images: Images
    val_labels: torch.Tensor
    variants: Mapping[int, Images] = field(default_factory=dict)
    start: Mapping[str, torch.Tensor] | None = None  # weights that training goes on from

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
    denoiser_calls: int = 0


@dataclass
class Progress:
    """What a checkpoint holds beside model and optimiser."""

    step: int = 0
    score: tuple[float, float] | None = None  # (top-1, -loss) of `best`
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[Entry] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # since the last evaluation
    seconds: float = 0.0
    calls: int = 0  # rows of the batch that went through the denoiser, in all processes


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
    denoiser: Denoiser | None = None,
) -> Trained:
    """Train `recipe` on `data`; the same result whether or not it was interrupted.

    `report` is called after each evaluation, in every process. `denoiser` is for views that need one. Of a net with
    batch norm each process has its own statistics of its share of a batch, so that their number is not without effect.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with exact(recipe, device):
        run = Run(recipe, utilize, data, seed, world, device, denoiser)
        done = run.restore(checkpoint.load() if checkpoint else None)
        if run.total == 0:  # published weights, asked as they are
            report(run.untrained(done))
        while done.step < run.total:
            entry = run.interval(done, checkpoint)
            report(entry)
            # not after the last step: what is kept then is the result
            if checkpoint and done.step < run.total and checkpoint.due():
                checkpoint.save(run.state(done))
    return Trained(done.best, done.history, done.step, done.step * recipe.batch_size, done.seconds, done.calls)


@contextmanager
def exact(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """The threads of the recipe, and kernels that give the same bits each time."""
    # benchmark would choose kernels by their time, and so bits by what else the machine was doing
    same = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with contained(recipe.threads, device), same:
        yield


class Run:
    """Everything of a training run but its progress."""

    def __init__(
        self, recipe: Recipe, utilize: Utilize, data: Data, seed: int, world: World, device: torch.device,
        denoiser: Denoiser | None,
    ) -> None:  # fmt: skip
        if recipe.batch_size < world.size:
            raise UserError(f"batch_size {recipe.batch_size} is smaller than the number of workers, {world.size}")
        self.recipe, self.utilize, self.data, self.seed, self.world = recipe, utilize, data, seed, world
        self.device, self.denoiser = device, denoiser
        self.epoch_length = len(self.order(0))  # every epoch of a use is as long as its first
        self.total = recipe.total_steps(self.epoch_length)
        self.ends = evaluation_steps(self.total, recipe.evaluations)
        # the same start for every arm of a seed, so that arms are paired
        model = build(recipe.model, data.labels.shape[1], weights=recipe.weights, seed=seed_of(seed, "init"))
        if data.start is not None:
            model.load_state_dict(data.start)
        check_size(model.net, recipe, data.images.shape[2])
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model: nn.Module = model.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.parallel = nn.parallel.DistributedDataParallel(self.model) if world.size > 1 else self.model
        self.optimizer = recipe.optimizer.build(self.model.parameters())
        # kept, because the schedule overwrites lr, and a restored optimiser holds that of its last step
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    def order(self, epoch: int) -> torch.Tensor:
        """The images of an epoch in the order of their turn; a function of the seed alone."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
        indices = self.utilize.epoch(self.data.n_real, self.data.source_of_synthetic, generator=generator)
        if len(indices) == 0:
            raise UserError("there are no images to train on")
        return indices

    def restore(self, state: dict[str, Any] | None) -> Progress:
        if state is None:
            return Progress()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])

    def state(self, done: Progress) -> dict[str, Any]:
        progress = {name: getattr(done, name) for name in Progress.__dataclass_fields__}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "progress": progress}

    def untrained(self, done: Progress) -> Entry:
        """The weights as they are given, evaluated."""
        entry = {"step": 0.0, "epoch": 0.0} | self.validate()
        self.choose(done, entry)
        done.history.append(entry)
        return entry

    def interval(self, done: Progress, checkpoint: Checkpoint | None) -> Entry:
        """Train up to the next evaluation, evaluate, and note the result in `done`."""
        last = next(end for end in self.ends if end > done.step)
        self.advance(done, last, checkpoint)
        began = device_clock()
        # in epochs of this use: concatenation's are 1 + k times as long as those of the real images
        entry = {"step": last, "epoch": last * self.recipe.batch_size / self.epoch_length}
        entry |= {"train/loss": fmean(done.losses), "lr": self.optimizer.param_groups[0]["lr"]}
        entry |= self.validate()
        self.choose(done, entry)
        done.losses, done.seconds = [], done.seconds + device_clock() - began
        done.history.append(entry)
        return entry

    def advance(
        self, done: Progress, last: int, checkpoint: Checkpoint | None, more: Mapping[str, Any] = MappingProxyType({})
    ) -> None:  # fmt: skip
        """Train up to a step; `more` is kept beside the state."""
        self.model.train()  # validate() leaves it in evaluation mode
        batches = stream(self.order, self.recipe.batch_size, done.step)
        while done.step < last:
            self.stretch(done, batches, min(last, done.step + STRETCH))
            if checkpoint and done.step < last and checkpoint.due():
                checkpoint.save({**self.state(done), **more})

    def stretch(self, done: Progress, batches: Iterator[torch.Tensor], last: int) -> None:
        """Some steps, each with random numbers of its own, so that it does not matter where a run was resumed."""
        began, called = device_clock(), getattr(self.denoiser, "rows", 0)
        losses = []  # tensors: read once after the stretch, because reading one waits for the device
        for number in range(done.step, last):
            self.reseed(seed_of(self.seed, "train", number))
            losses.append(self.step(number, next(batches)))
        # each process's is its share times their number, so that DDP's mean is that of the batch
        done.losses += [value / self.world.size for value in all_losses(losses, done.step, self.world)]
        done.step, done.seconds = last, done.seconds + device_clock() - began
        rows = getattr(self.denoiser, "rows", 0) - called
        done.calls += rows * self.world.size  # they share each batch evenly

    def reseed(self, seed: int) -> None:
        """What torch.manual_seed does, for this device alone: that one takes a while, with every step too long."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def drawn(self, state: list[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """Where this process's random numbers are, or put back to where they were."""
        mine = [torch.default_generator]
        mine += [torch.cuda.default_generators[self.device.index or 0]] if self.device.type == "cuda" else []
        for generator, before in zip(mine, state or (), strict=False):
            generator.set_state(before)
        return [generator.get_state() for generator in mine] if state is None else state

    def step(self, number: int, indices: torch.Tensor) -> torch.Tensor:
        """One optimiser step; the loss stays on the device, so that a GPU need not wait."""
        parts = self.parts(number, indices)
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        # one forward of all rows (batch, views): where a net has batch norm they share its statistics, as in DiffAug
        images = joined([images for images, _ in parts]).contiguous(memory_format=layout)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * rate(self.recipe, number, self.total)
        passes, drawn = count(), self.drawn()

        def closure() -> Any:  # torch says float, and means this tensor
            self.optimizer.zero_grad()
            if again := next(passes):  # SAM asks twice, and is to ask about one loss: under the same masks of dropout
                self.drawn(drawn)
            precise = torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")
            # and batch norm counts a batch once
            with precise, statistics_of(self.model, kept=again > 0):
                logits = self.parallel(images)
            # in float32: bf16 has too few digits for the logarithm of a sum
            of_parts = logits.float().split([len(rows) for rows, _ in parts])
            loss = self.loss(of_parts, [labels for _, labels in parts])
            # DDP averages over processes, so each one's share counts size-fold: the mean over the whole batch
            loss = loss * (self.world.size / len(indices))
            loss.backward()
            return loss

        return cast(torch.Tensor, self.optimizer.step(closure)).detach()

    def loss(self, logits: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum over this process's rows: the batch's own loss, and what each view adds."""
        smooth = self.recipe.label_smoothing
        # torch spreads the smoothing over all C classes, UniDiffDA over all but the right one: for hard labels its
        # smoothing e is torch's e C / (C - 1)
        total = cross_entropy(logits[0], labels[0], label_smoothing=smooth, reduction="sum") * self.recipe.clean_weight
        for view, theirs, wanted in zip(self.recipe.views, logits[1:], labels[1:], strict=True):
            total = total + view.loss(logits[0], theirs, wanted, smooth)
        return total

    def parts(self, number: int, indices: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """This process's rows, images in [0, 1] and soft labels: of the batch itself, then of each view. Every process
        draws for the whole batch, so that their number changes nothing."""
        # moved as uint8, a quarter of the bytes of floats
        stored = resized(gather(self.data.images, indices).to(self.device), self.recipe.image_size)
        targets = self.data.labels[indices].to(self.device, torch.float32)
        images, labels = self.transformed(stored, targets)
        found = [(images[self.world.mine].to(torch.float32) / 255, labels[self.world.mine])]
        for place, view in enumerate(self.recipe.views):
            batch = Batch(
                plain=centre(stored, images.shape[2]), plain_labels=targets, images=images, labels=labels,
                again=partial(self.again, stored, targets, number), mine=self.world.mine, denoiser=self.denoiser,
                variant=partial(self.variant, place, indices),
            )  # fmt: skip
            # of its own, so that adding a view changes nothing for the batch and for the other views
            generator = torch.Generator(self.device).manual_seed(seed_of(self.seed, "view", number, place))
            found.append(view.rows(batch, generator))
        return found

    def transformed(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for transform in self.recipe.transforms:
            images, labels = transform(images, labels)
        return images, labels

    def again(self, images: torch.Tensor, labels: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The transforms once more, with random numbers that the batch itself does not miss."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(self.seed, "again", number))
            return self.transformed(images, labels)

    def variant(
        self, place: int, indices: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One of the variants that were made beforehand of each image, or of the source of a generated one."""
        made, n = self.data.variants[place], self.data.n_real
        sources = torch.cat([torch.arange(n), self.data.source_of_synthetic])[indices]  # a real image is its own source
        drawn = torch.randint(made.shape[1], (len(indices),), generator=generator, device=self.device).cpu()
        flat = made.reshape(-1, *made.shape[2:])  # N K C H W as (N K) C H W, a view: variant v of image i at i K + v
        images = resized(gather(flat, sources * made.shape[1] + drawn).to(self.device), self.recipe.image_size)
        return centre(images, crop_of(self.recipe)), self.data.labels[sources].to(self.device, torch.float32)

    def validate(self) -> Entry:
        if len(self.data.val_labels) == 0:
            return {}
        logits = predict(prepared(self.recipe, self.model), self.data.val_images)
        labels = torch.as_tensor(self.data.val_labels)
        top1 = (logits.argmax(1) == labels).double().mean()  # the labels of real images are hard
        return {"val/top1": float(top1), "val/loss": float(cross_entropy(logits, labels))}

    def choose(self, done: Progress, entry: Entry) -> None:
        """Keep these weights if validation likes them better than any before."""
        # by validation and never by the test images, as the released code of UniDiffDA does
        score = (entry["val/top1"], -entry["val/loss"]) if "val/top1" in entry else None
        if score is None or done.score is None or score > done.score:
            done.score = score
            done.best = {name: value.detach().to("cpu", copy=True) for name, value in self.model.state_dict().items()}


def evaluation_steps(total: int, evaluations: int) -> list[int]:
    """The steps after which the model is evaluated: evenly spread, the last one among them."""
    return sorted({max(1, round(total * part / evaluations)) for part in range(1, evaluations + 1)})


def rate(recipe: Recipe, step: int, total: int) -> float:
    """The share of the peak learning rate at `step` (0 .. total - 1): linear over the warm-up, then by the schedule."""
    rise = round(total * recipe.warmup)
    if step < rise:
        return (step + 1) / rise
    # 1 right after the warm-up; a cosine is 0 only after the last step, which would do nothing with it
    return recipe.schedule.share((step - rise) / (total - rise))


@contextmanager
def statistics_of(model: nn.Module, *, kept: bool) -> Iterator[None]:
    """The running statistics of batch norm left as they are, where they are to be kept."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats] if kept else []
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def stream(order: Callable[[int], torch.Tensor], size: int, first: int) -> Iterator[torch.Tensor]:
    """Batch `first` and all that follow of the endless sequence of epochs; every batch is full."""
    length = len(order(0))
    # found by counting, so that a resumed run need not go through what came before
    epoch, start = divmod(first * size, length)
    rest = order(epoch)[start:]
    while True:
        while len(rest) < size:  # more than once where a batch is larger than an epoch
            epoch += 1
            rest = torch.cat([rest, order(epoch)])
        yield rest[:size]
        rest = rest[size:]


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows after one another; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def gather(images: Images, indices: torch.Tensor) -> torch.Tensor:
    """The images at `indices`; only these are read of a mapped array."""
    if isinstance(images, torch.Tensor):
        return images[indices.to(images.device)]
    return torch.from_numpy(images[indices.numpy()])


def predict(model: nn.Module, images: Images, batch: int = 256, *, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Logits (float32, on the CPU) of images, or some rows of them, with the model in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()  # batch norm must not see which images are asked together
    with torch.inference_mode():
        asked = torch.split(torch.arange(len(images)) if rows is None else rows, batch)
        parts = [model(gather(images, some).to(device)) for some in asked]
    return torch.cat(parts).float().cpu()


def features(model: nn.Module, images: Images) -> torch.Tensor:
    """What the last layer of a model is given of images, with the model in evaluation mode."""
    seen = list[torch.Tensor]()
    _, last = head(model)
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1).float().cpu()))
    try:
        predict(model, images)
    finally:
        hook.remove()
    return torch.cat(seen)
