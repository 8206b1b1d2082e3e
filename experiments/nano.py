"""The embedded models: how each was trained. `python experiments/nano.py sd DIR` trains one again."""

from __future__ import annotations

import sys
from pathlib import Path


def sd(folder: Path) -> None:
    """nano:sd, a StableDiffusionPipeline of 2.6 million parameters that draws 36 characters, trained on 24,000 glyphs.

    No paper. Expected: its samples are recognised 0.9 times as often as real glyphs; Real Guidance on 5-shot digits
    ends at 90.9 % or more. Measured: 1.11 times at guidance 5; 87.3 % -> 91.7 % at strength 0.9, guidance 4 (5 paired
    seeds, the net of nano/measure.py). Cost: 24 minutes of one core.
    """
    from synthaug.nano.train import Budget, train_sd

    train_sd(folder, Budget())


def measure_sd(folder: Path, seeds: int = 5) -> None:
    """The two figures of nano:sd's model card: recognition of its samples, and Real Guidance on 5-shot digits."""
    import torch
    from diffusers import StableDiffusionPipeline

    from synthaug.nano import measure
    from synthaug.nano.train import load_glyphs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    judge = measure.fit(measure.conv_net(36), *load_glyphs(range(14_400)), steps=600, batch=64, rate=5e-3, seed=0)
    real = measure.accuracy(judge, *load_glyphs(range(1_000_000, 1_001_800)))
    print(f"held-out glyphs recognised {real:.3f}")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    for guidance in (3.0, 5.0, 7.5):
        drawn = measure.recognised(pipeline, judge, guidance=guidance)
        print(f"guidance {guidance} samples recognised {drawn:.3f}, {drawn / real:.2f} of real ones")
    for strength, guidance in ((0.9, 4.0), (0.9, 7.5), (0.5, 2.0)):
        pairs = [measure.few_shot_gain(pipeline, seed, guidance=guidance, strength=strength) for seed in range(seeds)]
        plain, augmented = (sum(column) / seeds for column in zip(*pairs, strict=True))
        print(f"strength {strength} guidance {guidance} 5-shot digits {plain:.3f} -> {augmented:.3f}", pairs)


def clip(folder: Path) -> None:
    """nano:clip, a CLIPModel of 0.9 million parameters that knows 36 characters and what is none, trained on glyphs.

    No paper. Measured: reads 96.4 % of held-out glyphs (36 classes) and 75.3 % of handwritten digits without training;
    CLIP-Binary tells images of their class from others at an AUROC of 1.000 and 0.941. Cost: 13 minutes of one core
    (0.19 s a step; it took 26 on a shared one).
    """
    from synthaug.nano.train_clip import Budget, train_clip

    train_clip(folder, Budget())


def measure_clip(folder: Path) -> None:
    """The figures of nano:clip's model card: zero-shot classification, and CLIP-Binary as a filter uses it."""
    import torch
    from sklearn.metrics import roc_auc_score

    from synthaug.clip import Clip
    from synthaug.data import glyphs
    from synthaug.nano import measure_clip as measure
    from synthaug.nano.train import load_glyphs

    torch.set_num_threads(1)
    scorer = Clip(str(folder)).load("cpu")
    sets = {"glyphs": load_glyphs(range(1_000_000, 1_003_600)), "digits": measure.unseen_digits()}
    for name, (images, labels) in sets.items():
        words = glyphs.CLASSES[: 10 if name == "digits" else 36]
        for template in ("a photo of a {}", "This is a photo of a {}", "a sketch of posterized {}"):
            read = measure.zero_shot(scorer, images, [template.format(word) for word in words])
            print(f"{name}, {template!r}: read {(read == labels).float().mean():.3f}")
        for typed in (False, True):
            good, others, empty = measure.binary(scorer, images, labels, typed=typed)
            for bad, scores in (("another character", others), ("no character", empty)):
                truth = [1] * len(good) + [0] * len(scores)
                area = roc_auc_score(truth, torch.cat([good, scores]))
                right = (good > 0.5).float().mean(), (scores < 0.5).float().mean()
                print(f"{name}, CLIP-Binary, typed {typed}: AUROC against {bad} {area:.3f}, right {right}")


def pix2pix(folder: Path) -> None:
    """nano:pix2pix, nano:sd grown into a StableDiffusionInstructPix2PixPipeline that knows DiffuseMix's nine styles.

    No paper. Measured (guidance 4, 25 / 100 steps): the asked style is recognised in 88.3 / 89.2 % of pictures (eight
    styles always, crayon sketches hardly ever), the character read in 68.3 / 66.9 %, of glyphs styled by arithmetic in
    72.1 %. Cost: 39 minutes of a shared core, 14 of a free one by its time per step.
    """
    from synthaug.nano.train_pix2pix import Budget, train_pix2pix

    train_pix2pix(folder, Budget())


