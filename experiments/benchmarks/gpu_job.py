"""What the parts of gpu.py share: how large things are, the table, clocks, memory and images."""

from __future__ import annotations

import gc
import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import numpy as np
import torch
from generation import DEVICE, save_sd15, spread
from PIL import Image

from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.finetune import LoRA, TextualInversion

GPU = DEVICE == "cuda"
KINDS = (TextualInversion, LoRA)
# theirs, ours: sources and variants, of ours all in one batch; gif: precision and latents; lessons: kind, precision,
# images of a batch of `batch` in memory at once, checkpointing; nets: for DiffAug, with pixels and batch
FULL = SimpleNamespace(
    pixels=(512, 256), steps=(10, 4), theirs=(2, 5), ours=(8, 4), turns=3, precision="fp16", compiler="inductor",
    gif=(("fp16", 5), ("fp16", 20), ("fp32", 5)), batch=64, lessons=(
        *((kind, "bf16", 64, again) for again in (False, True) for kind in KINDS),
        *((kind, "bf16", micro, False) for micro in (8, 16) for kind in KINDS),
        *((kind, "fp32", 16, again) for again in (False, True) for kind in KINDS),
        *((kind, "fp32", micro, False) for micro in (64, 8) for kind in KINDS),
    ), net="resnet50", net_pixels=224, net_batch=128, files=1024, workers=min(14, max(1, (os.cpu_count() or 1) - 2)),
    nets=(("small", 32, 64), ("resnet18", 64, 128)), net_steps=20, sweep=(),
)  # fmt: skip
TINY = SimpleNamespace(
    pixels=(16,), steps=(3, 2), theirs=(1, 2), ours=(2, 1), turns=1, precision="fp32", compiler="eager",
    gif=(("fp32", 2),), batch=4, lessons=((TextualInversion, "fp32", 2, False), (LoRA, "bf16", 4, True)),
    net="small", net_pixels=32, net_batch=8, files=16, workers=1, nets=(("small", 16, 4),), net_steps=1,
    sweep=("--set", "seeds=1", "--set", "recipe.steps=8", "--set", 'arms={"plain": {}}'),
)  # fmt: skip


@dataclass
class Job:
    """What a part is given: how large things are, where they are kept, and the table."""

    part: str
    scale: SimpleNamespace
    keep: Path
    table: TextIO = sys.stdout

    def say(self, what: str, found: str, device: str | None = None) -> None:
        on = (torch.cuda.get_device_name() if GPU else "CPU") if device is None else device
        print(f"| {self.part} | {what} | {found} | {on} |", file=self.table, flush=True)

    def model(self) -> Path:
        """Where the text-to-image model lies; made where it is not there."""
        if self.scale is TINY:
            return Backbone("nano:sd").folder()
        if not (self.keep / "sd15").exists():
            # Random numbers for a billion weights take the CPU a minute. Renamed: what is there is whole.
            with tempfile.TemporaryDirectory(dir=self.keep) as half, torch.device(DEVICE):
                save_sd15(Path(half) / "sd15", 512)
                (Path(half) / "sd15").rename(self.keep / "sd15")
        return self.keep / "sd15"


def now() -> float:
    """The clock, when the device has done what it was given."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def said(values: Iterable[float]) -> str:
    found = spread(list(values))
    return f"{found['median']:.4g} ({found['min']:.4g}-{found['max']:.4g})"


def versus(rates: dict[str, list[float]]) -> str:
    """Images a second of each, and how many times those of the first, turn by turn."""
    first, *others = rates
    ratios = {name: [b / a for a, b in zip(rates[first], rates[name], strict=True)] for name in others}
    found = [f"{name} {said(values)} img/s" for name, values in rates.items()]
    return ", ".join(found + [f"{name} / {first} **{said(values)}**" for name, values in ratios.items()])


def fresh() -> None:
    """From here on `peak` counts."""
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> str:
    held = torch.cuda.max_memory_allocated() if GPU else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"peak {held / 2**30:.1f} GiB with all weights" if GPU else f"{held / 2**30:.1f} GiB since it began"


def photos(number: int, pixels: int) -> list[np.ndarray]:
    """Squares out of two photographs: what random weights draw is no fair load for PNG and JPEG."""
    from sklearn.datasets import load_sample_images

    rng, found = np.random.default_rng(0), []
    whole = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(number):
        side = int(rng.integers(200, 400))
        left, top = (int(rng.integers(length - side)) for length in whole[i % 2].size)
        square = whole[i % 2].crop((left, top, left + side, top + side))
        found.append(np.array(square.resize((pixels, pixels), Image.Resampling.BICUBIC)))
    return found


def encoded(image: np.ndarray, form: str, **options: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, form, **options)
    return out.getvalue()
