"""What one GPU does in at most 8 minutes: one table, each row printed as soon as it is known.

    python experiments/benchmarks/gpu.py                         everything, the most valuable first
    python experiments/benchmarks/gpu.py finetune classifier     some parts
    python experiments/benchmarks/gpu.py --tiny                  all of it with nano models on the CPU: does it run?
    python experiments/benchmarks/gpu.py where --alone           in this process, without a limit: for a profiler

Each part is a process that is ended at its limit (see PARTS; none with --tiny); one that fails leaves a row that says
why, and the others go on.
Stable Diffusion 1.5 has random weights: good for speed, not for images. `--keep` is the folder where these, compiled
code (a second run should compile nothing) and the log stay. `a (b-c)` is a median with the least and the largest of
some turns; what is compared took turns in one process. `theirs` is today's loop (generation.py).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

# Before a script looks for a GPU: with this it asks the driver, after which CUDA still works in a fork.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
if "--tiny" in sys.argv:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import start
import torch
from generation import DEVICE, Make, ours, parse, speed, theirs
from gpu_job import FULL, GPU, TINY, Job, encoded, fresh, now, peak, photos, said, versus
from gpu_training import classifier, diffaug

from synthaug.clip import Clip
from synthaug.diffusion.backbone import Backbone
from synthaug.methods.gif import GIF, Judge
from synthaug.settings import UserError

# What parts import when they need it: once, before they fork.
LATER = (
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img", "diffusers.loaders.peft", "peft",
    "torchvision.datasets", "torchvision.transforms.v2", "sklearn.datasets", "synthaug.diffusion.pipeline",
    "synthaug.diffusion.tuning", "transformers.models.clip.modeling_clip",
)  # fmt: skip


class Arms:
    """Ways to make images of a size, loaded: `theirs`, `ours`, and ours `compiled`."""

    def __init__(self, job: Job, pixels: int, names: Iterable[str]) -> None:
        self.job, self.pixels = job, pixels
        self.args, self.makes, self.loaded = dict[str, Any](), dict[str, Make](), dict[str, Any]()
        for name in names:
            scale, load = (job.scale.theirs, theirs) if name == "theirs" else (job.scale.ours, ours)
            given = ["--size", str(pixels), "--micro-batch", str(scale[0] * scale[1]), "--channels-last"]
            self.args[name] = args = parse([*given, "--precision", job.scale.precision])
            (args.sources, args.variants), args.steps = scale, job.scale.steps[-1]
            # generation.py would make images of the size that the model is for
            with mock.patch("generation.Backbone", partial(Backbone, resolution=pixels)):
                self.makes[name], self.loaded[name] = load(args, job.model())
            if name == "compiled":
                self.compile()

    def compile(self) -> None:
        """Compiles the blocks that repeat, in denoiser and decoder: they share code where they share a shape."""
        # A U-Net has a dozen shapes of each block; after 8 dynamo would leave the others as they are, and not say so.
        torch._dynamo.config.recompile_limit = 256
        how: dict[str, Any] = {"dynamic": False, "backend": self.job.scale.compiler}
        pipe = self.loaded["compiled"].pipe
        pipe.unet.compile_repeated_blocks(**how)
        for block in [*pipe.unet.modules(), *pipe.vae.decoder.modules()]:
            if type(block).__name__ == "ResnetBlock2D":
                block.compile(**how)
        files = sum(path.is_file() for path in Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*"))
        began = now()
        self.run("compiled")
        found = f"{now() - began:.1f} s, where {files} files of compiled code lay"
        self.job.say(f"{self.pixels} px, first call of {self.job.scale.compiler}", found)

    def run(self, name: str) -> float:
        """Images a second, files and all."""
        with tempfile.TemporaryDirectory() as folder:
            rate: float = speed(self.makes[name], Path(folder))[0]
            return rate


def generation(job: Job, names: tuple[str, ...] = ("theirs", "ours")) -> None:
    """Images a second in turns, after one turn to warm up."""
    for pixels in job.scale.pixels:
        arms = Arms(job, pixels, names)
        for steps in job.scale.steps:
            for args in arms.args.values():
                args.steps = steps
            turns = [{name: arms.run(name) for name in names} for _ in range(job.scale.turns + 1)][1:]
            rates = {name: [turn[name] for turn in turns] for name in names}
            job.say(f"{pixels} px, T = {steps}, {job.scale.precision}", versus(rates))


def where(job: Job) -> None:
    """What an image waits for."""
    for pixels in job.scale.pixels:
        arms = Arms(job, pixels, ("theirs", "ours"))
        for steps, name in ((steps, name) for steps in job.scale.steps for name in arms.makes):
            arms.args[name].steps = steps
            arms.run(name)
            made = arms.args[name].sources * arms.args[name].variants
            parts = ", ".join(f"{part} {ms / made:.1f}" for part, ms in shares(arms, name).items())
            job.say(f"{pixels} px, T = {steps}, {name}: ms an image", parts)
        for form, options in (("PNG", {}), ("JPEG", {"quality": 95, "subsampling": 0})):
            images, began = photos(8, pixels), time.perf_counter()
            size = sum(len(encoded(image, form, **options)) for image in images) / len(images)
            ms = 1000 * (time.perf_counter() - began) / len(images)
            job.say(f"{pixels} px, a photograph as {form}", f"{ms:.1f} ms in one thread, {size / 1000:.0f} kB", "CPU")


def shares(arms: Arms, name: str) -> dict[str, float]:
    """Milliseconds of one run; of what is on the device between events, so that measuring makes nothing wait. Where
    the device waits for its next kernel in the midst of a network, that counts as the network's."""
    spans: list[tuple[str, Any, Any]] = []

    def timed(title: str, function: Callable[..., Any], mark: Callable[[], Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            began = mark()
            found = function(*given, **named)
            spans.append((title, began, mark()))
            return found

        return call

    ours_, pipeline = name == "ours", arms.loaded[name]
    pipe = pipeline.pipe if ours_ else pipeline
    code = importlib.import_module("synthaug.diffusion.pipeline")
    parts = [(pipe.unet, "forward", "denoiser"), (pipe.vae, "decode", "decoding"), (pipe.vae, "encode", "encoding"),
             (pipe.text_encoder, "forward", "text"), (code, "_to_uint8", "to the CPU"),
             (pipe.image_processor, "postprocess", "to the CPU")]  # fmt: skip
    whole = (pipeline, "img2img", "call") if ours_ else (type(pipe), "__call__", "call")
    with contextlib.ExitStack() as stack:
        for owner, method, title in [*parts, whole]:
            mark = event if GPU and title != "call" else time.perf_counter
            stack.enter_context(mock.patch.object(owner, method, timed(title, getattr(owner, method), mark)))
        began = now()
        arms.run(name)
        ended = now()
    ms = dict.fromkeys([title for *_, title in parts], 0.0) | {"call": 0.0}
    for title, first, last in spans:
        ms[title] += 1000 * (last - first) if isinstance(first, float) else first.elapsed_time(last)
    total, inside = 1000 * (ended - began), ms.pop("call")  # which ends when the images are in memory
    return {"total": total, **ms, "files": total - inside, "else (the device idle)": inside - sum(ms.values())}


def event() -> Any:
    found = torch.cuda.Event(enable_timing=True)
    found.record()
    return found


def gif(job: Job) -> None:
    """GIF's step for the variants of a source. The CLIP is a small one: ViT-B/32 takes less than the decoder."""
    pixels = job.scale.pixels[0]
    scorer = Clip("nano:clip").load(DEVICE)
    judge = Judge.of(scorer, scorer.texts([f"a photo of a {i}" for i in range(10)]), photos(1, pixels)[0], None)
    for precision, number in job.scale.gif:
        pipeline = Backbone(str(job.model()), precision=precision, resolution=pixels).load(DEVICE)
        z, seconds = np.random.default_rng(0).standard_normal((number, *pipeline.codec.shape), np.float32), []
        fresh()
        for _ in range(job.scale.turns + 1):
            began = now()
            GIF().shift(pipeline, judge, z, range(number))
            seconds.append((now() - began) / number)
        found = f"{said(1000 * s for s in seconds[1:])} ms a latent, {peak()}"
        job.say(f"{number} latents, {pixels} px, {precision}", found)


def finetune(job: Job) -> None:
    """Steps of fine-tuning, in several arithmetics and sizes of parts."""
    for kind, precision, micro, checkpointing in job.scale.lessons:
        given = {"batch_size": job.scale.batch, "micro_batch": micro, "checkpointing": checkpointing}
        again = ", checkpointing" if checkpointing else ""
        what = f"{kind.__name__}, {job.scale.pixels[0]} px, {precision}, {micro} of {job.scale.batch} at once{again}"
        try:
            job.say(what, steps_of(job, kind(steps=3, precision=precision, **given)))
        except (RuntimeError, UserError) as error:  # the next may fit
            job.say(what, short(error))


def steps_of(job: Job, lesson: Any) -> str:
    from synthaug.diffusion.tuning import Example, tune

    times: list[float] = []

    def tick(entry: Any) -> None:  # after each step, its loss read
        if GPU and not times:  # the first is to warm up, and may have found that parts must be smaller
            torch.cuda.reset_peak_memory_stats()
        times.append(time.perf_counter())

    words, pixels = [str(i) for i in range(10)], job.scale.pixels[0]
    names, images = lesson.words(words), photos(8, pixels)
    examples = [Example(image, names[i], lesson.tokens(i)) for i, image in enumerate(images)]
    fresh()
    backbone, device = Backbone(str(job.model()), resolution=pixels), torch.device(DEVICE)
    _, done = tune(lesson, backbone, [], examples, words, seed=0, report=tick, device=device)
    rates = said(lesson.batch_size / (b - a) for a, b in zip(times, times[1:], strict=False))
    smaller = "" if done.micro_batch == lesson.micro_batch else f"; did not fit, so {done.micro_batch} at once"
    return f"{rates} img/s, {peak()}{smaller}"


def sweep(job: Job) -> None:
    """The command line's small sweep through Ray, in a fresh home."""
    if find_spec("ray") is None:
        job.say("start.py's small sweep", "skipped: Ray is not installed", "")
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as out:
        start.told("all", [*start.sweep(Path(folder) / "home"), *job.scale.sweep], folder)
    whole, *lines = out.getvalue().splitlines()
    spans = sorted((line.split(maxsplit=4) for line in lines), key=lambda span: -float(span[2]))  # begin, end, s, "s"
    longest = ", ".join(f"{name} {seconds}" for _, _, seconds, _, name in spans[:5])
    job.say("start.py's small sweep", f"{whole.removeprefix('all: ')}; of these, overlapping: {longest}")


def machine(job: Job) -> None:
    """What the numbers are of; and whether CUDA works in a fork."""
    side, dtype = (8192, torch.float16) if GPU else (256, torch.float32)
    x = torch.randn(side, side, device=DEVICE, dtype=dtype)  # of zeros or ones it would be faster
    seconds = []
    for _ in range(10):
        began = now()
        torch.mm(x, x)
        seconds.append(now() - began)
    memory = f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB, " if GPU else ""
    product = f"{2e-12 * side**3 / min(seconds):.3g} TFLOP/s in {str(dtype).removeprefix('torch.')}"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
    job.say("product of matrices", f"{memory}{product}; {versions}")


# In the order of their value, with the seconds that each may take.
PARTS: dict[str, tuple[Callable[[Job], object], float]] = {
    "machine": (machine, 20), "generation": (generation, 75),
    "compiled": (partial(generation, names=("theirs", "ours", "compiled")), 130),
    "again": (lambda job: Arms(job, job.scale.pixels[0], ["compiled"]), 25), "where": (where, 40), "gif": (gif, 25),
    "finetune": (finetune, 60), "classifier": (classifier, 45), "diffaug": (diffaug, 25), "sweep": (sweep, 40),
}  # fmt: skip


def short(error: BaseException) -> str:
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}".replace("|", "/")


def alone(job: Job) -> None:
    """The part in this process: only rows go to stdout, what libraries print goes to stderr."""
    job.table = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if not GPU:  # several threads wait for one another on a busy machine
        torch.set_num_threads(1)
    try:
        PARTS[job.part][0](job)
    except Exception as error:  # whatever it is: it is a row, and the other parts go on
        traceback.print_exc()
        job.say("", short(error))
        sys.exit(1)


def child(job: Job, anew: bool) -> None:
    """The part in this fork; where CUDA does not work in one, in a new Python in its place."""
    os.setpgrp()  # what it starts will end with it
    os.dup2(os.open(job.keep / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    if anew:
        tiny = ["--tiny"] if job.scale is TINY else []
        os.execv(sys.executable, [sys.executable, __file__, job.part, "--alone", "--keep", str(job.keep), *tiny])
    alone(job)


def run(job: Job, left: float, anew: bool) -> bool:
    """One part in a process of its own; whether it ended well."""
    # The CPU of a test may be busy with other things, and what it would cut short is not there to be measured.
    limit = left if job.scale is TINY else min(left, PARTS[job.part][1])
    if limit < 1:
        job.say("", "skipped: the time is over", "")
        return False
    process = multiprocessing.get_context("fork").Process(target=child, args=(job, anew))
    process.start()
    assert process.pid is not None
    try:
        process.join(limit)
    finally:  # also when somebody stops the whole
        if late := process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
    process.join()
    if late:
        job.say("", f"stopped after {limit:.0f} s; above is what it had found", "")
    elif (process.exitcode or 0) < 0:
        job.say("", f"failed: {signal.Signals(-(process.exitcode or 0)).name}", "")
    return process.exitcode == 0


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "synthaug-gpu")
    args = parser.parse_args(argv)
    if args.alone and len(args.parts) != 1:
        parser.error("--alone takes one part")
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not (GPU or args.tiny):
        parser.error("there is no GPU; --tiny runs on the CPU")
    ends, keep, scale = time.monotonic() + 60 * args.minutes, args.keep.absolute(), TINY if args.tiny else FULL
    keep.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(keep / "inductor"))
    if args.alone:
        return alone(Job(args.parts[0], scale, keep))
    for name in LATER:
        importlib.import_module(name)
    print("| part | what | found | device |\n|---|---|---|---|", flush=True)
    anew = not run(Job("machine", scale, keep), ends - time.monotonic(), False)
    for part in ["machine"] * anew + (args.parts or list(PARTS)[1:]):
        run(Job(part, scale, keep), ends - time.monotonic(), anew)
    print(f"what libraries said: {keep / 'log'}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
