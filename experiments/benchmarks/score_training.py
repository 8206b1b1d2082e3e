"""What ScoreAug costs a step of EDM's training, and what the step is worth beside the loop that one would write: the
same net in float32, eager, with its memory laid out as it comes. Interleaved in one process, in turns of some steps.

    python experiments/benchmarks/score_training.py
    python experiments/benchmarks/score_training.py --size 64 --channels 128 256 256 256 --precision bf16 --compile
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from generation import spread

from synthaug.diffusion.score_models import OnClean, ScoreAug, TrainedEDM
from synthaug.diffusion.score_training import Lesson, new_net
from synthaug.training import ALONE

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ARMS: dict[str, dict[str, Any]] = {
    "EDM": {}, "ScoreAug": {"scoreaug": ScoreAug()}, "non-leaky": {"clean": OnClean()},
    "both": {"clean": OnClean(), "scoreaug": ScoreAug()},
}  # fmt: skip


def step_of(model: TrainedEDM, images: np.ndarray) -> Callable[[int], None]:
    """One step of training, forth and back, as the stage does it."""
    net: Any = new_net(model, images.shape[2], 10)
    net = net.to(DEVICE, memory_format=torch.channels_last)
    lesson = Lesson(model, net, (images, np.zeros(len(images), int)), ALONE, DEVICE)
    optimizer = torch.optim.AdamW(net.parameters(), lr=model.lr)

    def step(number: int) -> None:
        optimizer.zero_grad()
        (loss,) = lesson.loss(number)
        loss.backward()
        optimizer.step()

    return step


def plain_step(model: TrainedEDM, images: np.ndarray) -> Callable[[int], None]:
    """The loop that one would write: no more than the formulas."""
    net: Any = new_net(model, images.shape[2], 10).to(DEVICE)
    optimizer = torch.optim.AdamW(net.parameters(), lr=model.lr)
    pictures = torch.from_numpy(images).to(DEVICE)

    def step(number: int) -> None:
        optimizer.zero_grad()
        x0 = pictures[torch.randint(len(pictures), (model.batch_size,), device=DEVICE)].float() / 127.5 - 1
        sigma = (1.2 * torch.randn(len(x0), 1, 1, 1, device=DEVICE) - 1.2).exp()
        total = sigma**2 + 0.25
        x = x0 + sigma * torch.randn_like(x0)
        out = net(x / total.sqrt(), sigma.flatten().log() / 4, None)
        guess = 0.25 / total * x + 0.5 * sigma / total.sqrt() * out
        (total / (0.5 * sigma) ** 2 * (guess - x0) ** 2).mean().backward()
        optimizer.step()

    return step


def timed(step: Callable[[int], None], first: int, steps: int) -> tuple[float, float]:
    """Milliseconds a step by the clock and by the processor time, which a busy machine blurs less."""

    def now() -> tuple[float, float]:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    began = now()
    for number in range(first, first + steps):
        step(number)
    wall, cpu = (1000 * (after - before) / steps for before, after in zip(began, now(), strict=True))
    return wall, cpu


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All in turns, after one turn to warm up; every ratio is to EDM in the same turn."""
    torch.set_num_threads(args.threads)
    images = np.random.default_rng(0).integers(0, 256, (256, 3, args.size, args.size), dtype=np.uint8)
    common: dict[str, Any] = {"channels": tuple(args.channels), "batch_size": args.batch, "threads": args.threads}
    fast = common | {"precision": args.precision, "compile": args.compile}
    steps = {name: step_of(TrainedEDM(**fast | arm), images) for name, arm in ARMS.items()}
    steps["plain loop"] = plain_step(TrainedEDM(**common), images)
    turns = [
        {name: timed(step, turn * args.steps, args.steps) for name, step in steps.items()}
        for turn in range(args.turns + 1)
    ][1:]
    result: dict[str, Any] = {
        "device": str(DEVICE),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        **vars(args),
    }
    for place, clock in enumerate(("wall", "cpu")):
        ms = {name: [turn[name][place] for turn in turns] for name in steps}
        result[f"{clock}_ms_a_step"] = {name: spread(values) for name, values in ms.items()}
        ratios = {n: [a / b for a, b in zip(values, ms["EDM"], strict=True)] for n, values in ms.items()}
        result[f"{clock}_ratio"] = {name: spread(values) for name, values in ratios.items()}
    return result


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 64])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=20, help="in each turn")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    print(json.dumps(measure(parser.parse_args(argv)), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
