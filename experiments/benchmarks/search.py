"""What a search costs: trainings a minute against a plain PyTorch loop, what the driver adds to a training, several
seeds in one batched net, and a search of a whole grid against running the grid.

    python -m experiments.benchmarks.search               # all parts
    python -m experiments.benchmarks.search minute grid   # some

`minute`: the recipe of `digits_search.py` (150 steps of 32, ten looks at validation images, one at test images), as a
sweep with paired seeds on two cores through Ray, and one after another with ImageFolder and DataLoader, interleaved.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import synthaug
from experiments import digits_search
from experiments.kept import finished
from synthaug.classify.models import build
from synthaug.data.sample import decode_image, encode_image
from synthaug.evaluate.accuracy import Accuracy
from synthaug.experiment import Experiment, Sweep, replace
from synthaug.runtime.make import Plan
from synthaug.runtime.store import Store

TRAININGS, PAIRS, SHOTS = 24, 3, 5


def plain() -> Experiment:
    """The study's plain training, at five digits a class."""
    alone = {"method": None, "backbone": None, "evaluations": (Accuracy(),), "dataset.shots": SHOTS}
    made: Experiment = replace(digits_search.base(), alone)
    return made


# --- trainings a minute -----------------------------------------------------------------------------------------------


def folder_of(root: Path) -> Path:
    """The digits as people have them: a folder for each split and class."""
    store = Store(root / "home").prepare()
    listing = store.open(plain().dataset)
    for split in ("val", "test"):
        for number, entry in enumerate(listing.split(split)):
            place = root / split / str(entry.label) / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encode_image(decode_image(listing.read(entry.id))))
    from synthaug.stages.data import SUBSET, Pictures

    for number, entry in enumerate(Pictures(plain().dataset, listing).entries(SUBSET, 0)):
        place = root / "train" / str(entry.label) / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode_image(decode_image(listing.read(entry.id))))
    return root


