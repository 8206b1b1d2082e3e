"""What DiffAug costs an optimiser step: the same step with a second crop, with a twin made beforehand (one of 8, drawn
from memory), with a twin made in the loop, and with a twin for half of the images. Interleaved in one process.

    python experiments/benchmarks/diffaug_training.py
    python experiments/benchmarks/diffaug_training.py --model resnet18 --size 64 --steps 4

Without `--denoiser` the UNet is TrainedUNet's with random weights: no worse to time. The twins made beforehand are
decoded once a run; `cached, with decoding` spreads that over the steps of a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch
from generation import spread

from synthaug.classify.augment import RandomCrop
from synthaug.classify.loop import Data, train
from synthaug.classify.mixing import Concat
from synthaug.classify.recipe import Recipe
from synthaug.classify.views import DiffAugView, SecondView, View
from synthaug.data.dataset import Dataset
from synthaug.data.decoded import decode_all
from synthaug.data.sample import decode_image, encode_image, resize_image
from synthaug.diffusion.denoiser import NetDenoiser, UNetDenoiser
from synthaug.diffusion.pixel_models import PretrainedUNet, TrainedUNet
from synthaug.diffusion.unet import new_scheduler, new_unet

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
K = 8
VIEWS: dict[str, tuple[View, ...]] = {
    "second look": (SecondView(),),
    "cached": (DiffAugView(cached=K),),
    "in the loop": (DiffAugView(),),
    "half in the loop": (DiffAugView(p=0.5),),
    "no second row": (),
}


def denoiser_of(name: str | None, size: int) -> NetDenoiser:
    """A pretrained denoiser, or one of the shape that would be trained, its weights random."""
    if name is not None:
        return PretrainedUNet(name).load(None, DEVICE)
    torch.manual_seed(0)
    net: Any = new_unet(TrainedUNet(), size)
    net = net.to(DEVICE, memory_format=torch.channels_last).requires_grad_(False).eval()
    return UNetDenoiser(net, new_scheduler().alphas_cumprod, "v_prediction")


def data_of(images: int, size: int) -> tuple[Data, float]:
    """Digits with eight twins each (other digits, in their place), and the seconds it takes to decode the twins."""
    listing = Dataset("digits").open()
    entries = listing.splits["train"][:images]
    pixels = np.stack([resize_image(decode_image(listing.read(e.id)), size).transpose(2, 0, 1) for e in entries])
    twins = np.stack([np.roll(pixels, shift, 0) for shift in range(1, K + 1)], 1)
    stored = [
        encode_image(np.ascontiguousarray(twin.transpose(1, 2, 0))) for twin in twins.reshape(-1, *twins.shape[2:])
    ]
    began = time.perf_counter()
    decoded = decode_all(stored, size).reshape(twins.shape)
    seconds = time.perf_counter() - began
    labels = torch.nn.functional.one_hot(torch.tensor([e.label for e in entries]), len(listing.classes)).float()
    none = torch.empty(0, dtype=torch.long)
    return Data(torch.from_numpy(pixels), labels, len(pixels), none, pixels[:0], none, {0: decoded}), seconds


def a_step(recipe: Recipe, data: Data, denoiser: NetDenoiser) -> tuple[float, float]:
    """Milliseconds of a step in the second half of a short run, by the clock, and by the processor time, which a busy
    machine blurs less."""
    clocks: list[tuple[float, float]] = []

    def tick(entry: Any) -> None:
        clocks.append((time.perf_counter(), time.process_time()))

    done = train(recipe, Concat(), data, seed=0, report=tick, denoiser=denoiser)
    (wall, cpu), (wall_after, cpu_after) = clocks
    steps = done.steps / 2000
    return (wall_after - wall) / steps, (cpu_after - cpu) / steps


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time all in turns, after one turn to warm up; every ratio is to the second crop of the same turn."""
    torch.set_num_threads(args.threads)
    data, decoding = data_of(args.images, args.size)
    denoiser = denoiser_of(args.denoiser, args.size)
    plain = Recipe(
        model=args.model, steps=2 * args.steps, batch_size=args.batch, evaluations=2, threads=args.threads,
        transforms=(RandomCrop(padding=args.size // 16),),
    )  # fmt: skip
    recipes = {name: dataclasses.replace(plain, views=views) for name, views in VIEWS.items()}
    turns = [{n: a_step(r, data, denoiser) for n, r in recipes.items()} for _ in range(args.pairs + 1)][1:]
    result: dict[str, Any] = {"device": DEVICE, "torch": torch.__version__, "load": os.getloadavg()[0], **vars(args)}
    result["decoding_s"] = round(decoding, 3)
    for place, clock in enumerate(("wall", "cpu")):
        ms = {name: [turn[name][place] for turn in turns] for name in recipes}
        crop = ms["second look"]
        result[f"{clock}_ms_a_step"] = {name: spread(values) for name, values in ms.items()}
        ratios = {name: [a / b for a, b in zip(values, crop, strict=True)] for name, values in ms.items()}
        more = 1000 * decoding / args.run
        ratios["cached, with decoding"] = [(a + more) / b for a, b in zip(ms["cached"], crop, strict=True)]
        result[f"{clock}_ratio"] = {name: spread(values) for name, values in ratios.items()}
    return result


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--denoiser", help="nano:ddpm or a folder; random weights without")
    parser.add_argument("--model", default="small")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=700)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30, help="timed in each turn")
    parser.add_argument("--run", type=int, default=600, help="steps of the run that decodes the twins once")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    print(json.dumps(measure(parser.parse_args(argv)), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
