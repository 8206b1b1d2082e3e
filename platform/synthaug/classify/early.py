"""The net that tells slow images from fast ones: some epochs, after each of which all training images are asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import torch
from torch import nn

from synthaug.classify.loop import Data, Images, Progress, Run, exact, features, predict
from synthaug.classify.mixing import Concat
from synthaug.classify.models import prepared
from synthaug.classify.recipe import Recipe
from synthaug.classify.subset import Early, Layer
from synthaug.training import ALONE, Checkpoint, Entry, Report, World, device_clock


@dataclass
class Watched:
    """What was seen of each image, from before the first epoch on: losses, margins, and the share that was wrong."""

    losses: list[torch.Tensor] = field(default_factory=list)
    margins: list[torch.Tensor] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Learned:
    """The net after its last epoch, and what was seen after each (E x N, float32)."""

    model: dict[str, torch.Tensor]
    losses: np.ndarray
    margins: np.ndarray
    history: list[Entry]
    steps: int
    seconds: float


def train_early(
    recipe: Recipe, early: Early, images: Images, labels: torch.Tensor, *, seed: int, report: Report,
    checkpoint: Checkpoint | None = None, world: World = ALONE, device: torch.device | None = None,
) -> Learned:  # fmt: skip
    """Train `early.of(recipe)` on real images (uint8 NCHW) with soft labels; the same, interrupted or not. Nothing
    else enters: no validation, and of several weights none is chosen."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe, none = early.of(recipe), torch.empty(0, dtype=torch.long)
    data = Data(images, labels, len(labels), none, images[:0], none)
    with exact(recipe, device):
        run = Run(recipe, Concat(), data, seed, world, device, None)
        state = checkpoint.load() if checkpoint else None
        done, seen = run.restore(state), Watched(**state["seen"]) if state else Watched()
        if not seen.errors:
            look(run, seen)
        while (epoch := len(seen.errors)) <= early.epochs and not early.is_over(seen.errors):
            last = max(1, round(epoch * len(labels) / recipe.batch_size))
            # of fewer images than a batch holds a step goes through several epochs
            run.advance(done, max(last, done.step), checkpoint, {"seen": vars(seen)})
            began = device_clock()
            look(run, seen)
            done.seconds += device_clock() - began
            note(done, seen, report)
            if checkpoint and checkpoint.due():
                checkpoint.save(run.state(done) | {"seen": vars(seen)})
    model = {name: value.detach().cpu() for name, value in run.model.state_dict().items()}
    losses, margins = (torch.stack(values[1:]).numpy() for values in (seen.losses, seen.margins))
    return Learned(model, losses, margins, done.history, done.step, done.seconds)


def note(done: Progress, seen: Watched, report: Report) -> None:
    """What the last epoch was like."""
    entry = {"step": float(done.step), "epoch": float(len(seen.errors) - 1), "train/top1": 1 - seen.errors[-1]}
    entry |= {"train/loss": fmean(done.losses)} if done.losses else {}
    done.losses = []
    done.history.append(entry)
    report(entry)


def look(run: Run, seen: Watched) -> None:
    """Ask all images as they are, without transforms; processes share them, and ask one net."""
    if run.world.size > 1:  # statistics of batch norm are each process's own
        for buffer in run.model.buffers():
            torch.distributed.broadcast(buffer, 0)
    labels = run.data.labels.argmax(1)  # of real images they are hard
    mine = torch.arange(len(labels))[run.world.mine]
    logits = predict(prepared(run.recipe, run.model), run.data.images, rows=mine).double()
    found = torch.zeros(2, len(labels), dtype=torch.float64)
    found[:, mine] = signals(logits, labels[mine])
    if run.world.size > 1:
        found = found.to(run.device)
        torch.distributed.all_reduce(found)
    losses, margins = found.cpu().float()
    seen.losses.append(losses)
    seen.margins.append(margins)
    seen.errors.append(float((margins <= 0).double().mean()))


def signals(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of each row, and its margin: the probability of the right class less the highest of the others."""
    p = logits.softmax(1)
    right = p.gather(1, labels[:, None])[:, 0]
    others = p.scatter(1, labels[:, None], -1.0).amax(1)
    # of one class alone there are no others
    return torch.stack([nn.functional.cross_entropy(logits, labels, reduction="none"), right - others.clamp(min=0)])


def outputs(model: nn.Module, images: Images, layer: Layer) -> np.ndarray:
    """What a trained net, as it is evaluated, puts out of each image: its logits, or what its last layer is given."""
    return (predict if layer == "logits" else features)(model, images).numpy()
