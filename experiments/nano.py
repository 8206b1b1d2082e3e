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


if __name__ == "__main__":
    _, name, path = sys.argv
    {"sd": sd, "measure_sd": measure_sd}[name](Path(path))
