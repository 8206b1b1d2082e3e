"""Images per second of fine-tuning: latents and captions encoded once, against a loop that reads, resizes and encodes
each image of each batch again, as the published scripts do. Interleaved in one process, the same student in both.

    python experiments/benchmarks/finetuning.py --pairs 5 --kind words
    python experiments/benchmarks/finetuning.py --pairs 5 --kind lora
    python experiments/benchmarks/finetuning.py --kind lora --shape sd15 --size 512 --batch 4 --steps 5     (a GPU)
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generation import save_sd15, sources, spread
from PIL import Image
from torch import Tensor

from synthaug.data.sample import encode_image
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.codec import load_pipe, token_ids
from synthaug.diffusion.finetune import Finetune, LoRA, TextualInversion
from synthaug.diffusion.fit import fit
from synthaug.diffusion.tuning import Example, Latents, Lesson, Student, student_of, views
from synthaug.training import ALONE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS: dict[str, type[Finetune]] = {"words": TextualInversion, "lora": LoRA}


@dataclasses.dataclass(frozen=True)
class Reread:
    """Stands where the cached latents do: every image is decoded, resized and encoded when it is drawn."""

    pipe: Any
    files: Sequence[bytes]
    size: int

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        images = [Image.open(io.BytesIO(self.files[row])).convert("RGB") for row in rows.tolist()]
        resized = [np.array(image.resize((self.size, self.size), Image.Resampling.BICUBIC)) for image in images]
        x = torch.from_numpy(np.stack(resized)).to(DEVICE).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            posterior = self.pipe.vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(x)
        z: Tensor = self.pipe.vae.config.scaling_factor * (posterior.mean + posterior.std * noise)
        return z


class Forgetful:
    """A student that encodes every caption again."""

    def __init__(self, pipe: Any, student: Student) -> None:
        self.pipe, self.student, self.parameters = pipe, student, student.parameters

    def embed(self, captions: Sequence[str]) -> Tensor:
        found: Tensor = self.pipe.text_encoder(token_ids(self.pipe, captions))[0]
        return found

    def learned(self) -> dict[str, Tensor]:
        return self.student.learned()


def lessons(args: argparse.Namespace, model: Path) -> tuple[dict[str, Lesson], float]:
    """Both ways to run a step, and the seconds it took to encode everything once."""
    words = [str(i) for i in range(10)]
    finetune = KINDS[args.kind](batch_size=args.batch, lr=1e-4)
    pipe = load_pipe(model, torch.float32).to(DEVICE)
    for net in (pipe.unet, pipe.vae, pipe.text_encoder):
        net.requires_grad_(False)
    student = student_of(finetune, pipe, words)
    images, _ = sources(args.images, args.size)
    names = finetune.words(words)
    examples = [Example(image, names[i % 10], finetune.tokens(i % 10)) for i, image in enumerate(images)]
    began = time.perf_counter()
    latents = Latents.of(pipe, [views(finetune, e.image, args.size, 0, n) for n, e in enumerate(examples)])
    once = time.perf_counter() - began
    reread: Any = Reread(pipe, [encode_image(image) for image in images], args.size)
    forgetful: Student = Forgetful(pipe, student)
    return {
        "again": Lesson(finetune, pipe, forgetful, examples, reread, 0, ALONE),
        "once": Lesson(finetune, pipe, student, examples, latents, 0, ALONE),
    }, once


def speed(lesson: Lesson, steps: int) -> float:
    """Images per second of a few steps."""
    began = time.perf_counter()
    fit(lesson.student.parameters, lesson.loss, steps=steps, lr=1e-4, weight_decay=1e-2, clip=1.0,
        report=lambda entry: None)  # fmt: skip
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return steps * lesson.finetune.batch_size / (time.perf_counter() - began)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano:sd")
    parser.add_argument("--shape", choices=["sd15"])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--kind", choices=list(KINDS), default="lora")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "sd15" if args.shape else Backbone(args.model).folder()
        if args.shape:
            save_sd15(model, args.size)
        found, once = lessons(args, model)
        for lesson in found.values():
            speed(lesson, 2)
        pairs = [[speed(lesson, args.steps) for lesson in found.values()] for _ in range(args.pairs)]
    result = {"device": DEVICE, "torch": torch.__version__, **vars(args), "encoding_once_s": round(once, 2)}
    result |= {f"images_per_s_{name}": spread([pair[i] for pair in pairs]) for i, name in enumerate(found)}
    result |= {"ratio": spread([pair[1] / pair[0] for pair in pairs])}
    result |= {"median_ratio": round(statistics.median(pair[1] / pair[0] for pair in pairs), 2)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
