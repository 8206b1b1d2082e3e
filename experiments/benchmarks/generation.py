"""Images per second: synthaug's pipeline against the loop that users have today, interleaved in one process.

The loop is that of the published generators: one call of diffusers' StableDiffusionImg2ImgPipeline per real image,
its variants as the batch, every image saved as PNG before the next call.

    python experiments/benchmarks/generation.py --pairs 5
    python experiments/benchmarks/generation.py --pairs 5 --precision bf16 --compile
    python experiments/benchmarks/generation.py --shape sd15 --size 512 --precision bf16 --compile     (a GPU)

`--shape sd15` builds a model of Stable Diffusion 1.5's shape with random weights: good for speed, not for images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from synthaug.data.sample import encode_image
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.pipeline import Pipeline

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Make = Callable[[Path], int]


def sources(number: int, size: int) -> tuple[list[np.ndarray], list[str]]:
    """Handwritten digits and the words for them."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = [Image.fromarray((255 - image * 15.9).astype(np.uint8)) for image in digits.images[:number]]
    images = [np.array(g.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)) for g in grey]
    return images, [f"a photo of a {WORDS[label]}" for label in digits.target[:number]]


def save_sd15(folder: Path, size: int) -> None:
    """A pipeline of Stable Diffusion 1.5's shape, its weights random."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from synthaug.nano.captions import tokenizer

    words = tokenizer()
    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2,
        up_block_types=("UpDecoderBlock2D",) * 4, sample_size=size,
    )  # fmt: skip
    unet = UNet2DConditionModel(sample_size=size // 8, cross_attention_dim=768)  # the other defaults are SD 1.5's
    pipe: Any = StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=CLIPTextModel(text), tokenizer=words, safety_checker=None,
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.to(dtype=torch.bfloat16).save_pretrained(folder)


def theirs(args: argparse.Namespace, model: Path) -> tuple[Make, Any]:
    """Today's loop."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline

    pipe: Any = StableDiffusionImg2ImgPipeline.from_pretrained(
        model, dtype=DTYPES[args.baseline_precision], safety_checker=None, requires_safety_checker=False
    ).to(DEVICE)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    images, prompts = sources(args.sources, args.size)

    def make(folder: Path) -> int:
        for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            made = pipe(
                prompt=[prompt] * args.variants, image=[Image.fromarray(image)] * args.variants,
                strength=args.strength, num_inference_steps=args.steps, guidance_scale=args.guidance,
                generator=torch.Generator().manual_seed(i),
            ).images  # fmt: skip
            for variant, result in enumerate(made):
                result.save(folder / f"{i}-{variant}.png")
        return int(len(images) * args.variants)

    return make, pipe


def ours(args: argparse.Namespace, model: Path) -> tuple[Make, Pipeline]:
    """Sources mixed in batches; images encoded in threads, in the format of the store."""
    backbone = Backbone(
        str(model), precision=args.precision, compile=args.compile, channels_last=args.channels_last,
        micro_batch=args.micro_batch, threads=args.threads,
    )  # fmt: skip
    pipeline = backbone.load(DEVICE)
    images, prompts = sources(args.sources, args.size)
    rows = [(i, variant) for variant in range(args.variants) for i in range(args.sources)]

    def make(folder: Path) -> int:
        pipeline.codec.forget()
        made = pipeline.img2img(
            [images[i] for i, _ in rows], [prompts[i] for i, _ in rows], [i * 1000 + v for i, v in rows],
            strength=args.strength, steps=args.steps, guidance=args.guidance, keys=[str(i) for i, _ in rows],
        )  # fmt: skip
        with ThreadPoolExecutor(4) as pool:
            for (i, variant), data in zip(rows, pool.map(encode_image, made), strict=True):
                (folder / f"{i}-{variant}").write_bytes(data)
        return len(rows)

    return make, pipeline


def per_image(make: Make, unet: torch.nn.Module, folder: Path) -> dict[str, float]:
    """Denoiser rows, denoiser calls and FLOPs of an image."""
    batches: list[int] = []
    hook = unet.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    with FlopCounterMode(display=False) as flops:
        images = make(folder)
    hook.remove()
    gflop = flops.get_total_flops() / images / 1e9
    return {"unet_rows": sum(batches) / images, "unet_batches": len(batches) / images, "gflop": round(gflop, 4)}


def speed(make: Make, folder: Path) -> tuple[float, float]:
    """Images a second, everything saved: by the clock, and by the processor time, which a busy machine blurs less."""
    began, busy = time.perf_counter(), time.process_time()
    images = make(folder)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return images / (time.perf_counter() - began), images / (time.process_time() - busy)


def spread(values: list[float]) -> dict[str, float]:
    middle = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key: round(value, 3) for key, value in middle.items()}


def measure(args: argparse.Namespace, model: Path, folder: Path) -> dict[str, Any]:
    """Warm both up, count, then time them in turns."""
    torch.set_num_threads(args.threads)
    make_theirs, pipe = theirs(args, model)
    make_ours, pipeline = ours(args, model)
    result: dict[str, Any] = {"device": DEVICE, "torch": torch.__version__, **vars(args), "model": model.name}
    result["theirs"] = per_image(make_theirs, pipe.unet, folder)
    if not args.compile:  # compiled code hides its operations from the counter
        result["ours"] = per_image(make_ours, pipeline.pipe.unet, folder)
    result["warm_up_s"] = round(args.sources * args.variants / speed(make_ours, folder)[0], 1)
    pairs = [(speed(make_theirs, folder), speed(make_ours, folder)) for _ in range(args.pairs)]
    for i, clock in enumerate(("wall", "cpu")):
        result[f"theirs_per_{clock}_s"] = spread([a[i] for a, _ in pairs])
        result[f"ours_per_{clock}_s"] = spread([b[i] for _, b in pairs])
        result[f"ratio_{clock}"] = spread([b[i] / a[i] for a, b in pairs])
    return result | {"counters": pipeline.counters}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano:sd", help="nano:NAME, a downloaded id, or a folder")
    parser.add_argument("--shape", choices=["sd15"], help="random weights of this shape instead of a model")
    parser.add_argument("--size", type=int, default=0, help="px; default the model's, 512 for sd15")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--sources", type=int, default=25)
    parser.add_argument("--variants", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--strength", type=float, default=0.9)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32", help="of ours")
    parser.add_argument("--baseline-precision", choices=list(DTYPES), default="fp32" if DEVICE == "cpu" else "fp16")
    parser.add_argument("--micro-batch", type=int, default=64)
    parser.add_argument("--compile", action="store_true", help="ours")
    parser.add_argument("--channels-last", action="store_true", help="ours")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        if args.shape:
            args.size = args.size or 512
            save_sd15(folder / args.shape, args.size)
        model = folder / args.shape if args.shape else Backbone(args.model).folder()
        if not args.size:
            unet, vae = (json.loads((model / part / "config.json").read_text()) for part in ("unet", "vae"))
            args.size = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
        print(json.dumps(measure(args, model, folder / "images"), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