def usual(root: Path, seed: int) -> float:
    """One training as it is usually written; its accuracy on the test images."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    torch.manual_seed(seed)
    recipe = plain().recipe
    assert recipe is not None and recipe.steps is not None
    seen = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    sets = {name: ImageFolder(str(root / name), seen) for name in ("train", "val", "test")}
    loaders = {n: DataLoader(s, 256 if n != "train" else 32, shuffle=n == "train") for n, s in sets.items()}
    net = build("small", 10).net
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)

    def accuracy(name: str) -> float:
        net.eval()
        with torch.no_grad():
            right = [(net(images).argmax(1) == labels).float() for images, labels in loaders[name]]
        net.train()
        return float(torch.cat(right).mean())

    step = 0
    while step < recipe.steps:
        for images, labels in loaders["train"]:
            optimizer.zero_grad()
            cross_entropy(net(images), labels).backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % (recipe.steps // recipe.evaluations) == 0:
                accuracy("val")
            if step == recipe.steps:
                break
    return accuracy("test")


def minute() -> None:
    """A sweep beside the usual loop, pair by pair; Ray is started once and before."""
    root = folder_of(Path(tempfile.mkdtemp()))
    warm = Sweep(base=replace(plain(), {"recipe.steps": 2, "recipe.evaluations": 1}), seeds=(900, 901, 902))
    synthaug.run(warm, home=root / "warm")
    ratios = []
    for pair in range(PAIRS):
        began = time.monotonic()
        ours = synthaug.run(
            Sweep(base=plain(), seeds=tuple(range(100 * pair, 100 * pair + TRAININGS))), home=root / f"home{pair}"
        )
        each = (time.monotonic() - began) / TRAININGS
        began = time.monotonic()
        theirs = [usual(root, seed) for seed in range(TRAININGS // 4)]
        their = (time.monotonic() - began) / len(theirs)
        ratios.append(their / each)
        top1 = np.mean([trial["metrics"]["test/top1"] for trial in ours["trials"]])
        print(
            f"  {60 / each:.0f} trainings a minute as a sweep (test {top1:.3f}), {60 / their:.0f} in the usual loop "
            f"({np.mean(theirs):.3f}): {ratios[-1]:.1f} times",
            flush=True,
        )
    print(f"minute: {np.median(ratios):.1f} times the usual loop's trainings (wanted >= 4)")


# --- what the driver adds ---------------------------------------------------------------------------------------------


def request() -> None:
    """Asking for the artefacts of a trial that are there: what planning costs each trial of a sweep."""
    home = Path(tempfile.mkdtemp())
    sweep = Sweep(base=replace(plain(), {"recipe.steps": 2, "recipe.evaluations": 1}), seeds=tuple(range(40)))
    synthaug.run(sweep, home=home)
    taken = []
    for _ in range(5):
        began, store = time.monotonic(), Store(home).prepare()
        plan = Plan(store)
        for trial in sweep.trials():
            plan.add(trial.experiment)
        assert not plan.todo()
        taken.append((time.monotonic() - began) / 40)
    began = time.monotonic()
    synthaug.run(sweep, home=home)
    again = (time.monotonic() - began) / 40
    print(f"request: {1000 * np.median(taken):.1f} ms a trial to find all there, {1000 * again:.0f} ms run again whole")


# --- several seeds in one net -----------------------------------------------------------------------------------------


def stacked(seeds: int = 10, batch: int = 32, size: int = 32) -> None:
    """A step of several seeds by `torch.func` against one after another: 1 thread, the best of many, in turn."""
    from torch.func import functional_call, stack_module_state

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    nets: list[nn.Module] = [
        build("small", 10, seed=seed).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for seed in range(seeds)
    ]
    images = torch.rand(seeds, batch, 3, size, size, device=device)
    labels = torch.randint(0, 10, (seeds, batch), device=device)
    alone = [torch.optim.AdamW(net.parameters(), 1e-3, fused=True) for net in nets]

    def one_after_another() -> None:
        for net, optimizer, x, y in zip(nets, alone, images, labels, strict=True):
            optimizer.zero_grad()
            cross_entropy(net(x.contiguous(memory_format=torch.channels_last)), y).backward()
            optimizer.step()

    base = copy.deepcopy(nets[0]).to("meta")
    weights, buffers = stack_module_state(nets)
    together = torch.optim.AdamW(list(weights.values()), 1e-3, fused=True)

    def asked(weights: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = functional_call(base, (weights, buffers), (x,))
        return found

    def at_once() -> None:
        together.zero_grad()
        logits = torch.vmap(asked)(weights, buffers, images)
        (cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / batch).backward()
        together.step()

    ways: dict[str, Callable[[], None]] = {"one": one_after_another, "all": at_once}
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(24):
        for name, way in ways.items():
            began = time.perf_counter() if device.type == "cuda" else time.process_time()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter() if device.type == "cuda" else time.process_time()
            if turn >= 4:
                best[name] = min(best[name], now - began)
    one, all_ = 1000 * best["one"], 1000 * best["all"]
    print(
        f"stacked: {seeds} seeds of {batch} images of {size} px on {device.type}: one after another {one:.1f} ms, "
        f"in one batched net {all_:.1f} ms: {one / all_:.2f} times"
    )


# --- a search against its grid ----------------------------------------------------------------------------------------


def grid() -> None:
    """Counted on the recorded grid of `digits_search.py`."""
    rows = finished(digits_search.grid(), digits_search.RESULTS)
    if len(rows) < len(digits_search.grid().trials()):
        print(f"grid: {len(rows)} of {len(digits_search.grid().trials())} trainings are recorded; digits_search first")
        return
    values = ({(r["arm"], r["seed"]): r["metrics"][name] for r in rows} for name in ("val/top1", "test/top1"))
    print("grid: " + digits_search.judged(*values))


PARTS: dict[str, Callable[[], None]] = {"minute": minute, "request": request, "stacked": stacked, "grid": grid}


def main(asked: list[str]) -> None:
    for name in asked or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
