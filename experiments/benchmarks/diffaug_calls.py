"""What asking costs: denoiser calls and milliseconds an image of DE (all times in one pass, and one time after
another), adaptive DE (which stops asking about an image whose first class leads by the margin) and DDA. Interleaved in
one process, test digits of 32 px, a small net that is trained first.

    python experiments/benchmarks/diffaug_calls.py --denoiser nano:ddpm
    python experiments/benchmarks/diffaug_calls.py --denoiser nano:ddpm --images 1

With random weights (no `--denoiser`) times are right, but calls and agreement of adaptive DE say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffaug_training import DEVICE, denoiser_of
from generation import spread

from synthaug.classify.augment import RandomCrop
from synthaug.classify.loop import Data, train
from synthaug.classify.mixing import Concat
from synthaug.classify.models import build, prepared
from synthaug.classify.recipe import Recipe
from synthaug.diffusion.denoiser import UNetDenoiser
from synthaug.diffusion.one_step import Diffusion
from synthaug.evaluate.adapt import DDAImages
from synthaug.evaluate.predict import TIMES, Ensemble, ensemble
from synthaug.methods.diffuse_denoise import noise_of
from synthaug.nano.measure_ddpm import digits
from synthaug.settings import seed_of

Ask = Callable[[], np.ndarray]  # probabilities of all images
LATER = TIMES[1:]


@dataclass(frozen=True)
class Asked:
    """A classifier, a denoiser, and test images (uint8 NCHW) with a seed each."""

    model: torch.nn.Module
    denoiser: UNetDenoiser
    images: np.ndarray

    @property
    def seeds(self) -> range:
        return range(len(self.images))

    @property
    def x(self) -> torch.Tensor:
        return torch.from_numpy(self.images).to(DEVICE).float() / 255

    def guesses(self, time_: float, chosen: np.ndarray) -> torch.Tensor:
        """What some of the images are denoised to from one time, in [0, 1]; noise as `ensemble` draws it."""
        x = self.x[torch.from_numpy(chosen)]
        noise = noise_of([seed_of(self.seeds[n], time_) for n in chosen.tolist()], x)
        with torch.inference_mode():
            return Diffusion()(x, torch.full((len(x),), time_), self.denoiser, noise)

    def at_once(self) -> np.ndarray:
        with torch.inference_mode():
            return ensemble(self.model, self.x, self.denoiser, TIMES, self.seeds).cpu().numpy()

    def one_by_one(self) -> np.ndarray:
        everyone = np.arange(len(self.images))
        with torch.inference_mode():
            found = [self.model(self.x).softmax(1)]
            found += [self.model(self.guesses(time_, everyone)).softmax(1) for time_ in LATER]
        return torch.stack(found).mean(0).cpu().numpy()

    def adaptive(self, margin: float) -> np.ndarray:
        def copy(number: int, rows: np.ndarray) -> np.ndarray:
            return (self.guesses(LATER[number - 1], rows) * 255).round().to(torch.uint8).cpu().numpy()

        log_p, _ = Ensemble(margin=margin)(self.model, self.images, copy)
        return np.asarray(np.exp(log_p))

    def dda(self) -> np.ndarray:
        adapted = DDAImages().sample(self.x * 2 - 1, self.denoiser, self.seeds)
        with torch.inference_mode():
            return np.asarray(self.model((adapted.clamp(-1, 1) + 1) / 2).softmax(1).cpu())


def classifier(steps: int, threads: int) -> torch.nn.Module:
    """The small net after some steps on all training digits."""
    pixels, labels = digits("train")
    none = torch.empty(0, dtype=torch.long)
    soft = torch.nn.functional.one_hot(torch.from_numpy(labels), 10).float()
    data = Data(torch.from_numpy(pixels), soft, len(pixels), none, pixels[:0], none)
    recipe = Recipe(steps=steps, transforms=(RandomCrop(padding=2),), evaluations=1, threads=threads)
    net = build("small", 10)
    net.load_state_dict(train(recipe, Concat(), data, seed=0, report=lambda entry: None).model)
    return prepared(recipe, net).to(DEVICE)


def timed(asked: Asked, ask: Ask) -> tuple[float, float, np.ndarray]:
    """Milliseconds and denoiser calls an image, and what was answered."""
    before, began = asked.denoiser.rows, time.perf_counter()
    found = ask()
    seconds = time.perf_counter() - began
    return 1000 * seconds / len(found), (asked.denoiser.rows - before) / len(found), found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Warm all up, then time them in turns; a ratio is to DE in one pass of the same turn."""
    torch.set_num_threads(args.threads)
    pixels, labels = digits("test")
    model = classifier(args.train_steps, args.threads)
    asked = Asked(model, denoiser_of(args.denoiser, pixels.shape[2]), pixels[: args.images])
    ways: dict[str, Ask] = {
        "DE, one pass": asked.at_once,
        "DE, one by one": asked.one_by_one,
        f"adaptive DE, {args.margin:g}": lambda: asked.adaptive(args.margin),
        "DDA": asked.dda,
    }
    turns = [{name: timed(asked, ask) for name, ask in ways.items()} for _ in range(args.pairs + 1)][1:]
    answers = {name: p.argmax(1) for name, (_, _, p) in turns[0].items()}
    full = turns[0]["DE, one pass"][2]
    np.testing.assert_allclose(turns[0]["DE, one by one"][2], full, atol=1e-4)
    return {
        "device": DEVICE, "torch": torch.__version__, "load": os.getloadavg()[0], **vars(args),
        "calls": {name: round(turns[0][name][1], 2) for name in ways},
        "ms_an_image": {name: spread([turn[name][0] for turn in turns]) for name in ways},
        "ratio": {name: spread([turn[name][0] / turn["DE, one pass"][0] for turn in turns]) for name in ways},
        "same_answer_as_de": {name: float((found == full.argmax(1)).mean()) for name, found in answers.items()},
        "top1": {name: float((found == labels[: args.images]).mean()) for name, found in answers.items()},
    }  # fmt: skip


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--denoiser", help="nano:ddpm or a folder; random weights without")
    parser.add_argument("--images", type=int, default=32, help="asked about together")
    parser.add_argument("--margin", type=float, default=0.9)
    parser.add_argument("--train-steps", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    print(json.dumps(measure(parser.parse_args(argv)), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