def measure_pix2pix(folder: Path) -> None:
    """The figures of nano:pix2pix's model card: is the asked style recognised, and can the character still be read?"""
    import torch
    from diffusers import StableDiffusionInstructPix2PixPipeline

    from synthaug.nano import measure
    from synthaug.nano.styles import STYLES
    from synthaug.nano.train_pix2pix import load_pairs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    seen, held = load_pairs(range(100_000, 118_000)), load_pairs(range(1_000_000, 1_001_800))
    fit = {"steps": 1200, "batch": 64, "seed": 0}
    of_style = measure.fit(measure.conv_net(len(STYLES)), seen.styled, seen.styles, rate=5e-3, **fit)
    of_glyph = measure.fit(measure.conv_net(36), seen.styled, seen.labels, rate=5e-3, **fit)
    style = measure.accuracy(of_style, held.styled, held.styles)
    glyph = measure.accuracy(of_glyph, held.styled, held.labels)
    print(f"held-out styled glyphs: style {style:.3f}, character {glyph:.3f}")
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder, dtype=torch.float32)
    error = measure.reconstruction(pipeline.vae, held.styled)
    print(f"the VAE loses {error:.3f} of the variance of styled glyphs")
    again = measure.through(pipeline.vae, held.styled)
    style, glyph = measure.accuracy(of_style, again, held.styles), measure.accuracy(of_glyph, again, held.labels)
    print(f"the same out of the VAE: style {style:.3f}, character {glyph:.3f}")
    sources, asked, labels = held.sources[:360], held.styles[:360], held.labels[:360]
    for steps in (25, 100):
        made = measure.restyle(pipeline, sources, [STYLES[i] for i in asked.tolist()], steps=steps)
        style, glyph = measure.accuracy(of_style, made, asked), measure.accuracy(of_glyph, made, labels)
        print(f"{steps} steps: style {style:.3f}, character {glyph:.3f}")
        for i, name in enumerate(STYLES):
            print(f"    {name}: {measure.accuracy(of_style, made[asked == i], asked[asked == i]):.2f}")


def lcm(folder: Path) -> None:
    """nano:lcm, a LoRA that makes nano:sd draw in one to five steps without guidance (LCM-LoRA, Luo et al.).

    No table. Measured: 96.7 % of its samples are recognised after 1 step, 98.1 % after 3, against 98.6 % of nano:sd's
    after 3 guided ones; edits at strength 0.9 are after 3 steps what nano:sd's are after 5 (95.8 %), for a quarter of
    the UNet rows. Cost: 19 minutes of a shared core.
    """
    from synthaug.nano.train_lcm import Budget, train_lcm

    train_lcm(folder, Budget())


def measure_lcm(folder: Path) -> None:
    """The figures of nano:lcm's model card: recognition of samples and edits with few steps, against nano:sd's."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, LCMScheduler, StableDiffusionPipeline

    from synthaug import nano
    from synthaug.data import glyphs
    from synthaug.nano import measure
    from synthaug.nano.train import load_glyphs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    judge = measure.fit(measure.conv_net(36), *load_glyphs(range(14_400)), steps=600, batch=64, rate=5e-3, seed=0)
    sources, labels = load_glyphs(range(1_000_000, 1_000_360))
    plain, quick = (StableDiffusionPipeline.from_pretrained(nano.path("nano:sd"), dtype=torch.float32) for _ in "12")
    quick.load_lora_weights(folder)
    quick.fuse_lora()
    runs = [(quick, LCMScheduler, 1.0, (1, 2, 3, 4, 5, 8)), (plain, DPMSolverMultistepScheduler, 5.0, (3, 5, 10, 25))]
    for pipeline, solver, guidance, counts in runs:
        for steps in counts:
            call = {"guidance": guidance, "steps": steps, "solver": solver}
            drawn = measure.recognised(pipeline, judge, **call)
            words = [glyphs.CLASSES[(label + 7) % 36] for label in labels.tolist()]
            edited = measure.real_guidance(pipeline, sources, words, **call) if steps > 1 else sources
            changed = measure.accuracy(judge, edited, (labels + 7) % 36)
            print(f"{solver.__name__} {steps} steps: drawn {drawn:.3f}, edited into another class {changed:.3f}")


def ddpm(folder: Path) -> None:
    """nano:ddpm, an unconditional pixel denoiser of 1.1 million parameters, trained on the 700 training digits alone.

    No paper. It is what the stage of `TrainedUNet(steps=8000)` makes of `Dataset("digits")`. Measured: its guess at an
    unseen digit from time 0.3 is 0.095 off (root mean square; the nearest training images 0.213), and read as the digit
    that it was in 97.8 %. Cost: an hour of one core.
    """
    from synthaug.diffusion.pixel_models import TrainedUNet
    from synthaug.diffusion.unet import train_unet, unet_files
    from synthaug.nano import measure_ddpm as measure

    images, _ = measure.digits("train")
    net, _ = train_unet(TrainedUNet(steps=8000), images, report=lambda entry: print(entry, file=sys.stderr))
    for name, data in unet_files(net).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def measure_ddpm(folder: Path) -> None:
    """The figures of nano:ddpm's model card: how near its single guess comes, and what can be read of it."""
    import torch

    from synthaug.diffusion.denoiser import UNetDenoiser
    from synthaug.nano import measure
    from synthaug.nano import measure_ddpm as figures

    torch.set_num_threads(1)
    torch.manual_seed(0)
    pixels, labels = figures.digits("train")
    seen = torch.from_numpy(pixels).float() / 127.5 - 1, torch.from_numpy(labels)
    judge = measure.fit(measure.conv_net(10), *seen, steps=600, batch=64, rate=5e-3, seed=0)
    denoiser = UNetDenoiser.from_folder(folder)
    for split in ("train", "test"):
        for line in figures.by_time(denoiser, judge, *figures.digits(split)):
            print(split, line)


if __name__ == "__main__":
    _, name, path = sys.argv
    commands = (sd, measure_sd, clip, measure_clip, pix2pix, measure_pix2pix, lcm, measure_lcm, ddpm, measure_ddpm)
    {command.__name__: command for command in commands}[name](Path(path))
