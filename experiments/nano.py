"""The embedded models: how each was trained. `python experiments/nano.py sd DIR` trains one again."""

from __future__ import annotations

import sys
from pathlib import Path


def sd(folder: Path) -> None:
    """nano:sd, a StableDiffusionPipeline over 36 glyphs."""
    from synthaug.nano.train import Budget, train_sd

    train_sd(folder, Budget())


def measure_sd(folder: Path, seeds: int = 10) -> None:
    """The two figures of nano:sd's model card: recognition of its samples, and Real Guidance on 5-shot digits."""
    import torch
    from diffusers import StableDiffusionPipeline

    from synthaug.nano import measure
    from synthaug.nano.train import load_glyphs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    judge = measure.fit(measure.conv_net(36), *load_glyphs(range(14_400)), steps=1000, batch=64, rate=5e-3, seed=0)
    real = measure.accuracy(judge, *load_glyphs(range(1_000_000, 1_003_600)))
    print(f"held-out glyphs recognised {real:.3f}")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    for guidance in (3.0, 5.0, 7.5):
        drawn = measure.recognised(pipeline, judge, guidance=guidance)
        print(f"guidance {guidance} samples recognised {drawn:.3f}, {drawn / real:.2f} of real ones")
    for guidance in (2.0, 4.0, 7.5):
        pairs = [measure.few_shot_gain(pipeline, seed, guidance=guidance) for seed in range(seeds)]
        plain, augmented = (sum(column) / seeds for column in zip(*pairs, strict=True))
        print(f"guidance {guidance} 5-shot digits {plain:.3f} -> {augmented:.3f}", pairs)


if __name__ == "__main__":
    _, name, path = sys.argv
    {"sd": sd, "measure_sd": measure_sd}[name](Path(path))
